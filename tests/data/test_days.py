"""Days: only complete ones are found; bad content is told or left out by name, and no good row with it.

Run: pytest tests/data/test_days.py
"""

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import readers
from data.day_names import goes_on_to, open_end, parse_days
from data.days import Days, write_day
from data.errors import BadInput, GenctrError
from data.readers import CsvReader, ParquetReader

READER = ParquetReader()
DAY = "2026-11-20"


def table(*ids: int) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64())})


def days(root: Path, **options: str | None) -> Days:
    return Days(str(root), reader=READER, **options)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete day of three files: 1.parquet with two row groups, 2.parquet, 3.parquet."""
    folder = tmp_path / "log" / f"day={DAY}"
    folder.mkdir(parents=True)
    pq.write_table(table(1, 2, 3), folder / "1.parquet", row_group_size=2)
    pq.write_table(table(4, 5, 6, 7), folder / "2.parquet")
    pq.write_table(table(8), folder / "3.parquet")
    (folder / "_SUCCESS").touch()
    return folder


# --- what is listed and cannot be opened ---


def pipe(path: Path) -> None:
    os.mkfifo(path)


UNOPENED: dict[str, Callable[[Path], None]] = {
    "a link whose target is gone": lambda path: path.symlink_to("/nowhere/at/all.parquet"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to the folder it is in": lambda path: path.symlink_to(path.parent),
    "a pipe": pipe,
}


@pytest.mark.parametrize("make", UNOPENED.values(), ids=UNOPENED)
@pytest.mark.parametrize("place", ["4.parquet", "hour=03/4.parquet"])
def test_what_is_listed_and_cannot_be_opened_is_a_bad_file(folder: Path, make: Callable[[Path], None], place: str) -> None:
    path = folder / place
    path.parent.mkdir(exist_ok=True)
    make(path)

    assert days(folder.parent).sizes(DAY)[f"day={DAY}/{place}"] == -1
    assert days(folder.parent).rows(DAY)[f"day={DAY}/{place}"] == -1
    with pytest.raises(BadInput, match="it is listed and cannot be opened") as caught:
        days(folder.parent).open(DAY, ["id"])
    assert caught.value.file == str(path)
    day = days(folder.parent, bad_files="quarantine").open(DAY, ["id"])
    assert (day.rows, list(day.quarantined)) == (8, [str(path)])


@pytest.mark.parametrize("name", ["_committed_1", ".1.parquet.crc", "1.parquet.crc", "_temporary/0/1.parquet", ".hive/x"])
def test_what_spark_and_hive_write_next_to_the_data_is_not_data(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("no Parquet")

    assert len(days(folder.parent).open(DAY, ["id"]).files) == 3


@pytest.mark.parametrize("name", ["part-4", "part-4.parquet.tmp", "sub/notes.txt"])
def test_a_file_of_another_name_is_read_too(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("no Parquet")

    with pytest.raises(BadInput, match="unreadable data"):
        days(folder.parent).open(DAY, ["id"])


def test_links_to_files_and_folders_elsewhere_are_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    pq.write_table(table(9, 10), tmp_path / "mount" / "4.parquet")
    (folder / "sub").symlink_to(tmp_path / "mount")
    (folder / "3.parquet").rename(tmp_path / "3")
    (folder / "3.parquet").symlink_to(tmp_path / "3")

    assert days(folder.parent).open(DAY, ["id"]).rows == 10


# --- which days there are ---


def test_only_complete_days_are_listed_in_order(tmp_path: Path) -> None:
    for name in ["2026-11-22", "2026-11-20", "2026-11-21"]:
        write_day(f"{tmp_path}/day={name}", [table(1)])
    (tmp_path / "day=2026-11-21" / "_SUCCESS").unlink()
    (tmp_path / "notes").mkdir()
    (tmp_path / "day=_tmp").mkdir()

    assert days(tmp_path).list() == ["2026-11-20", "2026-11-22"]
    assert days(tmp_path, success=None).list() == ["2026-11-20", "2026-11-21", "2026-11-22"]


def test_a_file_a_day_needs_no_mark(tmp_path: Path) -> None:
    pq.write_table(table(1, 2), tmp_path / f"{DAY}.parquet")

    log = days(tmp_path, layout="{day}.parquet")

    assert log.list() == [DAY]
    assert [(file.path, file.units) for file in log.open(DAY, ["id"]).files] == [(f"{tmp_path}/{DAY}.parquet", (2,))]


def test_a_layout_may_lie_deeper_and_name_what_is_in_a_day(tmp_path: Path) -> None:
    folder = tmp_path / "feed" / "v2" / f"dt={DAY}"
    for number, name in enumerate(["hour=01", "hour=02", "rejected"]):
        (folder / name).mkdir(parents=True)
        pq.write_table(table(number), folder / name / "a.parquet")
    (folder / "_SUCCESS").touch()

    everything = days(tmp_path / "feed", layout="v2/dt={day}").open(DAY, ["id"])
    hours = days(tmp_path / "feed", layout="v2/dt={day}/hour=*").open(DAY, ["id"])

    assert (everything.rows, hours.rows) == (3, 2)
    assert [file.path for file in hours.files] == [f"{folder}/hour=01/a.parquet", f"{folder}/hour=02/a.parquet"]


def test_hidden_files_are_no_data(folder: Path) -> None:
    (folder / ".1.parquet.crc").write_text("crc")
    (folder / "_metadata").write_text("meta")
    (folder / "_temporary").mkdir()
    (folder / "_temporary" / "9.parquet").write_text("half")

    assert days(folder.parent).open(DAY, ["id"]).rows == 8


def test_a_folder_may_be_given_as_a_uri(folder: Path) -> None:
    day = Days(folder.parent.as_uri(), reader=READER).open(DAY, ["id"])

    assert day.rows == 8
    assert day.files[0].path == f"{folder.as_uri().replace('%3D', '=')}/1.parquet"
    assert next(READER.read(day.files[0].path, 0, ["id"], 0)).num_rows == 2


def test_names_that_a_uri_cannot_have_are_names_all_the_same(folder: Path) -> None:
    hour = folder / "hour=00%3A00"
    hour.mkdir()
    (folder / "1.parquet").rename(hour / "größe 1?.parquet")
    local, store = days(folder.parent), Days(folder.parent.as_uri(), reader=READER)

    day = store.open(DAY, ["id"])

    assert day.rows == 8
    assert sum(batch.num_rows for file in day.files for batch in READER.read(file.path, 0, ["id"], 0)) == 7
    assert store.sizes(DAY) == local.sizes(DAY)
    assert f"day={DAY}/hour=00%3A00/größe 1?.parquet" in local.sizes(DAY)


def test_a_layout_without_a_day_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GenctrError, match=r"layout 'day=2026': expected \{day\} once"):
        days(tmp_path, layout="day=2026")


# --- opening one ---


def test_a_day_is_its_files_in_the_order_of_their_paths(folder: Path) -> None:
    day = days(folder.parent).open(DAY, ["id"])

    assert [Path(file.path).name for file in day.files] == ["1.parquet", "2.parquet", "3.parquet"]
    assert [file.units for file in day.files] == [(2, 1), (4,), (1,)]
    assert [file.size for file in day.files] == [path.stat().st_size for path in sorted(folder.glob("*.parquet"))]
    assert (day.name, day.rows, day.quarantined) == (DAY, 8, {})
    assert day.schema.equals(pa.schema({"id": pa.int64()}))


def test_a_day_that_is_not_there_is_told_with_the_nearest_one(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"there is no day 2026-11-02(.|\n)*did you mean '2026-11-20'"):
        days(folder.parent).open("2026-11-02", ["id"])


def test_a_root_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"there is no such folder(.|\n)*/nowhere\n(.|\n)*check data.root"):
        days(tmp_path / "nowhere").list()


def test_a_day_without_its_mark_is_told_as_not_complete(folder: Path) -> None:
    (folder / "_SUCCESS").unlink()

    with pytest.raises(BadInput, match=f"day {DAY} is not complete(.|\n)*a file _SUCCESS in its folder"):
        days(folder.parent).open(DAY, ["id"])
    assert days(folder.parent, success=None).open(DAY, ["id"]).rows == 8


@pytest.mark.parametrize("bad_files", ["stop", "quarantine"])
@pytest.mark.parametrize("empty_files", [0, 2])
def test_an_empty_day_is_told(tmp_path: Path, empty_files: int, bad_files: str) -> None:
    write_day(f"{tmp_path}/day={DAY}", [table()] * empty_files)

    with pytest.raises(BadInput, match=f"day {DAY} is empty: {empty_files} files without a row, 0 bad ones"):
        days(tmp_path, bad_files=bad_files).open(DAY, ["id"])


def test_empty_files_beside_full_ones_are_no_mistake(tmp_path: Path) -> None:
    """Spark writes them, all alike."""
    write_day(f"{tmp_path}/day={DAY}", [table(), table(1), table()])

    assert days(tmp_path).open(DAY, ["id"]).rows == 1


# --- bad files ---


def truncate(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-10])
    return "unreadable data"


def spoil_a_page(path: Path) -> str:
    """The footer stays as it was: only reading the page shows it."""
    column = pq.read_metadata(path).row_group(0).column(0)
    content = bytearray(path.read_bytes())
    begin = column.dictionary_page_offset or column.data_page_offset
    content[begin : begin + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)
    return "unreadable data"


def rename_the_column(path: Path) -> str:
    pq.write_table(pa.table({"ld": [4]}), path)
    return "a column is missing"


def copy_another_file(path: Path) -> str:
    path.write_bytes((path.parent / "1.parquet").read_bytes())
    return "the same content as"


def make_it_something_else(path: Path) -> str:
    path.write_text("id\n4\n5\n")
    return "unreadable data"


SPOILERS = [truncate, spoil_a_page, rename_the_column, copy_another_file, make_it_something_else]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_bad_file_holds_the_day_and_is_named(folder: Path, spoil: Callable[[Path], str]) -> None:
    told = spoil(folder / "2.parquet")

    with pytest.raises(BadInput, match=told) as caught:
        days(folder.parent).open(DAY, ["id"], check="full")
    assert caught.value.file == f"{folder}/2.parquet"


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_bad_file_in_quarantine_takes_no_good_row_with_it(folder: Path, spoil: Callable[[Path], str]) -> None:
    told = spoil(folder / "2.parquet")

    day = days(folder.parent, bad_files="quarantine").open(DAY, ["id"])

    assert [(Path(file.path).name, file.rows) for file in day.files] == [("1.parquet", 3), ("3.parquet", 1)]
    assert list(day.quarantined) == [f"{folder}/2.parquet"]
    assert told in day.quarantined[f"{folder}/2.parquet"]
    assert day.schema.equals(pa.schema({"id": pa.int64()}))


def test_a_day_of_bad_files_only_is_told(folder: Path) -> None:
    for name in ["1.parquet", "2.parquet", "3.parquet"]:
        (folder / name).write_text(name)

    with pytest.raises(BadInput, match="0 files without a row, 3 bad ones"):
        days(folder.parent, bad_files="quarantine").open(DAY, ["id"])


def test_only_the_full_check_sees_a_bad_page_before_it_is_read(folder: Path) -> None:
    spoil_a_page(folder / "2.parquet")

    assert days(folder.parent).open(DAY, ["id"], check="footer").rows == 8
    with pytest.raises(BadInput) as caught:
        days(folder.parent).open(DAY, ["id"], check="full")
    assert caught.value.row_group == 0


def test_the_same_file_under_two_names_is_told_with_both(folder: Path) -> None:
    (folder / "copy-of-1.parquet").write_bytes((folder / "1.parquet").read_bytes())

    with pytest.raises(BadInput, match=f"the same content as {folder}/1.parquet") as caught:
        days(folder.parent).open(DAY, ["id"])
    assert caught.value.file == f"{folder}/copy-of-1.parquet"


def test_files_that_only_look_alike_are_no_duplicates(tmp_path: Path) -> None:
    """Same size, same rows, same last 64 KiB: they differ in their first row."""
    folder = tmp_path / f"day={DAY}"
    folder.mkdir()
    for name, first in {"a": 1, "b": 2, "c": 1}.items():
        content = pa.table({"id": pa.array([first] + [3] * 20_000, pa.int64())})
        pq.write_table(content, folder / name, compression="none", use_dictionary=False, write_statistics=False)
    (folder / "_SUCCESS").touch()
    assert (folder / "a").read_bytes()[-65_536:] == (folder / "b").read_bytes()[-65_536:]

    with pytest.raises(BadInput, match=f"the same content as {folder}/a") as caught:
        days(tmp_path).open(DAY, ["id"])
    assert caught.value.file == f"{folder}/c"
    (folder / "c").unlink()
    assert days(tmp_path).open(DAY, ["id"]).rows == 40_002


def test_a_missing_column_is_told_with_the_nearest_one(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"column ids(.|\n)*did you mean 'id'"):
        days(folder.parent).open(DAY, ["ids"])


def test_whoever_opens_a_day_may_refuse_a_file(folder: Path) -> None:
    def accept(schema: pa.Schema, path: str) -> None:
        assert schema.names == ["id"]
        if path.endswith("3.parquet"):
            raise BadInput("three is too many", file=path)

    with pytest.raises(BadInput, match="three is too many"):
        days(folder.parent).open(DAY, ["id"], accept=accept)
    assert days(folder.parent, bad_files="quarantine").open(DAY, ["id"], accept=accept).rows == 7


def test_the_types_of_a_day_hold_the_values_of_every_file(folder: Path) -> None:
    pq.write_table(pa.table({"id": pa.array([4], pa.int32())}), folder / "0.parquet")
    pq.write_table(pa.table({"id": pa.nulls(2)}), folder / "4.parquet")

    assert days(folder.parent).open(DAY, ["id"]).schema.field("id").type == pa.int64()


@pytest.mark.parametrize("bad_files", ["stop", "quarantine"])
def test_files_of_types_that_do_not_go_together_hold_the_day(folder: Path, bad_files: str) -> None:
    """Nothing says which of them is wrong, so none is left out."""
    pq.write_table(pa.table({"id": ["four"]}), folder / "2.parquet")

    with pytest.raises(BadInput, match=r"other types than in the files before: .* string") as caught:
        days(folder.parent, bad_files=bad_files).open(DAY, ["id"])
    assert caught.value.file == f"{folder}/2.parquet"


def test_of_two_files_with_the_same_content_the_one_that_was_trained_is_good(folder: Path) -> None:
    (folder / "0.parquet").write_bytes((folder / "2.parquet").read_bytes())
    log = days(folder.parent, bad_files="quarantine")

    assert list(log.open(DAY, ["id"]).quarantined) == [f"{folder}/2.parquet"]
    assert list(log.open(DAY, ["id"], known={f"day={DAY}/2.parquet"}).quarantined) == [f"{folder}/0.parquet"]


def test_a_file_that_a_store_failed_to_give_once_is_not_put_in_quarantine(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = readers.filesystem
    failed: list[str] = []

    class Fails:
        """A file's store that does not answer its first reader, and then is there again."""

        def __init__(self, uri: str) -> None:
            self.files, self.inner = opened(uri)

        def open_input_file(self, inner: str) -> object:
            if inner.endswith("2.parquet") and not failed:
                failed.append(inner)
                raise OSError("AWS Error NETWORK_CONNECTION during GetObject operation")
            return self.files.open_input_file(inner)

        def __getattr__(self, name: str) -> object:
            return getattr(self.files, name)

    monkeypatch.setattr(readers, "filesystem", lambda uri: (files := Fails(uri), files.inner))
    day = Days(folder.parent.as_uri(), reader=ParquetReader(), bad_files="quarantine").open(DAY, ["id"])
    assert failed
    assert (day.rows, day.quarantined) == (8, {})


