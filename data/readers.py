"""Readers: a file's rows as Arrow record batches, from any row of any of its units.

A reader of your own log is a class with the three methods of `Reader`, named in the entry point group `genctr.readers`.
"""

from collections import OrderedDict
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from copy import copy
from threading import Lock
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.fs
import pyarrow.parquet

from data.arrays import workable
from data.errors import BadInput, GenctrError
from data.paths import filesystem
from data.reader_columns import check_lists, in_file, partitioned, split_lists, values_in_path, with_values
from data.yaml_document import nearest

BATCH_ROWS = 65_536
"""[rows] decoded in one go, at most: a batch of one column stays in the processor's cache while it is permuted."""

BUFFER_BYTES = 65_536
"""[bytes] read ahead in every column chunk, so that a row group is never held whole."""

FOOTERS, FOOTERS_BYTES = 32, 1 << 23
"""[files] whose parsed footers are kept, of whatever size, and [bytes] of the footers up to which more are: parsing one of a
hundred row groups takes a tenth of reading a row group, and a day of thousands of small files is read several times. Parsed,
small footers take some twelve times their bytes."""

INT96 = "us"
"""The unit of times that older Spark and Hive write as int96. Arrow's own choice is nanoseconds, and wraps outside of 1677 to
2262."""

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Reader(Protocol):
    """What a file format must offer. Units are what can be read without reading what is before it: a Parquet row group.

    Every method raises `BadInput` when the file's content is wrong and `GenctrError` when its store does not answer.
    """

    def units(self, path: str) -> tuple[int, ...]:
        """The rows of every unit of a file, in the file's order."""

    def schema(self, path: str) -> pa.Schema:
        """The columns of a file and their types."""

    def read(self, path: str, unit: int, columns: Sequence[str], start: int) -> Generator[pa.RecordBatch, None, None]:
        """Rows `start`, `start + 1`, … of a unit, at least with these columns. The same rows in the same order every time.

        Closed as soon as no more is needed: a generator's `with` blocks then end.
        """


@runtime_checkable
class CountsNulls(Protocol):
    """A reader whose files say how many nulls they have."""

    def nulls(self, path: str) -> dict[str, int]:
        """Nulls by column, of the columns whose number is known."""


@runtime_checkable
class CountsRows(Protocol):
    """A reader that can count a file's rows without what parses them, so that rows that the parser loses are found."""

    def rows(self, path: str) -> int | None:
        """[rows] of the file; None if they cannot be counted without parsing it."""


@runtime_checkable
class GuessesTypes(Protocol):
    """A reader whose files do not say what type a column has."""

    def with_strings(self, columns: Collection[str]) -> Reader:
        """The same reader, but these columns are strings whatever a file suggests: digits alone may be one day's ids."""


def read_columns(
    reader: Reader, path: str, unit: int, columns: Sequence[str], start: int
) -> Generator[pa.RecordBatch, None, None]:
    """What a reader reads, with these columns alone and in this order: a file may change after it was opened.

    Raises:
        BadInput: a column is missing or is there twice.
    """
    with closing(reader.read(path, unit, columns, start)) as batches:
        for batch in batches:
            check_columns(batch.schema, columns, path, unit)
            yield batch.select(list(columns))


def check_columns(schema: pa.Schema, columns: Iterable[str], path: str, unit: int | None = None) -> None:
    """Refuse a file, or a unit of it, that has not each of these columns once.

    Raises:
        BadInput: one is missing or is there twice.
    """
    for column in columns:
        if schema.get_field_index(column) < 0:
            raise BadInput("a column is missing or is there twice", file=path, row_group=unit, column=column,
                           hint=nearest(column, schema.names))  # fmt: skip


