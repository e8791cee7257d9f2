"""The stream: every row exactly once, from any cursor, for any number of ranks.

Run: pytest tests/data/test_stream.py
"""

import math
import re
import threading
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from data.batch import Tally
from data.collate import Collate
from data.cursor import Cursor
from data.days import Day, Days
from data.errors import BadInput, GenctrError
from data.features import Features
from data.readers import READERS, ParquetReader
from data.schema import Schema
from data.stream import DayStream
from tests.helpers import SERVER

DAY = "2026-11-20"
READER = ParquetReader()


@dataclass(frozen=True)
class Step:
    """A stand-in for a batch: the row ids of one rank's share of a step, and where they came from."""

    ids: list[int]
    origin: list[tuple[str, int]]
    rows: int
    cursor: Cursor


def collate(batch: pa.RecordBatch, *, files: Sequence[str], rows: int, cursor: Cursor) -> Step:
    names = [Path(files[file]).name for file in batch.column("_file").to_pylist()]
    origin = list(zip(names, batch.column("_row").to_pylist(), strict=True))
    return Step(batch.column("id").to_pylist(), origin, rows, cursor)


def write_files(root: Path, *row_groups: Sequence[int]) -> None:
    """One file per argument with row groups of these sizes; the column `id` counts the rows of the day from 0."""
    folder = root / f"day={DAY}"
    folder.mkdir(parents=True)
    at = 0
    for number, sizes in enumerate(row_groups):
        schema = pa.schema({"id": pa.int64(), "click": pa.int8(), "unread": pa.string()})
        with pq.ParquetWriter(folder / f"{number}.parquet", schema) as writer:
            for size in sizes:
                ids = pa.array(range(at, at + size), pa.int64())
                clicks = pa.array([row % 2 for row in range(at, at + size)], pa.int8())
                writer.write_table(pa.table({"id": ids, "click": clicks, "unread": ids.cast(pa.string())}))
                at += size
    (folder / "_SUCCESS").touch()


def open_day(root: Path, *row_groups: Sequence[int]) -> Day:
    write_files(root, *row_groups)
    return Days(str(root), reader=READER).open(DAY, ["id", "click"])


def stream(day: Day, **changes: int) -> DayStream:
    options = {"batch_rows": 12, "lanes": 4, "shuffle_rows": 40, "seed": 7} | changes
    return DayStream(day, READER, columns=["id"], collate=collate, **options)  # type: ignore[arg-type]


def steps(day: Day, cursor: Cursor | None = None, **changes: int) -> list[Step]:
    made = stream(day, **changes)
    return list(made.batches(cursor or made.start()))


def assert_resumes_exactly(made: DayStream) -> None:
    """A stream resumed after any batch yields exactly the batches that were left."""
    batches = list(made.batches(made.start()))
    assert batches, "a stream of nothing proves nothing"
    for done, batch in enumerate(batches, start=1):
        assert list(made.batches(batch.cursor)) == batches[done:]
        assert made.steps_left(batch.cursor) == len(batches) - done


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """101 rows, a prime, in units of every size."""
    return open_day(tmp_path_factory.mktemp("log"), [1, 30, 7], [0], [20, 3], [40])


@pytest.mark.parametrize("shuffle_rows", [0, 1, 40, 1000])
@pytest.mark.parametrize("lanes", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_rows", [12, 24, 108, 204])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_every_row_is_read_exactly_once(day: Day, batch_rows: int, lanes: int, shuffle_rows: int, prefetch: int) -> None:
    read = steps(day, batch_rows=batch_rows, lanes=lanes, shuffle_rows=shuffle_rows, prefetch=prefetch)

    assert sorted(row for step in read for row in step.ids) == list(range(101))
    assert len(read) == math.ceil(101 / batch_rows)


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("shuffle_rows", [0, 1, 40, 1000])
@pytest.mark.parametrize(("batch_rows", "lanes", "rank", "ranks"), [(12, 4, 0, 1), (3, 3, 1, 2), (8, 4, 2, 3), (200, 4, 0, 2)])
def test_resuming_after_any_batch_skips_nothing_and_repeats_nothing(
    day: Day, batch_rows: int, lanes: int, rank: int, ranks: int, shuffle_rows: int, prefetch: int
) -> None:
    assert_resumes_exactly(
        stream(day, batch_rows=batch_rows, lanes=lanes, rank=rank, ranks=ranks, shuffle_rows=shuffle_rows, prefetch=prefetch)
    )


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 5, 11, 12, 13, 24, 25])
@pytest.mark.parametrize("shuffle_rows", [0, 40])
def test_days_whose_rows_divide_by_nothing_lose_no_row(tmp_path: Path, rows: int, shuffle_rows: int) -> None:
    day = open_day(tmp_path, [rows], [1])

    assert_resumes_exactly(stream(day, shuffle_rows=shuffle_rows))
    assert sorted(row for step in steps(day, shuffle_rows=shuffle_rows) for row in step.ids) == list(range(rows + 1))


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("shuffle_rows", [0, 40])
def test_a_step_has_the_same_rows_for_any_number_of_ranks(day: Day, ranks: int, shuffle_rows: int) -> None:
    alone = steps(day, shuffle_rows=shuffle_rows)
    shared = [steps(day, shuffle_rows=shuffle_rows, rank=rank, ranks=ranks) for rank in range(ranks)]

    assert [len(of_rank) for of_rank in shared] == [len(alone)] * ranks
    for step, *of_ranks in zip(alone, *shared, strict=True):
        assert sorted(row for share in of_ranks for row in share.ids) == sorted(step.ids)
        assert {(share.rows, share.cursor) for share in of_ranks} == {(len(step.ids), step.cursor)}


