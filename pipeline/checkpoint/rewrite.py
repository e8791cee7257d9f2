"""Checkpoints that move: rewritten for other ranks or in another place, with a larger table, or one table as Parquet.

No process group, no model: tensors go block by block from one file to another (`reader.py`, `writer.py`), so neither the table
nor the checkpoint has to fit into memory. A checkpoint is written next to what is there, and is complete when its marker is:
killed before that, it never was.
"""

import os
import shutil
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from data.errors import GenctrError
from data.ids import MISSING, UNKNOWN, check_growth, rows_before
from data.paths import PATHS, list_folder, naming, plain, remove_folder, replace
from data.schema import AnyIds, Schema
from data.statistics import Statistics
from data.yaml_document import write_document
from models.table_names import owner_of, table_of
from pipeline.checkpoint.errors import CheckpointError, one_line
from pipeline.checkpoint.inspect import CHECKPOINTS, Advance
from pipeline.checkpoint.manager import Checkpoints
from pipeline.checkpoint.reader import CheckpointReader, TensorSource, height, size_bytes
from pipeline.checkpoint.writer import write
from pipeline.config.run import RunConfig, load
from pipeline.distributed.initial_values import first_values, spread_of
from pipeline.run_folder.lease import FILE as LEASE
from pipeline.run_folder.lease import Lease

CONFIG = "config.yaml"
NOT_COPIED = (CHECKPOINTS, LEASE, f"{LEASE}.lock", CONFIG)


@dataclass(frozen=True)
class RunFolder:
    """A run folder, as it describes itself."""

    folder: str
    config: RunConfig
    schema: Schema

    @classmethod
    def open(cls, folder: str) -> "RunFolder":
        """Read its config and schema."""
        folder = folder.rstrip("/")
        return cls(folder, *load(f"{folder}/{CONFIG}"))


