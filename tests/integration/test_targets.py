"""Whole jobs with several targets: amounts, a log without some of its negatives, heads that know both, and what is served."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.integration.nightly import LENIENT, daily
from tests.tiny import DAYS, EVENTS, Done, genctr, train, write_log

KEPT = 0.25
LABELS = [
    {"column": "is_click", "target": "click", "sampling_rate": "kept"},
    {"column": "is_long_view", "target": "long_view", "weight": 0.5},
    {"column": "watch_seconds", "target": "seconds", "kind": "amount"},
]
MODEL = {
    "decoder": "mlp",
    "dim": 4,
    "decoder_options": {"hidden": [8]},
    "head": "towers",
    "head_options": {"hidden": [4]},
    "losses": [{"name": "bce", "targets": ["click", "long_view"]}, {"name": "weighted_logistic", "targets": ["seconds"]}],
    "sequences": {"history": {"encoder": "time_aware", "join": ["history_category"]}},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of which a quarter of the rows without a click is left, and a run file of three targets."""
    folder = tmp_path_factory.mktemp("targets")
    config = write_log(folder, events=True)
    for file in sorted((folder / "log").glob("*/*.parquet")):
        table = pq.read_table(file, partitioning=None)
        clicked = table["is_click"].to_numpy() == 1
        left = clicked | (np.random.default_rng(7).random(len(clicked)) < KEPT)
        table = table.append_column("kept", pa.array(np.full(len(clicked), KEPT)))
        pq.write_table(table.filter(pa.array(left)), file)
    schema = yaml.safe_load(EVENTS.read_text())
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema | {"labels": LABELS}))
    run = yaml.safe_load(config.read_text()) | {"schema": "schema.yaml", "model": MODEL}
    run["daily"] = {"gates": LENIENT, "first_gates": {}, "lease_seconds": 2}
    config.write_text(yaml.safe_dump(run))
    return config


def scored(out: Path, event: str) -> dict[str, dict[str, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return next(line for line in reversed(lines) if line["event"] == event)["metrics"]


def test_targets_of_every_kind_are_trained_published_and_served(config: Path, tmp_path: Path) -> None:
    words = ("--set", "data.days=2026-11-01..", "--set", "data.validation=[]", "--set", "data.test=[]")
    done = daily(config, tmp_path / "run", *words)
    assert done.code == 0, done.err

    metrics = scored(tmp_path / "run", "scored")
    assert {*metrics["click"]} == {"auc", "gauc", "logloss", "ne", "calibration", "calibration_whole", "rows"}
    assert "calibration_whole" not in metrics["long_view"]
    assert {*metrics["seconds"]} == {"rmse", "mae", "calibration", "rows"}

    rows = next((config.parent / "log" / f"day={DAYS[3]}").glob("*.parquet"))
    told = genctr("score", tmp_path / "run" / "published", "--data", rows, "--out", tmp_path / "scores")
    assert told.code == 0, told.err
    [file] = (tmp_path / "scores").glob("*.parquet")
    scores = {
        name: column.to_numpy() for name, column in zip(pq.read_table(file).column_names, pq.read_table(file), strict=True)
    }
    np.testing.assert_allclose(scores["click"], 1 / (1 + np.exp(-scores["click_logit"])), rtol=1e-6)
    np.testing.assert_allclose(scores["seconds"], np.exp(scores["seconds_logit"].astype(np.float64)), rtol=1e-6)
    assert scores["click"].mean() < 0.35, "of the whole log; of the rows that are left more than half were clicked"


def test_losses_are_those_of_the_targets_times_their_weights(config: Path, tmp_path: Path) -> None:
    few = ("train.max_steps=3", "data.validation=[]", "data.test=[]")
    none = ("schema.labels.long_view.weight=0", "schema.labels.seconds.weight=0")
    done = train(config, tmp_path / "weightless", *few, *none)
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in (tmp_path / "weightless" / "log.jsonl").read_text().splitlines()]
    losses = [line["losses"] for line in lines if line["event"] == "step"]
    assert all(own["bce/long_view"] == own["weighted_logistic/seconds"] == 0 < own["bce/click"] for own in losses)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (("model.losses=[{name: bce}]",), "target seconds is an amount and has no loss of amounts"),
        (("model.losses=[{name: mse}]",), "target click is 0 or 1 and has a loss of amounts"),
        (("model.losses=[{name: bce}, {name: mse, targets: [seconds]}]",), "bce and mse read a logit of seconds differently"),
        (("model.losses=[{name: bpr, targets: [click]}]", "schema.group=null"), "bpr compares the rows of a group"),
        (("model={family: denoiser}",), "seconds is an amount"),
        (("model.head=esmm", "model.head_options={given: {long_view: like}}"), "esmm: given names 'like', which is no target"),
        (("model.sequences={history: {encoder: din, join: [history_categry]}}",), "history cannot join 'history_categry'"),
        (("model.sequences={history: {encoder: transact, options: {hide_hours: 2, actions: 3}}}",), ""),
        (("model.next_action={sequence: histry, actions: 3}",), "'histry' is no sequence that is read event by event"),
    ],
)
def test_what_does_not_fit_together_is_told(config: Path, tmp_path: Path, said: tuple[str, ...], told: str) -> None:
    done: Done = train(config, tmp_path / "run", "train.max_steps=1", *said)
    assert (done.code == 0) == (told == ""), done.err
    assert told in done.err


def test_an_encoder_that_reads_times_wants_them_declared(config: Path, tmp_path: Path) -> None:
    done = train(config, tmp_path / "run", "schema.fields.history.payload={action: history_action}", "train.max_steps=1")
    assert done.code == 2
    assert "sequence encoder time_aware reads the time of every event of history" in done.err
    assert "next: say payload: {time: COLUMN} of field history" in done.err
