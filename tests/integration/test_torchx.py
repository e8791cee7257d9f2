"""`torchx run`: the same job through TorchX, on two ranks; the same line again goes on where it stood."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.nightly import states, write_daily
from tests.jobs import assert_every_row_once, events
from tests.tiny import DAYS, ROOT, train, write_log


def torchx(logs: Path, component: str, *words: object) -> str:
    """What `torchx run -s local_cwd` and the job it waits for print."""
    line = [*("-m", "torchx.cli.main", "run", "-s", "local_cwd", "-cfg", f"log_dir={logs}", "--wait", "--log"), component]
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, *line, *map(str, words)]
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("torchx"))


@pytest.mark.slow
def test_torchx_runs_the_job_and_the_same_line_again_goes_on(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = ["launch/components.py:train", "--config", config, "--out", out, "--ranks", 2]

    first = torchx(tmp_path, *line, "--", "train.max_steps=5")
    second = torchx(tmp_path, *line)

    assert "80 rows trained in 5 steps" in first
    assert f"the run is in {out}" in second
    (resumed,) = events(out, "resumed")
    assert (resumed["step"], resumed["ranks"]) == (5, 2)
    assert_every_row_once(config, out)


def test_torchx_scores_a_run(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(config, out, "train.max_steps=2")

    told = torchx(tmp_path, "launch/components.py:evaluate", "--run", out, "--days", DAYS[2])

    (evaluated,) = events(out, "evaluated")
    assert evaluated["day"] == DAYS[2]
    assert f"{evaluated['metrics']['is_click']['auc']:.4f}" in told


@pytest.mark.slow
def test_torchx_runs_a_night_and_the_next_finds_nothing_to_do(tmp_path: Path) -> None:
    config, out = write_daily(tmp_path, days=2), tmp_path / "run"
    line = ["launch/components.py:daily", "--config", config, "--out", out, "--ranks", 2]

    first = torchx(tmp_path, *line, "--", "daily.gates={}")
    second = torchx(tmp_path, *line, "--", "daily.gates={}")

    assert "published" in first
    assert "nothing to do" in second
    assert set(states(out).values()) == {"published"}
    scored = tmp_path / "scored"
    data = config.parent / "log" / "day=2026-11-02"
    torchx(tmp_path, "launch/components.py:score", "--bundle", out / "published", "--data", data, "--out", scored)
    assert len(list(scored.glob("*.parquet"))) == len(list(data.glob("*.parquet")))
