"""The files of a public set as they were published: read as a stream, every mistake reported with its line."""

import gzip
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from data.errors import BadInput, GenctrError
from data.paths import cannot_open
from data.yaml_document import nearest

FILE_ROWS = 262_144
"""[rows] of one written file, at most: about what an import holds in memory."""


class RawFile:
    """One published text file, plain or gzipped.

    Args:
        path: the file. `rows` counts what was read of it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0

    def first_line(self) -> str:
        """The first line without its end."""
        with self.bytes() as file:
            return str(file.readline(1 << 20).decode("utf-8-sig", "replace").rstrip("\r\n"))

    def bytes(self) -> Any:
        """The unpacked bytes, as an open file."""
        return gzip.open(self.path) if self.path.suffix == ".gz" else self.path.open("rb")

    def count_lines(self) -> int:
        """Lines of the file; an end of line after the last one is optional."""
        lines, last = 0, b"\n"
        with self.bytes() as file:
            while piece := file.read(1 << 20):
                lines, last = lines + piece.count(b"\n"), piece[-1:]
        return lines + (last != b"\n")

    def batches(
        self, types: Mapping[str, pa.DataType], *, delimiter: str, form: str, header: bool = False, quotes: bool = False
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The rows with the line number of each batch's first.

        Args:
            types: the columns to keep. Without a header line these are all columns, in the file's order.
            delimiter: one character.
            form: the expected format in words, for errors.
            header: the first line names the columns.
            quotes: a value may be quoted.

        Raises:
            BadInput: a line is not what `form` says.
        """
        names = self._header(types, delimiter, form) if header else list(types)
        line = 1 + header
        self.rows = 0
        try:
            with pyarrow.csv.open_csv(
                str(self.path),
                # One thread, and empty lines are rows too: Arrow then counts rows as an editor counts lines.
                read_options=pyarrow.csv.ReadOptions(use_threads=False, column_names=names, skip_rows=int(header)),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=delimiter, quote_char='"' if quotes else False, ignore_empty_lines=False
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=types, include_columns=list(types), null_values=[""], strings_can_be_null=True
                ),
            ) as reader:
                for batch in reader:
                    yield line, batch
                    line, self.rows = line + batch.num_rows, self.rows + batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise self._mistake(str(error), list(types), form) from error

    def refuse(self, line: int, what: str, form: str) -> BadInput:
        """The error for a line that is not as expected."""
        return BadInput(f"line {line}: {what}", file=str(self.path), expected=form, hint="get the original file again")

    def insist(self, right: Any, line: int, what: str, form: str) -> None:
        """Refuse the first row that is not right.

        Args:
            right: one boolean a row; null counts as false.
            line: of the first row.
        """
        wrong = np.flatnonzero(~np.asarray(pc.fill_null(pa.array(right) if isinstance(right, np.ndarray) else right, False)))
        if len(wrong):
            raise self.refuse(line + int(wrong[0]), what, form)

    def record(self) -> dict[str, str | int]:
        """Name, rows, bytes and SHA-256: where imported rows come from."""
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"file": self.path.name, "rows": self.rows, "bytes": self.path.stat().st_size, "sha256": digest}

    def _header(self, types: Mapping[str, pa.DataType], delimiter: str, form: str) -> list[str]:
        try:
            names = [name.strip('"') for name in self.first_line().split(delimiter)]
        except (OSError, EOFError) as error:
            raise self._mistake(str(error), list(types), form) from error
        for name in types:
            if name not in names:
                raise self.refuse(1, f"no column {name!r} in the header; {nearest(name, names)}", form)
        return names

    def _mistake(self, text: str, columns: Sequence[str], form: str) -> BadInput:
        """Arrow's words with our line numbers and column names."""
        found = re.search(r"(?:In CSV column #(\d+): )?Row #(\d+): (.*)", text, re.DOTALL)
        if found is None:
            what = "the file is empty" if "Empty CSV" in text else text
            return BadInput(what, file=str(self.path), expected=form, hint="get the original file again")
        column, row, what = found.groups()
        where = f"column {columns[int(column)]!r}: " if column else ""
        return self.refuse(int(row), where + what[:300], form)


