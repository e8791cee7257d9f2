"""Readers: a file's rows as Arrow record batches, from any row of any of its units.

A reader of your own log is a class with the three methods of `Reader`, named in the entry point group `genctr.readers`.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.csv
import pyarrow.fs
import pyarrow.parquet

from data.arrays import workable
from data.document import nearest
from data.errors import BadInput, GenctrError
from data.paths import filesystem

BATCH_ROWS = 65_536
"""[rows] decoded in one go, at most: a batch of one column stays in the processor's cache while it is permuted."""

BUFFER_BYTES = 65_536
"""[bytes] read ahead in every column chunk, so that a row group is never held whole."""

FOOTERS = 32
"""[files] whose parsed footers are kept: parsing one of a hundred row groups takes a tenth of reading a row group."""

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


class ParquetReader:
    """Parquet: a unit is a row group. Pages are decoded as they are needed; checksums are verified where the file has them.

    Files are read, not mapped: it costs nothing here, a file cut short is an error and not a SIGBUS, and memory does not grow.
    A row group in an object store is fetched in a few large requests and held compressed.
    """

    def __init__(self) -> None:
        self._footer = lru_cache(maxsize=FOOTERS)(_parquet_footer)

    def units(self, path: str) -> tuple[int, ...]:
        """The rows of every row group."""
        with _told(path):
            footer = self._metadata(path)
            return tuple(footer.row_group(unit).num_rows for unit in range(footer.num_row_groups))

    def nulls(self, path: str) -> dict[str, int]:
        """Nulls by column, of the columns whose writer has counted them in every row group. Elements of lists do not count."""
        with _told(path):
            footer = self._metadata(path)
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
            return _workable(self._metadata(path).schema.to_arrow_schema())

    def read(self, path: str, unit: int, columns: Sequence[str], start: int) -> Generator[pa.RecordBatch, None, None]:
        """The row group from row `start`; what is before it is decoded and dropped."""
        with _told(path, unit):
            files, inner = filesystem(path)
            local = isinstance(files, pyarrow.fs.LocalFileSystem)
            with (
                files.open_input_file(inner) as source,
                pyarrow.parquet.ParquetFile(
                    source,
                    metadata=self._metadata(path),
                    buffer_size=BUFFER_BYTES if local else 0,
                    pre_buffer=not local,
                    page_checksum_verification=True,
                ) as parquet,
            ):
                whole = parquet.iter_batches(BATCH_ROWS, row_groups=[unit], columns=list(columns), use_threads=False)
                for batch in _from_row(start, whole):
                    yield batch.cast(_workable(batch.schema))

    def _metadata(self, path: str) -> Any:
        # Size and time are part of the key, so a file that was replaced is never read by its old footer.
        files, inner = filesystem(path)
        info = files.get_file_info(inner)
        return self._footer(path, info.size, info.mtime_ns)


class CsvReader:
    """CSV, TSV and their kin, plain or compressed: a file is one unit, read as a stream.

    Args:
        delimiter: one character; a tab for TSV.
        names: the columns of a file without a header line. None: the first line names them.
        types: Arrow type by column, such as {"user_id": "string"}. Other columns get the type that the file's first block
            suggests, always the first one, so a row means the same wherever reading begins.
        nulls: what stands for a missing value.
    """

    def __init__(
        self,
        *,
        delimiter: str = ",",
        names: Sequence[str] | None = None,
        types: Mapping[str, str] = NOTHING,
        nulls: Sequence[str] = ("",),
    ) -> None:
        self._delimiter = delimiter
        self._names = names
        self._types = {column: _type(column, name) for column, name in types.items()}
        self._nulls = list(nulls)

    def units(self, path: str) -> tuple[int, ...]:
        """One unit; its rows are counted by reading the file once."""
        first = self.schema(path).names[:1]
        with _told(path), self._open(path, types=dict.fromkeys(first, pa.string()), columns=first) as batches:
            return (sum(batch.num_rows for batch in batches),)

    def schema(self, path: str) -> pa.Schema:
        """The stated types, and for the rest what the first block suggests."""
        with _told(path), self._open(path) as batches:
            schema = batches.schema
        for column in self._types:
            if column not in schema.names:
                raise BadInput("reader option types: no such column", file=path, column=column,
                               hint=nearest(column, schema.names))  # fmt: skip
        return pa.schema([(column.name, self._types.get(column.name, column.type)) for column in schema])

    def read(self, path: str, unit: int, columns: Sequence[str], start: int) -> Generator[pa.RecordBatch, None, None]:
        """The file from row `start`; what is before it is parsed and dropped."""
        assert unit == 0, "a CSV file is one unit"
        schema = self.schema(path)
        types = {column: schema.field(column).type for column in columns}
        with _told(path), self._open(path, types=types, columns=list(columns)) as batches:
            # Arrow's own skip_rows_after_names counts blank lines, which are no rows.
            yield from _from_row(start, batches)

    @contextmanager
    def _open(
        self, path: str, *, types: Mapping[str, pa.DataType] = NOTHING, columns: Sequence[str] = ()
    ) -> Iterator[pyarrow.csv.CSVStreamingReader]:
        files, inner = filesystem(path)
        with (
            files.open_input_stream(inner) as source,
            pyarrow.csv.open_csv(
                source,
                # One thread: Arrow then says in which row a mistake is.
                read_options=pyarrow.csv.ReadOptions(use_threads=False, column_names=self._names),
                # A line break in a quoted value is none of the file's, wherever a block ends.
                parse_options=pyarrow.csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=types, include_columns=columns, null_values=self._nulls, strings_can_be_null=True
                ),
            ) as batches,
        ):
            yield batches


READERS: Mapping[str, type[Reader]] = MappingProxyType({"parquet": ParquetReader, "csv": CsvReader})
"""The file formats by name. An installed package adds its own through the entry point group `genctr.readers`."""


def _from_row(start: int, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if start < batch.num_rows:
            yield batch.slice(start)
        start = max(0, start - batch.num_rows)


def _workable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([column.with_type(workable(column.type)) for column in schema])


def _parquet_footer(path: str, size: int, mtime_ns: int) -> Any:
    """The footer of a file; size and time only tell one version of the file from the next."""
    files, inner = filesystem(path)
    with files.open_input_file(inner) as source, pyarrow.parquet.ParquetFile(source) as parquet:
        return parquet.metadata


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
        hint = typed if "CSV conversion error" in str(error) else again
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
