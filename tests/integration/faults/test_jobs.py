"""Two jobs at one run folder, a job that follows the log, a clock that jumps: one writes, and what it writes is the same."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from data.paths import write_whole
from pipeline.run_folder.lease import Lease
from pipeline.training.callbacks import RowTally
from tests.integration.nightly import (
    FIRST,
    SECOND,
    THIRD,
    After,
    Nightly,
    assert_proven,
    assert_same_outcome,
    daily,
    published,
    settings,
    states,
)
from tests.jobs import assert_same_bits
from tests.tiny import genctr


def test_what_train_has_trained_is_not_trained_again_by_a_daily_job(config: Path, out: Path) -> None:
    words = settings(f"data.days={FIRST}..{SECOND}")
    assert genctr("train", config, "--out", out, "--quiet", *words).code == 0
    done = daily(config, out, *words)
    assert done.code == 2
    assert f"{out} was trained by `genctr train`: no ledger has its days" in done.err
    assert not (out / "ledger.jsonl").exists()


def test_what_a_daily_job_trains_is_not_trained_past_its_ledger(config: Path, out: Path) -> None:
    words = settings(f"data.days={FIRST}..{SECOND}")
    assert daily(config, out, *words, "--until", FIRST).code == 0
    done = genctr("train", config, "--out", out, "--quiet", *words)
    assert done.code == 2
    assert f"{out} is trained by `genctr daily`" in done.err
    assert daily(config, out, *words).code == 0
    assert states(out) == published(FIRST, SECOND)
    assert_proven(out)


@pytest.mark.slow
def test_a_second_job_refuses_and_names_the_first(config: Path, out: Path) -> None:
    night = Nightly(config, out, "--follow", "--until", "2026-12-31")
    while not (out / "ledger.jsonl").exists():
        assert night.processes[0].is_alive(), night.text
        time.sleep(0.02)
    done = daily(config, out)
    try:
        assert done.code == 5
        assert f"process {night.processes[0].pid} on" in done.err
        assert genctr("approve", out, FIRST, "--reason", "no").code == 5
    finally:
        night.kill()
    assert daily(config, out, "--until", SECOND).code in (0, 75)
    assert {FIRST: "published", SECOND: "published"}.items() <= states(out).items()
    assert_proven(out)


@pytest.mark.parametrize("family", ["ranker", "denoiser"])  # in its only stage, and in one before the last
def test_a_job_that_was_taken_over_saves_nothing_more(
    config: Path, out: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    theirs = {"token": "theirs", "beat": 3, "machine": "far/away", "host": "far", "pid": 1, "born": "1"}
    after, enter, lease = RowTally.on_step_end, Lease.__enter__, []
    monkeypatch.setattr(Lease, "__enter__", lambda self: lease.append(self) or enter(self))

    def asleep(self: RowTally, state: Any, output: Any) -> None:
        if state.step == 2:
            while not lease[0].was_lost:  # its next beat reads another's name; one under way may write its own once more
                write_whole(str(out / "lease.json"), json.dumps(theirs))
                time.sleep(0.02)
        after(self, state, output)

    monkeypatch.setattr(RowTally, "on_step_end", asleep)
    words = settings("daily.lease_seconds=0.4", "checkpoint.every_steps=1")
    words += settings("model={family: denoiser, dim: 4}") if family == "denoiser" else []
    done = daily(config, out, "--until", FIRST, *words)
    assert done.code == 5
    assert "process 1 on far has taken this run over" in done.err
    saved = sorted(path.parent.name for path in (out / "checkpoints").glob("*/checkpoint.json"))
    assert set(saved) <= {"step-0000001", "step-0000002"}, "what was being saved is refused too"
    assert json.loads((out / "lease.json").read_text()) == theirs


def test_following_takes_up_a_day_when_it_comes(config: Path, out: Path, after: After) -> None:
    shutil.move(config.parent / "log" / f"day={THIRD}", config.parent / "aside")
    after(FIRST)
    night = Nightly(config, out, "--follow", "--until", THIRD, *settings("daily.poll_seconds=0.2"))
    while not (out / "ledger.jsonl").exists() or SECOND not in states(out):
        assert night.processes[0].is_alive(), night.text
        time.sleep(0.05)
    shutil.move(config.parent / "aside", config.parent / "log" / f"day={THIRD}")
    assert night.ended(60) == 0, night.text
    assert states(out) == published(FIRST, SECOND, THIRD)


def test_a_clock_that_jumps_changes_nothing(
    config: Path, out: Path, whole: Path, after: After, monkeypatch: pytest.MonkeyPatch
) -> None:
    after(SECOND)
    jumps = iter([1e9, -3e8] * 1_000_000)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    assert daily(config, out).code == 0
    assert_same_outcome(whole, out)
    assert_same_bits(whole, out)


@pytest.mark.parametrize(
    ("kept", "precision"),
    [
        ("int8", "fp32"),
        pytest.param("fp32", "fp32", marks=pytest.mark.slow),
        pytest.param("fp32", "fp16", marks=pytest.mark.slow),
    ],
)
def test_a_bundle_of_another_run_is_never_taken_for_ones_own(config: Path, tmp_path: Path, kept: str, precision: str) -> None:
    tables = (f"daily.bundle_precision={kept}", f"tables.precision={precision}")
    words = ["--until", FIRST, *settings(f"daily.publish={tmp_path}/shared", *tables, "daily.gates={}")]
    assert daily(config, tmp_path / "one", *words).code == 0
    serving = (tmp_path / "shared" / "current.json").read_bytes()
    assert daily(config, tmp_path / "same", *words).code == 0, "the same bits are the same model"
    done = daily(config, tmp_path / "other", *words, *settings("seed=8"))
    assert done.code == 2
    assert "is another model's" in done.err
    assert (tmp_path / "shared" / "current.json").read_bytes() == serving
