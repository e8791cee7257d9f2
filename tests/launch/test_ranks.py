"""What the launcher's processes open to the network, and what is left of them when it is killed. Linux: /proc is read."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.jobs import events
from tests.tiny import ROOT, write_log

LISTENS = "0A"
"""The state of a listening socket in /proc/net/tcp, from <net/tcp_states.h>."""

LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
"""127.0.0.1, ::1 and ::ffff:127.0.0.1, as /proc/net writes them."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("ranks"))


@pytest.fixture
def command(config: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`genctr train` on two ranks, without an end, into `tmp_path / "run"`."""
    line = ["train", str(config), "--out", str(tmp_path / "run"), "--quiet", "--set", "train.ranks=2"]
    line = [sys.executable, "-m", "launch", *line, "--set", "train.epochs=1000"]
    with subprocess.Popen(line, cwd=ROOT, stderr=subprocess.DEVNULL) as started:
        yield started
        started.kill()


def children(process: int) -> list[int]:
    try:
        return [int(own) for own in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except FileNotFoundError:
        return []


def until(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


def is_there(process: int) -> bool:
    """Whether it runs: a zombie has only not been waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def listening(process: int) -> list[str]:
    """The addresses a process listens on."""
    links = (os.readlink(own) for own in Path(f"/proc/{process}/fd").iterdir() if own.is_symlink())
    sockets = {link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:")}
    lines = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/{process}/net/{kind}").read_text().splitlines()]
    return [own[1].partition(":")[0] for own in lines if own[3] == LISTENS and own[9] in sockets]


def test_no_process_of_a_job_on_one_machine_listens_where_others_can_reach_it_and_none_outlives_the_launcher(
    command: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    until(lambda: bool(events(tmp_path / "run", "trained")))
    ranks = children(command.pid)
    addresses = [address for process in (command.pid, *ranks) for address in listening(process)]

    assert len(ranks) == 2
    assert addresses, "gloo's ranks meet somewhere"
    assert set(addresses) <= set(LOOPBACK)

    command.send_signal(signal.SIGKILL)
    until(lambda: not any(map(is_there, ranks)), seconds=20)


@pytest.mark.slow
def test_ranks_whose_launcher_is_killed_while_they_import_end_with_it(command: subprocess.Popen[bytes]) -> None:
    until(lambda: len(children(command.pid)) == 2)
    ranks = children(command.pid)

    command.send_signal(signal.SIGKILL)

    until(lambda: not any(map(is_there, ranks)), seconds=20)
