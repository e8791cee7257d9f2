"""Write the model as a bundle: every rank its own shards, rank 0 the rest, the manifest last."""

import io
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from torch import Tensor
from torchrec.distributed.types import ShardedTensor

from data.batch import Batch
from data.cursor import Cursor
from data.days import Day
from data.errors import GenctrError
from data.paths import PATHS, list_folder, remove_folder, write_whole
from data.readers import read_columns
from data.seal import sealed
from data.statistics import FILE, Statistics
from data.stream import FILE as FILE_COLUMN
from data.stream import ROW
from data.yaml_document import finite
from pipeline.builders.job import Job
from pipeline.distributed.shard import ShardedTable
from pipeline.distributed.world import World, gather
from pipeline.serving.bundle import DENSE, FORMAT, MANIFEST, SAMPLE, Bundle, BundleError, described, pieces
from pipeline.serving.int8 import dequantised, quantised

SAMPLE_ROWS = 256
"""[rows] of the day that travel with the bundle."""

INSIDE = "model."
"""Where the objective has the model; what else it holds is for training only."""


def export(job: Job, folder: str, name: str, *, day: Day, step: int, facts: Mapping[str, Any]) -> Bundle:
    """Write the job's model as bundle `name` below `folder`, or leave it if it is there whole. Collective.

    Args:
        day: the sample is of its first rows. step: [steps] trained. facts: what the manifest also says: scores, parent.

    Raises:
        GenctrError: what is there whole is another model.
    """
    path = f"{folder}/{name}"
    if job.world.from_rank_zero(lambda: PATHS.exists(f"{path}/{MANIFEST}"), bool):
        bundle = open_alike(job.world, lambda: Bundle(path))
        assert bundle is not None
        if job.world.all_reduce_sum(torch.tensor([int(_differs(job, bundle))])).any():
            raise GenctrError(
                f"{path} is there already, and is another model's: does another run publish here?\n"
                "  next: give daily.publish a folder of its own, or take this bundle away"
            )
    else:
        job.world.from_rank_zero(lambda: _begin(path), None)
        written, tables = _write_tables(job, path)
        maps = _write_maps(job, path, f"{folder}/{facts['parent']}" if facts.get("parent") else None)
        expected, sample = _sample(job, day)
        gathered = gather(lambda: (written | maps, tables), tuple[dict[str, Any], dict[str, list[dict[str, Any]]]])
        told = {"day": day.name, "step": step, **facts}
        job.world.from_rank_zero(lambda: _write_rest(job, path, gathered, expected, sample, told), None)
    bundle = open_alike(job.world, lambda: Bundle(path))
    assert bundle is not None
    return bundle


def open_alike(world: World, work: Callable[[], Bundle | None]) -> Bundle | None:
    """The bundle that rank 0's `work` returns, opened by every rank for itself. Collective."""
    found: list[Bundle | None] = []

    def first() -> tuple[str, str] | None:
        found.append(work())
        return (found[0].path, found[0].sha256) if found[0] is not None else None

    known = world.from_rank_zero(first, tuple[str, str] | None)
    if known is None or found:
        return found[0] if found else None
    path, sha256 = known
    return Bundle(path, sha256=sha256)


