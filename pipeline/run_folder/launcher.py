"""What a launcher tells a rank, in the environment of its process."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from data.errors import GenctrError

STORE = "GENCTR_STORE"
"""The file in which the ranks of one machine meet, if a launcher of ours started them."""

MEETING = ("MASTER_ADDR", "MASTER_PORT")
"""Where ranks meet that another launcher started, perhaps on several machines."""

HERE = ("LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""Which rank of its machine one is, of how many. A launcher of one rank a machine need not say it."""


@dataclass(frozen=True)
class Launched:
    """What the launcher says: the rank of this process, the number of all ranks, the rank on this machine."""

    rank: int
    ranks: int
    local_rank: int


def launched() -> Launched | None:
    """What a launcher (ours, torchrun, TorchX) that started one process per rank says of this one; None: there was none.

    Raises:
        GenctrError: variables are missing, or make no sense. A rank that took itself for the only one would train next to the
            others, or they would wait for it.
    """
    names = ("RANK", "WORLD_SIZE", *(() if os.environ.get(STORE) else MEETING))
    known = [name for name in (*HERE, *names) if os.environ.get(name)]
    if not known:
        return None
    needed = (*names, "LOCAL_RANK") if os.environ.get("LOCAL_WORLD_SIZE", "1") != "1" else names
    if missing := [name for name in needed if name not in known]:
        raise GenctrError(
            f"the environment has only a part of what a rank of a job needs: {_listed(missing)} {_is(missing)} not set, and "
            f"{_listed(known)} {_is(known)}\n"
            f"  expected: {_listed(needed)}, as torchrun sets them for every rank; or none, for a job without a launcher\n"
            f"  next: set {_listed(missing)} where the ranks are started, or run `unset {' '.join(known)}` first"
        )
    ranks = _integer("WORLD_SIZE", 1, None)
    rank = _integer("RANK", 0, ranks - 1)
    local_ranks = _integer("LOCAL_WORLD_SIZE", 1, ranks) if "LOCAL_WORLD_SIZE" in known else ranks
    local_rank = _integer("LOCAL_RANK", 0, local_ranks - 1) if "LOCAL_RANK" in known else 0
    if "MASTER_PORT" in names:
        _integer("MASTER_PORT", 1, 65_535)
    return Launched(rank, ranks, local_rank)


def _integer(name: str, least: int, most: int | None) -> int:
    text = os.environ[name]
    number = int(text) if text.isascii() and text.isdigit() else -1
    if number < least or (most is not None and number > most):
        expected = f"an integer of at least {least}" if most is None else f"{least}" if least == most else f"{least} to {most}"
        raise GenctrError(
            f"the variable {name} of the environment is {text!r}\n"
            f"  expected: {expected}; RANK counts from 0 to WORLD_SIZE - 1, LOCAL_RANK from 0 to LOCAL_WORLD_SIZE - 1\n"
            f"  next: correct {name} where the ranks are started"
        )
    return number


def _listed(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
