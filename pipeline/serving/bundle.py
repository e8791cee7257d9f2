"""The bundle: all that serving needs of a model, as safetensors, Parquet and JSON. Nothing in it can run.

    2026-11-20-0001234/manifest.json              written last: a folder without it is not a bundle
                       dense.safetensors          everything but the tables
                       table.7.0.safetensors      rows of one table, a piece at a time
                       statistics.json            what the fields were fitted with
                       vocabulary.tab.parquet
                       ids.item_id.0.parquet      of a managed table: ids and their rows, from one rank
                       gone.item_id.0.parquet     ids that the bundle before had and this one has not
                       sample.parquet             some raw rows; what they must score is in the manifest
    current.json                                  beside the bundles: the one that serves, by name

The manifest names every file with its SHA-256, the schema, the model's settings, the days, the scores and the bundle before;
its last key is the SHA-256 of itself.
A table's rows are float32, or int8: a byte a number with a scale and a bias per row, as FBGEMM quantises.

torch is imported by what makes tensors of them: who switches, lists or verifies bundles needs none.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from data.errors import GenctrError
from data.paths import PATHS, list_folder
from data.schema import Schema
from data.seal import unsealed
from pipeline.config.family import Family
from pipeline.config.registry import find

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 3
MANIFEST, CURRENT, DENSE, SAMPLE = "manifest.json", "current.json", "dense.safetensors", "sample.parquet"
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+-]*(\.[A-Za-z0-9_+-]+)*\.(safetensors|parquet|json)")
"""No folders, no `..`, no other kinds of files."""

BUNDLE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


class BundleError(GenctrError):
    """A bundle that is not whole, was altered, or is none."""

    def __init__(self, what: str, where: str, hint: str = "publish it again, or take another bundle") -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(f"{what}\n  where: {where}\n  next: {hint}")

    def __reduce__(self) -> tuple[type["BundleError"], tuple[str, str, str]]:
        return BundleError, (self.what, self.where, self.hint)


@dataclass(frozen=True)
class Piece:
    """Some rows and columns of a table, in a file of their own."""

    file: str
    rows: tuple[int, int]
    columns: tuple[int, int]


class Bundle:
    """A bundle that was found whole as far as its manifest: the files it names, and nothing else. Contents are checked as
    they are read, against their SHA-256.

    Args:
        path: its folder, or the folder of all bundles: then the current one.
        sha256: what the manifest's own hash must be; None takes it as it is, or as `current.json` says.

    Raises:
        BundleError: there is none, a file is missing or was not written with it, or the manifest makes no sense.
        OSError: its store does not answer, or not to this user; so do all methods that read.
    """

    def __init__(self, path: str, *, sha256: str | None = None) -> None:
        path = path.rstrip("/")
        if PATHS.exists(f"{path}/{CURRENT}") and not PATHS.exists(f"{path}/{MANIFEST}"):
            current = read_current(path)
            assert current is not None
            path, sha256 = f"{path}/{current['bundle']}", current["sha256"]
        self.path = path
        content = _bytes(f"{path}/{MANIFEST}")
        self.sha256 = hashlib.sha256(content).hexdigest()
        if sha256 is not None and sha256 != self.sha256:
            raise BundleError("the manifest is not the one that was published", f"{path}/{MANIFEST}")
        try:
            self.manifest: dict[str, Any] = unsealed(content)
            self._understand()
        except BundleError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise BundleError(f"the manifest makes no sense: {_line(error)}", f"{path}/{MANIFEST}") from error
        self._check_files()

    def _understand(self) -> None:
        manifest = self.manifest
        if manifest["format"] != FORMAT:
            raise BundleError(
                f"format {manifest['format']} is not known, this version reads {FORMAT}",
                self.path,
                "use the version of genctr that wrote it",
            )
        self.name, self.day, self.step = str(manifest["bundle"]), str(manifest["day"]), int(manifest["step"])
        self.targets: tuple[str, ...] = tuple(manifest["targets"])
        if not self.targets or not all(isinstance(own, str) for own in self.targets):
            raise ValueError("it names no targets")
        self.links = dict(manifest.get("links", {}))
        self.files: dict[str, dict[str, Any]] = dict(manifest["files"])
        for name in self.files:
            if not FILE_NAME.fullmatch(name):
                raise BundleError(f"the manifest names a file {name!r}, which no bundle has", self.path)
        try:
            self.schema = Schema.model_validate(manifest["schema"])
            family: Family = find("genctr.families", manifest["model"]["family"])
            self.model = family.options.model_validate(manifest["model"])
        except ValidationError as error:
            raise ValueError(_line(error)) from error
        self.tables = {
            name: [Piece(own["file"], tuple(own["rows"]), tuple(own["columns"])) for own in pieces]
            for name, pieces in manifest["tables"].items()
        }
        self.ids: dict[str, list[str]] = manifest.get("ids", {})
        self.gone: dict[str, list[str]] = manifest.get("gone", {})

    def _check_files(self) -> None:
        there = set(list_folder(self.path)) - {MANIFEST}
        if missing := sorted(self.files.keys() - there):
            raise BundleError(f"{len(missing)} files are missing, such as {missing[0]}", self.path)
        if others := sorted(there - self.files.keys()):
            raise BundleError(f"{others[0]} does not belong to this bundle", self.path, "remove it, or take another bundle")
        named = {piece.file for pieces in self.tables.values() for piece in pieces} | {DENSE}
        named |= {name for files in (*self.ids.values(), *self.gone.values()) for name in files}
        if unknown := sorted(named - self.files.keys()):
            raise BundleError(f"the manifest speaks of {unknown[0]} and does not list it", self.path)

    @property
    def reader(self) -> tuple[str, dict[str, Any]]:
        """The name and the options of the reader of the log.

        Raises:
            BundleError: it names none.
        """
        try:
            return str(self.manifest["reader"]["format"]), dict(self.manifest["reader"]["options"])
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"the manifest names no reader: {_line(error)}", f"{self.path}/{MANIFEST}") from error

    def read(self, name: str) -> bytes:
        """The content of one of its files.

        Raises:
            BundleError: it is not what was written.
        """
        content = _bytes(f"{self.path}/{name}")
        if hashlib.sha256(content).hexdigest() != self.files[name]["sha256"]:
            raise BundleError("the file is not what was written: cut short or altered", f"{self.path}/{name}")
        return content

    def verify(self) -> int:
        """Read every file against its hash. Returns: [bytes] read."""
        return sum(len(self.read(name)) for name in self.files)

    def dense(self) -> dict[str, "Tensor"]:
        """Everything but the tables, by the model's own names."""
        return self._tensors(DENSE)

    def fill(self, name: str, table: "Tensor", row: int = 0, column: int = 0) -> None:
        """Copy into `table` what the bundle has of a table's rows and columns, from `row` and `column` on.

        Raises:
            BundleError: a file is not what was written, or some of these numbers are in none.
        """
        import torch

        from pipeline.serving.int8 import dequantised

        filled = 0
        for piece in self.tables[name]:
            top, left = max(row, piece.rows[0]), max(column, piece.columns[0])
            bottom = min(row + table.shape[0], piece.rows[1])
            right = min(column + table.shape[1], piece.columns[1])
            if top < bottom and left < right:
                values = self._tensors(piece.file)["rows"]
                if values.dtype == torch.uint8:
                    values = dequantised(values)
                own = values[top - piece.rows[0] : bottom - piece.rows[0], left - piece.columns[0] : right - piece.columns[0]]
                with torch.no_grad():
                    table[top - row : bottom - row, left - column : right - column].copy_(own)
                filled += own.numel()
        if filled != table.numel():
            raise BundleError(f"table {name} has {table.numel()} numbers here, the files of the bundle {filled}", self.path)

    def held(self, table: str) -> tuple["Tensor", "Tensor"]:
        """The ids that have a row of a managed table, 64 bits each as `data.ids.RawIds` has them, and their rows."""
        import torch

        found = [self._columns(name, "id", "row") for name in self.ids[table]]
        return torch.cat([ids for ids, _ in found]), torch.cat([rows for _, rows in found])

    def left(self, table: str) -> "Tensor":
        """The ids that had a row in the bundle before, and have none in this one."""
        import torch

        return torch.cat(
            [torch.empty(0, dtype=torch.int64), *(self._columns(name, "id")[0] for name in self.gone.get(table, ()))]
        )

    def _columns(self, name: str, *columns: str) -> list["Tensor"]:
        import torch

        content = io.BytesIO(self.read(name))
        try:
            found = pq.read_table(content, columns=list(columns))
            if not {found[own].type for own in columns} <= {pa.int64(), pa.uint64()}:
                raise ValueError(f"their types are {found.schema.types}")
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise BundleError(f"these are not ids and rows: {_line(error)}", f"{self.path}/{name}") from error
        return [torch.from_numpy(found[own].to_numpy().view("int64").copy()) for own in columns]

    def _tensors(self, name: str) -> dict[str, "Tensor"]:
        import safetensors.torch

        try:
            return safetensors.torch.load(self.read(name))
        except safetensors.SafetensorError as error:
            raise BundleError(f"this is not a safetensors file: {_line(error)}", f"{self.path}/{name}") from error


