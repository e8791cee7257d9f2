"""The stream: batches of one day, each row exactly once, from any cursor and for any number of ranks.

The rows of the day, unit after unit, are cut into `lanes` contiguous ranges of equal length:

    lane l = rows [l * N // lanes, (l + 1) * N // lanes)         N rows in the day

A step takes the same number of rows from every lane, so a position is one number, the rows taken from each lane, and means
the same whoever reads. Rank r of W reads the lanes l with l % W == r: ranks only share out the rows of a step, they do not
change them. Shuffling permutes the units of the day, then the rows inside windows of each lane; each permutation has a seed
of its own, so reading can begin anywhere.

How good the shuffle is: a step draws its rows from one window in every lane, that is from `lanes` places all over the day.
Two rows that lie side by side in a file come in the same step with probability batch_rows / shuffle_rows; a shuffle of the
whole day would have batch_rows / N.
"""

import hashlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import accumulate, chain, pairwise
from threading import Lock
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from data.arrays import element_type
from data.batch import Batch
from data.cursor import Cursor
from data.days import Day
from data.errors import BadInput, GenctrError
from data.readers import Reader, read_columns

FILE, ROW = "_file", "_row"
"""The columns that say where a row comes from: int32 place of its file in the day, int64 row in that file."""


class Collator(Protocol):
    """Makes a batch of Arrow columns."""

    def __call__(self, batch: pa.RecordBatch, *, files: Sequence[str], rows: int, cursor: Cursor) -> Batch:
        """This rank's rows of a step that has `rows` over all ranks; `cursor` is where reading stands after it."""


class _Unit(NamedTuple):
    file: int
    unit: int
    first_row: int  # of the unit, in the file
    rows: int