def test_ranks_and_batch_size_may_change_in_the_middle_of_a_day(day: Day) -> None:
    """Three steps on one rank, then two on two ranks, then the rest on three ranks with bigger batches."""
    first = steps(day)[:3]
    second = [steps(day, first[-1].cursor, rank=rank, ranks=2)[:2] for rank in range(2)]
    third = [steps(day, second[0][-1].cursor, rank=rank, ranks=3, batch_rows=20) for rank in range(3)]

    read = [*first, *(step for of_rank in second + third for step in of_rank)]
    assert sorted(row for step in read for row in step.ids) == list(range(101))


def test_a_day_that_was_begun_keeps_the_lanes_of_its_cursor(day: Day) -> None:
    begun = steps(day, lanes=2)
    configured_anew = steps(day, begun[2].cursor, lanes=4)

    assert configured_anew == begun[3:]


def test_ranks_without_rows_do_the_same_number_of_steps(tmp_path: Path) -> None:
    """Two rows in four lanes: lanes 1 and 3 have one each, so rank 0, with lanes 0 and 2, has none."""
    day = open_day(tmp_path, [2])

    assert [(step.ids, step.rows) for step in steps(day, rank=0, ranks=2, shuffle_rows=0)] == [([], 2)]
    assert [(step.ids, step.rows) for step in steps(day, rank=1, ranks=2, shuffle_rows=0)] == [([0, 1], 2)]


def test_one_lane_without_shuffle_is_the_order_of_the_files(day: Day) -> None:
    assert [row for step in steps(day, lanes=1, shuffle_rows=0) for row in step.ids] == list(range(101))


def test_the_last_two_steps_share_what_is_left(tmp_path: Path) -> None:
    """13 rows in steps of at most 6: 6, then 4 and 3, not 6 and a stray row."""
    day = open_day(tmp_path, [13])

    assert [step.rows for step in steps(day, batch_rows=6, lanes=1)] == [6, 4, 3]
    assert [step.rows for step in steps(day, batch_rows=13, lanes=1)] == [13]


def test_a_step_takes_equally_from_every_lane(tmp_path: Path) -> None:
    """16 rows, 4 lanes of 4, steps of 8: two rows from each lane."""
    day = open_day(tmp_path, [16])

    assert [step.ids for step in steps(day, batch_rows=8, shuffle_rows=0)] == [
        [0, 1, 4, 5, 8, 9, 12, 13],
        [2, 3, 6, 7, 10, 11, 14, 15],
    ]


@pytest.mark.parametrize("shuffle_rows", [0, 40])
def test_every_row_says_its_file_and_its_number_there(day: Day, shuffle_rows: int) -> None:
    origin = dict(pair for step in steps(day, shuffle_rows=shuffle_rows) for pair in zip(step.ids, step.origin, strict=True))

    assert origin[0] == ("0.parquet", 0)
    assert origin[37] == ("0.parquet", 37)  # the last of 1 + 30 + 7
    assert origin[38] == ("2.parquet", 0)  # 1.parquet is empty
    assert origin[60] == ("2.parquet", 22)
    assert origin[100] == ("3.parquet", 39)


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else(day: Day) -> None:
    order = [step.ids for step in steps(day)]

    assert order == [step.ids for step in steps(day, prefetch=3)]
    assert order != [step.ids for step in steps(day, seed=8)]
    assert order != [step.ids for step in steps(day, epoch=1)]
    assert order[0] == [31, 38, 32, 55, 60, 4, 20, 21, 23, 76, 82, 78]  # written down: another version must finish a day begun


