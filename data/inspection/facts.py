"""What was counted of a column of an unknown log, and whether it holds times."""

import re
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.arrays import element_type
from data.errors import shortened, visible
from data.inspection.names import DATES, IDS, KEYS, MOMENTS, THINGS, TIMES, USERS, VISITS

SECONDS = (788_918_400, 2_600_000_000)
"""[s] since 1970: 1995 to 2052. Integers in between, or a thousand times that, …, can be times."""

SCALES = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}

YEARS = 3 * 366 * 86_400
"""[s] within which integers that no name calls a time lie if they are milliseconds or microseconds of a log."""

DIGITS = {8: ("%Y%m%d", "%y%m%d%H"), 10: ("%Y%m%d%H",), 12: ("%Y%m%d%H%M",), 14: ("%Y%m%d%H%M%S",)}
"""How times are written as digits, by the number of these."""


@dataclass(frozen=True)
class ColumnFacts:
    """What was counted of a column; for lists, of their elements.

    Args:
        name, type: as Arrow says.
        rows: [rows] with a value; for lists, how many elements there are.
        null_share: [1] of the rows.
        not_finite: [values] that are NaN or infinite.
        distinct, exact: [values], and whether that is a count or an estimate.
        low, high, mean: of the values; None where there are none. The mean of strings and times means nothing.
        whole: every float is a whole number.
        words: [words] of a string, in the mean; 0 for other types.
        lengths: shortest, mean and longest list; None for other columns.
        examples: a few values.
        hashes: the smallest hashes of the values, to compare columns.
    """

    name: str
    type: pa.DataType
    rows: int
    null_share: float
    not_finite: int
    distinct: int
    exact: bool
    low: Any
    high: Any
    mean: float
    whole: bool
    words: float
    lengths: tuple[int, float, int] | None
    examples: tuple[str, ...]
    hashes: NDArray[np.uint64] = field(repr=False, compare=False)

    @property
    def values(self) -> str:
        """The distinct count in words."""
        return f"{self.distinct:,}" if self.exact else f"about {self.distinct:,}"

    @property
    def element(self) -> pa.DataType:
        """The type of one value."""
        kind = element_type(self.type)
        return kind.value_type if pa.types.is_dictionary(kind) else kind

    def named(self, pattern: str) -> bool:
        """Does the name, in any case and style, match?"""
        return re.search(pattern, re.sub(r"(?<=[a-z])(?=[A-Z])|[^A-Za-z0-9]", "_", self.name).lower()) is not None

    def likeness(self, other: "ColumnFacts") -> float:
        """The share of the values of both columns that occur in both (Jaccard), from their hashes."""
        if not len(self.hashes) or not len(other.hashes):
            return 0.0
        # Below both sketches' ends each one is complete.
        ends = [own.hashes[-1] for own in (self, other) if not own.exact]
        ours, theirs = (own.hashes[own.hashes <= min(ends)] if ends else own.hashes for own in (self, other))
        return len(np.intersect1d(ours, theirs, assume_unique=True)) / max(len(np.union1d(ours, theirs)), 1)

    def to_json(self) -> dict[str, Any]:
        """For programs: times, types and strings as text."""
        facts = asdict(replace(self, hashes=np.zeros(0, np.uint64), type=str(self.type)))
        ends = {end: own if isinstance(own := facts[end], int | float | None) else str(own) for end in ("low", "high")}
        return {name: value for name, value in facts.items() if name != "hashes"} | ends

    def cells(self) -> list[str]:
        """One line of the report."""
        shortest, mean, longest = self.lengths or (0, 0.0, 0)
        length = f"{shortest}..{longest}, mean {mean:.1f}" if self.lengths else ""
        ends = ["" if end is None else _short(end) for end in (self.low, self.high)]
        return [
            shortened(visible(self.name)),
            visible(str(self.type)),
            f"{self.null_share:.1%}" if self.null_share else "",
            self.values,
            length,
            *ends,
            ", ".join(map(_short, self.examples)),
        ]


def unit_of(own: ColumnFacts) -> str | None:
    """What the integers of a column would count if they were times since 1970."""
    if own.low is None:
        return None
    if pa.types.is_timestamp(own.element):
        return str(own.element.unit)
    unit = size_of_time(own) if pa.types.is_integer(own.element) else None
    if unit is None or digits_of_time(own):
        return None
    if own.named(TIMES) or own.named(MOMENTS):
        return unit
    # Ids of ten digits are as large as seconds, those that count nanoseconds from a start of their own as nanoseconds.
    narrow = unit in ("ms", "us") and 0 < own.high - own.low < YEARS * SCALES[unit]
    return unit if narrow and not any(map(own.named, (IDS, THINGS, KEYS, USERS, VISITS))) else None


def size_of_time(own: ColumnFacts) -> str | None:
    """The unit in which all numbers of a column are as large as a time of our days."""
    return next((unit for unit, by in SCALES.items() if SECONDS[0] * by < own.low <= own.high < SECONDS[1] * by), None)


def digits_of_time(own: ColumnFacts) -> str | None:
    """How the values are written, if all that are known are times written as digits, such as 2026010100."""
    known = [str(value) for value in (own.low, own.high, *own.examples)]
    if not (own.named(MOMENTS) or own.named(DATES)) or not all(own.isascii() and own.isdecimal() for own in known):
        return None
    forms = DIGITS.get(len(known[0]), ())
    return next((form for form in forms if all(len(own) == len(known[0]) and _written_as(own, form) for own in known)), None)


def _written_as(text: str, form: str) -> bool:
    try:
        moment = datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError:
        return False
    return SECONDS[0] < moment.timestamp() < SECONDS[1]


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else visible(str(value)[:25])
    return text if len(text) <= 24 else text[:23] + "…"
