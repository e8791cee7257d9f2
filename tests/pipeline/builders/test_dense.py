"""`model.dense`: the dense layers of any decoder, by kind, and what is wrong with what a file says of them."""

from pathlib import Path

import pytest
import torch
import yaml

from models.apg import APGMLP, APGLinear
from models.layers import MLP
from models.options import options_of
from models.registries import DECODERS, HEADS
from tests.tiny import DAYS, SCHEMA, built, genctr, train, write_log

APG = "model.dense={kind: apg, rank: 2, factors: 4, condition: [tab, hour]}"
WITHOUT_NETWORK = ("fm", "fwfm", "fmfm", "ffm", "crossnet", "lr", "dcnv3", "finalnet", "rankmixer")


def write_schema(folder: Path, labels: str) -> Path:
    """The demo's schema with other labels."""
    schema = yaml.safe_load(SCHEMA.read_text())
    schema.pop("label")
    path = folder / "schema.yaml"
    path.write_text(yaml.safe_dump(schema | {"labels": yaml.safe_load(labels)}))
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("dense"))


@pytest.mark.parametrize("decoder", [name for name in DECODERS if name not in WITHOUT_NETWORK])
def test_every_network_of_every_decoder_is_of_the_kind(config: Path, tmp_path: Path, decoder: str) -> None:
    options = "{hidden: [6]}" if "hidden" in options_of(DECODERS[decoder]) else "{}"
    words = (f"model.decoder={decoder}", f"model.decoder_options={options}", "model.encoder={kind: none}")
    with built(config, tmp_path / "run", APG, *words) as job:
        networks = [own for own in job.objective.modules() if isinstance(own, MLP)]
        layers = [own for network in networks for own in network if isinstance(own, APGLinear)]

        assert {type(own) for own in networks} == {APGMLP}
        assert {own.generate.in_features for own in layers} == {2 * 4}, "two fields, four wide"
        assert {own.rank for own in layers} == {2}


@pytest.mark.parametrize("head", [name for name in HEADS if name != "twin_focus"])
def test_every_network_of_every_head_is_of_the_kind_and_reads_the_fields(config: Path, tmp_path: Path, head: str) -> None:
    labels = "[{target: click, column: is_click}, {target: buy, column: is_click}]"
    words = (
        "model.decoder=crossnet",
        "model.decoder_options={}",
        f"model.head={head}",
        f"schema={write_schema(tmp_path, labels)}",
    )
    with built(config, tmp_path / "run", APG, *words) as job, torch.no_grad():
        networks = [own for own in job.objective.model.head.modules() if isinstance(own, MLP)]
        stream = job.source.stream(job.open(DAYS[0], 0))
        job.sharded.model(next(iter(stream.batches(stream.start()))))

        assert {type(own) for own in networks} <= {APGMLP}
        assert bool(networks) == (head not in ("linear", "two_logits"))


@pytest.mark.parametrize("condition", ["self", "none", "[tab]"])
def test_a_run_with_generated_layers_trains(config: Path, tmp_path: Path, condition: str) -> None:
    done = train(config, tmp_path / "run", f"model.dense={{kind: apg, rank: 2, factors: 4, condition: {condition}}}")

    assert done.code == 0, done.err
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["dense"]
    assert stored == {"kind": "apg", "rank": 2, "factors": 4, "condition": yaml.safe_load(condition)}


@pytest.mark.parametrize(
    ("dense", "why"),
    [
        ("{kind: agp}", "no 'agp'; did you mean 'apg'?"),
        ("{kind: apg, rnak: 2}", "model.dense: apg: unknown option 'rnak', nearest 'rank'"),
        ("{kind: plain, rank: 2}", "model.dense: plain: unknown option 'rank'"),
        ("{kind: apg, condition: [tba]}", "model.dense: apg: condition: no field 'tba'; choose from ['user_id', "),
        ("{kind: apg, rank: 9, factors: 16}", "rank is 9; expected 1 to 8 for a layer of "),
    ],
)
def test_what_does_not_fit_is_refused_by_name(config: Path, tmp_path: Path, dense: str, why: str) -> None:
    done = genctr("train", config, "--out", tmp_path / "run", "--set", f"model.dense={dense}")

    assert done.code == 2
    assert why in done.err
