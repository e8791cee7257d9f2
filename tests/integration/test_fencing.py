"""A job that slept past its lease, was replaced, and wakes up: it changes nothing, and says why it ends."""

import os
import signal
import time
from pathlib import Path

from pipeline.run_folder import lease
from tests.helpers import SERVER
from tests.integration import nightly
from tests.integration.nightly import Nightly, write_daily
from tests.jobs import events


def elsewhere(words: list[str], told: str) -> None:
    """A nightly job as on another machine: nobody here can see whether its process is alive."""
    lease._machine = lambda: "far/away"
    nightly.run(words, {}, 0, 1, 0, "", told)


def content(folder: Path) -> dict[str, bytes]:
    """What is in a run folder, but for TensorBoard's files: every job has one of its own."""
    files = (own for own in folder.rglob("*") if own.is_file() and own.parent.name != "tensorboard")
    return {str(own.relative_to(folder)): own.read_bytes() for own in files}


def test_a_job_that_was_taken_over_while_it_slept_writes_nothing_any_more(tmp_path: Path) -> None:
    config, out, told = write_daily(tmp_path, days=2, rows=300), tmp_path / "run", tmp_path / "sleeper.txt"
    words = ["daily", str(config), "--out", str(out), "--quiet"]
    sleeper = SERVER.Process(target=elsewhere, args=(words, str(told)))
    sleeper.start()
    while len(events(out, "train")) < 2:
        assert sleeper.is_alive(), told.read_text()
        time.sleep(0.01)
    assert sleeper.pid is not None
    os.kill(sleeper.pid, signal.SIGSTOP)

    successor = Nightly(config, out)
    assert successor.ended(300) == 0, successor.text
    before = content(out)
    os.kill(sleeper.pid, signal.SIGCONT)
    sleeper.join(120)

    assert sleeper.exitcode == 5
    assert "has taken this run over\n  next: let it" in told.read_text()
    assert content(out) == before
