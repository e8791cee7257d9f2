"""Ranks that are stopped are noticed; ranks that are busy, or done, are not.

Run: pytest tests/pipeline/run_folder/test_heartbeat.py
"""

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from torch._C._distributed_c10d import TCPStore

from pipeline.run_folder.heartbeat import FileSigns, Signs, StoreSigns, heartbeat
from tests.jobs import free_port

OTHER = """
import sys, time
from datetime import timedelta
from pipeline.run_folder.heartbeat import FileSigns, StoreSigns, heartbeat
place, work, rank = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if place.isdecimal():
    from torch._C._distributed_c10d import TCPStore
    store = TCPStore("127.0.0.1", int(place), 2, rank == 0, timedelta(seconds=60), wait_for_workers=False)
    signs = StoreSigns(store, rank, 2, every=0.02)
else:
    signs = FileSigns(place)
with heartbeat(signs, rank, 2, every=0.02, warn=60, end=600):
    print("here", flush=True)
    sum(range(work))  # busy, without a word to anybody
print("left", flush=True)
time.sleep(60)
"""


def other(place: object, work: int, rank: int = 1) -> subprocess.Popen[str]:
    """The other rank, in a process of its own that counts already."""
    words = [sys.executable, "-c", OTHER, str(place), str(work), str(rank)]
    started = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
    assert started.stdout is not None
    assert started.stdout.readline() == "here\n"
    return started


def in_store(port: int, rank: int) -> Signs:
    store = TCPStore("127.0.0.1", port, 2, rank == 0, timedelta(seconds=60), wait_for_workers=False)
    return StoreSigns(store, rank, 2, every=0.02)


@pytest.mark.parametrize("place", ["file", pytest.param("store", marks=pytest.mark.slow)])
def test_a_stopped_rank_is_reported_and_then_the_job_ends(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, at = threading.Event(), tmp_path / "store" if place == "file" else free_port()
    signs = FileSigns(str(at)) if isinstance(at, Path) else in_store(at, 0)
    process = other(at, 10**12)
    try:
        with heartbeat(signs, 0, 2, every=0.02, warn=5.0, end=8.0, give_up=ended.set):
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


@pytest.mark.slow
def test_a_stopped_first_rank_that_has_the_store_is_reported_too(capsys: pytest.CaptureFixture[str]) -> None:
    ended, port = threading.Event(), free_port()
    process = other(port, 10**12, rank=0)
    try:
        with heartbeat(in_store(port, 1), 1, 2, every=0.02, warn=0.3, end=0.6, give_up=ended.set):
            time.sleep(0.2)
            os.kill(process.pid, signal.SIGSTOP)
            assert ended.wait(30.0)
    finally:
        process.kill()
        process.communicate()

    assert "genctr (rank 1): rank 0 was silent for 1 s; this job ends" in capsys.readouterr().err


def test_a_rank_that_does_not_count_any_more_in_a_store_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    ended, port = threading.Event(), free_port()
    first, second = in_store(port, 0), in_store(port, 1)
    second.write(1, "once and never again")

    with heartbeat(first, 0, 2, every=0.02, warn=0.3, end=0.6, give_up=ended.set):
        assert ended.wait(30.0)
        second.leave(1)

    said = capsys.readouterr().err.splitlines()
    assert ["rank 1 has been silent for 0 s" in said[0], "rank 1 was silent for 1 s; this job ends" in said[1]] == [True, True]


@pytest.mark.parametrize("place", ["file", pytest.param("store", marks=pytest.mark.slow)])
def test_a_rank_that_has_left_is_not_silent(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended, at = threading.Event(), tmp_path / "store" if place == "file" else free_port()
    signs = FileSigns(str(at)) if isinstance(at, Path) else in_store(at, 0)
    process = other(at, 1)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "left\n"
        with heartbeat(signs, 0, 2, every=0.02, warn=0.2, end=0.5, give_up=ended.set):
            time.sleep(1.5)
    finally:
        process.kill()
        process.communicate()

    assert (ended.is_set(), capsys.readouterr().err) == (False, "")