class ParquetReader:
    """Parquet: a unit is a row group. Pages are decoded as they are needed; checksums are verified where the file has them.

    Files are read, not mapped: it costs nothing here, a file cut short is an error and not a SIGBUS, and memory does not grow.
    A row group in an object store is fetched in a few large requests and held compressed.

    Args:
        lists: separator by column, for strings that are lists of strings, such as {"genres": "|"} for "drama|crime".
        partitions: columns that are in the file's path, such as hour for `day=2026-11-20/hour=07/part.parquet`, as strings.
    """

    def __init__(self, *, lists: Mapping[str, str] = NOTHING, partitions: Sequence[str] = ()) -> None:
        self._footers = _Footers()
        self._lists, self._partitions = dict(lists), tuple(partitions)

    def units(self, path: str) -> tuple[int, ...]:
        """The rows of every row group."""
        with _told(path):
            footer = self._footer_of(path)[0]
            return tuple(footer.row_group(unit).num_rows for unit in range(footer.num_row_groups))

    def rows(self, path: str) -> int | None:
        """What the footer says of the whole file; `units` has what it says of each row group."""
        with _told(path):
            return int(self._footer_of(path)[0].num_rows)

    def nulls(self, path: str) -> dict[str, int]:
        """Nulls by column, of the columns whose writer has counted them in every row group. Elements of lists do not count."""
        with _told(path):
            footer = self._footer_of(path)[0]
        known: dict[str, int] = {}
        for column in range(footer.num_columns):
            found = [footer.row_group(unit).column(column).statistics for unit in range(footer.num_row_groups)]
            leaf = footer.schema.column(column)
            # The path, for a member of a struct may be called as another column is.
            name, flat = leaf.path, leaf.max_repetition_level == 0
            if flat and all(own is not None and own.has_null_count for own in found):
                known[name] = sum(own.null_count for own in found)
        return known

    def schema(self, path: str) -> pa.Schema:
        """The columns as Arrow types, views as what they are read as."""
        with _told(path):
            schema = _workable(self._footer_of(path)[1])
        check_lists(self._lists, schema, path)
        split = pa.schema([own.with_type(pa.list_(pa.string())) if own.name in self._lists else own for own in schema])
        return partitioned(split, self._partitions, path)

    def read(self, path: str, unit: int, columns: Sequence[str], start: int) -> Generator[pa.RecordBatch, None, None]:
        """The row group from row `start`; what is before it is decoded and dropped."""
        values = values_in_path(path, set(self._partitions) & set(columns))
        with _told(path, unit):
            files, inner = filesystem(path)
            local = isinstance(files, pyarrow.fs.LocalFileSystem)
            with (
                files.open_input_file(inner) as source,
                pyarrow.parquet.ParquetFile(
                    source,
                    metadata=self._footer_of(path)[0],
                    coerce_int96_timestamp_unit=INT96,
                    buffer_size=BUFFER_BYTES if local else 0,
                    pre_buffer=not local,
                    page_checksum_verification=True,
                ) as parquet,
            ):
                # Of no column Arrow does not say how many rows there are.
                wanted = in_file(values, columns) or parquet.schema_arrow.names[:1]
                whole = parquet.iter_batches(BATCH_ROWS, row_groups=[unit], columns=wanted, use_threads=False)
                for batch in _from_row(start, whole):
                    yield with_values(split_lists(batch.cast(_workable(batch.schema)), self._lists), values)

    def _footer_of(self, path: str) -> tuple[Any, pa.Schema]:
        # Size and time are part of the key, so a file that was replaced is never read by its old footer.
        files, inner = filesystem(path)
        info = files.get_file_info(inner)
        return self._footers.of((path, info.size, info.mtime_ns))