def test_neighbours_meet_in_a_step_with_probability_batch_rows_by_shuffle_rows(tmp_path: Path) -> None:
    """The stated quality of the shuffle. A perfect one: 1024 / 40,000 = .026; ours with windows of 8192 in all: .125."""
    day = open_day(tmp_path, [1000] * 20, [1000] * 20)
    step_of = {row: n for n, step in enumerate(steps(day, batch_rows=1024, shuffle_rows=8192)) for row in step.ids}

    together = sum(step_of[row] == step_of[row + 1] for row in range(39_999)) / 39_999

    assert together == pytest.approx(1024 / 8192, abs=0.01)


def test_a_shuffled_row_lands_as_far_from_its_place_as_in_a_shuffle_of_the_whole_day(tmp_path: Path) -> None:
    """A perfect shuffle moves a row by a third of the day on average: the mean of |x - y| for x, y uniform in 0..1."""
    day = open_day(tmp_path, [500] * 40, [500] * 40)
    order = [row for step in steps(day, batch_rows=1024, shuffle_rows=4096) for row in step.ids]

    moved = sum(abs(row - place) for place, row in enumerate(order)) / len(order) ** 2

    assert moved == pytest.approx(1 / 3, abs=0.05)


def test_a_day_may_mix_integer_widths(tmp_path: Path) -> None:
    folder = tmp_path / f"day={DAY}"
    folder.mkdir()
    for name, kind in {"a": pa.int32(), "b": pa.int64()}.items():
        pq.write_table(pa.table({"id": pa.array([1, 2, 3], kind)}), folder / name)
    (folder / "_SUCCESS").touch()

    day = Days(str(tmp_path), reader=READER).open(DAY, ["id"])

    assert sorted(row for step in steps(day) for row in step.ids) == [1, 1, 2, 2, 3, 3]


class Narrow:
    """One unit of 400 rows, a dictionary of 100 strings to every batch of as many: what pandas makes of categories; and a view,
    as polars has strings."""

    def units(self, path: str) -> tuple[int, ...]:
        return (400,)

    def schema(self, path: str) -> pa.Schema:
        return pa.schema({"id": pa.dictionary(pa.int8(), pa.string()), "view": pa.string_view()})

    def read(self, path: str, unit: int, columns: Sequence[str], start: int) -> Generator[pa.RecordBatch, None, None]:
        for first in range(0, 400, 100):
            words = pa.array([f"word {n}" for n in range(first, first + 100)])
            ids = pa.DictionaryArray.from_arrays(pa.array(range(100), pa.int8()), words)
            yield pa.record_batch({"id": ids, "view": words.cast(pa.string_view())}).slice(max(0, start - first))


def test_dictionaries_of_few_words_and_views_of_a_reader_are_shuffled_too(tmp_path: Path) -> None:
    (tmp_path / "day=2026-11-20").mkdir()
    (tmp_path / "day=2026-11-20" / "_SUCCESS").touch()
    (tmp_path / "day=2026-11-20" / "a").touch()
    day = Days(str(tmp_path), reader=Narrow()).open("2026-11-20", ["id", "view"])

    made = DayStream(day, Narrow(), columns=["id", "view"], collate=collate, batch_rows=200, lanes=1, shuffle_rows=400)
    ids = [id_ for step in made.batches(made.start()) for id_ in step.ids]  # type: ignore[attr-defined]

    assert sorted(map(str, ids)) == sorted(f"word {n}" for n in range(400))


def test_a_value_that_does_not_fit_the_type_of_the_day_is_told(tmp_path: Path) -> None:
    """Between them, unsigned and signed numbers of 64 bits have only the signed ones."""
    folder = tmp_path / f"day={DAY}"
    folder.mkdir()
    pq.write_table(pa.table({"id": pa.array([1], pa.int64())}), folder / "a")
    pq.write_table(pa.table({"id": pa.array([2**63], pa.uint64())}), folder / "b")
    (folder / "_SUCCESS").touch()

    with pytest.raises(BadInput, match="does not fit the type of the day") as caught:
        steps(Days(str(tmp_path), reader=READER).open(DAY, ["id"]))
    assert (caught.value.file, caught.value.column) == (f"{folder}/b", "id")