def find(source: str, patterns: Sequence[str], form: str) -> list[Path]:
    """The files of `source`, a file or a folder searched with its subfolders, whose names match one of `patterns`.

    Raises:
        GenctrError: there are none, or one cannot be opened.
    """
    root = Path(source)
    if root.is_file():
        return [root]
    found = sorted(path for pattern in patterns for path in root.rglob(pattern) if not path.is_dir())
    if closed := [path for path in found if not path.is_file()]:
        raise cannot_open(str(closed[0]))
    if not found:
        what = "has no such files" if root.is_dir() else "is not there"
        raise GenctrError(f"{source} {what}\n  expected: {form}, named {' or '.join(patterns)}")
    return found


class Tap:
    """A stream of tables, poured out in portions of any number of rows."""

    def __init__(self, tables: Iterable[pa.Table | pa.RecordBatch]) -> None:
        self._tables = iter(tables)
        self._left: list[pa.Table] = []

    def pour(self, rows: int | None = None) -> Iterator[pa.Table]:
        """The next `rows` rows, or all that are left, as tables of at most `FILE_ROWS`."""
        while rows is None or rows > 0:
            table = self._take(FILE_ROWS if rows is None else min(FILE_ROWS, rows))
            if table is None:
                return
            yield table
            rows = rows if rows is None else rows - table.num_rows

    def _take(self, rows: int) -> pa.Table | None:
        held = sum(table.num_rows for table in self._left)
        while held < rows and (more := next(self._tables, None)) is not None:
            table = more if isinstance(more, pa.Table) else pa.Table.from_batches([more])
            self._left.append(table)
            held += table.num_rows
        if not held:
            return None
        joined = pa.concat_tables(self._left)
        self._left = [joined.slice(rows)] if held > rows else []
        return joined.slice(0, rows)


class DayBuckets:
    """Rows in any order, dealt out to their days through one file a day on disk.

    Memory holds what is added at once, and later one day where that is sorted.

    Args:
        folder: an empty folder for the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, days: NDArray[np.int64], table: pa.Table) -> None:
        """Put every row into its day's bucket, behind those already there.

        Shape:
            days (rows,): days since 1970-01-01.
        """
        order = np.argsort(days, kind="stable")
        table, days = table.take(pa.array(order)), days[order]
        starts = np.flatnonzero(np.diff(days, prepend=days[:1] - 1))
        for start, end in zip(starts, [*starts[1:], len(days)], strict=True):
            # A whole small stream is appended each time: a thousand days need no thousand open files.
            path = self._folder / f"{days[start]:08d}.arrows"
            with path.open("ab") as file, pa.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table.slice(start, end - start).combine_chunks())

    @property
    def days(self) -> list[int]:
        """The days that have rows, in order."""
        return sorted(int(path.stem) for path in self._folder.glob("*.arrows"))

    def tables(self, day: int) -> Iterator[pa.Table]:
        """The rows of a day, as they were added, a piece at a time."""
        path = self._folder / f"{day:08d}.arrows"
        with path.open("rb") as file:
            size = path.stat().st_size
            while file.tell() < size:
                with pa.ipc.open_stream(file) as stream:
                    yield stream.read_all()

    def sorted(self, day: int, column: str) -> pa.Table:
        """The rows of a day by `column`; equal ones as they were added. Memory: the day."""
        table = pa.concat_tables(self.tables(day)).combine_chunks()
        return table.take(pc.sort_indices(table, sort_keys=[(column, "ascending")]))


def day_name(day: int) -> str:
    """Days since 1970-01-01 as YYYY-MM-DD."""
    return str(np.datetime64(day, "D"))


def days_of_dates(dates: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Numbers YYYYMMDD as days since 1970-01-01, and whether each is a date at all.

    Shape:
        (rows,) -> (rows,), (rows,)
    """
    years, months, days = dates // 10_000, dates // 100 % 100, dates % 100
    month = (np.clip(years, 1, 9999) - 1970) * 12 + months - 1
    found = month.astype("datetime64[M]").astype("datetime64[D]") + (days - 1)
    # The 31st of April becomes the 1st of May, whose month is another.
    real = (found.astype("datetime64[M]").astype(np.int64) == month) & (months >= 1) & (months <= 12)
    return found.astype(np.int64), real & (years >= 1) & (years <= 9999)
