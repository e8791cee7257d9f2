"""What a stage takes over from an earlier one: tables by their names, the network by the names of its parameters."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.types import ShardedTensor

from data.errors import GenctrError
from models.sparse import table_dims
from models.table_names import table_of
from pipeline.builders.job import Job
from pipeline.config.stages import LoadConfig
from pipeline.distributed.shard import ShardedTable

PART = 2**16
"""[rows] of a table that are looked at together."""


@dataclass(frozen=True)
class Transferred:
    """What was loaded, and what the new model has that the old one had not: names of tables and of parameters."""

    loaded: list[str]
    fresh: list[str]

    def to_json(self) -> dict[str, Any]:
        """As the log says it: tables by name, parameters counted."""
        return {"loaded": self.loaded, "fresh": self.fresh}


def transfer(job: Job, load: LoadConfig) -> Transferred:
    """Load into the job's model what its stage takes over. Optimizers stay new.

    A table goes to the table of the same name, pooled there or not, whatever the plans; a parameter of the network to the
    one of the same name. All ranks call it.

    Raises:
        GenctrError: the earlier stage left no checkpoint, a table has another size there, or nothing at all fits.
    """
    here = job.sharded.model.state_dict()
    mark = job.checkpoints.pinned(load.stage)
    if mark is None:
        raise GenctrError(f"{job.folder}: stage {load.stage} left no checkpoint to load\n  next: train it, or fix load.stage")
    there = job.checkpoints.sizes(mark, "model")
    pairs = dict(_pairs(here, there, load.parts))
    for name, source in pairs.items():
        if _size(here[name]) != there[source]:
            sizes = f"{list(there[source])} in stage {load.stage}, {list(_size(here[name]))} in stage {job.stage.name}"
            raise GenctrError(f"{_short(name)} does not fit: {sizes}\n  next: give both the same width, or load less")
    if load.parts != "none" and not pairs:
        raise GenctrError(f"stage {job.stage.name}: nothing of stage {load.stage} fits its {load.parts}")
    job.checkpoints.restore(mark, {"model": {source: here[name] for name, source in pairs.items()}}, some=True)
    if job.ids is not None and load.parts in ("tables", "all"):
        known = job.checkpoints.sizes(mark, "ids")
        maps = {table: own for table, own in job.ids.state_dict().items() if f"{table}.id" in known}
        if maps:  # a table that only this stage reads begins with an empty one
            job.checkpoints.restore(mark, {"ids": maps}, some=True)
        job.ids.check_shapes()
    if load.rescale is not None:
        dims, moments = table_dims(job.sharded.model), {moment.key: moment for _, moment in job.sharded.moments()}
        for name, source in pairs.items():
            if isinstance(here[name], ShardedTensor):
                moved = _moved(job, load.stage, moments.get(name), source)
                rescale(here[name], load.rescale, columns=dims[_short(name)], moved=moved)
    told = Transferred([_short(name) for name in pairs], [_short(name) for name in here if name not in pairs])
    job.sharded.model.load_state_dict(here)  # which renames what it is given
    return told


@torch.no_grad()
def _moved(job: Job, stage: str, moment: ShardedTable | None, source: str) -> list[Tensor] | None:
    """Which rows of a table an earlier stage has trained, by shard of this rank; None: its optimizer does not say. Collective.

    The moments of this stage's optimizer are room to read the earlier one's; then they are again what they begin with.
    """
    mark = job.checkpoints.pinned(stage)
    key, moment_name = f"tables.{source}", f"{_short(source)}.momentum1"
    if moment is None or mark is None or moment.whole.dim() != 1:
        return None
    if job.checkpoints.sizes(mark, "optimizer").get(f"state.{key}.{moment_name}") != moment.size:
        return None
    job.checkpoints.restore(mark, {"optimizer": {"state": {key: {moment_name: moment.whole}}}}, some=True)
    earlier = next(own for own in job.stages if own.name == stage).config
    begun = earlier.tables.of(_short(source)).initial_accumulator
    moved = [shard.values.ne(begun).cpu() for shard in moment.shards]
    for shard in moment.shards:
        shard.values.fill_(job.sharded.accumulators.get(moment.name, 0.0))
    return moved


@torch.no_grad()
def rescale(table: ShardedTensor, size: float, *, columns: int, moved: Sequence[Tensor] | None) -> None:
    """Multiply a table, over all its ranks, so that the root mean square of its trained numbers is `size`; zeros stay zeros.

    Args:
        columns: how many are read, the first ones. moved: (rows,) of every shard, which were trained; None, or none: all.
    """
    shards = [(shard.tensor, shard.metadata.shard_offsets[1]) for shard in table.local_shards()]
    masks = moved if moved is not None else [torch.ones(len(shard), dtype=torch.bool) for shard, _ in shards]
    sums = torch.zeros(4, dtype=torch.float64)  # on the CPU of every rank, whether it has a shard on a GPU or none
    for (shard, first), mask in zip(shards, masks, strict=True):
        read = shard[:, : max(columns - first, 0)]
        # A table that fills the memory has no double.
        for part, own in zip(torch.split(read, PART), torch.split(mask, PART), strict=True):
            squares_N, own_N = part.double().square().sum(1).cpu(), own.double()
            counts = torch.tensor([float(len(part)), float(own_N.sum())], dtype=torch.float64) * read.shape[1]
            sums += torch.cat([torch.stack([squares_N.sum(), squares_N @ own_N]), counts])
    if dist.is_initialized():
        dist.all_reduce(sums)
    all_squares, own_squares, all_count, own_count = sums.tolist()
    squares, count = (own_squares, own_count) if own_count else (all_squares, all_count)
    for shard, _ in shards:
        shard.mul_(size / (squares / count) ** 0.5 if squares else 1.0)


def _pairs(here: Mapping[str, Any], there: Mapping[str, Any], what: str) -> Iterator[tuple[str, str]]:
    """The names that belong together: (in the new model, in the checkpoint)."""
    tables = {table_of(name): name for name in there if table_of(name)}
    for name, value in here.items():
        table = table_of(name)
        if table:
            if what in ("tables", "all") and table in tables:
                yield name, tables[table]
        elif what in ("network", "all") and name in there and _size(value) == there[name]:
            yield name, name


def _size(value: Tensor | ShardedTensor) -> torch.Size:
    return value.metadata().size if isinstance(value, ShardedTensor) else value.size()


def _short(name: str) -> str:
    return table_of(name) or name
