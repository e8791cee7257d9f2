"""Ranks that are stopped are noticed; ranks that are busy, or done, are not.

Run: pytest tests/pipeline/run_folder/test_heartbeat.py
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.run_folder.heartbeat import heartbeat

OTHER = """
import sys, time
from pipeline.run_folder.heartbeat import heartbeat
with heartbeat(sys.argv[1], 1, 2, every=0.02, warn=60, end=600):
    print("here", flush=True)
    sum(range(int(sys.argv[2])))  # busy, without a word to anybody
print("left", flush=True)
time.sleep(60)
"""


def other(store: Path, work: int) -> subprocess.Popen[str]:
    """Rank 1, in a process of its own that counts already."""
    words = [sys.executable, "-c", OTHER, str(store), str(work)]
    started = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
    assert started.stdout is not None
    assert started.stdout.readline() == "here\n"
    return started


def test_a_stopped_rank_is_reported_and_then_the_job_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended, process = threading.Event(), other(tmp_path / "store", 10**12)
    try:
        with heartbeat(str(tmp_path / "store"), 0, 2, every=0.02, warn=5.0, end=8.0, give_up=ended.set):
            assert not ended.wait(2.0), "a busy rank is not silent"
            assert capsys.readouterr().err == ""
            os.kill(process.pid, signal.SIGSTOP)
            assert ended.wait(30.0)
    finally:
        process.kill()
        process.communicate()

    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["genctr (rank 0)"] * 2
    assert "rank 1 has been silent for 5 s" in said[0]
    assert "rank 1 was silent for 8 s; this job ends" in said[1]


def test_a_rank_that_has_left_is_not_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended, process = threading.Event(), other(tmp_path / "store", 1)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "left\n"
        with heartbeat(str(tmp_path / "store"), 0, 2, every=0.02, warn=0.2, end=0.5, give_up=ended.set):
            time.sleep(1.5)
    finally:
        process.kill()
        process.communicate()

    assert (ended.is_set(), capsys.readouterr().err) == (False, "")
