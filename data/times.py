"""Times as integers in one unit, so that two of them can be compared; and which unit integers are likely to count in."""

import re
from datetime import date

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.arrays import integers_of, values_of

Ints = NDArray[np.int64]

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}

LAST = 2**63 - 1
"""The latest time that 64 bits can say."""

CENTURY = 946_684_800, 4_102_444_800
"""[s since 1970] the years 2000 to 2099. No number is a time of these years in two units."""


def in_unit(times: pa.Array, unit: str) -> Ints:
    """Integers as they are, timestamps in the unit; rounded down, and at the ends of 64 bits what lies beyond them.

    The order is kept: an event that is before its row in these numbers is so in time. Arrow's cast would wrap instead, and the
    year 9999 in nanoseconds lie in 1816.
    """
    if pa.types.is_uint64(times.type):
        return np.minimum(values_of(times).view(np.uint64), np.uint64(LAST)).view(np.int64)
    values = integers_of(times)
    if not pa.types.is_timestamp(times.type):
        return values
    finer, coarser = PER_SECOND[unit], PER_SECOND[times.type.unit]
    if finer <= coarser:
        return values // (coarser // finer)
    factor = finer // coarser
    scaled = np.clip(values, -(LAST // factor), LAST // factor) * factor
    return np.where(values > LAST // factor, LAST, np.where(values < -(LAST // factor), -LAST, scaled))


def seconds(times: pa.Array, unit: str) -> NDArray[np.float64]:
    """[s since 1970] float64: of a time in this century right to a microsecond."""
    return in_unit(times, unit) / PER_SECOND[unit]


def other_units(ours: Ints, theirs: Ints, unit: str) -> NDArray[np.bool_]:
    """True where two integers are plainly not in one unit: each is a time of this century, one of them in another unit."""
    one, other = _likely_unit(ours, unit), _likely_unit(theirs, unit)
    return np.asarray((one >= 0) & (other >= 0) & (one != other))


def _likely_unit(times: Ints, unit: str) -> Ints:
    """By integer: the place in `PER_SECOND` of the unit in which it is a time of this century, the stated one first; -1: none.

    Shape:
        times (N,) -> (N,)
    """
    likely = np.full(len(times), -1)
    for name in [own for own in PER_SECOND if own != unit] + [unit]:
        first, last = (end * PER_SECOND[name] for end in CENTURY)
        likely[(times >= first) & (times < last)] = list(PER_SECOND).index(name)
    return likely


def day_number(day: str) -> int | None:
    """[days since 1970] of a day that is named as a date, its late files' too; else None."""
    try:
        return (date.fromisoformat(day.partition("+")[0]) - date(1970, 1, 1)).days
    except ValueError:
        return None


def named_like(name: str, day: date) -> str:
    """A date, written as `name` is: 2026-11-20 or 20261120."""
    return f"{day:%Y%m%d}" if re.fullmatch(r"\d{8}", name) else str(day)
