"""What is in a log: its days, its columns, how many values they have, and a schema to start from."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.fs

from data.days import SUCCESS
from data.errors import BadInput, GenctrError, shortened, visible
from data.inspection.facts import ColumnFacts
from data.inspection.reader_suggestion import suggest_reader
from data.inspection.schema_suggestion import Guess, guess_columns, schema_text
from data.inspection.tally import ColumnTally
from data.paths import below, cannot_open, filesystem, is_ignored, list_files
from data.readers import Reader

SAMPLE_ROWS = 2_000_000
ENDINGS = {".parquet": "parquet", ".csv": "csv", ".csv.gz": "csv", ".tsv": "tsv", ".tsv.gz": "tsv"}
"""File formats by the ends of names."""

PIECE_ROWS = 8192
"""[rows] read of one row group at least."""

DAYS_SHOWN = 40

UNCOUNTABLE = (pa.ArrowException, ValueError, TypeError, OverflowError, KeyError)
"""What Arrow and Python raise for values they cannot compare or show: half floats, years after 9999, unknown time zones, …"""


@dataclass(frozen=True)
class DayState:
    """One day of the log.

    Args:
        name: the folder's or file's name.
        rows: [rows] in the files that can be read.
        files: [files] of data.
        success: is the day marked as complete? None for a day that is one file.
    """

    name: str
    rows: int
    files: int
    success: bool | None


@dataclass(frozen=True)
class Report:
    """What was found.

    Args:
        path: what was inspected.
        layout: how the days lie below `path`, as run.yaml says it; "" for a single day or file.
        format: parquet, csv or tsv.
        reading: what run.yaml has to say in `data` so that the files are read as they were read here.
        days: all days.
        rows, rows_read: [rows] in all, and how many of them the columns' facts rest on.
        sample: how those were chosen.
        columns: facts by column, in the order of the log.
        problems: unreadable files, columns that cannot be counted, are not in every file or change their type.
    """

    path: str
    layout: str
    format: str
    reading: dict[str, Any]
    days: tuple[DayState, ...]
    rows: int
    rows_read: int
    sample: str
    columns: tuple[ColumnFacts, ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def guesses(self) -> dict[str, Guess]:
        """What every column may be."""
        return guess_columns(self.columns)

    def schema_yaml(self) -> str:
        """A schema to start from: valid, and every line says why it is there."""
        name = self.path.rstrip("/").rsplit("/", 1)[-1].partition(".")[0]
        return schema_text(name, self.columns, f"{self._size()}; {self.sample}", self._reading())

    def text(self) -> str:
        """For a terminal."""
        head = f"{visible(self.path)}: {self.format}, {self._size()}; {self.sample}"
        layout = [f"layout: {self.layout}"] if self.layout else []
        layout += [f"read with {self._reading()} in run.yaml"] if self.reading else []
        days = [
            [visible(day.name), f"{day.rows:,}", str(day.files), {True: "yes", False: "no", None: "-"}[day.success]]
            for day in self.days[:DAYS_SHOWN]
        ]
        hidden = [f"... and {len(self.days) - DAYS_SHOWN} more days"] if len(self.days) > DAYS_SHOWN else []
        guesses = self.guesses
        columns = [[*facts.cells(), guesses[facts.name].kind] for facts in self.columns]
        return "\n".join(
            [
                *(head, *layout, "", _aligned(["day", "rows", "files", SUCCESS], days), *hidden, ""),
                _aligned(["column", "type", "null", "distinct", "length", "from", "to", "examples", "guess"], columns),
                *([""] if self.problems else []),
                *(f"problem: {shortened(visible(problem))}" for problem in self.problems),
            ]
        )

    def _reading(self) -> str:
        return f"data: {json.dumps(self.reading, ensure_ascii=False)}" if self.reading else ""  # JSON is YAML too

    def _size(self) -> str:
        days = f"{len(self.days)} days" if len(self.days) > 1 else "1 day"
        return f"{days}, {self.rows:,} rows"

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        guesses = {name: asdict(guess) for name, guess in self.guesses.items()}
        return {
            "path": self.path,
            "layout": self.layout,
            "format": self.format,
            "reading": self.reading,
            "days": [asdict(day) for day in self.days],
            "rows": self.rows,
            "rows_read": self.rows_read,
            "sample": self.sample,
            "columns": [{**own.to_json(), "guess": guesses[own.name]} for own in self.columns],
            "problems": list(self.problems),
        }


def inspect(path: str, *, sample_rows: int = SAMPLE_ROWS) -> Report:
    """Look into a log: a folder of day folders, a folder with the files of one day, or one file.

    Rows are read in batches and never kept. A log of more than `sample_rows` rows is sampled: row groups spread evenly over it.

    Args:
        path: local or in an object store; Parquet, CSV or TSV.
        sample_rows: [rows] to read at most.

    Raises:
        BadInput: there is nothing to read.
    """
    where = path.rstrip("/")
    problems: list[str] = []
    layout, found = _find(where, problems)
    log = _open(found, _partitions(where, found), problems)
    total = sum(day.rows for day in log.days)
    if not total:
        raise BadInput("\n".join(["there are no rows", *problems]), file=path, expected="Parquet, CSV or TSV files with rows")
    chosen, each, sample = _choose([unit.rows for unit in log.units], sample_rows)
    rows_read, columns = _count(log, [log.units[at] for at in chosen], each, problems)
    return Report(
        path=path,
        layout=layout,
        format=" and ".join(sorted({_format(file) for file in log.schemas})),
        reading=next(iter(log.reading.values()), {}),
        days=tuple(log.days),
        rows=total,
        rows_read=rows_read,
        sample=sample,
        columns=tuple(tally.facts() for tally in columns),
        problems=(*problems, *_disagreements(log.schemas)),
    )


class _Unit(NamedTuple):
    reader: Reader
    file: str
    unit: int
    rows: int


@dataclass(frozen=True)
class _Log:
    """What can be read: the days, their units with rows, the columns of every file, and by format what run.yaml has to say."""

    days: list[DayState] = field(default_factory=list)
    units: list[_Unit] = field(default_factory=list)
    schemas: dict[str, pa.Schema] = field(default_factory=dict)
    reading: dict[str, dict[str, Any]] = field(default_factory=dict)


def _open(found: Mapping[str, tuple[list[str], bool | None]], partitions: Sequence[str], problems: list[str]) -> _Log:
    """Read what all files say of themselves; those that cannot be read, and columns that are there twice, become problems."""
    readers: dict[str, Reader] = {}
    log = _Log()
    for day, (files, success) in found.items():
        rows = 0
        for file in files:
            if (form := _format(file)) not in readers:
                readers[form], log.reading[form] = suggest_reader(form, file, partitions)
            reader = readers[form]
            try:
                schema, counts = reader.schema(file), reader.units(file)
            except GenctrError as error:
                problems.append(str(error).replace("\n", ";"))
                continue
            twice = {name for name in schema.names if schema.names.count(name) > 1}
            problems += [f"column {name!r} is there twice in {file}" for name in sorted(twice)]
            log.schemas[file] = pa.schema([column for column in schema if column.name not in twice])
            rows += sum(counts)
            log.units.extend(_Unit(reader, file, unit, count) for unit, count in enumerate(counts) if count)
        log.days.append(DayState(day, rows, len(files), success))
    return log


# --- where the files are ---


def _find(path: str, problems: list[str]) -> tuple[str, dict[str, tuple[list[str], bool | None]]]:
    """The layout, and by day its files and whether it is marked; what is there and not read is among the problems."""
    store, inner = filesystem(path)
    info = store.get_file_info(inner)
    if info.type == pyarrow.fs.FileType.File and not _format(path):
        known = f"a name that ends with {', '.join(ENDINGS)}"
        raise BadInput("its name says no format that is known", file=path, expected=known)
    if info.type == pyarrow.fs.FileType.File:
        return "", {info.base_name: ([path], None)}
    if info.type == pyarrow.fs.FileType.NotFound:
        raise BadInput("there is no such file or folder", file=path)
    days: dict[str, tuple[list[str], bool]] = {}
    for entry, size in list_files(path).items():
        *folders, name = entry.split("/")
        day = folders[0] if folders else ""
        if any(map(is_ignored, folders)):
            continue
        files, marked = days.setdefault(day, ([], False))
        if name == SUCCESS and len(folders) < 2:
            days[day] = files, True
        elif is_ignored(name):
            continue
        elif size < 0:
            problems.append(str(cannot_open(below(path, entry))).replace("\n", ";"))
        elif _format(name):
            files.append(below(path, entry))
        else:
            problems.append(f"not read, for its name ends with none of {', '.join(ENDINGS)}: {below(path, entry)}")
    own, marked = days.pop("", ([], False))
    days = {day: state for day, state in days.items() if state[0] or state[1]}
    if own:
        return "", {info.base_name: (own, marked)}
    keys = {day.partition("=")[0] for day in days if "=" in day}
    named = len(keys) == 1 and all("=" in day for day in days)
    if named and keys & {"hour", "hr", "hh"}:  # the folder is one day's
        return "", {info.base_name: ([file for files, _ in days.values() for file in files], marked)}
    layout = f"{keys.pop()}={{day}}" if named else "{day}"
    return layout, {day.partition("=")[2] if named else day: state for day, state in days.items()}


def _partitions(path: str, found: Mapping[str, tuple[list[str], bool | None]]) -> list[str]:
    """The names of folders such as hour=07 that are above every file, but for the day's own."""
    root = path.partition("?")[0]
    files = [file.removeprefix(root).strip("/").split("/")[:-1] for files, _ in found.values() for file in files]
    names = [{part.partition("=")[0] for part in folders if "=" in part} for folders in files]
    days = {part.partition("=")[0] for folders in files for part in folders[:1] if part.partition("=")[2] in found}
    return sorted(set.intersection(*names) - days) if names else []