@contextmanager
def destination(
    run: RunFolder, source: Checkpoints, out: str | None, *, rows: Mapping[str, int] | None = None
) -> Iterator[Checkpoints]:
    """Where checkpoints are written: next to those of the run, or in a new run folder that gets everything else of it too.

    No daily job may be at work on the run meanwhile, for what is read must fit together. A new folder is a run folder at the
    end, when all is in it.

    Args:
        rows: what the new folder's schema says of tables that have grown.

    Raises:
        GenctrError: the new folder has a run in it, or part of one, or is inside of this one. LeaseHeld: a daily job is at
            work.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(Lease(run.folder, seconds=run.config.daily.lease_seconds))
        except OSError:
            if out is None:
                raise
            # A run that may only be read is not being written by anybody of this user's.
        if out is None:
            yield source
        else:
            with _new_run(run, out.rstrip("/"), rows or {}) as target:
                yield target


@contextmanager
def _new_run(run: RunFolder, out: str, rows: Mapping[str, int]) -> Iterator[Checkpoints]:
    target = Checkpoints(f"{out}/{CHECKPOINTS}", keep=1, asynchronous=False)
    if PATHS.exists(f"{out}/{CONFIG}") or list_folder(target.root):
        raise GenctrError(f"{out} has a run in it, or part of one\n  next: name a new folder, or remove this one")
    if f"{_place(out)}/".startswith(f"{_place(run.folder)}/"):
        raise GenctrError(f"{out} is inside of the run, and would be copied into itself\n  next: name a folder elsewhere")
    _copy_folder(run.folder, out)
    yield target
    if rows:
        fields = [own.model_copy(update={"rows": rows[own.name]}) if own.name in rows else own for own in run.schema.fields]
        write_document(f"{out}/schema.yaml", run.schema.model_copy(update={"fields": tuple(fields)}))
    _copy_file(f"{run.folder}/{CONFIG}", f"{out}/{CONFIG}")


def _place(path: str) -> str:
    path = plain(path)
    return path if "://" in path else os.path.realpath(path)


def _copy_folder(source: str, target: str, *, skip: Sequence[str] = NOT_COPIED) -> None:
    PATHS.mkdirs(f"{target}/")
    for name in list_folder(source):
        if name in skip:
            continue
        if PATHS.isdir(f"{source}/{name}"):
            _copy_folder(f"{source}/{name}", f"{target}/{name}", skip=())
        else:
            _copy_file(f"{source}/{name}", f"{target}/{name}")


def _copy_file(source: str, target: str) -> None:
    with naming(target), PATHS.open(source, "rb") as read, PATHS.open(target, "wb") as written:
        shutil.copyfileobj(read, written)


def rewrite(
    source: TensorSource, target: Checkpoints, meta: Mapping[str, Any], *, ranks: int, advance: Advance = lambda _: None
) -> str:
    """Write a checkpoint, as so many ranks would have.

    Args:
        source: its tensors. target: the run it is written to. meta: what was saved next to them, and the step.

    Returns:
        its name there.

    Raises:
        CheckpointError: the source is damaged, or the target cannot be written; what was written is removed.
    """
    rest = {key: value for key, value in meta.items() if key != "step"}
    mark, writer = target.beside(meta["step"], meta=rest | {"ranks": ranks})
    folder = f"{target.root}/{mark}"
    try:
        write(source, writer, ranks=ranks, advance=advance)
    except BaseException as error:
        with suppress(OSError):
            remove_folder(folder)
        if isinstance(error, OSError):
            raise CheckpointError(
                f"the checkpoint could not be written: {one_line(error)}", folder, "make room, or name another --out"
            ) from error
        raise
    return mark


# A larger table.


class Grown:
    """A checkpoint whose table has more rows, as `TensorSource`: those it had go on as `data.ids.rows_before` says, the rest
    begin.

    New rows begin with the initial values of the run, which a table of half precision computes when they are looked up; what an
    optimizer remembers of them is 0.

    Args:
        pieces: the checkpoint. config: the run's, of the stage the checkpoint stands in.
        table: by name; its linear and second tables grow with it. owners: all tables of the schema.
        kind: of its ids. rows: [rows] it shall have.

    Attributes:
        now: [rows] it has now. grown: the tensors that have grown.

    Raises:
        GenctrError: there is no such table, or it cannot grow so.
    """

    def __init__(
        self, pieces: CheckpointReader, config: RunConfig, table: str, *, owners: Container[str], kind: str, rows: int
    ) -> None:
        self.values, self.paths, self._pieces, self._config = pieces.values, pieces.paths, pieces, config
        self._kind, self.now, self._owner = kind, rows, table
        weights = {name: own for name, own in tables_of(pieces).items() if owner_of(own, owners) == table}
        self._before = height(pieces.tensors[table_named(pieces, table)])
        if rows <= self._before:
            raise GenctrError(f"table {table} has {self._before:,} rows already: it can only grow")
        check_growth(kind, before=self._before, now=rows)
        keys = tuple(f".{name.partition('.')[2]}." for name in weights)
        self._weights = weights
        self.grown = [
            name
            for name, stored in pieces.tensors.items()
            if any(key in f".{name}." for key in keys) and stored.size and stored.size[0] == self._before
        ]
        larger = {
            name: TensorStorageMetadata(own.properties, torch.Size([rows, *own.size[1:]]), [])
            for name, own in pieces.tensors.items()
            if name in self.grown
        }
        self.tensors = {**pieces.tensors, **larger}

    @property
    def total_bytes(self) -> int:
        """[bytes] of all its tensors."""
        return sum(size_bytes(stored) for stored in self.tensors.values())

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """The rows first … last - 1 of a tensor."""
        if name not in self.grown:
            return self._pieces.rows(name, first, last)
        old = rows_before(self._kind, np.arange(first, last), before=self._before, now=self.now)
        known = old[old >= 0]  # they ascend, so they lie side by side; what is new comes after them
        parts = []
        if len(known):
            block = self._pieces.rows(name, int(known[0]), int(known[-1]) + 1)
            parts.append(block[torch.from_numpy(known - known[0])])
        if len(known) < last - first:
            parts.append(self._fresh(name, first + len(known), last))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def value(self, name: str) -> bytes:
        """A plain value."""
        return self._pieces.value(name)

    def _fresh(self, name: str, first: int, last: int) -> Tensor:
        stored = self.tensors[name]
        # On CPU a row of half precision that was never trained is zero bits, see `pipeline/distributed/cpu_fp16.py`.
        blank = stored.properties.dtype == torch.half and self._config.train.device != "cuda"
        if name not in self._weights or blank:
            return torch.zeros((last - first, *stored.size[1:]), dtype=stored.properties.dtype)
        init = self._config.tables.of(self._owner).init
        fresh = first_values(self._weights[name], init, stored.size, self._config.seed, first, last)
        return fresh.to(stored.properties.dtype)


def grow(run: RunFolder, pieces: CheckpointReader, table: str, rows: int) -> Grown:
    """A checkpoint with a larger table.

    Args:
        rows: [rows] as the schema says them: of `hash` all of the table, of `identity` how many ids there are.

    Raises:
        GenctrError: the schema has no such table, its ids cannot follow, or it is not larger.
    """
    owners = _owners(run)
    if table not in owners:
        raise GenctrError(f"the schema has no table {table}\n  there are: {', '.join(owners)}")
    kind = owners[table].ids
    if kind not in ("hash", "identity"):
        reason = (
            "its rows are the values of its vocabulary" if kind == "vocab" else "which rows its ids have is in its own state"
        )
        raise GenctrError(f"table {table} has ids: {kind}, and cannot be given rows: {reason}\n  expected: hash or identity")
    config = run.config.resolved()[pieces.meta["state"]["stage"]].config
    return Grown(pieces, config, table, owners=owners, kind=kind, rows=rows + 1 if kind == "identity" else rows)


# Tables.


def tables_of(pieces: CheckpointReader) -> dict[str, str]:
    """The tables of a checkpoint's model: the name of the tensor -> the name of the table."""
    return {name: table for name in pieces.tensors if pieces.paths[name][0] == "model" and (table := table_of(name))}


