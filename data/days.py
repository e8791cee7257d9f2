"""Days: find the complete ones, check them before a row is trained, and write one so that half a day is never seen."""

import base64
import fnmatch
import hashlib
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet

from data.arrays import alike, workable
from data.errors import BadInput, GenctrError, visible
from data.paths import below, cannot_open, filesystem, is_utf8, list_data, naming, relative_to
from data.readers import BATCH_ROWS, Reader, check_columns
from data.yaml_document import nearest

TAIL_BYTES = 65_536
"""[bytes] at the end of two files that are compared before the whole: a Parquet file has its footer there."""

FILES_AT_ONCE = 16
"""[files] whose footers are read at the same time: over a network that is waiting, not work."""

READ_AT_ONCE = 2
"""[files] read through at the same time: each holds decoded rows in memory."""

SUCCESS = "_SUCCESS"
"""The empty file that is written last, when a day's folder is complete."""


@dataclass(frozen=True)
class DayFile:
    """One file of a day.

    Args:
        path: where it is, as a reader opens it.
        size: [bytes] of the file.
        units: [rows] of every unit.
        schema: the columns asked for.
    """

    path: str
    size: int
    units: tuple[int, ...]
    schema: pa.Schema

    @property
    def rows(self) -> int:
        """[rows] in all units."""
        return sum(self.units)


@dataclass(frozen=True)
class Day:
    """A complete day, or some files of one: what there is to read, fixed before reading begins.

    Args:
        name: the day, such as "2026-11-20".
        files: in the order of their paths; a row is known by its file's place here and its number in the file.
        schema: the columns asked for, with types that hold the values of every file.
        quarantined: the files left out, and why.
    """

    name: str
    files: tuple[DayFile, ...]
    schema: pa.Schema
    quarantined: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """[rows] in all files."""
        return sum(file.rows for file in self.files)

    def only(self, name: str, paths: Iterable[str]) -> "Day":
        """Some of its files, in their order, under a name of their own."""
        wanted = set(paths)
        return replace(self, name=name, files=tuple(file for file in self.files if file.path in wanted))

    def to_json(self) -> dict[str, Any]:
        """As JSON values: the schema as the bytes Arrow writes of it, in base64."""
        schemas = list(dict.fromkeys([self.schema, *(file.schema for file in self.files)]))
        files = [[file.path, file.size, list(file.units), schemas.index(file.schema)] for file in self.files]
        known = [base64.b64encode(schema.serialize().to_pybytes()).decode() for schema in schemas]
        return {"name": self.name, "files": files, "schemas": known, "quarantined": self.quarantined}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Day":
        """What `to_json` returned."""
        schemas = [pa.ipc.read_schema(pa.py_buffer(base64.b64decode(own))) for own in values["schemas"]]
        files = tuple(DayFile(path, size, tuple(units), schemas[at]) for path, size, units, at in values["files"])
        return cls(values["name"], files, schemas[0], dict(values["quarantined"]))