class DayStream:
    """Batches of one day.

    Args:
        day: what to read.
        reader: how to read its files.
        columns: what to read of them.
        collate: makes a batch of what was read.
        batch_rows: [rows] of a step over all ranks. Only the last two steps may be shorter: they share what is left evenly,
            so that no step is a stray row or two, and no row is dropped.
        lanes: [lanes] to cut a day into that begins. A day that was begun keeps the lanes in its cursor.
        shuffle_rows: [rows] of the windows of all lanes together; they are in memory. 0: the order of the files.
        seed: of the shuffle.
        epoch: [passes] finished before; every pass has its own order.
        rank, ranks: who reads, of how many.
        prefetch: [batches] made ahead in a thread; 0: none.
    """

    def __init__(
        self,
        day: Day,
        reader: Reader,
        *,
        columns: Sequence[str],
        collate: Collator,
        batch_rows: int,
        lanes: int = 4,
        shuffle_rows: int = 0,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        ranks: int = 1,
        prefetch: int = 0,
    ) -> None:
        assert 0 <= rank < ranks
        if taken := {FILE, ROW} & set(columns):
            raise GenctrError(f"column {min(taken)!r} is a name of ours\n  next: rename the column in the log")
        self._day = day
        self._reader = reader
        self._columns = list(columns)
        self._collate = collate
        self._batch_rows = batch_rows
        self._lanes = lanes
        self._shuffle_rows = shuffle_rows
        self._seed = seed
        self._epoch = epoch
        self._rank = rank
        self._ranks = ranks
        self._prefetch = prefetch
        self._check_lanes(lanes)
        self._schema = pa.schema([*(day.schema.field(column) for column in columns), (FILE, pa.int32()), (ROW, pa.int64())])
        self._units = self._ordered_units()
        self._ends = np.cumsum([unit.rows for unit in self._units])

    @property
    def rows(self) -> int:
        """[rows] of the day, over all ranks."""
        return self._day.rows

    @property
    def steps(self) -> int:
        """[steps] from the beginning of the day to its end, the same for every rank."""
        return self.steps_left(self.start())

    def steps_of(self, cursor: Cursor) -> int:
        """[steps] from the beginning of the day to its end, cut as the cursor has it."""
        return self.steps_left(replace(cursor, row=0))

    def start(self) -> Cursor:
        """The beginning of the day."""
        return Cursor(self._epoch, self._day.name, 0, self._lanes)

    def steps_left(self, cursor: Cursor) -> int:
        """[steps] from the cursor to the end of the day, the same for every rank."""
        return len(self._marks(cursor)) - 1

    def before_last(self, cursor: Cursor, steps: int) -> Cursor:
        """Where the last `steps` steps of the day begin, reading from `cursor` on; `cursor` itself if there are not so many."""
        marks = self._marks(cursor)
        return Cursor(cursor.epoch, cursor.day, marks[max(len(marks) - 1 - steps, 0)], cursor.lanes)

    def batches(self, cursor: Cursor) -> Generator[Batch, None, None]:
        """The batches from the cursor to the end of the day. Closing the iterator closes the files and ends the thread.

        Raises:
            BadInput: the day is not what it was when it was opened, or when the cursor was taken.
            GenctrError: the day was begun with lanes that do not fit the batch size or the ranks of today.
        """
        assert (cursor.epoch, cursor.day) == (self._epoch, self._day.name), f"{cursor} is of another stream"
        self._check_lanes(cursor.lanes)
        if cursor.row > max(self._lengths(cursor)):
            raise BadInput(f"day {cursor.day} has fewer rows than were read of it", expected=f"{cursor.row} in every lane",
                           hint="bring back the day as it was, or train it from its beginning")  # fmt: skip
        batches = self._batches(cursor)
        return _ahead(batches, self._prefetch) if self._prefetch else batches

    def _batches(self, cursor: Cursor) -> Generator[Batch, None, None]:
        files = [file.path for file in self._day.files]
        nothing = pa.RecordBatch.from_pylist([], self._schema)
        marks = self._marks(cursor)
        takes = [_takes(length, marks) for length in self._lengths(cursor)]
        mine = [self._lane(lane, cursor, takes[lane]) for lane in range(self._rank, cursor.lanes, self._ranks)]
        for end, in_lanes, pieces in zip(marks[1:], zip(*takes, strict=True), zip(*mine, strict=True), strict=True):
            batch = pa.concat_batches(list(chain.from_iterable(pieces)) or [nothing])
            done = Cursor(cursor.epoch, cursor.day, end, cursor.lanes)
            yield self._collate(batch, files=files, rows=sum(in_lanes), cursor=done)

    def _marks(self, cursor: Cursor) -> list[int]:
        """The rows done in every lane before the first step, after it, after the second, … and at the end of the day."""
        full, longest = self._batch_rows // cursor.lanes, max(self._lengths(cursor))
        marks = [cursor.row]
        # A step depends only on what is left, so a resumed day is cut like an unbroken one.
        while left := longest - marks[-1]:
            marks.append(marks[-1] + (full if left >= 2 * full else left if left <= full else -(-left // 2)))
        return marks

    def _edges(self, cursor: Cursor) -> list[int]:
        rows = self.rows
        return [lane * rows // cursor.lanes for lane in range(cursor.lanes + 1)]

    def _lengths(self, cursor: Cursor) -> list[int]:
        return [end - begin for begin, end in pairwise(self._edges(cursor))]

    def _lane(self, lane: int, cursor: Cursor, takes: Sequence[int]) -> Iterator[list[pa.RecordBatch]]:
        """What a lane gives to every step from the cursor on."""
        begin, end = self._edges(cursor)[lane : lane + 2]
        done = min(cursor.row, end - begin)
        if not self._shuffle_rows:
            return _cut(self._read(begin + done), takes)
        # Begin with the whole window that the cursor stands in, and skip what was taken from it.
        window_rows = max(1, self._shuffle_rows // cursor.lanes)
        first, skip = divmod(done, window_rows)
        begin += first * window_rows
        sizes = (min(window_rows, end - at) for at in range(begin, end, window_rows))
        windows = enumerate(_cut(self._read(begin), sizes), start=first)
        steps = _cut((self._permuted(pieces, lane, number) for number, pieces in windows), chain([skip], takes))
        next(steps)
        return steps

    def _permuted(self, pieces: list[pa.RecordBatch], lane: int, number: int) -> pa.RecordBatch:
        window = pieces[0] if len(pieces) == 1 else pa.concat_batches(pieces)
        order = self._random("rows", lane, number).permutation(window.num_rows)
        # 32 bits a place are enough, and halve what the gather reads next to the column.
        return window.take(pa.array(order.astype(np.uint32)))

    def _read(self, begin: int) -> Iterator[pa.RecordBatch]:
        """The rows of the day from `begin` on, its units in this pass's order, each row with its file and its number there."""
        first = int(np.searchsorted(self._ends, begin, side="right"))
        start = begin - (int(self._ends[first]) - self._units[first].rows) if first < len(self._units) else 0
        for unit in self._units[first:]:
            yield from self._read_unit(unit, start)
            start = 0

    def _read_unit(self, unit: _Unit, start: int) -> Iterator[pa.RecordBatch]:
        path = self._day.files[unit.file].path
        with closing(read_columns(self._reader, path, unit.unit, self._columns, start)) as batches:
            for batch in batches:
                start += batch.num_rows
                if start <= unit.rows:
                    yield self._with_provenance(batch, unit, start - batch.num_rows)
        if start != unit.rows:
            raise BadInput("the file changed after the day was opened", file=path, row_group=unit.unit,
                           expected=f"{unit.rows} rows", hint="bring back the file as it was")  # fmt: skip

    def _with_provenance(self, batch: pa.RecordBatch, unit: _Unit, start: int) -> pa.RecordBatch:
        first = unit.first_row + start
        columns = [self._cast(batch.column(name), name, unit) for name in self._columns]
        columns.append(pa.array(np.full(batch.num_rows, unit.file, dtype=np.int32)))
        columns.append(pa.array(np.arange(first, first + batch.num_rows, dtype=np.int64)))
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _cast(self, values: pa.Array, column: str, unit: _Unit) -> pa.Array:
        """To the type that all files of the day share: mostly it has that type."""
        kind = self._schema.field(column).type
        try:
            # Only ids with and without a sign share unsigned integers, see `Days.open`: they keep their bits.
            return values.cast(kind, safe=element_type(kind) != pa.uint64())
        except pa.ArrowException as error:
            raise BadInput(f"a value does not fit the type of the day: {error}", file=self._day.files[unit.file].path,
                           row_group=unit.unit, column=column) from error  # fmt: skip

    def _ordered_units(self) -> list[_Unit]:
        units = []
        for file, content in enumerate(self._day.files):
            ends = accumulate(content.units)
            numbered = enumerate(zip(content.units, ends, strict=True))
            units += [_Unit(file, unit, end - rows, rows) for unit, (rows, end) in numbered if rows]
        if self._shuffle_rows:
            units = [units[place] for place in self._random("units").permutation(len(units))]
        return units

    def _random(self, *purpose: str | int) -> np.random.RandomState:
        # Of NumPy's generators this is the one whose stream is frozen: a day begun before an upgrade is finished after it.
        key = repr((self._seed, self._epoch, self._day.name, *purpose)).encode()
        return np.random.RandomState(np.frombuffer(hashlib.sha256(key).digest(), dtype="<u4"))

    def _check_lanes(self, lanes: int) -> None:
        if lanes < self._ranks:
            raise GenctrError(
                f"{self._ranks} ranks cannot share {lanes} lanes: some would never have a row\n  next: set data.lanes to "
                f"{self._ranks} or a multiple; a day begun with {lanes} lanes needs at most {lanes} ranks"
            )
        if self._batch_rows < 1 or self._batch_rows % lanes:
            below = self._batch_rows // lanes * lanes
            valid = f"{below} or {below + lanes}" if below > 0 else str(lanes)
            raise GenctrError(
                f"train.global_batch_rows {self._batch_rows} does not divide by {lanes} lanes\n"
                f"  expected: {valid}, or another number of data.lanes"
            )


def _takes(length: int, marks: Sequence[int]) -> list[int]:
    """The rows that a lane of this length gives to every step."""
    return [min(end, length) - min(begin, length) for begin, end in pairwise(marks)]


def _cut(batches: Iterator[pa.RecordBatch], sizes: Iterable[int]) -> Iterator[list[pa.RecordBatch]]:
    """Cut a sequence of record batches into pieces of these numbers of rows, without copying."""
    rest: pa.RecordBatch | None = None
    for size in sizes:
        piece = []
        while size:
            if rest is None or not rest.num_rows:
                rest = next(batches)
            piece.append(rest.slice(0, size))
            size -= piece[-1].num_rows
            rest = rest.slice(piece[-1].num_rows)
        yield piece


def _ahead(batches: Generator[Batch, None, None], count: int) -> Generator[Batch, None, None]:
    """The same batches, up to `count` of them made in a thread before they are asked for."""
    pool, turn = ThreadPoolExecutor(1, "prefetch"), Lock()

    def make() -> Batch | None:
        with turn:
            return next(batches, None)

    try:
        made = deque(pool.submit(make) for _ in range(count))
        while (batch := made.popleft().result()) is not None:
            made.append(pool.submit(make))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
        # Ctrl-C while the pool starts its thread leaves one that it does not know of, and so does not wait for.
        with turn:
            batches.close()
