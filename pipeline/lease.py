"""The lease of a run folder: one job writes, a second one refuses and names the first; a dead job's lease is taken over.

`lease.json` says who holds it and counts its heartbeats. A holder on this machine is dead when its process is; one on another
machine when its heartbeat stood still for `seconds`, by the watcher's own monotonic clock: no two clocks are ever compared,
so a clock that jumps changes nothing.
"""

import fcntl
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from data.errors import GenctrError
from data.paths import PATHS, plain, write_whole

FILE = "lease.json"


class Busy(GenctrError):
    """Another job holds the run folder."""

    exit_code = 5


class Lease:
    """Holds a run folder while it is open.

    Args:
        folder: the run folder. seconds: [s] of silence after which a holder on another machine counts as dead.

    Raises:
        Busy: on entering, another job is alive; on `check`, another job has taken over.
        OSError: the lease cannot be read or written.
    """

    def __init__(self, folder: str, *, seconds: float) -> None:
        self._path = f"{plain(folder)}/{FILE}"
        self._seconds = seconds
        self._token = uuid.uuid4().hex
        self._stop, self._lost = threading.Event(), threading.Event()
        self._turn = threading.Lock()  # a store that does not put whole shows a reader nothing while the heartbeat writes
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        PATHS.mkdirs(self._path.rpartition("/")[0] + "/")
        with _locked(self._path):
            if (held := self._held()) is None or _is_dead(held):
                self._write(0)
                if "://" in self._path:
                    time.sleep(self._seconds / 20)  # where nothing can lock, the last of two that write at once has it
        if (held := self._held()) is not None and held["token"] != self._token:
            self._outwait(held)
        self.check()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with _locked(self._path), suppress(OSError):
            if (held := self._held()) is not None and held["token"] == self._token:
                PATHS.rm(self._path)

    @property
    def was_lost(self) -> bool:
        """Whether the last heartbeat has found another holder; asks nobody, so it may be asked at every step."""
        return self._lost.is_set()

    def check(self) -> None:
        """Raise `Busy` unless this job still holds the lease."""
        with self._turn:
            held = self._held()
        if held is None or held["token"] != self._token:
            raise Busy(
                f"{self._path}: {'another job' if held is None else _name(held)} has taken this run over\n  next: let it"
            )

    def _outwait(self, held: dict[str, Any]) -> None:
        """Take over from a holder that stays silent for the whole time."""
        if _is_here(held):
            raise _busy(self._path, held)
        deadline = time.monotonic() + self._seconds
        while time.monotonic() < deadline:
            time.sleep(min(1.0, self._seconds / 10))
            now = self._held()
            if now is None:
                break
            if now != held:
                raise _busy(self._path, now)
        with _locked(self._path):
            if (now := self._held()) is None or now == held:
                self._write(0)
        time.sleep(self._seconds / 20)  # where nothing can lock, the last of two that write at once has it

    def _renew(self) -> None:
        beat = 0
        while not self._stop.wait(self._seconds / 4):
            beat += 1
            with self._turn, suppress(OSError, GenctrError), _locked(self._path):
                if (held := self._held()) is not None and held["token"] == self._token:
                    self._write(beat)
                elif held is not None or not PATHS.exists(self._path):  # or who took it over has finished and let it go
                    self._lost.set()

    def _held(self) -> dict[str, Any] | None:
        """Who holds the lease; None where nobody does, or what is there makes no sense.

        Raises:
            OSError: the store does not answer, or not to this user: that is no sign of a job having come or gone.
        """
        try:
            with PATHS.open(self._path, "r") as file:
                held = json.load(file)
            return held if {"token", "beat", "machine", "pid", "born"} <= set(held) else None
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _write(self, beat: int) -> None:
        me = {"machine": _machine(), "host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())}
        write_whole(self._path, json.dumps({"token": self._token, "beat": beat, **me}))


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Alone among the processes of this machine, where the file is on a disk."""
    if "://" in path:
        yield
        return
    with open(f"{path}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _machine() -> str:
    """Where process numbers mean the same: this machine since it was started, and of its containers this one."""
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return f"{socket.gethostname()}/{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _born(pid: int) -> str:
    """When a process began, so that its number is not taken for a later process; empty if it is not there."""
    if sys.platform != "linux":
        return "?"
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *rest = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else rest[18]


def _is_here(held: dict[str, Any]) -> bool:
    return bool(held["machine"] == _machine())


def _is_dead(held: dict[str, Any]) -> bool:
    """Whether the holder is known to be dead: a process of this machine that is not there any more."""
    return _is_here(held) and _born(held["pid"]) != held["born"]


def _name(held: dict[str, Any]) -> str:
    return f"process {held['pid']} on {held.get('host', '?')}"


def _busy(path: str, held: dict[str, Any]) -> Busy:
    return Busy(f"{path}: {_name(held)} works on this run\n  next: let it finish, or end it; its lease ends with it")