class Days:
    """The days of a log.

    Args:
        root: the folder of the log, local or in an object store.
        reader: how to read its files.
        layout: where a day is below `root`: "day={day}", or "{day}.parquet" for one file a day, or, with a pattern for what
            to read in the day's folder, "dt={day}/hour=*". Names that begin with "_" or "." or end with ".crc" are never data;
            all else that is listed is read, or is a bad file.
        success: the file that marks a day's folder as complete. None: every folder is complete.
        bad_files: "stop" refuses a day with a bad file. "quarantine" leaves bad files out and names them in the day; every
            file is then read through before the first row is handed out, so all rows of the good files are trained.
    """

    def __init__(
        self,
        root: str,
        *,
        reader: Reader,
        layout: str = "day={day}",
        success: str | None = SUCCESS,
        bad_files: Literal["stop", "quarantine"] = "stop",
    ) -> None:
        if layout.count("{day}") != 1:
            raise GenctrError(f"layout {layout!r}: expected {{day}} once, as in 'day={{day}}'")
        before, _, after = layout.partition("{day}")
        above, _, prefix = before.rpartition("/")
        suffix, _, within = after.partition("/")
        self._root = below(root, above)
        self._around = prefix, suffix
        self._name = re.compile(re.escape(prefix) + "(?P<day>[^_.].*)" + re.escape(suffix))
        self._within = within.split("/") if within else []
        self.reader = reader
        self._success = success
        self._bad_files = bad_files
        self._listed: dict[str, pyarrow.fs.FileInfo] = {}

    def list(self) -> Sequence[str]:
        """The complete days, in order."""
        found = self._found()
        complete = zip(found.items(), self._complete(found.values()), strict=True)
        self._listed = {day: info for (day, info), whole in complete if whole}
        return sorted(self._listed)

    def sizes(self, day: str) -> dict[str, int]:
        """[bytes] of every data file of a complete day, by its name below the root, without opening one; -1: it cannot be.

        Raises:
            BadInput: the day is not there, or not complete.
        """
        return self._sizes(self._find(day))

    def sizes_of(self, days: Iterable[str]) -> dict[str, dict[str, int]]:
        """The sizes of several complete days, asked for side by side: over a network that is waiting, not work. Of days that
        `list` has named, only the files are asked for.

        Raises:
            BadInput: a day is not there, or not complete.
        """
        names = list(days)
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            found = pool.map(lambda day: self._sizes(self._listed.get(day) or self._find(day)), names)
            return dict(zip(names, found, strict=True))

    def _sizes(self, info: pyarrow.fs.FileInfo) -> dict[str, int]:
        return {self.below_root(path): size for path, size in self._files(info).items()}

    def rows(self, day: str) -> dict[str, int]:
        """[rows] of every data file of a complete day, by its name below the root; -1 for one that cannot be opened."""
        paths = self._files(self._find(day))

        def count(path: str) -> int:
            try:
                return sum(self.reader.units(path)) if paths[path] >= 0 else -1
            except BadInput:
                return -1

        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            return {self.below_root(path): rows for path, rows in zip(paths, pool.map(count, paths), strict=True)}

    def below_root(self, path: str) -> str:
        """A file's name below the root of the log: what stays the same when the log is moved."""
        if "://" not in path:
            return path.removeprefix(self._root).lstrip("/")
        path, root = path.partition("?")[0], self._root.partition("?")[0]
        return unquote(path.removeprefix(root).lstrip("/"))

    def open(
        self,
        day: str,
        columns: Sequence[str],
        *,
        accept: Callable[[pa.Schema, str], None] | None = None,
        check: Literal["footer", "full"] = "footer",
        known: Collection[str] = (),
        ids: Collection[str] = (),
    ) -> Day:
        """Look into every file of a day.

        Args:
            day: its name.
            columns: what will be read.
            accept: called with the schema and the path of every file; raises `BadInput` for one that will not do.
            check: "footer" believes what a file says of itself. "full" reads its columns through, so that a bad page is
                found before one row of the day is trained.
            known: files that were trained before, by name below the root: of two with the same content the other one is bad.
            ids: the columns that hold ids: in these, integers of 64 bits with and without a sign are the same bits.

        Raises:
            BadInput: the day is not there, not complete or empty; a file is bad, or is there twice.
            GenctrError: the store does not answer.
        """
        sizes = self._files(self._find(day))
        full = check == "full" or self._bad_files == "quarantine"

        def look(path: str) -> DayFile | BadInput:
            found = self._look(path, sizes[path], columns, accept, full)
            if isinstance(found, BadInput) and "://" in path:
                # A store that fails, and is there again when it is asked whose fault that was, leaves a file that seems bad.
                found = self._look(path, sizes[path], columns, accept, full)
            return found

        with ThreadPoolExecutor(READ_AT_ONCE if full else FILES_AT_ONCE) as pool:
            looks = dict(zip(sizes, pool.map(look, sizes), strict=True))
        good = [file for file in looks.values() if isinstance(file, DayFile)]
        for path, twin in _twins(sorted(good, key=lambda file: self.below_root(file.path) not in known)).items():
            looks[path] = BadInput(f"the same content as {twin}", file=path, hint="delete one of the two")
        bad = {path: error for path, error in looks.items() if isinstance(error, BadInput)}
        if bad and self._bad_files == "stop":
            raise next(iter(bad.values()))
        files = tuple(file for file in looks.values() if isinstance(file, DayFile))
        if not any(file.rows for file in files):
            raise BadInput(
                f"day {day} is empty: {len(files)} files without a row, {len(bad)} bad ones",
                file=self._root,
                hint="write the day again, or take it out of data.days",
            )
        return Day(day, files, _common_schema(files, ids), {path: str(error) for path, error in bad.items()})

    def _found(self) -> dict[str, pyarrow.fs.FileInfo]:
        files, inner = filesystem(self._root)
        if files.get_file_info(inner).type == pyarrow.fs.FileType.NotFound:
            hint = f"check data.root and data.layout{relative_to(self._root)}"
            raise BadInput("there is no such folder", file=self._root, hint=hint)
        infos = _infos(files, inner)
        matches = ((self._name.fullmatch(info.base_name), info) for info in infos)
        return {match["day"]: info for match, info in matches if match}

    def _find(self, day: str) -> pyarrow.fs.FileInfo:
        prefix, suffix = self._around
        name, (files, inner) = f"{prefix}{day}{suffix}", filesystem(self._root)
        # Asked for by name: a log has years of days, and to list them all for each of them takes the square of that.
        info = files.get_file_info(f"{inner.rstrip('/')}/{name}")
        if info.type == pyarrow.fs.FileType.NotFound or "/" in day or not self._name.fullmatch(name):
            raise BadInput(f"there is no day {day}", file=self._root, hint=nearest(day, sorted(self._found())))
        if not self._complete([info])[0]:
            raise BadInput(
                f"day {day} is not complete",
                file=below(self._root, info.base_name),
                expected=f"a file {self._success} in its folder",
                hint="wait until it is written, or set data.success_file to null if this log does not mark its days",
            )
        return info

    def _complete(self, found: Iterable[pyarrow.fs.FileInfo]) -> Sequence[bool]:
        """A file is a complete day by itself, a folder if it is marked."""
        if self._success is None:
            return [True for _ in found]
        # For a file this asks for "2026-11-20.parquet/_SUCCESS", which is never there: one question for all days.
        marks = [f"{info.path}/{self._success}" for info in found]
        files = filesystem(self._root)[0]
        return [
            info.type == pyarrow.fs.FileType.File or mark.type == pyarrow.fs.FileType.File
            for info, mark in zip(found, files.get_file_info(marks), strict=True)
        ]

    def _files(self, day: pyarrow.fs.FileInfo) -> dict[str, int]:
        """Sizes of a day's files by path, in the order of the paths; -1 for one that cannot be opened."""
        here = below(self._root, day.base_name)
        if day.type == pyarrow.fs.FileType.File:
            return {here: day.size}
        return {below(here, name): size for name, size in list_data(here).items() if self._fits(name.split("/"))}

    def _fits(self, parts: Sequence[str]) -> bool:
        return all(map(fnmatch.fnmatchcase, parts, self._within)) and len(parts) >= len(self._within)

    def _look(
        self,
        path: str,
        size: int,
        columns: Sequence[str],
        accept: Callable[[pa.Schema, str], None] | None,
        full: bool,
    ) -> DayFile | BadInput:
        try:
            if size < 0:
                raise cannot_open(path)
            units, schema = self.reader.units(path), self.reader.schema(path)
            if accept:
                accept(schema, path)
            check_columns(schema, columns, path)
            if full:
                for unit, rows in enumerate(units):
                    with closing(self.reader.read(path, unit, columns, 0)) as batches:
                        read = sum(batch.num_rows for batch in batches)
                    if read != rows:
                        raise BadInput("wrong number of rows", file=path, row_group=unit, expected=f"{rows}, read {read}")
            types = {column: workable(schema.field(column).type) for column in columns}
            return DayFile(path, size, units, pa.schema(types))
        except BadInput as error:
            return error


