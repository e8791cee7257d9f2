"""What the network costs is what a hand counts."""

from pathlib import Path

import pytest
import torch
import yaml

from pipeline.config.run import load
from pipeline.planning.dense_cost import FEW, measure
from pipeline.run_folder.claim import stage_schema

FIELDS = [
    {"name": "user", "kind": "id", "ids": "hash", "rows": 10**9},
    {"name": "item", "kind": "id", "ids": "hash", "rows": 50},
    {"name": "price", "kind": "number"},
]


def measured(folder: Path, **model: object):
    schema = {"name": "s", "label": {"column": "y"}, "fields": FIELDS}
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema))
    run = {"schema": "schema.yaml", "data": {"root": "/log", "days": ["2026-11-01"]}, "model": model}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    config, schema = load(str(folder / "run.yaml"))
    stages = config.resolved()
    return [measure(stage, stage_schema(schema, stage, stages)) for stage in stages]


def test_weights_and_operations_are_those_counted_by_hand(tmp_path: Path) -> None:
    """3 fields x 4 are 12 numbers a row, 6 hidden units, 1 logit: 78 + 7 weights, and the number's embedding 4.

    A matrix product costs two operations a weight and row, three times: forwards, and backwards to its input and its weight.
    """
    [network] = measured(tmp_path, decoder="mlp", dim=4, decoder_options={"hidden": [6]})

    assert network.weights == 12 * 6 + 6 + 6 * 1 + 1 + 4
    assert network.row_flop == 3 * 2 * (12 * 6 + 6 * 1)
    assert network.bytes == 5 * 4 * network.weights


def test_what_is_kept_of_a_row_grows_with_the_network(tmp_path: Path) -> None:
    [small], [large] = (measured(tmp_path, decoder="mlp", dim=4, decoder_options={"hidden": [width]}) for width in (64, 128))

    assert 64 * 4 <= large.row_bytes - small.row_bytes <= 4 * 64 * 4  # 64 units more, and what their activation keeps


def test_a_denoiser_is_measured_in_both_of_its_stages(tmp_path: Path) -> None:
    pretrain, rank = measured(tmp_path, family="denoiser", balance="progress", dim=4)

    assert pretrain.row_flop > rank.row_flop > 0
    assert FEW > 4096, "a softmax over candidates, not over the whole table"


def test_candidates_are_drawn_among_the_rows_there_are(tmp_path: Path) -> None:
    for seed in range(20):  # one of a hundred draws would be of a row that stands for no value
        torch.manual_seed(seed)
        assert measured(tmp_path, family="denoiser", dim=4, hidden=8, layers=1)


@pytest.mark.parametrize("decoder", ["fm", "dcnv2"])
def test_a_billion_rows_are_not_made_to_find_out(tmp_path: Path, decoder: str) -> None:
    assert measured(tmp_path, decoder=decoder, dim=4)
