"""Go on with a model of another shape: a new field, a larger table, another label. What fits is kept, the rest starts over."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torchrec.distributed.types import ShardedTensor

from data.errors import GenctrError
from data.ids import check_growth, rows_before
from data.schema import AnyIds
from models.id_table import Policy
from models.table_names import owner_of, table_of
from pipeline.builders.job import Job
from pipeline.distributed.world import gather


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
    """Whether a checkpoint's model, optimizers and id maps have the names and sizes of the job's. All ranks call it."""
    tensors = job.tensors()
    return all(
        _over_ranks(_sizes(part, tensors.get(part, {}))) == job.checkpoints.sizes(mark, part)
        for part in ("model", "optimizer", "ids")
    )


def load_grown(job: Job, mark: str) -> Grown:
    """Load what a checkpoint of an earlier shape has for the job's model and optimizers. All ranks call it.

    A tensor of the same name and size is taken over. A table with more rows keeps the rows it had: `identity` ids are the same
    rows; of `hash` ids, where rows - 1 is a multiple of what it was, every old row becomes that many, and no id loses its
    vector; of `managed` ids, where the buckets are a multiple, every id moves with its row and what is known of it. The head
    keeps the weights of the labels it had, which come first. Anything else starts with the initial values of the new model.

    Raises:
        GenctrError: a hashed or managed table has a number of rows that its ids cannot follow, or one of half precision is to
            be whole.
    """
    _check_precision(job, mark)
    moves = _load_ids(job, mark)
    told: dict[str, list[str]] = {"kept": [], "enlarged": [], "fresh": [], "left": []}
    model, optimizer = job.sharded.model.state_dict(), job.optimizer.state_dict()
    for part, state in (("model", model), ("optimizer", optimizer)):
        flat, _ = flatten_state_dict({part: state})
        here = {name.removeprefix(f"{part}."): value for name, value in flat.items() if _is_tensor(value)}
        there = job.checkpoints.sizes(mark, part)
        same = {name: value for name, value in here.items() if there.get(name) == _size(value)}
        if _over_ranks(dict.fromkeys(same)):
            job.checkpoints.restore(mark, {part: same}, some=True)
        more = {
            name
            for name, value in here.items()
            if name in there
            and _is_longer(name, value, there[name], moved=(own := _owner(job, name)) is not None and own.name in moves)
        }
        # An optimizer has the tables of its own rank only, and to restore takes all ranks: each restores what any of them has.
        for name in sorted(_over_ranks(dict.fromkeys(more))):
            before = torch.zeros(there[name])
            job.checkpoints.restore(mark, {part: {name: before}}, some=True)
            if name not in more:
                continue
            owner = _owner(job, name)
            if owner is not None and owner.name in moves:
                _enlarge(here[name], before, moves[owner.name].__getitem__)
            else:
                _enlarge(here[name], before, _follow(here[name], len(before), hashed=owner is not None and owner.ids == "hash"))
        if part == "model":
            told["kept"], told["enlarged"] = sorted(same), sorted(more)
            told["fresh"], told["left"] = sorted(here.keys() - same.keys() - more), sorted(there.keys() - here.keys())
    job.sharded.model.load_state_dict(model)
    job.optimizer.load_state_dict(optimizer)
    return Grown(**told)


@torch.no_grad()
def _enlarge(table: Tensor | ShardedTensor, before: Tensor, source: Callable[[Tensor], Tensor]) -> None:
    """Copy the rows of a smaller table, each rank into its own shards.

    Args:
        source: the old row of each of these new ones; a number that is none for a row that starts over.
    """
    if not isinstance(table, ShardedTensor):
        table[: len(before)].copy_(before)
        return
    for shard in table.local_shards():
        first = shard.metadata.shard_offsets[0]
        old = source(torch.arange(first, first + len(shard.tensor)))
        known = (old >= 0) & (old < len(before))
        column = shard.metadata.shard_offsets[1] if shard.tensor.dim() > 1 else 0
        values = before[old[known]]
        if shard.tensor.dim() > 1:
            values = values[:, column : column + shard.tensor.shape[1]]
        shard.tensor[known.to(shard.tensor.device)] = values.to(shard.tensor)


def _follow(table: Tensor | ShardedTensor, old: int, *, hashed: bool) -> Callable[[Tensor], Tensor]:
    """Where a table's rows were when it had `old` of them."""
    kind, rows = "hash" if hashed else "identity", _size(table)[0]
    check_growth(kind, before=old, now=rows)  # on ranks without a shard of it too
    return lambda own: torch.from_numpy(rows_before(kind, own.numpy(), before=old, now=rows))


