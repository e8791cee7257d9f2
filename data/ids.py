"""Ids to table rows: hashed, from a vocabulary, as they are, or as a model admitted them. Row 0 is always the missing id's."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data.arrays import integers_of, is_text, nulls
from data.errors import GenctrError

Ints: TypeAlias = NDArray[np.int64]
Words: TypeAlias = NDArray[np.uint64]

MISSING = 0
"""The row of a null."""

UNKNOWN = 1
"""The row of an id that is not in the vocabulary."""

REFUSED = -1
"""Not a row: what an id map answers for an id that its table cannot hold. Whoever has the file and the row tells the user."""

NO_ID = -(2**63)
"""What stands for a null among ids that are not mapped yet."""

CHUNK = 8192
"""[ids] mixed at a time, so that they and the scratch space stay in the fastest cache."""

MULTIPLIER_1, MULTIPLIER_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
SHIFT_1, SHIFT_2, SHIFT_3, SHIFT_32 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)
FNV_START, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


class IdMap(Protocol):
    """Maps the ids of one table.

    Attributes:
        rows: [rows] of the table, row 0 included.
    """

    rows: int

    def __call__(self, ids: pa.Array, out: Ints | None = None) -> Ints:
        """The table row of every id: 0 for null, `REFUSED` for an id the table cannot hold.

        Args:
            ids: integers, booleans or strings, dictionary-encoded or not.
            out: where to write the rows; a new array if None.

        Shape:
            ids (N,) -> (N,) int64
        """


class HashIds:
    """Any id to one of rows - 1 rows, the same on every platform and in every version.

    x = the integer as 64 bits (two's complement), or FNV-1a 64 of the UTF-8 bytes of a string
    z = splitmix64's finaliser of (x ^ seed)
    row = 1 + floor((z >> 32) * (rows - 1) / 2^32)

    Equal integers of different widths have the same row; 7 and "7" do not. Nulls have row 0.

    Args:
        rows: [rows] of the table, 2 … 2^32.
        seed: 64 bits; `seed_of(table name)` makes two tables collide in different ids.

    Source: Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014 (the finaliser);
    Fowler, Noll, Vo (the string hash); Lemire: Fast random integer generation in an interval, 2019 (the reduction).
    """

    def __init__(self, *, rows: int, seed: int) -> None:
        assert 2 <= rows <= 2**32
        self.rows = rows
        self._seed = np.uint64(seed)
        self._spread = np.uint64(rows - 1)

    def __call__(self, ids: pa.Array, out: Ints | None = None) -> Ints:
        """The table row of every id."""
        ids, back = distinct(ids)
        words = fingerprints(ids).view(np.uint64)
        rows = np.empty(len(ids), dtype=np.int64) if out is None or back is not None else out
        mixed = rows.view(np.uint64)
        scratch = np.empty(min(CHUNK, len(words)), dtype=np.uint64)
        for start in range(0, len(words), CHUNK):
            z = mixed[start : start + CHUNK]
            mix(words[start : start + CHUNK], self._seed, z, scratch[: len(z)])
            z >>= SHIFT_32
            z *= self._spread
            z >>= SHIFT_32
            z += np.uint64(1)
        if ids.null_count:
            rows[nulls(ids)] = MISSING
        return rows if back is None else spread(rows, back, out)


class VocabIds:
    """The ids that were seen when the run was fitted: row 1 is any other id, rows 2 … the seen ones.

    Args:
        values: integers or strings, the most frequent first: the id of row 2, of row 3, …
    """

    def __init__(self, *, values: pa.Array) -> None:
        self.rows = 2 + len(values)
        self._values = values
        prints = fingerprints(values)
        self._rows = np.argsort(prints, kind="stable")
        self._prints = prints[self._rows]
        self._rows += 2
        if (self._prints[1:] == self._prints[:-1]).any():
            raise GenctrError("two ids of a vocabulary have the same 64-bit hash\n  next: say ids: hash for this table.")

    def __call__(self, ids: pa.Array, out: Ints | None = None) -> Ints:
        """The table row of every id, which must be of the vocabulary's type."""
        assert not len(self._values) or id_kind(ids.type) in (None, id_kind(self._values.type))
        ids, back = distinct(ids)
        rows = np.empty(len(ids), dtype=np.int64) if out is None or back is not None else out
        if len(self._prints):
            prints = fingerprints(ids)
            at = np.searchsorted(self._prints, prints)
            np.minimum(at, len(self._prints) - 1, out=at)
            seen = self._prints[at] == prints
            rows[:] = np.where(seen, self._rows[at], UNKNOWN)
            if is_text(ids.type):
                self._settle(ids, rows)
        else:
            rows[:] = UNKNOWN
        if ids.null_count:
            rows[nulls(ids)] = MISSING
        return rows if back is None else spread(rows, back, out)

    def _settle(self, ids: pa.Array, rows: Ints) -> None:
        """An unseen string may have the hash of a seen one: compare the strings themselves."""
        claimed = self._values.take(pa.array(np.maximum(rows - 2, 0)))
        equal = pc.equal(pc.cast(ids, pa.large_binary()), pc.cast(claimed, pa.large_binary()))
        rows[~equal.fill_null(False).to_numpy(zero_copy_only=False)] = UNKNOWN


class IdentityIds:
    """Ids that are row numbers already: id v has row v + 1.

    Args:
        ids: how many there are; ids are 0 … ids - 1.
    """

    def __init__(self, *, ids: int) -> None:
        self.rows = ids + 1

    def __call__(self, ids: pa.Array, out: Ints | None = None) -> Ints:
        """The table row of every id, `REFUSED` for one outside 0 … ids - 1."""
        ids, back = distinct(ids)
        prints = fingerprints(ids)
        rows = np.empty(len(ids), dtype=np.int64) if out is None or back is not None else out
        np.add(prints, 1, out=rows)
        rows[(prints < 0) | (prints >= self.rows - 1)] = REFUSED
        if ids.null_count:
            rows[nulls(ids)] = MISSING
        return rows if back is None else spread(rows, back, out)


class RawIds:
    """Ids of a managed table, before the model in training says which rows they have: 64 bits each, `NO_ID` for a null.

    A string is its FNV-1a 64. The integer `NO_ID` itself is not an id: whoever has the file and the row tells the user.

    Args:
        rows: [rows] of the table.
    """

    def __init__(self, *, rows: int) -> None:
        self.rows = rows

    def __call__(self, ids: pa.Array, out: Ints | None = None) -> Ints:
        """The 64 bits of every id."""
        ids, back = distinct(ids)
        words = np.empty(len(ids), dtype=np.int64) if out is None or back is not None else out
        words[:] = fingerprints(ids)
        if is_text(ids.type):
            words[words == NO_ID] += 1
        if ids.null_count:
            words[nulls(ids)] = NO_ID
        return words if back is None else spread(words, back, out, missing=NO_ID)


class AdmittedIds:
    """The ids that a trained model has admitted to a managed table; any other reads a row that it shares.

    Args:
        rows: [rows] of the table.
        ids, places: 64 bits of every admitted id, and its row.
        seed: of the table, and unseen_rows: [rows] that the others share by hash, from row 2 on; 0: all of them read row 1.
    """

    def __init__(self, *, rows: int, ids: Ints, places: Ints, seed: int, unseen_rows: int = 0) -> None:
        self.rows = rows
        order = np.argsort(ids, kind="stable")
        self._ids, self._places = ids[order], places[order]
        self._seed, self._unseen_rows = np.uint64(seed), unseen_rows
        self._raw = RawIds(rows=rows)

    def __call__(self, ids: pa.Array, out: Ints | None = None) -> Ints:
        """The table row of every id."""
        words = self._raw(ids)
        rows = np.full(len(words), UNKNOWN, dtype=np.int64) if out is None else out
        rows[:] = self._unseen(words)
        if len(self._ids):
            at = np.minimum(np.searchsorted(self._ids, words), len(self._ids) - 1)
            np.copyto(rows, self._places[at], where=self._ids[at] == words)
        rows[words == NO_ID] = MISSING
        return rows

    def _unseen(self, words: Ints) -> Ints | int:
        if not self._unseen_rows:
            return UNKNOWN
        mixed = np.empty(len(words), dtype=np.uint64)
        mix(words.view(np.uint64), self._seed, mixed, np.empty_like(mixed))
        mixed &= np.uint64(2**32 - 1)
        mixed *= np.uint64(self._unseen_rows)
        mixed >>= SHIFT_32
        return mixed.view(np.int64) + UNKNOWN + 1


ID_MAPS: Mapping[str, type[Any]] = MappingProxyType(
    {"hash": HashIds, "vocab": VocabIds, "identity": IdentityIds, "managed": AdmittedIds}
)


def check_growth(kind: str, *, before: int, now: int) -> None:
    """Whether a table's ids can follow when it gets more rows.

    Raises:
        GenctrError: a hashed table to another size than rows - 1 a multiple of what it was.
    """
    if kind == "hash" and (now - 1) % (before - 1):
        near = [(before - 1) * ((now - 1) // (before - 1) + more) + 1 for more in (0, 1)]
        raise GenctrError(
            f"a hashed table of {before} rows cannot grow to {now}: its ids would all move\n"
            f"  next: choose {' or '.join(str(own) for own in near if own > before)} rows"
        )


def rows_before(kind: str, rows: Ints, *, before: int, now: int) -> Ints:
    """For rows of a table that has grown from `before` to `now` rows: the row each of them goes on from, -1 for a new one.

    Of hashed ids every old row becomes the same number of rows, and the ids of each of them were all in the old one: no id
    loses its vector. Other ids keep their rows.

    Shape:
        rows (N,) -> (N,) int64
    """
    check_growth(kind, before=before, now=now)
    if kind == "hash":
        return np.where(rows == MISSING, MISSING, 1 + (rows - 1) // ((now - 1) // (before - 1)))
    return np.where(rows < before, rows, -1)


def seed_of(table: str) -> int:
    """The seed of a table's hash: FNV-1a 64 of its name."""
    return int(fingerprints(pa.array([table])).view(np.uint64)[0])


def mix(words: Words, seed: np.uint64, out: Words, scratch: Words) -> None:
    """The finaliser of splitmix64 of (words ^ seed); a bijection of 64 bits.

    Shape:
        words, out, scratch (N,) uint64
    """
    np.bitwise_xor(words, seed, out=out)
    np.right_shift(out, SHIFT_1, out=scratch)
    np.bitwise_xor(out, scratch, out=out)
    np.multiply(out, MULTIPLIER_1, out=out)
    np.right_shift(out, SHIFT_2, out=scratch)
    np.bitwise_xor(out, scratch, out=out)
    np.multiply(out, MULTIPLIER_2, out=out)
    np.right_shift(out, SHIFT_3, out=scratch)
    np.bitwise_xor(out, scratch, out=out)


def distinct(ids: pa.Array) -> tuple[pa.Array, pa.Array | None]:
    """The ids to map, and how to spread the answer: strings are mapped once for each distinct value.

    A file's own dictionary may be far longer than a batch; then the values in use are collected first.
    """
    if pa.types.is_null(ids.type):
        return ids.cast(pa.int64()), None
    if pa.types.is_dictionary(ids.type):
        if len(ids.dictionary) <= len(ids):
            return ids.dictionary, ids.indices
        ids = ids.dictionary.take(ids.indices)
    if is_text(ids.type):
        encoded = pc.dictionary_encode(ids)
        return encoded.dictionary, encoded.indices
    return ids, None


def spread(rows: Ints, back: pa.Array, out: Ints | None = None, *, missing: int = MISSING) -> Ints:
    """The rows of all ids from the rows of the distinct ones; `missing` for a null."""
    indices = integers_of(back)
    if back.null_count:
        indices = np.where(nulls(back), len(rows), indices)
        rows = np.append(rows, missing)
    return np.take(rows, indices, out=out, mode="clip")  # "raise" would buffer `out`


def id_kind(kind: pa.DataType) -> Literal["integers", "strings"] | None:
    """What ids of this type are, for 7 and "7" are two ids; None: nothing but nulls."""
    return None if pa.types.is_null(kind) else "strings" if is_text(kind) else "integers"


def fingerprints(ids: pa.Array) -> Ints:
    """64 bits for every id: an integer itself, FNV-1a of a string. What stands for a null means nothing.

    Shape:
        ids (N,) -> (N,) int64, a view of Arrow's buffer where the type allows
    """
    return _fnv1a(ids) if is_text(ids.type) else integers_of(ids)


def _fnv1a(strings: pa.Array) -> Ints:
    """FNV-1a 64 of every string's bytes: the loop is over the positions in a string, not over the strings."""
    strings = pc.cast(strings, pa.large_binary())
    hashes = np.full(len(strings), FNV_START, dtype=np.uint64)
    if len(strings) == 0:
        return hashes.view(np.int64)
    _, offsets, data = strings.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[strings.offset : strings.offset + len(strings) + 1]
    lengths = np.diff(ends)
    order = np.argsort(-lengths, kind="stable")
    longer = len(strings) - np.searchsorted(np.sort(lengths), np.arange(lengths.max(initial=0)), side="right")
    starts, ordered = ends[:-1][order], hashes[order]
    text = np.frombuffer(data, dtype=np.uint8) if data is not None else np.empty(0, dtype=np.uint8)
    for position, count in enumerate(longer):
        part = ordered[:count]
        part ^= text[starts[:count] + position]
        part *= FNV_PRIME
    hashes[order] = ordered
    return hashes.view(np.int64)
