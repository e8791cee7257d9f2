"""A rank that is stopped, or hangs as a whole, is noticed: torch alone would wait for it for hours without a word.

Every rank counts in a file of its own, in the private folder where the ranks of one machine meet, as long as its process
runs at all. Long work of one rank is no silence: the counting has a thread of its own.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

EVERY = 5.0
"""[s] between two counts."""

WARN, END = 60.0, 1800.0
"""[s] of silence of another rank, after which this one says so, and after which it ends."""

LEFT = "left"
"""What a rank that has ended properly writes last."""


@contextmanager
def heartbeat(
    store: str,
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
        store: the file in which the ranks meet; those of the counts lie next to it.
        give_up: what ends this process; the launcher then ends the others, stopped ones too.
    """
    done = threading.Event()
    watching = threading.Thread(target=_watch, args=(store, rank, ranks, every, warn, end, give_up, done), daemon=True)
    watching.start()
    try:
        yield
    finally:
        done.set()
        watching.join()
        _write(store, rank, LEFT)


def _watch(
    store: str, rank: int, ranks: int, every: float, warn: float, end: float, give_up: Callable[[], None], done: threading.Event
) -> None:
    others = [own for own in range(ranks) if own != rank]
    now = time.monotonic()
    counts: dict[int, str] = {}
    since, told = dict.fromkeys(others, now), set[int]()
    for count in range(sys.maxsize):
        _write(store, rank, f"{os.getpid()} {count}")
        if done.wait(every):
            return
        before, now = now, time.monotonic()
        if now - before > max(3 * every, warn / 2):  # this process itself was stopped: it knows nothing of the others
            since = dict.fromkeys(others, now)
        for other in others:
            seen = _signs(store, other)
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


def _write(store: str, rank: int, text: str) -> None:
    with suppress(OSError):  # the folder is gone with the launcher, and so is this rank in a moment
        with open(f"{store}.{rank}.new", "w") as file:
            file.write(text)
        os.replace(f"{store}.{rank}.new", f"{store}.{rank}")


def _signs(store: str, rank: int) -> str:
    """What changes as long as a rank runs: its count, and its time on processors. A library that computes for minutes
    may keep all other threads of its process from counting."""
    try:
        with open(f"{store}.{rank}") as file:
            count = file.read()
        if count == LEFT:
            return LEFT
        with open(f"/proc/{count.split()[0]}/stat") as file:
            return f"{count} {file.read().rpartition(')')[2].split()[11:13]}"
    except (OSError, IndexError):  # it has not begun, or its process is gone
        return ""
