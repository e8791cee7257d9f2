"""The evidence for exactly once: a hash of every row of a finished batch, summed by file.

B rows of a batch, N events of a field in the whole batch.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import from_numpy
from torchrec import KeyedJaggedTensor

from data.arrays import positions_of, segment_sums
from data.batch import Batch, Tally
from data.features import Features
from data.ids import Ints, Words, mix
from data.schema import IdsField, SequenceField

ROW_HASH = "1"
"""Format of the row hashes, which the ledger notes: sums of two formats cannot be compared. Other words, another order of them
or other factors are another format, and need another version of checkpoints, which have the sums of a half-trained day."""

HALF = np.uint64(2**32 - 1)


class RowHasher:
    """Hashes the rows of batches.

    hash = mix(sum_k word_k * odd_k)        modulo 2^64, odd_k fixed odd numbers

    The words of a row: the labels, the weights, the numbers and the vectors (each the bits of a float), the group if the schema
    has one, one word for every key of `bags` and of `sequences`, one for everything that events carry, the time if there is
    one, and the number of the row in its file. The word of an id is its table row (as the batch has it); that of a list or of
    what its events carry is the sum of its elements times odd numbers, so their order matters; that of an event's vector is
    such a sum of its bits.

    One multiply-add per word (multilinear hashing: Lemire, Kaser: Strongly universal string hashing is fast, 2014).

    Args:
        features: the fitted schema, for whether rows have groups and which keys have lists.
    """

    def __init__(self, features: Features) -> None:
        self._grouped = features.schema.group is not None
        self._lists = {field.name for field in features.schema.fields if isinstance(field, IdsField | SequenceField)}

    def tally(self, batch: Batch, *, files_B: Ints, rows_B: Ints, skipped: Ints) -> Tally:
        """Return the rows and the sum of their hashes for every file.

        Args:
            files_B, rows_B: (B,) the place of every row's file, and its number there.
            skipped: (files,) [rows] left out of every file.
        """
        hashes_B = self._hashes(batch, rows_B)
        # bincount sums float64: exact for halves of 32 bits, as long as a batch has no more than 2^21 rows.
        low = np.bincount(files_B, weights=hashes_B & HALF, minlength=len(skipped)).astype(np.uint64)
        high = np.bincount(files_B, weights=hashes_B >> np.uint64(32), minlength=len(skipped)).astype(np.uint64)
        sums = (low + (high << np.uint64(32))).view(np.int64)
        rows = np.bincount(files_B, minlength=len(skipped))
        return Tally(*(from_numpy(part.copy()) for part in (rows, sums, skipped)))

    def _hashes(self, batch: Batch, rows_B: Ints) -> Words:
        content = _Content(len(rows_B))
        for floats in (batch.labels, batch.weights, batch.numbers, batch.vectors):
            content.add_floats(floats.numpy())
        if self._grouped:
            content.add(batch.groups.numpy())
        lengths_of: dict[str, Ints] = {}
        for ids in (batch.bags, batch.sequences):
            for key, values, lengths_B in _by_key(ids, len(rows_B)) if ids is not None else ():
                if key in self._lists:
                    lengths_of[key] = lengths_B
                    content.add_lists(values, lengths_B)
                else:
                    content.add(values)
        for key, payload in batch.payloads.items():
            for carried in payload.values():
                content.add_events(carried.numpy(), lengths_of[key])
        if batch.times is not None:
            content.add(batch.times.numpy().view(np.int64))
        content.add(rows_B)
        return content.hashes()


def _by_key(ids: KeyedJaggedTensor, rows: int) -> Iterator[tuple[str, Ints, Ints]]:
    """Every key with its values and the number of them in every row, (B,)."""
    keys, values, end = ids.keys(), ids.values().numpy(), 0
    for key, lengths_B in zip(keys, ids.lengths().numpy().reshape(len(keys), rows), strict=True):
        start, end = end, end + int(lengths_B.sum())
        yield key, values[start:end], lengths_B


class _Content:
    """The sums of the rows' words times their factors, word after word."""

    def __init__(self, count: int) -> None:
        self._sums = np.zeros(count, dtype=np.uint64)
        self._scratch = np.empty(count, dtype=np.uint64)
        self._words = 0

    def add(self, values: Ints) -> None:
        """(B,) one word a row."""
        np.multiply(values.view(np.uint64), self._next(1)[0], out=self._scratch)
        self._sums += self._scratch

    def add_floats(self, values: NDArray[np.float32]) -> None:
        """(B, N) float32: their bits."""
        if values.shape[1]:
            self._sums += values.view(np.uint32).astype(np.uint64) @ self._next(values.shape[1])

    def add_lists(self, values: Ints, lengths: Ints) -> None:
        """The elements of all lists; their order in a list matters."""
        factors = odd_numbers(int(lengths.max(initial=0)))
        self.add(segment_sums(values.view(np.uint64) * factors[positions_of(lengths)], lengths).view(np.int64))

    def add_events(self, values: NDArray[Any], lengths: Ints) -> None:
        """(N,) of 64 bits or (N, dim) float32: what the events of all lists carry; their order in a list matters."""
        if values.ndim == 2:
            values = values.view(np.uint32).astype(np.uint64) @ odd_numbers(values.shape[1])
        self.add_lists(values.view(np.int64), lengths)

    def hashes(self) -> Words:
        """(B,) the sums, mixed."""
        hashes = np.empty_like(self._sums)
        mix(self._sums, np.uint64(0), hashes, self._scratch)
        return hashes

    def _next(self, words: int) -> Words:
        start, self._words = self._words, self._words + words
        return odd_numbers(self._words)[start:]


def odd_numbers(count: int) -> Words:
    """The first `count` of a fixed sequence of random odd 64-bit numbers."""
    return _odd_table(1 << max(10, count.bit_length()))[:count]


@lru_cache
def _odd_table(size: int) -> Words:
    numbers = np.arange(1, size + 1, dtype=np.uint64)
    mixed = np.empty_like(numbers)
    mix(numbers, np.uint64(0x9E3779B97F4A7C15), mixed, np.empty_like(numbers))
    return mixed | np.uint64(1)