def test_a_file_that_cannot_be_reached_is_never_put_in_quarantine(folder: Path) -> None:
    """Its rows may be good, so the day has to wait for them."""

    class Unreachable(ParquetReader):
        def units(self, path: str) -> tuple[int, ...]:
            Path(path).unlink(missing_ok=True)
            return super().units(path)

    with pytest.raises(GenctrError, match="cannot read") as caught:
        Days(str(folder.parent), reader=Unreachable(), bad_files="quarantine").open(DAY, ["id"])
    assert not isinstance(caught.value, BadInput)


def test_a_csv_day_is_a_day(tmp_path: Path) -> None:
    for number, day in enumerate(["20261120", "20261121"], start=1):
        (tmp_path / f"log_{day}.csv").write_text("id\n" + "7\n" * number)
    log = Days(str(tmp_path), reader=CsvReader(), layout="log_{day}.csv")

    assert [(day, log.open(day, ["id"]).rows) for day in log.list()] == [("20261120", 1), ("20261121", 2)]


# --- writing one ---


def test_a_written_day_reads_as_it_was(tmp_path: Path) -> None:
    write_day(f"{tmp_path}/day={DAY}", [table(1, 2, 3), table(4)], row_group_rows=2)

    day = days(tmp_path).open(DAY, ["id"], check="full")

    assert [file.units for file in day.files] == [(2, 1), (1,)]
    assert pq.read_table(tmp_path / f"day={DAY}").column("id").to_pylist() == [1, 2, 3, 4]