def write_day(folder: str, tables: Iterable[pa.Table], *, row_group_rows: int = BATCH_ROWS) -> None:
    """Write a day as Parquet, one file a table, complete or not at all: `_SUCCESS` comes last.

    What an earlier attempt left there is removed; a day that is complete is never touched.

    Args:
        folder: the day's folder, local or in an object store.
        tables: its rows, read one table at a time.
        row_group_rows: [rows] in a row group.

    Raises:
        GenctrError: the day is there already.
    """
    files, inner = filesystem(folder)
    mark = f"{inner}/{SUCCESS}"
    if files.get_file_info(mark).type == pyarrow.fs.FileType.File:
        raise GenctrError(f"{folder} is a complete day already\n  next: delete it first, or write to another folder")
    files.create_dir(inner, recursive=True)
    files.delete_dir_contents(inner)
    try:
        for number, table in enumerate(tables):
            path = f"{inner}/part-{number:05d}.parquet"
            with naming(path):
                pyarrow.parquet.write_table(
                    table,
                    path,
                    filesystem=files,
                    row_group_size=row_group_rows,
                    compression="zstd",
                    write_page_checksum=True,
                )
        files.open_output_stream(mark).close()
    except BaseException:
        files.delete_dir(inner)
        raise


def _infos(files: pyarrow.fs.FileSystem, folder: str) -> list[pyarrow.fs.FileInfo]:
    """What is in a folder. Arrow reads names as UTF-8, and one that is not would keep it from listing any."""
    if not isinstance(files, pyarrow.fs.LocalFileSystem):
        return list(files.get_file_info(pyarrow.fs.FileSelector(folder)))
    names = sorted(os.listdir(folder))
    for name in names:
        if not is_utf8(name):
            sys.stderr.write(f"genctr: {folder}/{visible(name)} is not read: its name is not UTF-8\n")
    return list(files.get_file_info([f"{folder.rstrip('/')}/{name}" for name in names if is_utf8(name)]))


