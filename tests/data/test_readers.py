"""Readers: the same rows from any position; bad content is told from a store that fails.

Run: pytest tests/data/test_readers.py
"""

import gzip
import io
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from data import readers
from data.errors import BadInput, GenctrError
from data.readers import READERS, CsvReader, ParquetReader

ROWS = 200_000
"""More than Arrow decodes in one go, and more than one block of a CSV file."""


def write_parquet(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, row_group_size=150_000)


def write_csv(path: Path, table: pa.Table) -> None:
    pyarrow.csv.write_csv(table, path)


WRITERS: dict[str, Callable[[Path, pa.Table], None]] = {"parquet": write_parquet, "csv": write_csv}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same table in every format: id counts from 0, name is its text."""
    folder = tmp_path_factory.mktemp("files")
    ids = pa.array(range(ROWS), pa.int64())
    table = pa.table({"id": ids, "name": pa.array([f"row {n}" for n in range(ROWS)])})
    for format_name, write in WRITERS.items():
        write(folder / format_name, table)
    return {name: str(folder / name) for name in WRITERS}


@pytest.mark.parametrize("format_name", READERS)
def test_units_add_up_to_the_rows_of_the_file(files: dict[str, str], format_name: str) -> None:
    units = READERS[format_name]().units(files[format_name])

    assert units == {"parquet": (150_000, 50_000), "csv": (200_000,)}[format_name]


@pytest.mark.parametrize("format_name", READERS)
def test_the_schema_names_every_column_and_its_type(files: dict[str, str], format_name: str) -> None:
    schema = READERS[format_name]().schema(files[format_name])

    assert schema.equals(pa.schema({"id": pa.int64(), "name": pa.string()}))


@pytest.mark.parametrize("start", [0, 1, 49_999, 65_535, 65_536, 65_537, 149_999])
@pytest.mark.parametrize("format_name", READERS)
def test_reading_from_a_row_gives_exactly_the_rows_from_there_on(files: dict[str, str], format_name: str, start: int) -> None:
    batches = list(READERS[format_name]().read(files[format_name], 0, ["name", "id"], start))
    ids = [row for batch in batches for row in batch.column("id").to_pylist()]

    assert ids == list(range(start, 150_000 if format_name == "parquet" else ROWS))
    assert batches[0].column("name")[0].as_py() == f"row {start}"
    assert all(batch.num_rows for batch in batches)


@pytest.mark.parametrize("format_name", READERS)
def test_reading_from_the_end_gives_nothing(files: dict[str, str], format_name: str) -> None:
    unit_rows = 150_000 if format_name == "parquet" else ROWS
    assert list(READERS[format_name]().read(files[format_name], 0, ["id"], unit_rows)) == []


def test_the_second_row_group_begins_after_the_first(files: dict[str, str]) -> None:
    assert next(ParquetReader().read(files["parquet"], 1, ["id"], 7)).column("id")[0].as_py() == 150_007


@pytest.mark.parametrize("format_name", READERS)
def test_a_file_that_is_gone_is_no_bad_file(tmp_path: Path, format_name: str) -> None:
    """Whoever leaves bad files out must not leave out the ones that could not be reached."""
    reader = READERS[format_name]()

    for ask in (reader.units, reader.schema, lambda path: next(reader.read(path, 0, ["id"], 0))):
        with pytest.raises(GenctrError, match=r"cannot read .*gone") as caught:
            ask(str(tmp_path / "gone"))
        assert not isinstance(caught.value, BadInput)


def test_a_csv_file_is_not_closed_while_arrow_still_reads_ahead(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its descriptor would be the next file's, and that file would begin in the middle: rows lost, or a header not found."""
    ahead, closed_while_read = threading.Event(), list[bool]()

    class Slow(io.BytesIO):
        reading = 0

        def read(self, size: int | None = -1) -> bytes:
            self.reading += 1
            if self.tell() > 1 << 20:  # the third block: the first batch is parsed when the second is there
                ahead.set()
                time.sleep(0.3)
            piece = super().read(size)
            self.reading -= 1
            return piece

        def close(self) -> None:
            closed_while_read.append(self.reading > 0)
            super().close()

    class SlowStore:
        def open_input_stream(self, path: str) -> pa.NativeFile:
            return pa.PythonFile(Slow(Path(path).read_bytes()), mode="r")

    monkeypatch.setattr("data.readers.filesystem", lambda path: (SlowStore(), path))
    CsvReader(types={"id": "int64", "name": "string"}).schema(files["csv"])

    assert ahead.wait(10)
    assert True not in closed_while_read