class CsvReader:
    """CSV, TSV and their kin, plain or compressed: a file is one unit, read as a stream.

    Args:
        delimiter: one character; a tab for TSV.
        names: the columns of a file without a header line. None: the first line names them.
        types: Arrow type by column, such as {"user_id": "string"}. Other columns get the type that the file's first block
            suggests, always the first one, so a row means the same wherever reading begins. Digits after a leading zero are a
            string: 007 and 7 are two ids. Integers beyond 64 bits with a sign are uint64, or else strings: as floats, many ids
            would be one.
        lists: separator by column, for values that are lists, such as {"genres": "|"} for drama|crime. Elements are strings
            unless `types` has another type for the column.
        partitions: columns that are in the file's path, as `ParquetReader` has them.
        nulls: what stands for a missing value.
        quote: the character around values that hold a delimiter or a line break; None: no value is quoted. auto: a double quote
            in CSV, None where the delimiter is a tab, for a tab-separated log has inch signs more often than quoted values.
        newlines_in_values: a quoted value may hold line breaks. The rows are then what the parser says they are: without line
            breaks in values they are counted a second time, as lines.
    """

    def __init__(
        self,
        *,
        delimiter: str = ",",
        names: Sequence[str] | None = None,
        types: Mapping[str, str] = NOTHING,
        lists: Mapping[str, str] = NOTHING,
        partitions: Sequence[str] = (),
        nulls: Sequence[str] = ("",),
        quote: str | None = "auto",
        newlines_in_values: bool = False,
    ) -> None:
        if quote not in (None, "auto") and len(quote) != 1:
            raise GenctrError(
                f"reader option quote: {quote!r}\n  expected: one character, auto, or null where nothing is quoted"
            )
        self._quote = {"auto": None if delimiter == "\t" else '"'}.get(quote or "", quote)
        self._newlines_in_values = newlines_in_values
        self._delimiter = delimiter
        self._names = names
        self._types = {column: _type(column, name) for column, name in types.items()}
        self._lists, self._partitions = dict(lists), tuple(partitions)
        self._nulls = list(nulls)
        self._strings: frozenset[str] = frozenset()

    def with_strings(self, columns: Collection[str]) -> "CsvReader":
        """The same reader, but these columns are strings, unless `types` says otherwise."""
        other = copy(self)
        other._strings = frozenset(columns)
        return other

    def units(self, path: str) -> tuple[int, ...]:
        """One unit; its rows are counted by reading the file once."""
        first = self.schema(path).names[:1]
        with _told(path), self._open(path, types=dict.fromkeys(first, pa.string()), columns=first) as batches:
            parsed = sum(batch.num_rows for batch in batches)
        if (lines := self.rows(path)) not in (None, parsed):
            raise BadInput(
                f"{lines:,} lines that are not empty, {parsed:,} rows: a quote that is not closed on its line joins lines",
                file=path,
                expected="one row a line, after the header line" if self._names is None else "one row a line",
                hint="set `quote: null` in data.reader_options if nothing is quoted, or `newlines_in_values: true` if quoted "
                "values hold line breaks",
            )
        return (parsed,)

    def rows(self, path: str) -> int | None:
        """Its lines that are not empty, without the header; None if values hold line breaks."""
        if self._newlines_in_values:
            return None
        files, inner = filesystem(path)
        with _told(path), files.open_input_stream(inner) as source:
            lines = _count_lines(source)
        return lines - (self._names is None)

    def schema(self, path: str) -> pa.Schema:
        """The stated types, and for the rest what the first block suggests."""
        with _told(path), self._open(path) as batches:
            schema = batches.schema
        for column in self._types:
            if column not in schema.names:
                raise BadInput("reader option types: no such column", file=path, column=column,
                               hint=nearest(column, schema.names))  # fmt: skip
        check_lists(self._lists, schema, path)
        types = {column.name: column.type for column in schema} | self._ids_of_digits(path, schema)
        types |= dict.fromkeys(self._strings & types.keys(), pa.string()) | self._types
        types |= {column: pa.list_(self._types.get(column, pa.string())) for column in self._lists}
        return partitioned(pa.schema([(name, types[name]) for name in schema.names]), self._partitions, path)

    def _ids_of_digits(self, path: str, schema: pa.Schema) -> dict[str, pa.DataType]:
        """The types of columns of digits that would lose some as the numbers that Arrow suggests, by the first block: those
        with a leading zero, and integers beyond 64 bits with a sign, which it takes for floats."""
        stated = {*self._types, *self._lists, *self._strings}
        digits = [own.name for own in schema if own.type in (pa.int64(), pa.float64()) and own.name not in stated]
        digits = [name for name in digits if schema.names.count(name) == 1]
        if not digits:
            return {}
        with _told(path), self._open(path, types=dict.fromkeys(digits, pa.string()), columns=digits) as batches:
            first = next(iter(batches), None)
        found = {} if first is None else dict(zip(digits, first.columns, strict=True))
        types = {name: _type_of_digits(own, schema.field(name).type) for name, own in found.items()}
        return {name: kind for name, kind in types.items() if kind is not None}

    def read(self, path: str, unit: int, columns: Sequence[str], start: int) -> Generator[pa.RecordBatch, None, None]:
        """The file from row `start`; what is before it is parsed and dropped."""
        assert unit == 0, "a CSV file is one unit"
        schema = self.schema(path)
        check_columns(schema, columns, path)
        values = values_in_path(path, set(self._partitions) & set(columns))
        wanted = in_file(values, columns) or schema.names[:1]  # Arrow reads all where none is named
        types = {column: pa.string() if column in self._lists else schema.field(column).type for column in wanted}
        with _told(path), self._open(path, types=types, columns=wanted) as batches:
            # Arrow's own skip_rows_after_names counts blank lines, which are not rows.
            for batch in _from_row(start, batches):
                yield with_values(split_lists(batch, self._lists, self._types), values)

    @contextmanager
    def _open(
        self, path: str, *, types: Mapping[str, pa.DataType] = NOTHING, columns: Sequence[str] = ()
    ) -> Iterator[pyarrow.csv.CSVStreamingReader]:
        files, inner = filesystem(path)
        with pyarrow.csv.open_csv(
            # Never closed here: Arrow reads ahead in a thread of its own. Were the file closed under that thread, its
            # descriptor could be the next file's by then, and the thread would take bytes from that file's reader, silently.
            # Arrow lets go of the stream when the reader and the thread are done.
            files.open_input_stream(inner),
            # One thread: Arrow then says in which row a mistake is.
            read_options=pyarrow.csv.ReadOptions(use_threads=False, column_names=self._names),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=self._delimiter,
                quote_char=self._quote or False,
                # Without a quote there is none; with one, also where none is expected: a line that a quote joins to others
                # is then found by its number of lines, wherever a block ends.
                newlines_in_values=self._quote is not None,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types, include_columns=columns, null_values=self._nulls, strings_can_be_null=True
            ),
        ) as batches:
            yield batches