def test_a_day_that_fails_while_it_is_written_is_not_there(tmp_path: Path) -> None:
    def tables() -> Iterator[pa.Table]:
        yield table(1)
        assert list(tmp_path.rglob("*.parquet")), "the first table is written before the second is asked for"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_day(f"{tmp_path}/day={DAY}", tables())
    assert list(tmp_path.iterdir()) == []


def test_a_day_half_written_by_a_killed_process_is_written_anew(tmp_path: Path) -> None:
    folder = tmp_path / f"day={DAY}"
    folder.mkdir()
    pq.write_table(table(1), folder / "part-00007.parquet")

    write_day(str(folder), [table(2)])

    assert sorted(path.name for path in folder.iterdir()) == ["_SUCCESS", "part-00000.parquet"]


def test_a_complete_day_is_not_written_over(tmp_path: Path) -> None:
    write_day(f"{tmp_path}/day={DAY}", [table(1)])

    with pytest.raises(GenctrError, match="is a complete day already"):
        write_day(f"{tmp_path}/day={DAY}", [table(2)])
    assert pq.read_table(tmp_path / f"day={DAY}").column("id").to_pylist() == [1]


# --- naming them ---


def test_a_range_names_every_day_of_it_and_both_ends() -> None:
    assert parse_days("2024-02-28..2024-03-01") == ["2024-02-28", "2024-02-29", "2024-03-01"]
    assert parse_days("2026-11-20..2026-11-20") == ["2026-11-20"]


