"""The lease of a run folder: one job writes, a second one refuses and names the first; a dead job's lease is taken over.

`lease.json` says who holds it and counts its heartbeats. A holder on this machine is dead when its process is; one on another
machine when its heartbeat stood still for `seconds`, by the watcher's own monotonic clock: no two clocks are ever compared,
so a clock that jumps changes nothing.
"""

import errno
import fcntl
import json
import os
import re
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from data.errors import GenctrError
from data.paths import PATHS, Guard, guarded, list_folder, plain, write_whole

FILE = "lease.json"

LOCK_SECONDS = 10.0
"""[s] that a lock is waited for: holders need it for milliseconds."""

TEMPORARY = re.compile(r".*\.[0-9a-f]{32}\.tmp")
"""What `write_whole` calls the file of a guarded folder that is not whole yet."""


class LeaseHeld(GenctrError):
    """Another job holds the run folder."""

    exit_code = 5


class Lease:
    """Holds a run folder while it is open.

    Args:
        folder: the run folder. seconds: [s] of silence after which a holder on another machine counts as dead.
        also: folders that only the holder writes too, such as that of the bundles.

    While it is held, whatever this process writes into these folders through `data.paths` asks the lease first. So a job that
    was taken over while it slept changes nothing when it wakes up: it ends with `LeaseHeld`. On a disk the question and the
    change are one step, under a lock; a store has no locks, and what was on its way there at that instant arrives: whole
    objects, under names of this job's where another one may write the same.

    Raises:
        LeaseHeld: on entering, another job is alive; on `check` and on writing, another job has taken over.
        OSError: the lease cannot be read or written.
    """

    def __init__(self, folder: str, *, seconds: float, also: Sequence[str] = ()) -> None:
        self._folders = (plain(folder), *map(plain, also))
        self._path = f"{plain(folder)}/{FILE}"
        self._seconds = seconds
        self._token = uuid.uuid4().hex
        self._guard = ExitStack()
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
        self._guard.enter_context(self.shared(self._token))
        self._sweep()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._guard.close()
        self._stop.set()
        self._thread.join()
        with _locked(self._path), suppress(OSError):
            if (held := self._held()) is not None and held["token"] == self._token:
                PATHS.rm(self._path)

    @property
    def folder(self) -> str:
        """The run folder."""
        return self._folders[0]

    @property
    def token(self) -> str:
        """What tells this holder from all others."""
        return self._token

    @contextmanager
    def shared(self, token: str) -> Iterator[None]:
        """What the holder of this token does, this process does with it: as another rank of one job."""
        self._token = token
        with guarded(Guard(self._folders, but=self._path, token=token, turn=self._writing)):
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with _locked(self._path):
            self.check()
            yield

    def _sweep(self) -> None:
        """Take away the files that jobs which were killed had not written whole: nobody writes them on."""
        for folder in (own for own in self._folders if "://" not in own):
            for name in ("", "/checkpoints", "/statistics"):
                for file in filter(TEMPORARY.fullmatch, list_folder(f"{folder}{name}")):
                    PATHS.rm(f"{folder}{name}/{file}")

    @property
    def was_lost(self) -> bool:
        """Whether the last heartbeat has found another holder; asks nobody, so it may be asked at every step."""
        return self._lost.is_set()

    def check(self) -> None:
        """Raise `LeaseHeld` unless this job still holds the lease."""
        with self._turn:
            held = self._held()
        if held is None or held["token"] != self._token:
            raise LeaseHeld(
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
            with suppress(OSError, GenctrError), _locked(self._path), self._turn:
                if (held := self._held()) is not None and held["token"] == self._token:
                    self._write(beat)
                elif held is not None or not PATHS.exists(self._path):  # or who took it over has finished and let it go
                    self._lost.set()

    def _held(self) -> dict[str, Any] | None:
        """Who holds the lease; None where nobody does, or what is there makes no sense.

        Raises:
            OSError: the store does not answer, or not to this user: that is not a sign of a job having come or gone.
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
    """Alone among the processes that see this file, where it is on a disk.

    Raises:
        LeaseHeld: another process holds the lock and lets nobody in. GenctrError: there is no lock file but a link.
    """
    if "://" in path:
        yield
        return
    try:
        file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise GenctrError(f"{path}.lock is a link, and what it points to may be somebody's\n  next: remove the link") from error
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _took(file):
            if time.monotonic() > deadline:
                raise LeaseHeld(
                    f"{path}.lock: another process has held this lock for {LOCK_SECONDS:.0f} s: a job that is stopped or "
                    f"hangs, or a stranger\n  next: see which one by `fuser {path}.lock`, and end it"
                )
            time.sleep(0.01)
        yield
    finally:
        os.close(file)


def _took(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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


def _busy(path: str, held: dict[str, Any]) -> LeaseHeld:
    return LeaseHeld(f"{path}: {_name(held)} works on this run\n  next: let it finish, or end it; its lease ends with it")