TWO = {"id": [1, 2], "x": [0.5, 1.5]}
OTHERS = {
    "without a column": ({"id": [1, 2]}, "a column is missing or is there twice"),
    "with another column": ({"id": [1, 2], "y": [0.5, 1.5]}, "a column is missing or is there twice"),
    "of dates": (TWO | {"x": pa.array([1, 2], pa.timestamp("ms"))}, "does not fit the type of the day"),
    "of lists": (TWO | {"x": [[0.5], [1.5]]}, "does not fit the type of the day"),
    "of words": (TWO | {"x": ["a", "b"]}, "does not fit the type of the day"),
    "of fewer rows": ({"id": [1], "x": [0.5]}, "the file changed after the day was opened"),
}


def write(columns: dict[str, Any], path: Path) -> None:
    (pq.write_table if path.suffix == ".parquet" else pa.csv.write_csv)(pa.table(columns), path)


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in ("parquet", "csv") for name in OTHERS if (kind, name) != ("csv", "of lists")]
)
def test_a_file_that_is_replaced_while_its_day_is_read_is_told(tmp_path: Path, kind: str, name: str) -> None:
    others, told = OTHERS[name]
    folder, reader = tmp_path / f"day={DAY}", READERS[kind]()
    folder.mkdir()
    for file in ("a", "b"):
        write(TWO | {"id": [ord(file), 2]}, folder / f"{file}.{kind}")
    (folder / "_SUCCESS").touch()
    day = Days(str(tmp_path), reader=reader).open(DAY, ["id", "x"])
    batches = DayStream(day, reader, columns=["id", "x"], collate=collate, batch_rows=1, lanes=1).batches(Cursor(0, DAY, 0, 1))
    next(batches)

    write(others, folder / f"b.{kind}")

    with pytest.raises(BadInput, match=told) as caught:
        list(batches)
    assert caught.value.file == f"{folder}/b.{kind}"


def test_more_ranks_than_lanes_are_refused(day: Day) -> None:
    with pytest.raises(GenctrError, match=r"3 ranks cannot share 2 lanes(.|\n)*set data.lanes to 3"):
        stream(day, lanes=2, ranks=3)
    with pytest.raises(GenctrError, match="a day begun with 2 lanes needs at most 2 ranks"):
        stream(day, lanes=4, ranks=3).batches(Cursor(0, DAY, 6, 2))


def test_a_batch_that_does_not_divide_by_the_lanes_names_those_that_do(day: Day) -> None:
    with pytest.raises(GenctrError, match="batch_rows 10 does not divide by 4 lanes\n  expected: 8 or 12,"):
        stream(day, batch_rows=10)
    with pytest.raises(GenctrError, match="expected: 4,"):
        stream(day, batch_rows=3)


def test_the_tallies_of_all_ranks_add_up_to_the_files_whatever_the_order(day: Day) -> None:
    """The real collate: the evidence of exactly once is the same for one rank and for three, shuffled or not."""
    field = {"name": "id", "kind": "id", "ids": "identity", "rows": 101}
    schema = Schema.model_validate({"name": "log", "label": {"column": "click"}, "fields": [field]})
    collate = Collate(Features(schema, None))

    def tally(*, ranks: int = 1, shuffle_rows: int = 0, prefetch: int = 0) -> Tally:
        total = Tally.zeros(4)
        for rank in range(ranks):
            made = DayStream(
                day, READER, columns=["id", "click"], collate=collate, batch_rows=12, lanes=4, seed=7, rank=rank, ranks=ranks,
                shuffle_rows=shuffle_rows, prefetch=prefetch,
            )  # fmt: skip
            for batch in made.batches(made.start()):
                total += batch.tally
        return total

    unshuffled = tally()
    assert unshuffled.rows.tolist() == [38, 0, 23, 40]
    for other in (tally(ranks=3), tally(shuffle_rows=40), tally(shuffle_rows=40, ranks=2, prefetch=2)):
        assert torch.equal(other.stacked(), unshuffled.stacked())


def test_a_file_that_lost_rows_after_the_day_was_opened_is_told(tmp_path: Path) -> None:
    day = open_day(tmp_path, [30])
    pq.write_table(pa.table({"id": range(20)}), day.files[0].path)

    with pytest.raises(BadInput, match="the file changed after the day was opened") as caught:
        steps(day)
    assert (caught.value.file, caught.value.row_group) == (day.files[0].path, 0)