def _owner(run: RunFolder, table: str) -> str:
    """The table of the schema that a table is, or is a companion of."""
    return owner_of(table, _owners(run))


def _owners(run: RunFolder) -> dict[str, AnyIds]:
    """The tables of the schema: by name, the field that has it."""
    return {field.name: field for field in run.schema.fields if isinstance(field, AnyIds) and field.table is None}


def table_named(pieces: CheckpointReader, table: str) -> str:
    """The tensor that is this table.

    Raises:
        GenctrError: the checkpoint has no such table; names those it has.
    """
    tables = tables_of(pieces)
    if table not in tables.values():
        raise GenctrError(f"{pieces.folder}: there is no table {table}\n  there are: {', '.join(sorted(tables.values()))}")
    return next(name for name, own in tables.items() if own == table)


def export_table(run: RunFolder, pieces: CheckpointReader, name: str, out: str, *, advance: Advance = lambda _: None) -> int:
    """Write a table as Parquet: `row`, `id` where the raw id of a row is known, `vector`.

    A vocabulary's ids, managed ones and those that are row numbers already are known; of hashed ids many share a row. Of
    managed strings the 64 bits that stand for them are. Rows that no id has, such as row 0, the missing id's, have null.

    Args:
        name: of the tensor that is the table. out: path or URI of the file, which is there when it is whole.

    Returns:
        [rows] written.
    """
    parts, out = _exported(run, pieces, name, advance), plain(out)
    first = next(parts)  # a table has a row for the missing id
    temporary = out if "://" in out else f"{out}.tmp"
    try:
        with naming(out), PATHS.open(temporary, "wb") as file:
            with pq.ParquetWriter(file, first.schema, use_dictionary=["id"]) as writer:
                for part in chain([first], parts):
                    writer.write_table(part)
            if temporary != out:
                file.flush()
                os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            PATHS.rm(temporary)
        raise
    if temporary != out:
        replace(temporary, out)
    return height(pieces.tensors[name])


