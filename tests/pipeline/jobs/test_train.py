"""The one-shot job: stopped and gone on it ends the same; it is judged on days it never trains, and tested with its best."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from torch import nn

from data.cursor import Cursor
from data.errors import GenctrError
from pipeline.config.train import EarlyStopConfig
from pipeline.jobs.evaluate import evaluate
from pipeline.jobs.restore import restore_best
from pipeline.jobs.train import judge, run
from pipeline.training.loop import TrainState
from pipeline.training.objective import MetricSpec
from pipeline.training.rank import RankObjective
from tests.jobs import assert_every_row_once, assert_same_bits, events
from tests.tiny import DAYS, SCHEMA, built, train, write_log

FIRST, SECOND, VALIDATION, TEST = DAYS
START = TrainState(0, 0, Cursor(1, FIRST, 0, 2))
HARD = ("train.schedule={warmup_steps: 12, decay: cosine, decay_steps: 30}", "model.decoder_options.batch_norm=true")
OVERFIT = ("tables.lr=0.5", "train.dense.lr=0.05", "model.decoder_options.dropout=0", "train.epochs=9")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("run"))


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def scores(event: dict[str, Any]) -> dict[str, float]:
    return event["metrics"]["is_click"]


# --- early stopping ---


AUC = MetricSpec("auc", higher_is_better=True, path=("is_click", "auc"))


def verdicts(config: EarlyStopConfig, *values: float, metric: MetricSpec = AUC) -> list[tuple[bool, int, bool]]:
    """After each validation: is it the best so far, for how many epochs was there none better, is it over?"""
    state, said = START, []
    for value in values:
        state, best = judge(config, state, metric, value)
        said.append((best, state.stale, state.stopped))
    return said


def test_the_first_validation_is_the_best_so_far() -> None:
    state, best = judge(EarlyStopConfig(), START, AUC, 0.1)

    assert (best, state.best, state.stale) == (True, 0.1, 0)


def test_it_stops_after_as_many_epochs_without_improvement_as_its_patience() -> None:
    assert verdicts(EarlyStopConfig(patience=2), 0.70, 0.71, 0.70, 0.72, 0.71, 0.72) == [
        (True, 0, False),
        (True, 0, False),
        (False, 1, False),
        (True, 0, False),
        (False, 1, False),
        (False, 2, True),  # as good is not better
    ]


@pytest.mark.parametrize(("metric", "better"), [("auc", 0.8), ("gauc", 0.8), ("logloss", 0.6), ("ne", 0.6)])
def test_a_lower_logloss_and_a_higher_auc_are_better(metric: str, better: float) -> None:
    spec = RankObjective(nn.Identity(), targets=("is_click",), losses=(), ranks=1).metric(metric)

    assert spec.path == ("is_click", metric)
    assert [best for best, _, _ in verdicts(EarlyStopConfig(patience=5), 0.7, better, 0.7, metric=spec)] == [True, True, False]


def test_an_improvement_below_min_delta_does_not_count_even_if_they_add_up() -> None:
    config = EarlyStopConfig(min_delta=0.25, patience=9)

    #                                             best is 1     1 + 2/8 counts         1.25 stays the one to beat
    assert [best for best, _, _ in verdicts(config, 1.0, 1.125, 1.25, 1.375, 1.4375, 1.5)] == [
        *(True, False, True),
        *(False, False, True),
    ]


def test_every_epoch_without_improvement_lowers_the_learning_rates_and_an_improvement_does_not_raise_them() -> None:
    config, state, factors = EarlyStopConfig(lr_factor=0.1, patience=9), START, []
    for value in (0.7, 0.6, 0.6, 0.8, 0.7):
        state, _ = judge(config, state, AUC, value)
        factors.append(state.lr_factor)

    assert factors == pytest.approx([1, 0.1, 0.01, 0.01, 0.001])


def test_a_metric_that_is_not_defined_is_told_and_never_the_best() -> None:
    with pytest.raises(GenctrError, match=r"train\.early_stop: auc is not defined on the validation days"):
        judge(EarlyStopConfig(), START, AUC, math.nan)


@pytest.fixture(scope="module")
def stopped(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learns its few rows by heart until early stopping ends it."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    done = train(config, out, *OVERFIT, "train.early_stop={metric: logloss, patience: 2, lr_factor: 0.5}")
    assert done.code == 0, done.err
    return out


def test_the_run_ends_with_its_patience_and_the_test_is_of_the_best_epoch(stopped: Path) -> None:
    validated = events(stopped, "validated")
    losses = [scores(event)["logloss"] for event in validated]
    best = losses.index(min(losses))
    (tested,) = events(stopped, "tested")

    assert len(losses) == best + 3 < 9, f"two epochs after the best one: {losses}"
    assert tested["step"] == validated[best]["step"] < validated[-1]["step"]


def test_what_is_tested_is_the_best_epoch_and_not_the_newest(config: Path, stopped: Path, tmp_path: Path) -> None:
    early_stop = "train.early_stop={metric: logloss, patience: 2, lr_factor: 0.5}"
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    with built(config, out, *OVERFIT, early_stop) as job:
        best = evaluate(job, [TEST], step=restore_best(job), quiet=True)
        (out / "checkpoints" / "rank.json").unlink()
        newest = evaluate(job, [TEST], step=restore_best(job), quiet=True)
        state = job.checkpoints.read_meta(job.checkpoints.marks()[-1])["state"]

    (tested,) = events(stopped, "tested")
    assert scores(best) == pytest.approx(scores(tested))
    assert scores(newest)["logloss"] != pytest.approx(scores(tested)["logloss"], abs=1e-3), "it is another model"
    assert (state["stale"], state["lr_factor"], state["stopped"]) == (2, 0.25, True)


def test_a_stopped_run_is_not_started_again_by_more_epochs(config: Path, stopped: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    early_stop = "train.early_stop={metric: logloss, patience: 2, lr_factor: 0.5}"

    assert train(config, out, *OVERFIT, early_stop, "train.epochs=20").code == 0

    assert len(events(out, "trained")) == len(events(stopped, "trained"))


# --- which day is for what ---


@pytest.fixture(scope="module")
def whole(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two passes, with everything on."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = train(config, out, *HARD, "train.epochs=2", "train.progressive_validation=true")
    assert done.code == 0, done.err
    return out


def test_every_row_of_every_training_day_is_trained_once_a_pass(config: Path, whole: Path) -> None:
    assert_every_row_once(config, whole)
    first, second = (
        {event["day"]: event["files"] for event in events(whole, "trained") if event["epoch"] == n} for n in (0, 1)
    )
    assert list(first) == list(second) == [FIRST, SECOND]
    assert first == second, "the same rows: counts and hashes per file"


def test_days_come_in_their_order_and_validation_and_test_days_are_never_trained(whole: Path) -> None:
    told = [(event["event"], event.get("day")) for event in log(whole) if event["event"] != "warning"]

    assert told == [
        ("trained", FIRST),
        ("scored", SECOND),
        ("trained", SECOND),
        ("validated", None),
        ("trained", FIRST),
        ("trained", SECOND),
        ("validated", None),
        ("tested", None),
    ]


def test_training_rows_are_shuffled_unless_the_config_says_otherwise(config: Path, tmp_path: Path) -> None:
    for name, rows in {"file order": 0, "shuffled": 32, "again": 32}.items():
        train(config, tmp_path / name, "train.max_steps=3", f"data.shuffle_buffer_rows={rows}")

    assert_same_bits(tmp_path / "shuffled", tmp_path / "again")
    with pytest.raises(AssertionError):
        assert_same_bits(tmp_path / "shuffled", tmp_path / "file order")


def test_the_test_day_is_not_looked_at_before_the_end(config: Path, tmp_path: Path) -> None:
    root = tmp_path / "log"
    shutil.copytree(config.parent / "log", root)
    (root / f"day={TEST}").rename(tmp_path / "later")
    settings = (f"data.root={root}", "train.epochs=2")

    early = train(config, tmp_path / "run", *settings)
    trained = events(tmp_path / "run", "trained")
    (tmp_path / "later").rename(root / f"day={TEST}")
    late = train(config, tmp_path / "run", *settings)

    assert (early.code, late.code) == (2, 0)
    assert f"there is no day {TEST}" in early.err
    assert len(trained) == 4
    assert events(tmp_path / "run", "trained") == trained, "nothing is trained twice"
    assert len(events(tmp_path / "run", "tested")) == 1


def test_a_day_is_scored_by_a_model_and_vocabularies_that_have_seen_none_of_its_rows(
    config: Path, whole: Path, tmp_path: Path
) -> None:
    (scored,) = events(whole, "scored")
    alone = ("train.epochs=2", "train.max_steps=" + str(scored["step"]))
    with built(config, tmp_path / "run", *HARD, *alone, f"data.days=[{FIRST}]") as job:
        run(job, quiet=True)
        unseen = evaluate(job, [SECOND], step=0, quiet=True)

    assert scores(unseen) == scores(scored)


# --- stopping and going on ---


@pytest.mark.parametrize("pipeline", ["base", "sparse_dist"])
def test_a_run_without_tables_is_stopped_and_goes_on_to_the_same_bits(config: Path, tmp_path: Path, pipeline: str) -> None:
    schema = yaml.safe_load(SCHEMA.read_text())
    schema["fields"] = [field for field in schema["fields"] if field["kind"] in ("number", "vector")]
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(schema))
    common = (f"schema={tmp_path}/schema.yaml", f"train.pipeline={pipeline}")

    for out, *stop in (("whole",), ("stopped", "train.max_steps=5"), ("stopped",)):
        done = train(config, tmp_path / out, *common, *stop)
        assert done.code == 0, done.err

    assert_same_bits(tmp_path / "whole", tmp_path / "stopped")


def test_max_steps_stops_inside_a_day_and_raising_it_goes_on_to_the_same_bits(
    config: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    common = (*HARD, "train.epochs=2", "train.progressive_validation=true")
    stops = [2, 5, 7, 13, 30]
    for stop in stops:
        done = train(config, out, *common, f"train.max_steps={stop}")
        assert f" trained in {stop} steps" in done.out
    train(config, out, *common, "data.prefetch_batches=0")

    resumed = events(out, "resumed")
    assert [event["step"] for event in resumed] == stops
    assert sum(event["cursor"]["row"] > 0 for event in resumed) >= 3, "inside a day"
    assert_same_bits(whole, out)
    assert_every_row_once(config, out)
    last = [event["metrics"] for event in events(out, "trained")]
    assert last[-1] == events(whole, "trained")[-1]["metrics"], "the day's metrics are of all its rows"


def test_fewer_steps_than_were_trained_train_nothing(config: Path, tmp_path: Path) -> None:
    train(config, tmp_path / "run", "train.max_steps=5")

    done = train(config, tmp_path / "run", "train.max_steps=3")

    assert done.code == 0
    assert "80 rows trained in 5 steps" in done.out
    assert len(events(tmp_path / "run", "trained")) == 1


def test_more_passes_go_on_where_a_finished_run_ended(config: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(config, out, *HARD, "train.progressive_validation=true", "train.epochs=1")

    train(config, out, *HARD, "train.progressive_validation=true", "train.epochs=2")

    assert_same_bits(whole, out)


def test_a_finished_run_trains_nothing_and_says_the_same_again(config: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)

    first = train(config, out, *HARD, "train.epochs=2", "train.progressive_validation=true")
    again = train(config, out, *HARD, "train.epochs=2", "train.progressive_validation=true")

    assert (first.code, again.code) == (0, 0)
    assert events(out, "trained") == events(whole, "trained")
    assert [scores(event) for event in events(out, "tested")] == [scores(*events(whole, "tested"))] * 3
    without_rate = [[line.rpartition(" ")[0].rpartition("│")[0] for line in done.out.splitlines()] for done in (first, again)]
    assert without_rate[0] == without_rate[1]
    assert first.out.splitlines()[-1] == again.out.splitlines()[-1]
    assert_same_bits(whole, out)


def test_a_day_that_was_begun_keeps_its_lanes(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(config, out, "train.max_steps=3")

    train(config, out, "data.lanes=4")

    assert [event["cursor"]["lanes"] for event in events(out, "resumed")] == [2]
    assert_every_row_once(config, out)


def test_a_day_that_was_not_begun_is_cut_as_the_config_says_now(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(config, out)

    train(config, out, "data.lanes=4", "train.epochs=2")

    (resumed,) = events(out, "resumed")
    assert resumed["cursor"] == {"epoch": 1, "day": FIRST, "row": 0, "lanes": 4}


def test_a_day_whose_rows_moved_while_it_was_half_trained_is_refused(config: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "log", tmp_path / "run"
    shutil.copytree(config.parent / "log", root)
    part = root / f"day={FIRST}" / "part-00001.parquet"
    train(config, out, f"data.root={root}", "train.max_steps=3")
    as_it_was = part.read_bytes()

    pq.write_table(pq.read_table(part).slice(1), part)
    refused = train(config, out, f"data.root={root}")
    part.write_bytes(as_it_was)
    fixed = train(config, out, f"data.root={root}")

    assert (refused.code, fixed.code) == (2, 0)
    assert f"day {FIRST} is half trained, and its rows are not where they were when it was begun" in refused.err
    assert_every_row_once(config, out)


# --- what may change ---


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["seed=8"], ["seed: begun with 7, now 8"]),
        (["tables.lr=0.1"], ["tables.lr: begun with 0.05, now 0.1"]),
        (["train.global_batch_rows=32"], ["train.global_batch_rows: begun with 16, now 32"]),
        (["data.shuffle_buffer_rows=64"], ["data.shuffle_buffer_rows: begun with 32, now 64"]),
        (["tables.overrides={item_id: {lr: 0.1}}"], ["tables.overrides.item_id.lr: begun with None, now 0.1"]),
        ([f"data.days=[{FIRST}]"], [f"data.days: begun with ('{FIRST}', '{SECOND}'), now ('{FIRST}',)"]),
        (
            ["model.decoder=dcnv2", "model.decoder_options={hidden: [8, 8]}"],
            [
                "model.decoder: begun with 'mlp', now 'dcnv2'",
                "model.decoder_options.batch_norm: begun with True, now None",
                "model.decoder_options.dropout: begun with 0.2, now None",
                "model.decoder_options.hidden: begun with [8], now [8, 8]",
            ],
        ),
    ],
)
def test_another_config_is_refused_and_the_keys_are_named(
    config: Path, whole: Path, tmp_path: Path, overrides: list[str], told: list[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    before = sorted((path, path.read_bytes()) for path in out.rglob("*") if path.is_file())

    done = train(config, out, *HARD, "train.epochs=2", "train.progressive_validation=true", *overrides)

    first, *lines, following, accept = done.err.splitlines()
    assert done.code == 2
    assert first == f"genctr: {out} was begun with another config:"
    assert lines == [f"  {line}" for line in told]
    assert following == "  next: set these back, give a new --out, or confirm them and keep what fits:"
    assert json.loads(accept.removeprefix("  daily.accept_changes: ")) == told
    assert sorted((path, path.read_bytes()) for path in out.rglob("*") if path.is_file()) == before, "nothing is touched"


def test_another_schema_is_refused(config: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    schema = tmp_path / "schema.yaml"
    _, _, text = (out / "schema.yaml").read_text().partition("\n")  # without the digest of the rest
    schema.write_text(text.replace("log1p", "none"))

    done = train(config, out, *HARD, "train.epochs=2", "train.progressive_validation=true", f"schema={schema}")

    assert done.code == 2
    assert "  field price.transform: begun with 'log1p', now 'none'" in done.err


def test_what_does_not_make_it_another_run_may_change(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    out, root = tmp_path / "run", tmp_path / "moved"
    train(config, out, "train.max_steps=3")
    shutil.copytree(config.parent / "log", root)
    changes = (
        *(
            f"data.root={root}",
            "data.lanes=4",
            "data.prefetch_batches=0",
            "train.ranks=1",
            "train.device=auto",
            "train.epochs=2",
        ),
        *("checkpoint={every_steps: 5, keep_last: 4, asynchronous: false}", "tables.sharding=row_wise"),
        "tables.overrides={item_id: {sharding: table_wise}}",
    )

    done = train(config, out, *changes)

    assert done.code == 0, done.err
    assert [event["day"] for event in events(out, "trained")] == [FIRST, FIRST, SECOND, FIRST, SECOND]
    assert f"root: {root}" in (out / "config.yaml").read_text(), "what holds now is stored"
    with built(out / "config.yaml", out) as job:
        assert len(job.checkpoints.marks()) == 4


def test_a_run_that_has_saved_nothing_yet_may_be_begun_otherwise(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    schema = tmp_path / "schema.yaml"
    schema.write_text(
        "name: demo\nlabel: {column: is_click}\nfields:\n"
        "  - {name: device, kind: id, ids: vocab}\n  - {name: price, kind: number, transform: standardise}\n"
    )

    wrong = train(config, out, "model.decoder=flm")
    fixed = train(config, out, f"schema={schema}", "model.decoder=fm", "model.decoder_options={}")

    assert (wrong.code, fixed.code) == (2, 0), fixed.err
    assert "did you mean 'fm'" in wrong.err
    assert list(json.loads((out / "statistics" / "statistics.json").read_text())["moments"]) == ["price"], "fitted again"


def test_a_label_that_comes_while_a_day_is_half_trained_is_judged_from_there_on(config: Path, tmp_path: Path) -> None:
    out, schema = tmp_path / "run", tmp_path / "schema.yaml"
    train(config, out, "train.max_steps=3")
    stored = yaml.safe_load((out / "schema.yaml").read_text().partition("\n")[2])  # without its seal
    more = [{"target": name, "column": "is_click"} for name in ("is_click", "again")]
    schema.write_text(yaml.safe_dump(stored | {"label": None, "labels": more}))

    done = train(config, out, f"schema={schema}", "daily.accept_changes=['label again: new']")

    assert done.code == 0, done.err
    rows = [{task: values["rows"] for task, values in event["metrics"].items()} for event in events(out, "trained")]
    whole = rows[1]["is_click"]
    assert rows[:2] == [{"is_click": 48}, {"is_click": whole, "again": whole - 48}]
