"""The table of `genctr status`."""

import shutil
from pathlib import Path

import pytest
import yaml

from launch.commands.run import _print_scores
from launch.status import show
from pipeline.daily.ledger import DayRecord, History, Ledger
from tests.tiny import SCHEMA, genctr, write_log


def test_the_scores_of_a_day_are_those_of_the_target_that_gates_look_at(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(write_log(tmp_path), run / "config.yaml")
    schema = yaml.safe_load(SCHEMA.read_text())
    schema["labels"] = [{"target": "click", **schema.pop("label")}, {"target": "buy", "column": "true_ctr"}]
    (run / "schema.yaml").write_text(yaml.safe_dump(schema, sort_keys=False))
    config = yaml.safe_load((run / "config.yaml").read_text()) | {"schema": "schema.yaml"}
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    metrics = {target: {"auc": auc, "ne": 0.9, "calibration": 1.0} for target, auc in (("click", 0.7111), ("buy", 0.8222))}
    scored = {"day": "2026-11-02", "step": 1, "rows": 9, "skipped": 0, "metrics": metrics, "headline": ["click", "auc"]}
    Ledger(str(run)).append("scored", scored)

    done = genctr("status", run)

    assert done.code == 0, done.err
    assert "0.7111" in done.out
    assert "0.8222" not in done.out


def test_a_gate_that_was_not_asked_says_neither_yes_nor_no(capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"gate": "rows", "ok": True, "number": 1.0, "low": 0.5, "high": None, "note": ""}
    answers = [asked, {**asked, "gate": "auc", "number": None}, {**asked, "gate": "gauc", "ok": False, "number": None}]
    judged = {"answers": answers, "publish": False, "bundle": "b"}
    show(History({"d": DayRecord("d", judged=judged)}), [], gates=True)

    shown = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[:2] for line in shown] == [["yes", "rows"], ["-", "auc"], ["NO", "gauc"]]
    assert [line.split(maxsplit=2)[2] for line in shown[:2]] == ["1  at least 0.5", "not asked  at least 0.5"]


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.95, 1.05, "from 0.95 to 1.05"), (None, 2, "at most 2"), (None, None, "not asked")]
)
def test_the_limits_of_a_gate_are_in_words(
    low: float | None, high: float | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {"gate": "calibration", "ok": True, "number": None, "low": low, "high": high, "note": ""}
    show(History({"d": DayRecord("d", judged={"answers": [answer], "publish": False, "bundle": "b"})}), [], gates=True)

    assert capsys.readouterr().out.splitlines()[-1].endswith(said)


def test_the_rows_of_a_target_with_a_condition_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"click": {"auc": 0.7, "rows": 1000}, "buy": {"auc": 0.8, "rows": 40}}
    scores = {"rows": 1000, "rows_per_second": 5.0, "metrics": metrics, "headline": ["click", "auc"]}
    _print_scores({"2026-11-02": scores}, None, best={})

    click, buy = (line for line in capsys.readouterr().out.splitlines() if "2026-11-02" in line)
    assert "1,000" in click
    assert "40" in buy.split("│")[3]


def test_a_day_that_was_rolled_back_is_not_shown_as_published(capsys: pytest.CaptureFixture[str]) -> None:
    days = {name: DayRecord(name, bundle=f"b-{name}") for name in ("one", "two")}
    show(History(days, served=["b-one", "b-two", "b-one"], withdrawn={"b-two"}), [], gates=False)

    one, two = (line for line in capsys.readouterr().out.splitlines() if "one" in line or "two" in line)
    assert ("published" in one, "rolled back" in two) == (True, True)