@pytest.mark.parametrize("cut_to", [0, 3, 1000, -1])
def test_a_truncated_parquet_file_is_told(files: dict[str, str], tmp_path: Path, cut_to: int) -> None:
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(Path(files["parquet"]).read_bytes()[:cut_to])

    with pytest.raises(BadInput, match=r"unreadable data(.|\n)*write the file again") as caught:
        ParquetReader().units(str(bad))
    assert caught.value.file == str(bad)


def test_a_flipped_bit_is_told_where_the_file_has_checksums(tmp_path: Path) -> None:
    """Uncompressed and plain, so that without its checksum the page would just hold another number."""
    bad = tmp_path / "bad.parquet"
    table = pa.table({"id": range(100)})
    pq.write_table(table, bad, row_group_size=50, compression="none", use_dictionary=False, write_page_checksum=True)
    column = pq.read_metadata(bad).row_group(1).column(0)
    content = bytearray(bad.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 1] ^= 1  # in the last value of the only page
    bad.write_bytes(content)

    assert ParquetReader().units(str(bad)) == (50, 50)
    assert next(ParquetReader().read(str(bad), 0, ["id"], 0)).num_rows == 50
    with pytest.raises(BadInput, match="CRC") as caught:
        list(ParquetReader().read(str(bad), 1, ["id"], 0))
    assert (caught.value.file, caught.value.row_group) == (str(bad), 1)


def test_a_file_that_was_replaced_is_not_read_by_its_old_footer(tmp_path: Path) -> None:
    path, reader = tmp_path / "0.parquet", ParquetReader()
    pq.write_table(pa.table({"id": [1, 2, 3]}), path)
    assert reader.units(str(path)) == (3,)

    pq.write_table(pa.table({"id": [1, 2, 3, 4], "more": [0, 0, 0, 0]}), path)

    assert reader.units(str(path)) == (4,)
    assert next(reader.read(str(path), 0, ["more"], 0)).num_rows == 4


def test_lists_and_vectors_are_read_as_arrow_has_them(tmp_path: Path) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0, 3.0, 4.0], pa.float32()), 2)
    pq.write_table(pa.table({"tags": [[1, 2], []], "image": vectors}), tmp_path / "a")

    (batch,) = ParquetReader().read(str(tmp_path / "a"), 0, ["tags", "image"], 0)

    assert batch.to_pydict() == {"tags": [[1, 2], []], "image": [[1.0, 2.0], [3.0, 4.0]]}


def test_nulls_of_a_column_are_not_those_of_a_struct_with_a_member_of_that_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"price": [1.0, 2.0], "bid": [{"price": None}, {"price": 1.0}]}), tmp_path / "a")

    assert ParquetReader().nulls(str(tmp_path / "a")) == {"price": 0, "bid.price": 1}


def test_views_are_read_as_what_arrow_can_work_with(tmp_path: Path) -> None:
    views = {
        "text": pa.array(["a", None, "b"], pa.string_view()),
        "bytes": pa.array([b"\xff", None, b"b"], pa.binary_view()),
        "list": pa.array([["a"], None, ["b", None]], pa.list_(pa.string_view())),
        "large": pa.array([["a"], None, []], pa.large_list(pa.string_view())),
        "pair": pa.array([["a", "b"], None, ["c", "d"]], pa.list_(pa.string_view(), 2)),
    }
    pq.write_table(pa.table(views), tmp_path / "a")
    reader = ParquetReader()

    (batch,) = reader.read(str(tmp_path / "a"), 0, list(views), 1)

    assert batch.schema.equals(reader.schema(str(tmp_path / "a")))
    assert "view" not in str(batch.schema)
    assert batch.to_pydict() == pa.table(views).slice(1).to_pydict()


# --- CSV ---


def read_csv(reader: CsvReader, path: Path, *columns: str, start: int = 0) -> dict[str, list[object]]:
    batches = list(reader.read(str(path), 0, columns, start))
    return {name: [value for batch in batches for value in batch.column(name).to_pylist()] for name in columns}