def test_a_file_that_won_rows_after_the_day_was_opened_is_told(tmp_path: Path) -> None:
    day = open_day(tmp_path, [30])
    pq.write_table(pa.table({"id": range(31)}), day.files[0].path)

    with pytest.raises(BadInput, match="the file changed after the day was opened"):
        steps(day)


def test_a_cursor_beyond_the_day_is_told(day: Day) -> None:
    with pytest.raises(BadInput, match="fewer rows than were read of it"):
        stream(day).batches(Cursor(0, DAY, 27, 4))
    assert steps(day, Cursor(0, DAY, 26, 4)) == []


def test_a_column_of_ours_in_the_log_is_refused(day: Day) -> None:
    with pytest.raises(GenctrError, match="column '_row' is a name of ours"):
        DayStream(day, READER, columns=["id", "_row"], collate=collate, batch_rows=4)  # type: ignore[arg-type]


class Failing:
    """A reader whose second unit cannot be read, and that knows how many of its files are open."""

    def __init__(self) -> None:
        self.opened = 0
        self.entries = 0
        self.threads: set[str] = set()

    def units(self, path: str) -> tuple[int, ...]:
        return READER.units(path)

    def schema(self, path: str) -> pa.Schema:
        return READER.schema(path)

    def read(self, path: str, unit: int, columns: Sequence[str], start: int) -> Generator[pa.RecordBatch, None, None]:
        self.threads.add(threading.current_thread().name)
        if unit == 1:
            raise BadInput("unreadable data", file=path, row_group=unit)
        self.opened += 1
        self.entries += 1
        try:
            yield from READER.read(path, unit, columns, start)
        finally:
            self.opened -= 1


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_a_bad_unit_stops_the_consumer_after_the_batches_before_it(tmp_path: Path, prefetch: int) -> None:
    """Units of 10 rows, batches of 4: two whole batches come before the error."""
    day = open_day(tmp_path, [10, 10])
    made = DayStream(day, Failing(), columns=["id"], collate=collate, batch_rows=4, lanes=1, prefetch=prefetch)  # type: ignore[arg-type]
    batches = made.batches(made.start())
    read: list[list[int]] = []

    with pytest.raises(BadInput, match="unreadable data"):
        read.extend(step.ids for step in batches)

    assert read == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_closing_the_iterator_closes_the_files_and_ends_the_thread(tmp_path: Path, prefetch: int) -> None:
    day = open_day(tmp_path, [40])
    reader = Failing()
    made = DayStream(day, reader, columns=["id"], collate=collate, batch_rows=4, lanes=4, prefetch=prefetch)  # type: ignore[arg-type]
    before = threading.active_count()
    batches = made.batches(made.start())
    next(batches)
    assert reader.opened == 4
    assert threading.active_count() == before + (prefetch > 0)

    batches.close()

    assert reader.opened == 0
    assert threading.active_count() == before


def test_prefetching_reads_in_one_other_thread_and_not_further_than_asked(tmp_path: Path) -> None:
    day = open_day(tmp_path, [40])
    reader, made_so_far = Failing(), Counter[int]()

    def count(batch: pa.RecordBatch, *, files: Sequence[str], rows: int, cursor: Cursor) -> Step:
        made_so_far["batches"] += 1  # type: ignore[index]
        return collate(batch, files=files, rows=rows, cursor=cursor)

    made = DayStream(day, reader, columns=["id"], collate=count, batch_rows=4, lanes=1, prefetch=2)  # type: ignore[arg-type]
    batches = made.batches(made.start())
    next(batches)
    threading.Event().wait(0.2)

    assert made_so_far["batches"] == 3  # type: ignore[index]  # the one in hand and two ahead
    assert [name.startswith("prefetch") for name in reader.threads] == [True]
    batches.close()


@pytest.mark.parametrize(
    ("units", "entries"),
    [
        ([400], [(0, 0), (0, 100), (0, 200), (0, 300)]),  # lanes begin in the middle of the unit
        ([100] * 4, [(0, 0), (1, 0), (2, 0), (3, 0)]),
        ([150, 250], [(0, 0), (0, 100), (1, 50), (1, 150), (1, 0)]),  # lane 1 goes on from unit 0 to unit 1
    ],
)
def test_a_lane_enters_a_unit_once_and_keeps_it_open(tmp_path: Path, units: list[int], entries: list[tuple[int, int]]) -> None:
    """Files in their order, 4 lanes of 100 rows, 50 steps of 2 rows each."""
    day = open_day(tmp_path, units)
    entered: list[tuple[int, int]] = []

    class Counting(Failing):
        def read(self, path: str, unit: int, columns: Sequence[str], start: int) -> Generator[pa.RecordBatch, None, None]:
            entered.append((unit, start))
            return READER.read(path, unit, columns, start)

    made = DayStream(day, Counting(), columns=["id"], collate=collate, batch_rows=8, lanes=4)  # type: ignore[arg-type]
    assert len(list(made.batches(made.start()))) == 50
    assert entered == entries