@torch.no_grad()
def _differs(job: Job, bundle: Bundle) -> bool:
    """Whether a bundle has other bits than the model, as far as this rank holds it."""
    try:
        dense, as_bytes = bundle.dense(), bundle.manifest["bundle_precision"] == "int8"
        for key, value in job.sharded.model.state_dict().items():
            name = key.removeprefix(INSIDE)
            if isinstance(value, ShardedTensor) and key.startswith(INSIDE):
                for row, column, own in _parts(job, ShardedTable(key, value)):
                    there = torch.zeros_like(own)
                    bundle.fill(name, there, row, column)
                    if as_bytes:
                        own = dequantised(quantised(own))
                    if not _same(own, there):
                        return True
            elif isinstance(value, Tensor) and key.startswith(INSIDE) and not _same(value.detach().cpu(), dense[name]):
                return True
    except (GenctrError, KeyError, RuntimeError):  # it is damaged, or of another shape
        return True
    return False


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same bits; nan is nan."""
    return one.dtype == other.dtype and torch.equal(*(own.contiguous().reshape(-1).view(torch.uint8) for own in (one, other)))


def _begin(path: str) -> None:
    """An empty folder: what a killed export left behind is not a part of this one."""
    if list_folder(path):
        remove_folder(path)
    PATHS.mkdirs(f"{path}/")


def _write_tables(job: Job, path: str) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """This rank's shards: what the manifest says of their files, and of the tables' pieces."""
    files: dict[str, Any] = {}
    tables: dict[str, list[dict[str, Any]]] = {}
    as_bytes = job.config.daily.bundle_precision == "int8"
    for number, table in enumerate(job.sharded.tables()):
        if not table.key.startswith(INSIDE):
            continue
        for row, column, own in _parts(job, table):
            content = safetensors.torch.save({"rows": quantised(own) if as_bytes else own})
            file = f"table.{number}.{row}.{column}.safetensors"
            write_whole(f"{path}/{file}", content)
            files[file] = described(content)
            piece = {"file": file, "rows": [row, row + len(own)], "columns": [column, column + own.shape[1]]}
            tables.setdefault(table.key.removeprefix(INSIDE), []).append(piece)
    return files, tables


def _parts(job: Job, table: ShardedTable) -> Iterator[tuple[int, int, Tensor]]:
    """What this rank holds of a table, as look-ups see it, a piece at a time: its first row and column, and the numbers."""
    for shard in table.shards:
        for begin, end in pieces(*shard.values.shape):
            numbers = torch.arange(shard.row + begin, shard.row + end)
            own = job.sharded.rows_as_read(table.name, shard.values[begin:end], numbers, shard.column)
            yield shard.row + begin, shard.column, own.contiguous()


def _write_maps(job: Job, path: str, parent: str | None) -> dict[str, Any]:
    """This rank's part of the maps of managed tables, and which ids the bundle before had that are gone: what of the files."""
    files: dict[str, Any] = {}
    for table in job.ids.tables if job.ids is not None else ():
        ids, rows = (values.cpu() for values in table.map.held())
        as_logged = partial(job.source.features.statistics.as_logged, table.name)
        told = {"ids": pa.table({"id": as_logged(pa.array(ids.numpy())), "row": rows.numpy()})}
        known = _held_before(parent, table.name)
        if known is not None:
            bucket = table.policy.bucket_of(known)
            mine = known[(bucket >= table.map.begin) & (bucket < table.map.end)]
            told["gone"] = pa.table({"id": as_logged(pa.array(mine[~torch.isin(mine, ids)].numpy()))})
        for kind, content in told.items():
            buffer = io.BytesIO()
            pq.write_table(content, buffer)
            file = f"{kind}.{table.name}.{table.map.begin}.parquet"
            if table.map.end > table.map.begin:
                write_whole(f"{path}/{file}", buffer.getvalue())
                files[file] = described(buffer.getvalue())
    return files


def _held_before(parent: str | None, table: str) -> Tensor | None:
    """The ids of a table in the bundle before; None if it has none, or cannot be read, which is reported where it is
    compared."""
    if parent is None or not PATHS.exists(f"{parent}/{MANIFEST}"):
        return None
    try:
        before = Bundle(parent)
        return before.held(table)[0] if table in before.ids else None
    except BundleError:
        return None


def _sample(job: Job, day: Day) -> tuple[dict[str, list[float]], pa.Table | None]:
    """The first good rows of a day as they lie in the log, on rank 0, and what the trainer's model says of them. Collective."""
    found: list[pa.Table] = []
    job.world.from_rank_zero(
        lambda: found.append(_first_rows(job, day)), None
    )  # the other ranks have no rows, and fail if it does
    collated, kept = _collated(job, day, found[0] if found else day.schema.empty_table())
    model = job.sharded.model
    model.eval()
    with torch.no_grad():
        _, output = model(collated.to(job.world.device))
    model.train()
    logits = {target: output.logits[target].float().cpu() for target in job.schema.target_names}
    if collated.offsets is not None:  # of the rows as they lie in the log; scores are of the whole log
        logits = {target: own - collated.offsets[:, at] for at, (target, own) in enumerate(logits.items())}
    return {target: own.tolist() for target, own in logits.items()}, kept