@pytest.mark.parametrize("store_schema", [True, False], ids=["with Arrow's schema", "without"])
def test_extension_types_are_read_as_what_they_are_stored_as(tmp_path: Path, store_schema: bool) -> None:
    ids = pa.array([bytes([n] * 16) for n in range(3)], pa.uuid())
    tensors = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), [2]), pa.array([[1, 2]] * 3, pa.list_(pa.float32(), 2))
    )
    written = {"u": ids, "j": pa.array(['{"a": 1}'] * 3, pa.json_()), "t": tensors}
    pq.write_table(pa.table(written), tmp_path / "a.parquet", store_schema=store_schema)
    reader, path = ParquetReader(), str(tmp_path / "a.parquet")

    said = reader.schema(path)
    (batch,) = reader.read(path, 0, list(written), 0)

    assert batch.schema.remove_metadata().types == said.types
    assert not any(isinstance(kind, pa.BaseExtensionType) for kind in said.types)
    assert batch.column("u").to_pylist() == [bytes([n] * 16) for n in range(3)]
    assert batch.column("t").to_pylist() == [[1, 2]] * 3


def test_a_headerless_tsv_is_csv_with_two_options(tmp_path: Path) -> None:
    path = tmp_path / "day_0.tsv"
    path.write_text("1\t5\tab,c\n0\t\t68fd1e64\n")
    reader = CsvReader(delimiter="\t", names=["label", "I1", "C1"])

    assert reader.units(str(path)) == (2,)
    assert read_csv(reader, path, "C1", "I1") == {"C1": ["ab,c", "68fd1e64"], "I1": [5, None]}
    assert read_csv(reader, path, "label", start=1) == {"label": [0]}


def test_stated_types_win_over_what_the_file_suggests(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("zip,n\n007,1\n010,2\n")

    assert read_csv(CsvReader(types={"zip": "string"}), path, "zip", "n") == {
        "zip": ["007", "010"],
        "n": [1, 2],
    }


def test_a_row_means_the_same_wherever_reading_begins(tmp_path: Path) -> None:
    """Read from its second row, the column looks like whole numbers; it was a column of texts from the first."""
    path = tmp_path / "a.csv"
    path.write_text("code\nx1\n7\n")

    assert read_csv(CsvReader(), path, "code", start=1) == {"code": ["7"]}


def test_blank_lines_are_no_rows_wherever_reading_begins(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n\n3,4\n\n5,6\n")

    assert CsvReader().units(str(path)) == (3,)
    assert [read_csv(CsvReader(), path, "a", start=row)["a"] for row in range(4)] == [[1, 3, 5], [3, 5], [5], []]


def test_a_line_break_in_quotes_is_no_end_of_a_row_wherever_a_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + "".join(f'{n},"two\nlines {n}"\n' for n in range(100_000)))

    reader = CsvReader(newlines_in_values=True)
    assert reader.units(str(path)) == (100_000,)
    assert reader.rows(str(path)) is None
    assert read_csv(reader, path, "a", "b", start=99_999) == {"a": [99_999], "b": ["two\nlines 99999"]}


def test_a_column_that_is_there_twice_is_in_the_schema_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b,a\n1,2,3\n")

    assert CsvReader().units(str(path)) == (1,)
    assert CsvReader().schema(str(path)).names == ["a", "b", "a"]


def test_a_value_unlike_the_first_ones_asks_for_a_type(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a\n" + "1\n" * 600_000 + "1.5\n")

    with pytest.raises(BadInput, match=r"invalid value '1.5'(.|\n)*next: say the column's type"):
        read_csv(CsvReader(), path, "a")


def test_nulls_are_what_the_options_say(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n\\N,x\n3,\\N\n")

    assert read_csv(CsvReader(nulls=["\\N"]), path, "a", "b") == {"a": [None, 3], "b": ["x", None]}


def test_a_compressed_csv_is_read_like_a_plain_one(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"a\n1\n2\n"))

    assert CsvReader().units(str(path)) == (2,)
    assert read_csv(CsvReader(), path, "a", start=1) == {"a": [2]}


def test_a_csv_file_of_a_header_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n")

    assert CsvReader().units(str(path)) == (0,)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "Empty CSV file"),
        ("a,b\n1,2\n3\n", "Row #3: Expected 2 columns, got 1"),
    ],
)
def test_a_broken_csv_file_is_told(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)

    with pytest.raises(BadInput, match=told) as caught:
        CsvReader().units(str(path))
    assert caught.value.file == str(path)