def test_windows_do_not_enter_a_unit_again(tmp_path: Path) -> None:
    """One unit, 4 lanes of 100 rows in windows of 10: four entries, not forty."""
    day = open_day(tmp_path, [400])
    reader = Failing()
    made = DayStream(day, reader, columns=["id"], collate=collate, batch_rows=8, lanes=4, shuffle_rows=40)  # type: ignore[arg-type]

    assert len(list(made.batches(made.start()))) == 50
    assert reader.entries == 4


def peak_of(root: str, told: str) -> None:
    """Read a day to its end, and write [kB] the most memory that this process had."""
    reader, columns = ParquetReader(), list("abcdefgh")
    day = Days(root, reader=reader).open(DAY, columns)
    stream = DayStream(
        day,
        reader,
        columns=columns,
        collate=lambda batch, **_: batch,  # type: ignore[arg-type]
        batch_rows=4096,
        shuffle_rows=65536,
        prefetch=2,
    )
    assert sum(batch.num_rows for batch in stream.batches(stream.start())) == day.rows  # type: ignore[attr-defined]
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    Path(told).write_text(peak[1] if peak else "")


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="Linux tells the peak of one process; ru_maxrss has its parent's"
)
@pytest.mark.parametrize(
    "row_group_rows",
    [pytest.param(20_000, id="many_row_groups"), pytest.param(1_000_000, id="one_row_group", marks=pytest.mark.slow)],
)
def test_peak_memory_does_not_grow_with_the_day(tmp_path: Path, row_group_rows: int) -> None:
    """1,000,000 rows of eight int64 columns are 64 MB, 51 MB more than 200,000 of them. A peak may differ by 25 MiB."""
    peaks = []
    for rows in (200_000, 1_000_000):
        folder = tmp_path / str(rows) / f"day={DAY}"
        folder.mkdir(parents=True)
        numbers = np.arange(rows) * 7919 % 1_000_003
        pq.write_table(pa.table(dict.fromkeys("abcdefgh", numbers)), folder / "0.parquet", row_group_size=row_group_rows)
        (folder / "_SUCCESS").touch()
        process = SERVER.Process(target=peak_of, args=(str(folder.parent), str(tmp_path / "peak")))
        process.start()
        process.join(120)
        assert process.exitcode == 0
        peaks.append(int((tmp_path / "peak").read_text()) / 1024)

    assert peaks[1] - peaks[0] < 25, f"[MiB] {peaks}"


def test_files_that_store_the_same_ids_in_other_types_are_one_day(tmp_path: Path) -> None:
    folder = tmp_path / f"day={DAY}"
    folder.mkdir()
    big = 2**63 + 5
    words = pa.array(["a", "b"])
    pq.write_table(pa.table({"id": pa.array([big, 1], pa.uint64()), "click": [True, False], "w": words}), folder / "1.parquet")
    signed = pa.array([big - 2**64, -1], pa.int64())
    stored = {"id": signed, "click": pa.array([0, 1], pa.int8()), "w": words.dictionary_encode()}
    pq.write_table(pa.table(stored), folder / "2.parquet")
    (folder / "_SUCCESS").touch()
    columns = ["id", "click", "w"]
    day = Days(str(tmp_path), reader=READER).open(DAY, columns, ids=["id", "w"])
    read: list[pa.RecordBatch] = []

    def keep(batch: pa.RecordBatch, **_: object) -> Step:
        read.append(batch)
        return Step([], [], 0, Cursor(0, DAY, 0, 1))

    made = DayStream(day, READER, columns=columns, collate=keep, batch_rows=4, lanes=1)  # type: ignore[arg-type]
    list(made.batches(made.start()))

    assert read[0].select(columns).to_pydict() == {
        "id": [big, 1, big, 2**64 - 1],
        "click": [1, 0, 0, 1],
        "w": ["a", "b", "a", "b"],
    }
