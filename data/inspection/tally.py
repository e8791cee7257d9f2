"""Counting a column of an unknown log batch by batch, in bounded memory."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data.arrays import is_list, is_text
from data.ids import fingerprints, mix
from data.inspection.facts import ColumnFacts

SKETCH = 65_536
"""[hashes] kept per column: distinct counts are exact below, and within about 0.4 % (one standard error) above."""


class DistinctSketch:
    """How many distinct values a stream has, in bounded memory: the `SKETCH` smallest of their hashes.

    With fewer distinct values than that, all are there and the count is exact. Otherwise the k smallest of n uniform hashes
    end near k / n of their range, so n is about (k - 1) / (the k-th smallest / 2^64).

    Source: Bar-Yossef et al., Counting distinct elements in a data stream, 2002.
    """

    def __init__(self) -> None:
        self.hashes: NDArray[np.uint64] = np.zeros(0, np.uint64)

    def add(self, values: pa.Array) -> None:
        """Count values without nulls: integers, floats, times, booleans or strings."""
        if is_text(values.type):
            values = pc.unique(values)
        elif not pa.types.is_integer(values.type):
            values = values.cast(pa.float64()).view(pa.int64()) if pa.types.is_floating(values.type) else _as_int64(values)
        prints = fingerprints(values).view(np.uint64)
        hashes, scratch = np.empty_like(prints), np.empty_like(prints)
        mix(prints, np.uint64(0), hashes, scratch)
        if self.full:
            hashes = hashes[hashes < self.hashes[-1]]
        self.hashes = np.unique(np.concatenate([self.hashes, hashes]))[:SKETCH]

    @property
    def full(self) -> bool:
        """Were there too many values to count them exactly?"""
        return len(self.hashes) >= SKETCH

    @property
    def count(self) -> int:
        """[values] that are distinct: exact, or an estimate where `full`."""
        return round((SKETCH - 1) / (float(self.hashes[-1]) / 2.0**64)) if self.full else len(self.hashes)


def _as_int64(values: pa.Array) -> pa.Array:
    kind = values.type
    if pa.types.is_date32(kind) or pa.types.is_time32(kind):
        values = values.cast(pa.int32())
    return values.cast(pa.int64())


class ColumnTally:
    """Counts one column, batch by batch."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._kind: pa.DataType | None = None
        self._family = ""
        self._rows = self._nulls = self._nans = self._values = 0
        self._shortest, self._longest, self._elements = math.inf, 0, 0
        self._low: Any = None
        self._high: Any = None
        self._sum = 0.0
        self._words = 0
        self._whole = True
        self._sketch = DistinctSketch()
        self._examples: list[str] = []

    def add(self, array: pa.Array) -> None:
        """Count the rows of a batch."""
        if self._kind is None or pa.types.is_null(self._kind):  # a file of nothing but nulls does not say what others hold
            self._kind = array.type
        self._rows += len(array)
        self._nulls += array.null_count
        if is_list(array.type):
            lengths = pc.list_value_length(array).drop_null()
            if len(lengths):
                self._shortest = min(self._shortest, pc.min(lengths).as_py())
                self._longest = max(self._longest, pc.max(lengths).as_py())
                self._elements += pc.sum(lengths).as_py()
            array = array.flatten()
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        values = array.drop_null()
        if pa.types.is_floating(values.type):
            finite = pc.is_finite(values)
            self._nans += len(values) - pc.sum(finite, min_count=0).as_py()
            values = values.filter(finite)
            self._whole = self._whole and pc.all(pc.equal(pc.floor(values), values), min_count=0).as_py()
        family = _family(values.type)
        self._family = self._family or family
        # Files may disagree on the type, which is a problem told elsewhere: then the first ones count.
        if len(values) and family and family == self._family:
            self._measure(values)

    def _measure(self, values: pa.Array) -> None:
        if pa.types.is_timestamp(values.type):
            values = values.cast(pa.timestamp("us", values.type.tz), safe=False)  # Python has no nanoseconds
        self._values += len(values)
        ends = pc.min_max(values).as_py()
        self._low = ends["min"] if self._low is None else min(self._low, ends["min"])
        self._high = ends["max"] if self._high is None else max(self._high, ends["max"])
        if self._family == "number":
            self._sum += pc.sum(values.cast(pa.float64(), safe=False)).as_py()
        elif self._family == "text":
            self._words += pc.sum(pc.count_substring(values, " ")).as_py() + len(values)
        self._sketch.add(values)
        if len(self._examples) < 3:
            fresh = [str(value) for value in pc.unique(values.slice(0, 1000)).slice(0, 3).to_pylist()]
            self._examples = list(dict.fromkeys(self._examples + fresh))[:3]

    def facts(self) -> ColumnFacts:
        """What was counted so far."""
        kind = self._kind if self._kind is not None else pa.null()
        lists = is_list(kind) and self._longest > 0
        return ColumnFacts(
            name=self._name,
            type=kind,
            rows=self._values,
            null_share=self._nulls / max(self._rows, 1),
            not_finite=self._nans,
            distinct=self._sketch.count,
            exact=not self._sketch.full,
            low=self._low,
            high=self._high,
            mean=self._sum / max(self._values, 1),
            whole=self._whole,
            words=self._words / max(self._values, 1),
            lengths=(int(self._shortest), self._elements / max(self._rows - self._nulls, 1), self._longest) if lists else None,
            examples=tuple(self._examples),
            hashes=self._sketch.hashes,
        )


def _family(kind: pa.DataType) -> str:
    """Values of one family can be compared with each other; "" is not measured."""
    if is_text(kind):
        return "text"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
        return str(kind)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return "number"
    return ""