def test_a_value_that_is_not_of_its_columns_type_is_told_and_other_columns_stay_readable(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n3,many\n")
    reader = CsvReader(types={"b": "int64"})

    assert reader.units(str(path)) == (2,)
    assert read_csv(reader, path, "a") == {"a": [1, 3]}
    with pytest.raises(BadInput, match="invalid value 'many'"):
        read_csv(reader, path, "b")


STRAY = 'y,text\n1,a\n0,"smart tv\n1,b\n0,55"\n1,c\n'
"""Five rows; the two quotes stand for inches and make one value of three lines."""


def test_a_quote_is_a_letter_in_tsv(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(STRAY.replace(",", "\t"))
    reader = CsvReader(delimiter="\t")

    assert reader.units(str(path)) == (5,)
    assert read_csv(reader, path, "text")["text"] == ["a", '"smart tv', "b", '55"', "c"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("names", [None, ["y", "text"]])
def test_a_quote_that_swallows_lines_is_found_by_counting_them(tmp_path: Path, end: str, names: list[str] | None) -> None:
    path = tmp_path / "a.csv"
    text = STRAY if names is None else STRAY.partition("\n")[2]
    path.write_bytes(text.replace("\n", end).encode())

    with pytest.raises(BadInput, match=r"5 lines that are not empty, 3 rows(.|\n)*next: set `quote: null`") as caught:
        CsvReader(names=names).units(str(path))
    assert caught.value.file == str(path)
    assert CsvReader(names=names, quote=None).units(str(path)) == (5,)
    assert CsvReader(names=names).rows(str(path)) == 5


def test_lines_are_counted_whatever_the_blocks_are(tmp_path: Path) -> None:
    """The end of a line, and its CR and its LF, lie on both sides of a block's end."""
    for first in range(2**20 - 4, 2**20 + 2):
        path = tmp_path / "a.csv.gz"
        path.write_bytes(gzip.compress(b"\xef\xbb\xbfa\r\n" + b"x" * (first - 6) + b"\r\n\r\n1\r\n2", 1))
        assert CsvReader().rows(str(path)) == 3
        assert CsvReader().units(str(path)) == (3,)


@pytest.mark.parametrize(("most_bytes", "kept"), [(1 << 20, 40), (0, 32)])
def test_footers_of_many_small_files_are_kept_and_of_large_ones_a_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_bytes: int, kept: int
) -> None:
    monkeypatch.setattr(readers, "FOOTERS_BYTES", most_bytes)
    for number in range(40):
        pq.write_table(pa.table({"id": [number]}), tmp_path / f"{number:02d}")
    files = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(tmp_path.iterdir())]
    footers = readers._Footers()
    first = [footers.of(file)[0] for file in files]

    assert sum(footers.of(file)[0] is own for file, own in zip(files[::-1], first[::-1], strict=True)) == kept


def test_the_footer_counts_the_rows_of_a_parquet_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": range(7)}), tmp_path / "a.parquet", row_group_size=3)

    assert ParquetReader().rows(str(tmp_path / "a.parquet")) == 7


@pytest.mark.parametrize("quote", ["", "''", "no"])
def test_a_quote_is_one_character(quote: str) -> None:
    with pytest.raises(GenctrError, match="expected: one character, auto, or null"):
        CsvReader(quote=quote)


def test_times_as_int96_are_read_beyond_2262(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    never = datetime(9999, 12, 31)
    pq.write_table(pa.table({"t": [never], "l": [[never]]}), path, use_deprecated_int96_timestamps=True)
    reader = ParquetReader()

    (batch,) = reader.read(path, 0, ["t", "l"], 0)

    assert batch.schema == reader.schema(path)
    assert batch.to_pylist() == [{"t": never, "l": [never]}]


def test_digits_with_leading_zeros_are_strings(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("code,count\n123456,7\n00123456,0\n")

    assert read_csv(CsvReader(), path, "code", "count") == {"code": ["123456", "00123456"], "count": [7, 0]}


@pytest.mark.parametrize("value", ["12345678", "00123456", "5e746384", ""])
def test_what_were_strings_when_a_run_began_are_strings_in_every_file(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"code,user\n{value},1\n")

    reader = CsvReader().with_strings({"code", "not in this file"})

    assert read_csv(reader, path, "code", "user") == {"code": [value or None], "user": [1]}


def test_an_unknown_type_is_told() -> None:
    with pytest.raises(GenctrError, match=r"reader option types\.zip: no type 'text'\n  expected: an Arrow type"):
        CsvReader(types={"zip": "text"})


def test_a_type_for_a_column_that_is_not_there_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("zip,n\n007,1\n")

    with pytest.raises(BadInput, match=r"no such column(.|\n)*did you mean 'zip'"):
        CsvReader(types={"zpi": "string"}).schema(str(path))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["18446744073709551615", "18446744073709551614", "7"], pa.uint64()),
        (["36893488147419103232", "36893488147419103233", ""], pa.string()),
        (["18446744073709551615", "1.5", "7"], pa.float64()),
    ],
)
def test_ids_beyond_64_bits_with_a_sign_stay_distinct(values: list[str], expected: pa.DataType, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("click,id\n" + "".join(f"1,{value}\n" for value in values))
    reader = CsvReader()

    (batch,) = reader.read(f"{tmp_path}/a.csv", 0, ["id"], 0)

    assert reader.schema(f"{tmp_path}/a.csv").field("id").type == expected
    assert len(batch.column("id").unique()) == 3
    if expected == pa.uint64():
        assert batch.column("id").to_pylist() == [2**64 - 1, 2**64 - 2, 7]


@pytest.mark.parametrize("format_name", READERS)
def test_strings_with_a_separator_are_read_as_lists(format_name: str, tmp_path: Path) -> None:
    table = pa.table({"click": [1, 0, 1, 0], "genres": ["drama|crime", "crime", None, ""]})
    WRITERS[format_name](tmp_path / "a", table)
    reader = READERS[format_name](lists={"genres": "|"})  # type: ignore[call-arg]

    (batch,) = reader.read(f"{tmp_path}/a", 0, ["genres"], 0)
    (late,) = reader.read(f"{tmp_path}/a", 0, ["genres"], 1)

    assert reader.schema(f"{tmp_path}/a").field("genres").type == batch.schema.field("genres").type == pa.list_(pa.string())
    assert batch.column("genres").to_pylist() == [["drama", "crime"], ["crime"], None, None]
    assert late.column("genres").to_pylist() == [["crime"], None, None]
    with pytest.raises(BadInput, match=r"lists: no such column"):
        READERS[format_name](lists={"genre": "|"}).schema(f"{tmp_path}/a")  # type: ignore[call-arg]


def test_elements_of_a_list_in_csv_have_the_stated_type(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("click,items\n1,7;8\n0,9\n")
    reader = CsvReader(lists={"items": ";"}, types={"items": "int64"})

    (batch,) = reader.read(f"{tmp_path}/a.csv", 0, ["items"], 0)

    assert batch.column("items").to_pylist() == [[7, 8], [9]]
    assert reader.schema(f"{tmp_path}/a.csv").field("items").type == pa.list_(pa.int64())


@pytest.mark.parametrize("format_name", READERS)
def test_folders_above_a_file_are_columns(format_name: str, tmp_path: Path) -> None:
    file = tmp_path / "day=2026-11-20" / "hour=07" / "city=New%20York" / "part"
    file.parent.mkdir(parents=True)
    WRITERS[format_name](file, pa.table({"click": [1, 0, 1]}))
    reader = READERS[format_name](partitions=["hour", "city"])  # type: ignore[call-arg]

    (both,) = reader.read(str(file), 0, ["hour", "click", "city"], 1)
    (alone,) = reader.read(str(file), 0, ["hour"], 0)

    assert reader.schema(str(file)).names == ["click", "hour", "city"]
    assert reader.schema(str(file)).field("hour").type == pa.string()
    assert both.select(["click", "hour", "city"]).to_pydict() == {
        "click": [0, 1], "hour": ["07"] * 2, "city": ["New York"] * 2
    }  # fmt: skip
    assert alone.column("hour").to_pylist() == ["07"] * 3
    with pytest.raises(BadInput, match=r"no such folder above the file\n.*\n  expected: a folder such as minute=…"):
        READERS[format_name](partitions=["minute"]).schema(str(file))  # type: ignore[call-arg]
    other = tmp_path / "click=1" / "part"
    other.parent.mkdir()
    file.rename(other)
    with pytest.raises(BadInput, match="the column is in the file, too"):
        READERS[format_name](partitions=["click"]).schema(str(other))  # type: ignore[call-arg]


def test_the_folder_of_rows_without_a_value_is_null(tmp_path: Path) -> None:
    folder = tmp_path / "hour=__HIVE_DEFAULT_PARTITION__"
    folder.mkdir()
    write_parquet(folder / "part", pa.table({"click": [1]}))

    (batch,) = ParquetReader(partitions=["hour"]).read(f"{folder}/part", 0, ["hour", "click"], 0)

    assert batch.column("hour").to_pylist() == [None]