def bundle_name(day: str, step: int, rewound: int = 0) -> str:
    """What the bundle of a day's model is called: days have any name, bundles one that every reader takes.

    Args:
        step: [steps] trained: two days that are spelt alike then differ. rewound: how often the run went back.
    """
    spelt = re.sub(r"[^A-Za-z0-9_.+-]", "_", day)
    spelt = spelt if spelt[:1].isalnum() else f"_{spelt}"
    return f"{spelt}-{step:07d}" + (f"-{rewound}" if rewound else "")


def read_current(folder: str) -> Mapping[str, str] | None:
    """What `current.json` says: {bundle, sha256}; None where nothing was published.

    Raises:
        BundleError: it makes no sense, or names something outside the folder.
    """
    if not PATHS.exists(f"{folder}/{CURRENT}"):
        return None
    try:
        current = json.loads(_bytes(f"{folder}/{CURRENT}"))
        if not BUNDLE_NAME.fullmatch(current["bundle"]) or not isinstance(current["sha256"], str):
            raise ValueError(f"{current} names no bundle")
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"it makes no sense: {_line(error)}", f"{folder}/{CURRENT}", "roll back, or publish again") from error
    return {"bundle": current["bundle"], "sha256": current["sha256"]}


def bundles(folder: str) -> list[str]:
    """The names of the whole bundles of a folder, in the order of their days and steps."""
    return sorted(name for name in list_folder(folder) if PATHS.exists(f"{folder}/{name}/{MANIFEST}"))


def pieces(rows: int, columns: int, numbers: int = 1 << 26) -> Iterator[tuple[int, int]]:
    """Cut a shard into ranges of rows of at most so many numbers, 256 MiB of float32."""
    step = max(numbers // max(columns, 1), 1)
    for begin in range(0, rows, step):
        yield begin, min(begin + step, rows)


def described(content: bytes) -> dict[str, Any]:
    """What the manifest says of a file."""
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _bytes(path: str) -> bytes:
    """The content of a file. That a store does not answer is no fault of the bundle: who only leaves a bad one out must not
    leave this one out."""
    if "://" not in path and os.path.exists(path) and not os.path.isfile(path):
        raise BundleError("it is not a file: a folder, or a pipe that would be waited for", path)
    try:
        with PATHS.open(path, "rb") as file:
            return bytes(file.read())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise BundleError(f"it cannot be read: {_line(error)}", path) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
