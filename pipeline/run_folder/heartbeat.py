"""A rank that is stopped, or hangs as a whole, is noticed: torch alone would wait for it for hours without a word.

Every rank counts as long as its process runs at all, on one machine in a file of its own, next to the one where the ranks meet;
on several in the store that they have met at. Long work of one rank is no silence: the counting has a thread of its own.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

EVERY = 5.0
"""[s] between two counts."""

WARN, END = 60.0, 1800.0
"""[s] of silence of another rank, after which this one says so, and after which it ends."""

LEAVE = 5.0
"""[s] that a rank which ends waits for the store at most."""

LEFT = "left"
"""What a rank that has ended properly writes last."""


class Signs(Protocol):
    """Where ranks leave signs of life for each other."""

    def watched(self, rank: int, ranks: int) -> Sequence[int]:
        """The ranks that this one watches."""

    def write(self, rank: int, text: str) -> None:
        """Leave a sign."""

    def read(self, rank: int) -> str:
        """The newest sign of another rank, which changes as long as it runs; empty if there is none."""

    def leave(self, rank: int, *, failed: bool = False) -> None:
        """Say that this rank has ended, which is no silence."""


@contextmanager
def heartbeat(
    signs: Signs,
    rank: int,
    ranks: int,
    *,
    every: float = EVERY,
    warn: float = WARN,
    end: float = END,
    give_up: Callable[[], None] = lambda: os._exit(1),
) -> Iterator[None]:
    """Count, and watch the others count.

    Args:
        give_up: what ends this process; the launcher then ends the others, stopped ones too.
    """
    done = threading.Event()
    watching = threading.Thread(target=_watch, args=(signs, rank, ranks, every, warn, end, give_up, done), daemon=True)
    watching.start()
    failed = True
    try:
        yield
        failed = False
    finally:
        done.set()
        watching.join()
        signs.leave(rank, failed=failed)


def _watch(
    signs: Signs,
    rank: int,
    ranks: int,
    every: float,
    warn: float,
    end: float,
    give_up: Callable[[], None],
    done: threading.Event,
) -> None:
    others = signs.watched(rank, ranks)
    now = time.monotonic()
    counts: dict[int, str] = {}
    since, told = dict.fromkeys(others, now), set[int]()
    for count in range(sys.maxsize):
        signs.write(rank, f"{os.getpid()} {count}")
        if done.wait(every):
            return
        before, now = now, time.monotonic()
        if now - before > max(3 * every, warn / 2):  # this process itself was stopped: it knows nothing of the others
            since = dict.fromkeys(others, now)
        for other in others:
            seen = signs.read(other)
            if seen != counts.get(other) or seen == LEFT:
                counts[other], since[other] = seen, now
                told.discard(other)
            silent = now - since[other]
            if silent >= end:
                sys.stderr.write(f"genctr (rank {rank}): rank {other} was silent for {silent:,.0f} s; this job ends\n")
                give_up()
                return
            if silent >= warn and other not in told:
                told.add(other)
                sys.stderr.write(
                    f"genctr (rank {rank}): rank {other} has been silent for {silent:,.0f} s: is it stopped, or its machine "
                    f"overloaded? This job ends after {end:,.0f} s of it\n"
                )


class FileSigns:
    """Signs of ranks of one machine.

    Args:
        store: the file in which the ranks meet; those of the counts lie next to it.
    """

    def __init__(self, store: str) -> None:
        self._store = store

    def watched(self, rank: int, ranks: int) -> Sequence[int]:
        """All others."""
        return [own for own in range(ranks) if own != rank]

    def write(self, rank: int, text: str) -> None:
        """Leave a sign."""
        with suppress(OSError):  # the folder is gone with the launcher, and so is this rank in a moment
            with open(f"{self._store}.{rank}.new", "w") as file:
                file.write(text)
            os.replace(f"{self._store}.{rank}.new", f"{self._store}.{rank}")

    def read(self, rank: int) -> str:
        """What changes as long as a rank runs: its count, and its time on processors. A library that computes for minutes
        may keep all other threads of its process from counting."""
        try:
            with open(f"{self._store}.{rank}") as file:
                count = file.read()
            if count == LEFT:
                return LEFT
            with open(f"/proc/{count.split()[0]}/stat") as file:
                return f"{count} {file.read().rpartition(')')[2].split()[11:13]}"
        except (OSError, IndexError):  # it has not begun, or its process is gone
            return ""

    def leave(self, rank: int, *, failed: bool = False) -> None:
        """Say that this rank has ended, which is no silence."""
        self.write(rank, LEFT)


class StoreSigns:
    """Signs of ranks of several machines, in the store that they have met at. The first rank watches all, the others watch the
    first: so the store is asked for as many signs as there are ranks, and not for the square of that.

    A thread of its own talks to the store, over a connection of its own: a call to one whose process is stopped may never
    return, and that is a silence too.

    Args:
        store: where the ranks have met. rank, ranks: of this process, of how many. every: [s] between two visits.
    """

    def __init__(self, store: "Store", rank: int, ranks: int, *, every: float = EVERY) -> None:
        self._store, self._connection = store, store.clone()  # type: ignore[attr-defined]  # torch's stubs lack it
        self._own, self._every = rank, every
        self._others = self.watched(rank, ranks)
        self._text, self._signs = "", dict[int, str]()
        self._done = threading.Event()
        self._talking = threading.Thread(target=self._talk, daemon=True)
        self._talking.start()

    def watched(self, rank: int, ranks: int) -> Sequence[int]:
        """All others for the first rank, the first for the others."""
        return range(1, ranks) if rank == 0 else [0]

    def write(self, rank: int, text: str) -> None:
        """Leave a sign, at the next visit."""
        self._text = text

    def read(self, rank: int) -> str:
        """What the last visit has found."""
        return self._signs.get(rank, "")

    def leave(self, rank: int, *, failed: bool = False) -> None:
        """Say that this rank has ended, unless something has failed: the store may be gone then, about which torch would print
        pages. One that does not answer is not waited for."""
        self._text = "" if failed else LEFT
        self._done.set()
        self._talking.join(LEAVE)

    def _talk(self) -> None:
        with suppress(RuntimeError):  # the store is gone with the rank that had it, which is silent from now on
            while not self._done.wait(self._every):
                self._visit()
            # The first rank may have the store in its process: the others take their leave first.
            end = time.monotonic() + LEAVE
            while self._text == LEFT and self._signs.get(0) != LEFT and time.monotonic() < end:
                self._visit()
                if self._own != 0 or all(self._signs.get(own) == LEFT for own in self._others):
                    return
                time.sleep(0.05)

    def _visit(self) -> None:
        self._connection.set(_key(self._own), self._text)
        for other in self._others:
            if self._connection.check([_key(other)]):
                self._signs[other] = self._connection.get(_key(other)).decode()


def _key(rank: int) -> str:
    return f"genctr/alive/{rank}"
