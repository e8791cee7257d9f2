"""What a stage takes over from an earlier one: tables by their names, the network by the names of its parameters."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.types import ShardedTensor

from data.errors import GenctrError
from models.table_names import table_of
from pipeline.builders.job import Job
from pipeline.config.stages import LoadConfig

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
        for name in pairs:
            if isinstance(here[name], ShardedTensor):
                rescale(here[name], load.rescale)
    told = Transferred([_short(name) for name in pairs], [_short(name) for name in here if name not in pairs])
    job.sharded.model.load_state_dict(here)  # which renames what it is given
    return told


@torch.no_grad()
def rescale(table: ShardedTensor, size: float) -> None:
    """Multiply a table, over all its ranks, so that the root mean square of its numbers is `size`; all zeros stay zeros."""
    shards = [shard.tensor for shard in table.local_shards()]
    sums = torch.zeros(2, dtype=torch.float64)  # on the CPU of every rank, whether it has a shard on a GPU or none
    for part in (part for shard in shards for part in shard.split(PART)):  # a table that fills the memory has no double
        sums += torch.tensor([float(part.double().square().sum()), part.numel()], dtype=torch.float64)
    if dist.is_initialized():
        dist.all_reduce(sums)
    squares, count = sums.tolist()
    for shard in shards:
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