def _common_schema(files: Sequence[DayFile], ids: Collection[str]) -> pa.Schema:
    """The types that hold the values of all files. If there are none, nobody knows which file is wrong: no quarantine."""
    schema = files[0].schema
    for file in files[1:]:
        try:
            pairs = {name: alike(schema.field(name).type, file.schema.field(name).type, name in ids) for name in schema.names}
            both = [pa.schema({name: pair[at] for name, pair in pairs.items()}) for at in (0, 1)]
            schema = pa.unify_schemas(both, promote_options="permissive")
        except pa.ArrowException as error:
            raise BadInput(f"other types than in the files before: {error}", file=file.path,
                           hint="write the day again with the same types in every file; for CSV name the type of an id "
                           "in data.reader_options, such as types: {user_id: string}") from error  # fmt: skip
    return schema


def _twins(files: Iterable[DayFile]) -> dict[str, str]:
    """Files with the same bytes as an earlier one. Only files that agree in size, rows and last bytes are read whole."""
    groups = [[file for file in files if file.rows]]
    for key in (lambda file: (file.size, file.units), _tail, _content):
        groups = [alike for group in groups for alike in _grouped(group, key) if len(alike) > 1]
    return {later.path: first.path for first, *others in groups for later in others}


def _grouped(files: Iterable[DayFile], key: Callable[[DayFile], Hashable]) -> list[list[DayFile]]:
    groups = defaultdict(list)
    for file in files:
        groups[key(file)].append(file)
    return list(groups.values())


def _tail(file: DayFile) -> bytes:
    return _content(file, begin=max(0, file.size - TAIL_BYTES))


def _content(file: DayFile, begin: int = 0) -> bytes:
    files, inner = filesystem(file.path)
    digest = hashlib.sha256()
    with files.open_input_file(inner) as source:
        source.seek(begin)
        while piece := source.read(1 << 20):
            digest.update(piece)
    return digest.digest()