def test_a_list_may_mix_names_and_ranges() -> None:
    assert parse_days(["day_0", "2026-11-20", "2026-12-31..2027-01-01"]) == ["day_0", "2026-11-20", "2026-12-31", "2027-01-01"]
    assert parse_days("day_0") == ["day_0"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("2026-02-30", "'2026-02-30' is not a date: day is out of range for month"),
        ("2026-02-27..2026-02-30", "'2026-02-30' is not a date"),
        ("2026-13-01", "month must be in 1..12"),
        ("yesterday..2026-11-20", "'yesterday' is not a date"),
        ("2026-11-21..2026-11-20", "the range ends before it begins\n  expected: '2026-11-20..2026-11-21'"),
    ],
)
def test_impossible_dates_are_told(text: str, told: str) -> None:
    with pytest.raises(GenctrError, match=told):
        parse_days(text)


def test_days_after_some_without_an_end_are_told() -> None:
    with pytest.raises(GenctrError, match=r"days '2026-11-20\.\.' have no end, so no others can follow them"):
        parse_days(["2026-11-20..", "2026-11-25"])


def test_a_day_named_twice_is_told() -> None:
    with pytest.raises(GenctrError, match="days named twice: 2026-11-21"):
        parse_days(["2026-11-20..2026-11-22", "2026-11-21"])


