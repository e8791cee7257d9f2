"""Law 2 at the edges: ranks with unequal rows or none, tables with fewer rows than ranks; and whole jobs of fp16 tables."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from tests.jobs import assert_every_row_once, assert_same_bits, events, finish, finished_within, start
from tests.tiny import genctr

RANKS = 3
"""They do not divide the four lanes of a day: one rank reads two."""

FILES = {"2026-11-01": [1, 90, 0, 7], "2026-11-02": [2], "2026-11-03": [33, 3]}
"""[rows] of the files of each day. Two rows of a day lie in two lanes, so a rank has none."""

NEW = "2026-11-09"
"""A day that is not trained: every id of the table once."""


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uneven")
    generator = torch.Generator().manual_seed(3)
    for day, sizes in (FILES | {NEW: [1000]}).items():
        path = folder / "log" / f"day={day}"
        path.mkdir(parents=True)
        for at, rows in enumerate(sizes):
            ids = torch.arange(1000) if day == NEW else torch.randint(0, 40, (rows,), generator=generator)
            few = torch.randint(0, 2, (rows,), generator=generator)
            table = {"user": ids.numpy(), "side": few.numpy(), "is_click": (ids % 2).to(torch.int8).numpy()}
            pq.write_table(pa.table(table), path / f"part-{at}.parquet")
        (path / "_SUCCESS").touch()
    fields = [
        {"name": "user", "kind": "id", "ids": "identity", "rows": 1000, "dim": 4},
        {"name": "side", "kind": "id", "ids": "hash", "rows": 2, "dim": 4},  # fewer than ranks
    ]
    (folder / "schema.yaml").write_text(yaml.safe_dump({"name": "uneven", "label": {"column": "is_click"}, "fields": fields}))
    run = {
        "schema": "schema.yaml",
        "data": {"root": str(folder / "log"), "days": "2026-11-01..2026-11-03", "shuffle_buffer_rows": 16},
        "model": {"decoder": "mlp", "dim": 4, "decoder_options": {"hidden": [8]}},
        # Another rate: `side` is alone in its kernel, which would be empty on the rank without rows.
        "tables": {"sharding": "row_wise", "init": {"scale": 0.1}, "overrides": {"side": {"lr": 0.02}}},
        "train": {"global_batch_rows": 16, "log_every_steps": 1},
        "checkpoint": {"every_steps": 3},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return folder / "run.yaml"


def losses(out: Path) -> list[float]:
    return [event["metrics"]["is_click"]["logloss"] for event in events(out, "train")]


@pytest.mark.parametrize(
    "settings",
    [
        ("tables.precision=fp16",),
        pytest.param(("tables.optimizer=rowwise_adagrad",), marks=pytest.mark.slow),
        pytest.param(("tables.precision=fp16", "tables.optimizer=sgd", "tables.lr=20"), marks=pytest.mark.slow),
        pytest.param(("tables.optimizer=lazy_adam", "tables.lr=0.01"), marks=pytest.mark.slow),
    ],
)
def test_ranks_with_unequal_rows_and_with_none_train_all_of_them_alike(
    uneven: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    together = start(uneven, tmp_path / "three", RANKS, *settings)
    finish(start(uneven, tmp_path / "one", 1, *settings))

    assert finished_within(together, 120), "the ranks wait for each other"
    assert_every_row_once(uneven, tmp_path / "three")
    assert len(losses(tmp_path / "three")) == 7 + 1 + 3  # 98 rows, 2 rows, 36 rows in steps of 16; the last two share
    torch.testing.assert_close(losses(tmp_path / "three"), losses(tmp_path / "one"), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_rank_without_rows_restores_nothing_and_nobody_waits_for_it(uneven: Path, tmp_path: Path) -> None:
    denoiser = (
        "model={family: denoiser, balance: progress, dim: 4, hidden: 8, layers: 1, full_softmax_max_rows: 100, similarity: dot}"
    )
    stages = "stages=[{name: pretrain, objective: denoise}, {name: rank, load: {stage: pretrain}}]"
    together = start(uneven, tmp_path / "three", RANKS, denoiser, stages)

    assert finished_within(together, 120)
    stage = [event["stage"] for event in events(tmp_path / "three", "trained")]
    assert stage == ["pretrain"] * 3 + ["rank"] * 3


@pytest.mark.slow
def test_a_job_of_fp16_tables_goes_on_to_the_same_bits(uneven: Path, tmp_path: Path) -> None:
    half = "tables.precision=fp16"
    finish(start(uneven, tmp_path / "whole", 2, half))
    for steps in (4, 9):
        finish(start(uneven, tmp_path / "broken", 2, half, f"train.max_steps={steps}"))
    finish(start(uneven, tmp_path / "broken", 2, half))

    assert_same_bits(tmp_path / "whole", tmp_path / "broken")


def test_a_bundle_of_fp16_tables_says_what_training_says_of_ids_it_never_saw_too(uneven: Path, tmp_path: Path) -> None:
    settings = ["tables.precision=fp16", "daily.gates={}"]
    done = genctr("daily", uneven, "--out", tmp_path / "run", "--quiet", *(w for own in settings for w in ("--set", own)))
    assert done.code == 0, done.err
    evaluated = genctr("evaluate", tmp_path / "run", "--days", NEW, "--predictions", tmp_path / "told", "--quiet")
    assert evaluated.code == 0, evaluated.err
    day = uneven.parent / "log" / f"day={NEW}"
    assert genctr("score", tmp_path / "run" / "published", "--data", day, "--out", tmp_path / "scored").code == 0

    told, scored = (pq.read_table(tmp_path / name, partitioning=None) for name in ("told", "scored"))
    told = told.sort_by("row")  # scored lane by lane
    logits, again = (torch.tensor(table["is_click_logit"].to_pylist()) for table in (told, scored))
    torch.testing.assert_close(again, logits, rtol=0, atol=1e-6)
    assert logits[40:].unique().numel() > 500  # ids 40 … 999 were never trained: every one has initial values of its own
