"""`torchx run`: the same job through TorchX, on two ranks; the same line again goes on where it stood."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.jobs import assert_every_row_once, events
from tests.tiny import DAYS, ROOT, write_log


def torchx(component: str, *words: object) -> str:
    """What `torchx run -s local_cwd` and the job it waits for print."""
    line = [sys.executable, "-m", "torchx.cli.main", "run", "-s", "local_cwd", "--workspace", "", "--wait", "--log", component]
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*line, *map(str, words)], cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    return told


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("torchx"))


def test_torchx_runs_the_job_and_the_same_line_again_goes_on(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = ["launch/components.py:train", "--config", config, "--out", out, "--ranks", 2]

    first = torchx(*line, "--", "train.max_steps=5")
    second = torchx(*line)

    assert "80 rows trained in 5 steps" in first
    assert f"the run is in {out}" in second
    (resumed,) = events(out, "resumed")
    assert (resumed["step"], resumed["ranks"]) == (5, 2)
    assert_every_row_once(config, out)


def test_torchx_scores_a_run(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    torchx("launch/components.py:train", "--config", config, "--out", out, "--", "train.max_steps=2")

    told = torchx("launch/components.py:evaluate", "--run", out, "--days", DAYS[2])

    assert [event["day"] for event in events(out, "evaluated")] == [DAYS[2]]
    assert f"{events(out, 'evaluated')[0]['tasks']['is_click']['auc']:.4f}" in told
