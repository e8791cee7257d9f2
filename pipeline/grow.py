"""Go on with a model of another shape: a new field, a larger table, another label. What fits is kept, the rest begins anew."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torchrec.distributed.types import ShardedTensor

from data.ids import check_growth, rows_before
from data.schema import AnyIds
from models.sparse import LINEAR, SECOND
from pipeline.build import Job


@dataclass(frozen=True)
class Grown:
    """Names of tensors of the model: taken over as they are, with more rows than before, new, and left behind."""

    kept: list[str]
    enlarged: list[str]
    fresh: list[str]
    left: list[str]

    def to_json(self) -> dict[str, Any]:
        """As the log says it."""
        return dict(self.__dict__)


def fits(job: Job, mark: str) -> bool:
    """Whether a checkpoint's model has the names and sizes of the job's."""
    here, _ = flatten_state_dict({"model": job.sharded.model.state_dict()})
    sizes = {name.removeprefix("model."): _size(value) for name, value in here.items() if _is_tensor(value)}
    return sizes == job.checkpoints.sizes(mark, "model")


def load_grown(job: Job, mark: str) -> Grown:
    """Load what a checkpoint of an earlier shape has for the job's model and optimizers. All ranks call it.

    A tensor of the same name and size is taken over. A table with more rows keeps the rows it had: `identity` ids are the same
    rows; of `hash` ids, where rows - 1 is a multiple of what it was, every old row becomes that many, and no id loses its
    vector. The head keeps the weights of the labels it had, which come first. Anything else starts with the first values of the
    new model.

    Raises:
        GenctrError: a hashed table has a number of rows that its ids cannot follow.
    """
    told: dict[str, list[str]] = {"kept": [], "enlarged": [], "fresh": [], "left": []}
    model, optimizer = job.sharded.model.state_dict(), job.optimizer.state_dict()
    for part, state in (("model", model), ("optimizer", optimizer)):
        flat, _ = flatten_state_dict({part: state})
        here = {name.removeprefix(f"{part}."): value for name, value in flat.items() if _is_tensor(value)}
        there = job.checkpoints.sizes(mark, part)
        same = {name: value for name, value in here.items() if there.get(name) == _size(value)}
        if same:
            job.checkpoints.restore(mark, {part: same}, some=True)
        more = {name for name, value in here.items() if name in there and _is_longer(name, value, there[name])}
        for name in more:
            before = torch.zeros(there[name])
            job.checkpoints.restore(mark, {part: {name: before}}, some=True)
            _enlarge(here[name], before, hashed=_is_hashed(job, name))
        if part == "model":
            told["kept"], told["enlarged"] = sorted(same), sorted(more)
            told["fresh"], told["left"] = sorted(here.keys() - same.keys() - more), sorted(there.keys() - here.keys())
    job.sharded.model.load_state_dict(model)
    job.optimizer.load_state_dict(optimizer)
    return Grown(**told)


@torch.no_grad()
def _enlarge(table: Tensor | ShardedTensor, before: Tensor, *, hashed: bool) -> None:
    """Copy the rows of a smaller table, each rank into its own shards."""
    if not isinstance(table, ShardedTensor):
        table[: len(before)].copy_(before)
        return
    kind, now, old = "hash" if hashed else "identity", table.metadata().size[0], len(before)
    check_growth(kind, before=old, now=now)  # on ranks without a shard of it too
    for shard in table.local_shards():
        first = shard.metadata.shard_offsets[0]
        own = np.arange(first, first + len(shard.tensor))
        source = torch.from_numpy(rows_before(kind, own, before=old, now=now))
        known = source >= 0
        column = shard.metadata.shard_offsets[1] if shard.tensor.dim() > 1 else 0
        values = before[source[known]]
        if shard.tensor.dim() > 1:
            values = values[:, column : column + shard.tensor.shape[1]]
        shard.tensor[known.to(shard.tensor.device)] = values.to(shard.tensor)


def _is_hashed(job: Job, name: str) -> bool:
    """Whether the table a tensor belongs to has hashed ids."""
    parts = set(name.split("."))
    for field in job.source.schema.fields:
        own = {field.name, f"{field.name}{LINEAR}", f"{field.name}{SECOND}"}
        if isinstance(field, AnyIds) and field.table is None and parts & own:
            return field.ids == "hash"
    return False


def _is_longer(name: str, value: Tensor | ShardedTensor, before: torch.Size) -> bool:
    size = _size(value)
    grows = isinstance(value, ShardedTensor) or ".head." in name
    return grows and len(size) > 0 and len(size) == len(before) and size[0] > before[0] and size[1:] == before[1:]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (Tensor, ShardedTensor))


def _size(value: Tensor | ShardedTensor) -> torch.Size:
    return value.metadata().size if isinstance(value, ShardedTensor) else value.size()