def _format(name: str) -> str:
    name = name.partition("?")[0] if "://" in name else name
    return next((form for ending, form in ENDINGS.items() if name.endswith(ending)), "")


def _choose(rows: Sequence[int], limit: int) -> tuple[list[int], int, str]:
    """Which units to read, how many rows of each, and the same in words."""
    total = sum(rows)
    if total <= limit:
        return list(range(len(rows))), total, "all were read"
    count = max(1, min(len(rows), limit // PIECE_ROWS))
    chosen = sorted({round(at) for at in np.linspace(0, len(rows) - 1, count)})
    each = max(1, limit // count)
    read = sum(min(rows[at], each) for at in chosen)
    return chosen, each, f"sampled: {read:,} rows, the first of {len(chosen)} row groups out of {len(rows)}"


def _count(log: _Log, units: Sequence[_Unit], each: int, problems: list[str]) -> tuple[int, list[ColumnTally]]:
    """The rows read of these units, at most `each` of one, and what was counted of every column; what cannot be becomes a
    problem."""
    columns = {name: ColumnTally(name) for schema in log.schemas.values() for name in schema.names}
    uncounted: dict[str, str] = {}
    rows_read = 0
    for reader, file, unit, _ in units:
        try:
            for batch in _first(reader, file, unit, log.schemas[file].names, each):
                rows_read += batch.num_rows
                _add(batch, columns, uncounted, file)
        except BadInput as error:
            problems.append(str(error).replace("\n", ";"))
    problems += uncounted.values()
    return rows_read, list(columns.values())


def _add(batch: pa.RecordBatch, columns: dict[str, ColumnTally], uncounted: dict[str, str], file: str) -> None:
    """Add a batch to the tallies; a column that cannot be counted is reported once and left."""
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        if name in uncounted:
            continue
        try:
            columns[name].add(array)
        except UNCOUNTABLE as error:
            reason = str(error).replace("\n", "; ")
            uncounted[name] = f"column {name!r} cannot be counted to its end: {reason}; in {file}"


def _first(reader: Reader, file: str, unit: int, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    with closing(reader.read(file, unit, names, 0)) as batches:
        for batch in batches:
            yield batch.slice(0, rows)
            rows -= batch.num_rows
            if rows <= 0:
                return


def _disagreements(schemas: dict[str, pa.Schema]) -> Iterator[str]:
    for name in dict.fromkeys(name for schema in schemas.values() for name in schema.names):
        holders = {file: schema.field(name).type for file, schema in schemas.items() if name in schema.names}
        if len(holders) < len(schemas):
            without = next(file for file in schemas if file not in holders)
            yield f"column {name!r} is in {len(holders)} of {len(schemas)} files; not in {without}"
        if len(kinds := {str(kind): file for file, kind in holders.items()}) > 1:
            yield f"column {name!r} changes its type: " + ", ".join(f"{kind} in {file}" for kind, file in kinds.items())


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in [head, *rows])