def _load_ids(job: Job, mark: str) -> dict[str, Tensor]:
    """Load the maps of managed tables; of those that have grown return where each row was, -1 for a new one."""
    there, moves = job.checkpoints.sizes(mark, "ids"), {}
    for table in job.ids.tables if job.ids is not None else ():
        here = job.ids.state_dict()[table.name] if job.ids is not None else {}
        known = {name: size for name in here if (size := there.get(f"{table.name}.{name}")) is not None}
        if not known:
            continue
        before = {name: torch.zeros(size, dtype=here[name].dtype) for name, size in known.items()}
        job.checkpoints.restore(mark, {"ids": {table.name: before}}, some=True)
        table.check_shape(before["shape"])
        buckets, times = len(before["id"]) // table.policy.probe, table.policy.buckets * table.policy.probe // len(before["id"])
        if times * buckets != table.policy.buckets:
            rows = [buckets * max(own, 1) * table.policy.probe + table.policy.reserved for own in (times, times + 1)]
            raise GenctrError(
                f"managed table {table.name!r} cannot go from {buckets} buckets to {table.policy.buckets}: some ids might find "
                f"no room\n  next: give it {' or '.join(str(own) for own in dict.fromkeys(rows))} rows"
            )
        table.clock.copy_(before["clock"])
        for prefix in ("", "waiting_"):
            if f"{prefix}id" in before:
                is_here = before[f"{prefix}seen"] >= 0
                stays = torch.where(is_here, torch.arange(len(is_here)), -1)
                place = table.policy.moved(before[f"{prefix}id"], is_here) if times > 1 else stays
                table.map.take(
                    place, {name: own for name, own in before.items() if name.startswith("waiting_") == bool(prefix)}
                )
                if not prefix:
                    moves[table.name] = _sources(place, table.policy)
    return moves


def _sources(place: Tensor, policy: Policy) -> Tensor:
    """The old row of every new row."""
    source = torch.full((policy.rows,), -1)
    source[: policy.reserved] = torch.arange(policy.reserved)
    moved = place >= 0
    source[policy.reserved + place[moved]] = policy.reserved + moved.nonzero().flatten()
    return source


def _owner(job: Job, name: str) -> AnyIds | None:
    """The field whose table a tensor belongs to."""
    owner = owner_of(table_of(name), {spec.name for spec in job.source.features.tables})
    return next((field for field in job.source.schema.fields if isinstance(field, AnyIds) and field.name == owner), None)


def _is_longer(name: str, value: Tensor | ShardedTensor, before: torch.Size, *, moved: bool) -> bool:
    """Whether a tensor has more rows than before; one of a table whose map says where they went may also have fewer."""
    size = _size(value)
    grows = isinstance(value, ShardedTensor) or ".head." in name
    alike = grows and len(size) > 0 and len(size) == len(before) and size[1:] == before[1:]
    return alike and (size[0] > before[0] or (moved and size[0] < before[0]))


def _check_precision(job: Job, mark: str) -> None:
    """On a CPU, rows of half precision that were never trained are blank and stand for initial values; others read zeros."""
    stored = job.checkpoints.metadata(mark).state_dict_metadata
    for name, value in job.sharded.model.state_dict().items():
        before = stored.get(f"model.{name}")
        if job.world.device.type != "cpu" or not isinstance(value, ShardedTensor) or value.dtype == torch.half:
            continue
        if isinstance(before, TensorStorageMetadata) and before.properties.dtype == torch.half:
            raise GenctrError(
                f"table {table_of(name)!r} was begun in fp16, and rows of it that are not trained yet are not written\n"
                "  next: set tables.precision to fp16 again, or give a new --out"
            )


def _over_ranks(own: Mapping[str, torch.Size | None]) -> dict[str, torch.Size | None]:
    """The names of tensors that all ranks have, and their sizes, on every rank."""
    parts = gather(lambda: own, dict[str, list[int] | None])
    return {name: size if size is None else torch.Size(size) for part in parts for name, size in part.items()}


def _sizes(part: str, state: Any) -> dict[str, torch.Size]:
    here, _ = flatten_state_dict({part: state})
    return {name.removeprefix(f"{part}."): _size(value) for name, value in here.items() if _is_tensor(value)}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (Tensor, ShardedTensor))


def _size(value: Tensor | ShardedTensor) -> torch.Size:
    return value.metadata().size if isinstance(value, ShardedTensor) else value.size()