def _first_rows(job: Job, day: Day) -> pa.Table:
    """The first few rows together of which training does not leave out all; without any, the last that were looked at."""
    columns, reader = job.source.schema.columns(), job.source.reader
    units = ((file.path, unit) for file in day.files for unit, rows in enumerate(file.units) if rows)
    table = None
    for batch in (batch for path, unit in units for batch in read_columns(reader, path, unit, columns, 0)):
        for start in range(0, batch.num_rows, SAMPLE_ROWS):
            table = pa.Table.from_batches([batch.slice(start, SAMPLE_ROWS)])
            # The day's types hold every value, ids with and without a sign by their bits: see `Days.open`.
            table = table.cast(pa.schema([day.schema.field(column) for column in columns]), safe=False)
            if _collated(job, day, table)[1].num_rows:
                return table
    assert table is not None, "an opened day has rows"
    return table


def _collated(job: Job, day: Day, table: pa.Table) -> tuple[Batch, pa.Table]:
    """The rows as a batch, and those that it has: bad ones may be left out."""
    batches = table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], day.schema)]
    batch = batches[0].select(job.source.schema.columns())
    batch = batch.append_column(FILE_COLUMN, pa.array([0] * batch.num_rows, pa.int32()))
    batch = batch.append_column(ROW, pa.array(range(batch.num_rows), pa.int64()))
    collate = job.source.collate
    collate.origins = True
    collated = collate(batch, files=[day.files[0].path], rows=SAMPLE_ROWS, cursor=Cursor(0, day.name, 0, 1))
    collate.origins = False
    assert collated.origin is not None
    return collated, table.take(pa.array(collated.origin[:, 1].numpy()))


def _write_rest(
    job: Job,
    path: str,
    gathered: list[tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]],
    expected: dict[str, list[float]],
    sample: pa.Table,
    facts: Mapping[str, Any],
) -> None:
    files: dict[str, Any] = {}
    tables: dict[str, list[dict[str, Any]]] = {}
    for written, own in gathered:
        files |= written
        for key, parts in own.items():
            tables.setdefault(key, []).extend(parts)
    dense = {
        key.removeprefix(INSIDE): value.detach().cpu().contiguous()
        for key, value in job.sharded.model.state_dict().items()
        if isinstance(value, Tensor) and not isinstance(value, ShardedTensor) and key.startswith(INSIDE)
    }
    buffer = io.BytesIO()
    pq.write_table(sample, buffer)
    contents = {DENSE: safetensors.torch.save(dense), SAMPLE: buffer.getvalue()}
    fitted = f"{job.folder}/statistics"
    Statistics.load(fitted)  # verified before it travels: serving would only see that it is what was exported
    for name in list_folder(fitted):
        if name == FILE or (name.startswith("vocabulary.") and name.endswith(".parquet")):  # no leftover of a killed save
            with PATHS.open(f"{fitted}/{name}", "rb") as file:
                contents[name] = bytes(file.read())
    for name, content in contents.items():
        write_whole(f"{path}/{name}", content)
        files[name] = described(content)
    manifest = {
        "format": FORMAT,
        "bundle": path.rpartition("/")[2],
        **facts,
        "targets": list(job.schema.target_names),
        "links": dict(job.objective.links),
        "schema": job.source.schema.model_dump(mode="json", by_alias=True),
        "model": job.config.model.model_dump(mode="json", by_alias=True),
        "precision": job.config.train.dense.precision,
        "communication": job.config.train.comm_precision,
        "reader": {"format": job.config.data.reader, "options": job.config.data.reader_options},
        "tables": tables,
        **{kind: _maps_of(job, files, kind) for kind in ("ids", "gone") if job.ids is not None},
        "expected": expected,
        "files": files,
        "versions": {name: version(name) for name in ("genctr", "torch", "torchrec")},
    }
    write_whole(f"{path}/{MANIFEST}", sealed(finite(manifest), indent=1, sort_keys=True, allow_nan=False))


def _maps_of(job: Job, files: Mapping[str, Any], kind: str) -> dict[str, list[str]]:
    """The files of one kind by managed table."""
    names = [field.name for field in job.source.schema.managed]
    return {name: sorted(file for file in files if file.startswith(f"{kind}.{name}.")) for name in names}
