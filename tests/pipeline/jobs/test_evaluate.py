"""Scoring days: every row once, by the model as it is, without a trace in it."""

import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from data.errors import BadInput
from pipeline.builders.job import Job
from pipeline.jobs.evaluate import evaluate
from pipeline.jobs.train import run
from tests.jobs import assert_same_bits, events
from tests.tiny import DAYS, built, genctr, train, write_log

DROPOUT = ("model.decoder_options.batch_norm=true", f"data.statistics_days=[{DAYS[0]}]")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("evaluate"), rows=60)


def weights(job: Job) -> list[torch.Tensor]:
    state = {**job.sharded.model.state_dict(), **dict(job.sharded.model.named_buffers())}
    tensors = [value.local_shards()[0].tensor if hasattr(value, "local_shards") else value for value in state.values()]
    return [tensor.clone() for tensor in tensors]


def by_hand(job: Job, days: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """The probabilities and labels of all rows, one by one."""
    model = job.sharded.model.eval()
    logits, labels = [], []
    for day in days:
        stream = job.source.stream(job.source.open(day))
        for batch in stream.batches(stream.start()):
            with torch.no_grad():
                logits.append(model(batch)[1].logits["is_click"])
            labels.append(batch.labels[:, 0])
    model.train()
    return torch.cat(logits).sigmoid().double(), torch.cat(labels)


def test_the_scores_are_of_every_row_of_all_the_days_together(config: Path, tmp_path: Path) -> None:
    with built(config, tmp_path / "run", *DROPOUT) as job:
        run(job, quiet=True)

        scores = evaluate(job, list(DAYS[2:]), step=1, quiet=True)

        predicted, labels = by_hand(job, list(DAYS[2:]))
        assert (
            scores["rows"]
            == scores["metrics"]["is_click"]["rows"]
            == len(labels)
            == sum(job.source.open(day).rows for day in DAYS[2:])
        )
        assert scores["metrics"]["is_click"]["auc"] == pytest.approx(roc_auc_score(labels, predicted))
        assert scores["metrics"]["is_click"]["logloss"] == pytest.approx(log_loss(labels, predicted), rel=1e-6)
        assert scores["rows_per_second"] == pytest.approx(scores["rows"] / scores["seconds"])


def test_scoring_twice_says_the_same_and_leaves_the_model_as_it_was(config: Path, tmp_path: Path) -> None:
    with built(config, tmp_path / "run", *DROPOUT) as job:
        run(job, quiet=True)
        before = weights(job)

        first = evaluate(job, [DAYS[2]], step=1, quiet=True)["metrics"]
        again = evaluate(job, [DAYS[2]], step=1, quiet=True)["metrics"]

        assert first == again
        assert all(map(torch.equal, before, weights(job)))
        assert job.sharded.model.training


def test_a_run_that_is_scored_in_between_ends_with_the_same_bits(config: Path, tmp_path: Path) -> None:
    train(config, tmp_path / "scored", *DROPOUT, "train.progressive_validation=true", "train.epochs=2")
    train(config, tmp_path / "unscored", *DROPOUT, "data.validation=[]", "data.test=[]", "train.epochs=2")

    assert [event["day"] for event in events(tmp_path / "scored", "scored")] == [DAYS[1]]
    assert_same_bits(tmp_path / "scored", tmp_path / "unscored")


@pytest.fixture
def spoilt(config: Path, tmp_path: Path) -> Path:
    """The log with a test day of which one file has a label 2 in two rows, and another is cut short."""
    root = tmp_path / "log"
    shutil.copytree(config.parent / "log", root)
    first, second, _ = sorted((root / f"day={DAYS[3]}").glob("*.parquet"))
    table = pq.read_table(first)
    labels: list[Any] = table["is_click"].to_pylist()
    labels[1] = labels[3] = 2
    table = table.set_column(table.schema.get_field_index("is_click"), "is_click", pa.array(labels, pa.int8()))
    pq.write_table(table, first)
    second.write_bytes(second.read_bytes()[:-100])
    return root


def test_rows_and_files_left_out_of_a_score_are_counted_and_named(config: Path, spoilt: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = train(
        config, out, f"data.root={spoilt}", "data.bad_rows=skip", "data.max_bad_rows_share=0.1", "data.bad_files=quarantine"
    )

    first, second, third = sorted((spoilt / f"day={DAYS[3]}").glob("*.parquet"))
    (tested,) = events(out, "tested")
    (quarantined,) = events(out, "quarantined")
    good = pq.read_metadata(first).num_rows - 2 + pq.read_metadata(third).num_rows
    assert (tested["rows"], tested["skipped"], tested["metrics"]["is_click"]["rows"]) == (good, 2, good)
    assert (quarantined["day"], quarantined["file"], quarantined["step"]) == (DAYS[3], str(second), tested["step"])
    assert f"genctr: day {DAYS[3]} is read without {second}: unreadable data" in done.err


def labels_of_minus_1(config: Path, folder: Path) -> Path:
    """The log with -1 for 0 in every label."""
    root = folder / "log"
    shutil.copytree(config.parent / "log", root)
    for file in root.glob("*/*.parquet"):
        table = pq.read_table(file, partitioning=None)
        at = table.schema.get_field_index("is_click")
        pq.write_table(table.set_column(at, "is_click", pa.array([2 * own - 1 for own in table["is_click"].to_pylist()])), file)
    return root


TOLD = r"rows, \d\d\.\d%, are not what the schema says(.|\n)*most often: the label of target 'is_click'(.|\n)*positive_above: 0"


def test_a_day_that_loses_a_class_stops_before_it_is_saved_or_scored(config: Path, tmp_path: Path) -> None:
    root, out = labels_of_minus_1(config, tmp_path), tmp_path / "run"
    words = (f"data.root={root}", "data.bad_rows=skip", "checkpoint.every_steps=1")

    for _ in range(2):  # the same when it is run again
        stopped = train(config, out, *words)
        assert stopped.code == 2
        assert re.search(TOLD, stopped.err), stopped.err
        assert not events(out, "trained")
    with built(config, tmp_path / "other", *words) as job, pytest.raises(BadInput, match=TOLD):
        evaluate(job, [DAYS[3]], step=1, quiet=True)


def test_a_few_bad_rows_are_left_out_and_their_number_is_printed(config: Path, spoilt: Path, tmp_path: Path) -> None:
    words = (f"data.root={spoilt}", "data.bad_rows=skip", f"data.days=[{DAYS[3]}]", "data.bad_files=quarantine")
    out = tmp_path / "run"
    free = ("data.validation=[]", "data.test=[]")

    done = train(config, out, *words, *free, f"data.statistics_days=[{DAYS[3]}]", "data.max_bad_rows_share=0.1")

    assert done.code == 0, done.err
    assert re.search(rf"genctr: day {DAYS[3]}: 2 bad rows of \d+ left out", done.err)
    strict = train(config, tmp_path / "strict", *words, *free, f"data.statistics_days=[{DAYS[3]}]", "data.max_bad_rows_share=0")
    assert strict.code == 2
    assert "expected: at most 0 of the rows, data.max_bad_rows_share" in strict.err


def test_a_bad_day_is_not_scored_in_part(config: Path, spoilt: Path, tmp_path: Path) -> None:
    with built(config, tmp_path / "run", f"data.root={spoilt}") as job, pytest.raises(BadInput, match="unreadable data"):
        evaluate(job, list(DAYS[2:]), step=0, quiet=True)


def test_predictions_that_more_ranks_wrote_before_are_not_there_twice(config: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "run", tmp_path / "told"
    train(config, out, "train.max_steps=2")
    words = ("evaluate", out, "--days", DAYS[3], "--predictions", told, "--quiet")
    genctr(*words)
    (written,) = (told / f"day={DAYS[3]}").iterdir()
    shutil.copy(written, written.with_name("rank-00001.parquet"))

    assert genctr(*words).code == 0

    assert list((told / f"day={DAYS[3]}").iterdir()) == [written]


def test_a_pre_training_has_no_scores_of_rows_to_write(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    stages = "stages=[{name: only, objective: denoise, train: {max_steps: 2}}]"
    train(config, out, "model={family: denoiser, dim: 4}", stages)

    done = genctr("evaluate", out, "--days", DAYS[3], "--predictions", tmp_path / "told", "--quiet")

    assert done.code == 2
    assert "stage only" in done.err
    assert "leave --predictions out" in done.err