def _count_lines(source: Any) -> int:
    """Lines that are not empty, however they end: with LF, CR or both. Arrow skips empty ones too."""
    lines, ended = 0, True
    while piece := source.read(1 << 20):
        text = np.frombuffer(piece, dtype=np.uint8)
        ends = (text == ord("\n")) | (text == ord("\r"))
        lines += int(np.count_nonzero(~ends[1:] & ends[:-1])) + bool(ended and not ends[0])
        ended = bool(ends[-1])
    return lines


READERS: Mapping[str, type[Reader]] = MappingProxyType({"parquet": ParquetReader, "csv": CsvReader})
"""The file formats by name. An installed package adds its own through the entry point group `genctr.readers`."""


def _from_row(start: int, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if start < batch.num_rows:
            yield batch.slice(start)
        start = max(0, start - batch.num_rows)


def _type_of_digits(texts: pa.Array, suggested: pa.DataType) -> pa.DataType | None:
    """What a column of digits has to be instead of int64 or float64, so that no id becomes another; None: it may be that."""
    if suggested == pa.int64():
        return pa.string() if pc.any(pc.match_substring_regex(texts, r"^\s*[+-]?0\d")).as_py() else None
    if not pc.all(pc.match_substring_regex(texts, r"^\s*[+-]?\d+\s*$")).as_py():
        return None  # a fraction or an exponent is among them; or there is nothing
    try:
        pc.cast(pc.utf8_trim_whitespace(texts), pa.uint64())
    except pa.ArrowInvalid:
        return pa.string()
    return pa.uint64()


def _workable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([column.with_type(workable(column.type)) for column in schema])


class _Footers:
    """The footers of the files that were asked for last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int, int], tuple[Any, pa.Schema]] = OrderedDict()
        self._bytes, self._turn = 0, Lock()

    def of(self, version: tuple[str, int, int]) -> tuple[Any, pa.Schema]:
        """The footer of a version of a file (its path, size and time), and its columns."""
        with self._turn:
            if version in self._kept:
                self._kept.move_to_end(version)
                return self._kept[version]
        found = _parquet_footer(version[0])
        with self._turn:
            if version not in self._kept:  # else another thread was faster
                self._kept[version] = found
                self._bytes += found[0].serialized_size
            while len(self._kept) > FOOTERS and self._bytes > FOOTERS_BYTES:
                _, (footer, _) = self._kept.popitem(last=False)
                self._bytes -= footer.serialized_size
        return found


def _parquet_footer(path: str) -> tuple[Any, pa.Schema]:
    """The footer of a file and its columns."""
    files, inner = filesystem(path)
    with (
        files.open_input_file(inner) as source,
        pyarrow.parquet.ParquetFile(source, coerce_int96_timestamp_unit=INT96) as parquet,
    ):
        return parquet.metadata, parquet.schema_arrow


def _type(column: str, name: str) -> pa.DataType:
    try:
        return pa.type_for_alias(name)
    except ValueError as error:
        raise GenctrError(
            f"reader option types.{column}: no type {name!r}\n  expected: an Arrow type such as int64, double, string, bool"
        ) from error


@contextmanager
def _told(path: str, unit: int | None = None) -> Iterator[None]:
    """Turn Arrow's errors into ours: `BadInput` if the bytes can be had but mean nothing, `GenctrError` if they cannot."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        _fetch(path)
        typed = "say the column's type in data.reader_options, as types: {price: double}; its first rows suggest another one"
        again = "write the file again, or set data.bad_files to quarantine to train without it"
        quoted = f"if nothing is quoted in this log, set `quote: null` in data.reader_options; otherwise {again}"
        said = str(error)
        hint = typed if "CSV conversion error" in said else quoted if "CSV parse error" in said else again
        raise BadInput(f"unreadable data: {error}", file=path, row_group=unit, hint=hint) from error


def _fetch(path: str) -> None:
    """Read a file as bare bytes, to learn whether its store or its content is at fault."""
    try:
        files, inner = filesystem(path)
        with files.open_input_stream(inner, compression=None) as source:
            while source.read(1 << 20):
                pass
    except (pa.ArrowException, OSError) as error:
        raise GenctrError(f"cannot read {path}: {error}\n  next: check that the file is still there and may be read") from error