def _exported(run: RunFolder, pieces: CheckpointReader, name: str, advance: Advance) -> Iterator[pa.Table]:
    """The table, a block at a time."""
    stored, table = pieces.tensors[name], tables_of(pieces)[name]
    ids, dim = _raw_ids(run, pieces, table), _dim(pieces, table, stored.size[1])
    for first, last in pieces.blocks(name):
        block = pieces.rows(name, first, last)
        if block.dtype == torch.half:
            block = _seen(run, pieces, table, block, first, height(stored))
        columns = {"row": pa.array(np.arange(first, last))}
        if ids is not None:
            columns["id"] = ids(first, last)
        columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(block[:, :dim].reshape(-1).numpy()), dim)
        yield pa.table(columns)
        advance(block.nbytes)


def _dim(pieces: CheckpointReader, table: str, width: int) -> int:
    """[columns] of a table that the model reads, of `width` stored, a multiple of 4; those beyond never learn."""
    return int(pieces.meta["dims"].get(table, width))


def _seen(run: RunFolder, pieces: CheckpointReader, table: str, block: Tensor, first: int, rows: int) -> Tensor:
    """Rows of half precision as a look-up sees them: those that were never written begin with their initial values."""
    from pipeline.distributed.cpu_fp16 import FirstValues  # TorchRec takes seconds, and most tables need nothing of it

    config = run.config.resolved()[pieces.meta["state"]["stage"]].config
    init = config.tables.of(_owner(run, table)).init
    return FirstValues(init.kind, spread_of(init, rows), config.seed).filled(
        block, table, torch.arange(first, first + len(block))
    )


def _managed_ids(pieces: CheckpointReader, table: str) -> Callable[[int, int], pa.Array]:
    """The same of a managed table, whose map is in the checkpoint."""
    state = f"ids.{table}"
    _, reserved, _ = pieces.rows(f"{state}.shape", 0, 3).tolist()
    places = height(pieces.tensors[f"{state}.id"])

    def ids(first: int, last: int) -> pa.Array:
        begin, end = (min(max(row - reserved, 0), places) for row in (first, last))
        known = np.zeros(last - first, dtype=bool)
        found = np.zeros(last - first, dtype=np.int64)
        here = slice(begin + reserved - first, end + reserved - first)
        if begin < end:
            known[here] = (pieces.rows(f"{state}.seen", begin, end) >= 0).numpy()
            found[here] = pieces.rows(f"{state}.id", begin, end).numpy()
        return pa.array(found, mask=~known)

    return ids


def _raw_ids(run: RunFolder, pieces: CheckpointReader, table: str) -> Callable[[int, int], pa.Array] | None:
    """The ids of the rows first … last - 1 of a table, None where they are not known."""
    owner = _owner(run, table)
    kind = next((own.ids for own in run.schema.fields if isinstance(own, AnyIds) and own.name in (table, owner)), None)
    if kind == "managed":
        held, statistics = _managed_ids(pieces, owner), Statistics.load(f"{run.folder}/statistics")
        return lambda first, last: statistics.as_logged(owner, held(first, last))
    if kind == "identity":
        reserved, known = MISSING + 1, None
    elif kind == "vocab":
        statistics = Statistics.load(f"{run.folder}/statistics")
        reserved, known = UNKNOWN + 1, statistics.vocabularies[table if table in statistics.vocabularies else owner]
    else:
        return None

    def ids(first: int, last: int) -> pa.Array:
        begin = max(first, reserved)
        own = pa.array(np.arange(begin, last) - reserved) if known is None else known.slice(begin - reserved, last - begin)
        return pa.concat_arrays([pa.nulls(min(begin, last) - first, own.type), own]) if begin > first else own

    return ids