def test_days_follow_the_calendar() -> None:
    year = parse_days("2026-01-01..2026-12-31")

    assert len(year) == 365
    assert date.fromisoformat(year[58]) == date(2026, 2, 28)
    assert year[59] == "2026-03-01"


def test_an_open_range_names_its_first_day_and_has_no_end() -> None:
    assert parse_days("2026-11-20..") == ["2026-11-20"]
    assert open_end("2026-11-20..")
    assert open_end(["2026-11-01", "2026-11-20.."])
    assert not open_end("2026-11-20..2026-11-21")
    assert not open_end([])


def test_sizes_are_by_name_below_the_root(tmp_path: Path) -> None:
    write_day(str(tmp_path / "log" / "day=2026-11-20"), [pa.table({"a": [1]}), pa.table({"a": [2]})])
    sizes = Days(str(tmp_path / "log"), reader=ParquetReader()).sizes("2026-11-20")
    assert sorted(sizes) == ["day=2026-11-20/part-00000.parquet", "day=2026-11-20/part-00001.parquet"]
    assert all(size == (tmp_path / "log" / name).stat().st_size for name, size in sizes.items())


def test_rows_are_by_name_below_the_root_too(tmp_path: Path) -> None:
    folder = tmp_path / "log" / "day=2026-11-20"
    write_day(str(folder), [pa.table({"a": [1]}), pa.table({"a": [2, 3]})])
    (folder / "part-00002.parquet").write_bytes(b"PAR1")
    rows = Days(str(tmp_path / "log"), reader=ParquetReader()).rows("2026-11-20")
    assert rows == {f"day=2026-11-20/part-0000{at}.parquet": count for at, count in enumerate((1, 2, -1))}


