"""Ranks that do not come are named, and nobody waits for hours.

Run: pytest tests/pipeline/run_folder/test_meeting.py
"""

import socket
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from data.errors import GenctrError
from pipeline.run_folder.launcher import STORE, Launched
from pipeline.run_folder.meeting import meet
from tests.jobs import free_port
from tests.tiny import some

WARN, END = timedelta(milliseconds=200), timedelta(milliseconds=400)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    found = free_port()
    monkeypatch.delenv(STORE, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(found))
    return found


@pytest.mark.parametrize("place", some(["file", "port"], "port"))
def test_ranks_that_do_not_come_are_named(
    place: str, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if place == "file":
        monkeypatch.setenv(STORE, str(tmp_path / "store"))

    with pytest.raises(GenctrError, match=r"ranks 1, 2 of 3 ranks did not come within 0 s\n  expected: 3 processes"):
        meet(Launched(0, 3, 0), warn=WARN, end=END)

    assert "genctr (rank 0): waiting for ranks 1, 2 since " in capsys.readouterr().err


def test_a_first_rank_that_does_not_come_is_reported(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(GenctrError, match=f"rank 1 cannot reach rank 0 at 127.0.0.1:{port}"):
        meet(Launched(1, 2, 0), warn=WARN, end=END)

    assert f"nobody answers at 127.0.0.1:{port} (MASTER_ADDR and MASTER_PORT)" in capsys.readouterr().err


def test_ranks_that_come_late_meet(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    met = []
    second = threading.Thread(target=lambda: met.append(meet(Launched(1, 2, 0), warn=WARN, end=timedelta(seconds=30))))
    second.start()
    while "nobody answers" not in capsys.readouterr().err:
        time.sleep(0.01)

    store = meet(Launched(0, 2, 0), warn=timedelta(seconds=30), end=timedelta(seconds=60))

    store.set("word", "one and the same")
    second.join()
    assert met[0].get("word") == b"one and the same"


def test_a_port_that_is_taken_is_reported_at_once(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)), pytest.raises(GenctrError, match=f"rank 0 cannot open port {port} on"):
        meet(Launched(0, 2, 0))