# --- years of days ---


def test_the_sizes_of_many_days_are_had_without_listing_the_log_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"2026-11-{number:02}" for number in range(1, 31)]
    for name in names:
        write_day(f"{tmp_path}/day={name}", [table(1)])
    log = days(tmp_path)
    monkeypatch.setattr(Days, "_found", lambda _: pytest.fail("the whole log is listed"))

    sizes = log.sizes_of(names)

    assert list(sizes) == names
    assert sizes["2026-11-07"].keys() == {"day=2026-11-07/part-00000.parquet"}


def test_of_days_that_were_listed_only_the_files_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("2026-11-01", "2026-11-02"):
        write_day(f"{tmp_path}/day={name}", [table(1)])
    log = days(tmp_path)
    found = log.list()
    monkeypatch.setattr(Days, "_find", lambda *_: pytest.fail("the day is asked for again"))

    assert list(log.sizes_of(found)) == ["2026-11-01", "2026-11-02"]


def test_a_day_of_another_folder_is_no_day(folder: Path) -> None:
    log = folder.parent
    (log / "day=a").mkdir()
    with pytest.raises(BadInput, match="there is no day"):
        days(log).sizes(f"a/../day={DAY}")


def test_a_day_whose_name_is_not_utf8_keeps_no_other_day_from_being_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkdir(os.fsencode(folder.parent) + b"/day=2026-\xff")

    assert list(days(folder.parent).list()) == [DAY]
    assert "day=2026-\\udcff is not read: its name is not UTF-8" in capsys.readouterr().err


def test_a_file_whose_name_is_not_utf8_is_a_bad_file(folder: Path) -> None:
    shutil.copy(folder / "2.parquet", os.fsencode(folder) + b"/3\xff.parquet")

    with pytest.raises(BadInput, match="not UTF-8"):
        days(folder.parent).open(DAY, ["id"])


def test_a_range_of_all_days_is_refused_at_once() -> None:
    with pytest.raises(GenctrError, match="3,652,059"):
        parse_days("0001-01-01..9999-12-31")


def test_days_named_without_dashes_have_ranges() -> None:
    assert parse_days("20261130..20261202") == ["20261130", "20261201", "20261202"]
    assert parse_days("20261130..") == ["20261130"]
    assert goes_on_to("20261130..", "20261201")
    assert not goes_on_to("2026-11-30..", "20261201"), "it sorts elsewhere"
    assert parse_days("12345678") == ["12345678"], "a name need not be a date"


def test_a_relative_root_that_is_not_there_says_what_it_is_relative_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(BadInput, match=f"it is relative to {tmp_path}$"):
        Days("runs/log", reader=ParquetReader()).list()
    with pytest.raises(BadInput, match=r"check data.root and data.layout$"):
        Days(f"{tmp_path}/log", reader=ParquetReader()).list()
