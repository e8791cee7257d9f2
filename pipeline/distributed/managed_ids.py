"""Managed tables over the ranks: raw ids in, rows out; rows that change hands start over; what a day made of the map.

In a step every rank sends its distinct ids to the ranks that own their buckets and gets rows back; an ordinary TorchRec table,
sharded in any way, then holds the vectors. What is decided depends on the rows of the whole step and on event time, so it is
the same for any number of ranks, and after a kill.

TorchRec's own managed collision cannot keep these laws: what MCH evicts depends on how its range is cut over the ranks, it
cannot be loaded on more of them, a table and its first-order weights cannot share one map, and MPZCH counts hours of the wall
clock and does not train on a CPU. Where both can do a thing they do the same: `tests/models/test_id_table.py` runs over both.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.metadata import ShardedTensorMetadata, TensorProperties
from torch.distributed._shard.sharded_tensor.shard import Shard
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data.batch import Batch
from data.errors import GenctrError
from data.ids import MISSING, NO_ID, seed_of
from data.schema import AnyIds, Schema
from models.id_table import UNSEEN, IdTable, Policy, first_vectors
from models.table_names import owner_of
from pipeline.config.tables import InitConfig
from pipeline.distributed.shard import Sharded

CLOCK = ("step", "today", "held", "looked", "hits", "admitted", "evicted", "expired", "crowded")
"""What a table counts, over all ranks: [steps] learnt, the newest day [days since 1970] (-1: none), [ids] that have a row; and
of the day under way [look-ups] of ids, those whose id had a row before, [ids] admitted, displaced by others, expired, and that
found no row."""

SHAPE = ("rows", "reserved", "probe")
"""What of a table's policy says where its buckets are: saved next to them."""

PER_DAY = CLOCK.index("looked")


def policy_of(field: AnyIds) -> Policy:
    """Who gets a row of the managed table that a field owns."""
    assert field.rows is not None, "checked when the schema was read"
    assert field.managed is not None, "asked of managed tables only"
    return Policy(
        rows=field.rows,
        seed=_signed(seed_of(field.name)),
        probe=field.bucket_rows,
        admit=field.managed.admit_after or 1,
        admit_share=field.managed.admit_probability,
        evict=field.managed.evict,
        ttl_days=field.managed.ttl_days,
        unseen_rows=field.managed.unseen_rows or 0,
    )


@dataclass(frozen=True)
class Part:
    """A part of a table's weights or of their optimizer's state, on this rank.

    Args:
        table: its name, or that of a companion. width: [columns] of the whole table, of weights. values: from row `row` and
            column `column` on. is_weight: else it is state. begins: what state begins with.
    """

    table: str
    width: int
    row: int
    column: int
    values: Tensor
    is_weight: bool
    begins: float = 0.0


class ManagedTable:
    """One managed table on this rank: its buckets of the map, its clock, and the parts of its rows.

    Args:
        field: the field that owns it. fields: all that read it. init: what its rows begin with. seed: of the run.
        parts: of the table and its companions. device: where the map lives.
    """

    def __init__(
        self, field: AnyIds, *, fields: Sequence[str], init: InitConfig, seed: int, parts: Sequence[Part], device: torch.device
    ) -> None:
        self.name, self.fields, self.policy = field.name, tuple(fields), policy_of(field)
        self._is_zero = field.managed is not None and field.managed.on_unseen == "zero"
        self._init, self._seed, self._parts = init, seed, parts
        rank, ranks = dist.get_rank(), dist.get_world_size()
        self.edges = [at * self.policy.buckets // ranks for at in range(ranks + 1)]
        self.map = IdTable(self.policy, begin=self.edges[rank], end=self.edges[rank + 1], device=device)
        self.clock = torch.zeros(len(CLOCK), dtype=torch.int64)
        self.clock[CLOCK.index("today")] = -1
        self.shape = self._own_shape()
        self.keep_zero()

    def _own_shape(self) -> Tensor:
        return torch.tensor([getattr(self.policy, name) for name in SHAPE])

    def check_shape(self, shape: Tensor) -> None:
        """Refuse a map whose buckets are elsewhere.

        Raises:
            GenctrError: `probe` or `unseen_rows` are not what they were.
        """
        old, now = (dict(zip(SHAPE, own.tolist(), strict=True)) for own in (shape, self._own_shape()))
        self.shape.copy_(self._own_shape())
        if old["probe"] != now["probe"] or old["reserved"] != now["reserved"]:
            raise GenctrError(
                f"table {self.name!r} was begun with buckets of {old['probe']} rows after {old['reserved']} reserved ones, "
                f"and now has {now['probe']} after {now['reserved']}: its ids would all move\n"
                f"  next: say bucket_size: {old['probe']}, and unseen_rows as it was"
            )

    def counted(self) -> dict[str, int]:
        """The clock by name."""
        return dict(zip(CLOCK, self.clock.tolist(), strict=True))

    def rows_of(self, ids_L: Tensor, days_L: Tensor | None, newest: int, *, learn: bool) -> Tensor:
        """The row of every look-up. Collective.

        Args:
            days_L: [days since 1970] of the look-ups' events. newest: the newest on this rank, -1 for none.
            learn: else the map is only read.
        """
        present_L = ids_L != NO_ID
        ids_N, back, count_N = torch.unique(ids_L[present_L], return_inverse=True, return_counts=True)
        day_N = _newest(back, days_L[present_L], len(ids_N)) if days_L is not None else torch.zeros_like(ids_N)
        exchange = Exchange(self.policy.bucket_of(ids_N), self.edges, newest)
        asked = exchange.to_owners(torch.stack([ids_N, count_N, day_N], dim=1))
        mine, back_mine = torch.unique(asked[:, 0], return_inverse=True)
        if learn:
            counts = torch.zeros_like(mine).index_add_(0, back_mine, asked[:, 1])
            rows = self._learn(mine, counts, _newest(back_mine, asked[:, 2], len(mine)), exchange.newest)
        else:
            rows, _ = self.map.look(mine)
        found = torch.full_like(ids_L, MISSING)
        found[present_L] = exchange.back(rows[back_mine])[back]
        return found

    def _learn(self, ids_N: Tensor, count_N: Tensor, day_N: Tensor, newest: int) -> Tensor:
        """One step of the map; rows that change hands start over, wherever they are."""
        counted = self.counted()
        expired = ids_N.new_empty(0)
        if newest > counted["today"] and self.policy.ttl_days is not None:
            expired = self.map.expire(newest)
        learnt = self.map.learn(ids_N, count_N, day_N, step=counted["step"] + 1)
        own = torch.tensor(
            [
                *(len(learnt.placed) - len(learnt.displaced) - len(expired), int(count_N.sum()), learnt.hits),
                *(len(learnt.placed), len(learnt.displaced), len(expired), learnt.crowded),
                int(learnt.is_own.sum()) + learnt.crowded,
            ]
        )
        gathered = _gathered(own.to(ids_N.device)).sum(0).cpu()
        self.clock[CLOCK.index("held") :] += gathered[:-1]
        self.clock[CLOCK.index("step")] += 1
        self.clock[CLOCK.index("today")] = max(newest, counted["today"])
        self._check(int(gathered[-1]))
        expired = expired[~torch.isin(expired, learnt.placed)]
        rows = torch.cat([expired, learnt.placed])
        changes = torch.stack([rows, torch.cat([torch.full_like(expired, NO_ID), learnt.placed_ids])], dim=1)
        if dist.get_world_size() > 1:
            changes = _gathered_pieces(changes) if int(gathered[3] + gathered[5]) else changes
        self.begin_anew(changes[:, 0], changes[:, 1])
        return learnt.rows

    def _check(self, wanted: int) -> None:
        if wanted > self.policy.capacity and self.policy.evict != "none":
            raise GenctrError(
                f"table {self.name!r} has room for {self.policy.capacity} ids, and one step has {wanted} that earned a row\n"
                "  expected: more rows than a step has ids: with fewer, ids are let go before they have learnt\n"
                f"  next: give it well over {wanted} rows, a higher admit_after, or smaller steps; or say evict: none"
            )

    @torch.no_grad()
    def begin_anew(self, rows_M: Tensor, ids_M: Tensor) -> None:
        """Give these rows the first vectors of these ids, zeros for `NO_ID`, and the state that optimizers begin with."""
        for part in self._parts if len(rows_M) else ():
            at_M = rows_M - part.row
            here_M = (at_M >= 0) & (at_M < len(part.values))
            at, ids = at_M[here_M].to(part.values.device), ids_M[here_M].to(part.values.device)
            if not part.is_weight:
                part.values[at] = part.begins
            elif len(at):
                scale = self.policy.rows**-0.5 if self._init.scale is None else self._init.scale
                key = _signed(int.from_bytes(_digest(f"{self._seed}/{part.table}"), "little"))
                drawn = first_vectors(ids, key, width=part.width, kind=self._init.kind, scale=scale)
                drawn[ids == NO_ID] = -0.0  # a zero that a table of half precision does not take for a row never written
                part.values[at] = drawn[:, part.column : part.column + part.values.shape[1]].to(part.values)

    def keep_zero(self) -> None:
        """Make what unseen ids read zeros again, if it is meant to be: the backward has moved it."""
        if self._is_zero:
            self.begin_anew(torch.tensor([UNSEEN]), torch.tensor([NO_ID]))


class Exchange:
    """One step's way of distinct ids to the ranks that own their buckets, and of rows back. Alone there is nothing to send.

    Args:
        bucket_N: the bucket of every id. edges: the first bucket of every rank, and the number of buckets.
        newest: a number of which every rank gets the largest.
    """

    def __init__(self, bucket_N: Tensor, edges: Sequence[int], newest: int) -> None:
        self.newest, self._alone = newest, len(edges) == 2
        if self._alone:
            return
        self._order = bucket_N.argsort(stable=True)
        bounds = torch.tensor(edges, device=bucket_N.device)
        sizes = torch.searchsorted(bucket_N[self._order], bounds).diff()
        told = torch.stack([sizes, torch.full_like(sizes, newest)], dim=1)
        heard = torch.empty_like(told)
        dist.all_to_all_single(heard, told)
        self._sent, self._got = sizes.tolist(), heard[:, 0].tolist()
        self.newest = int(heard[:, 1].max())

    def to_owners(self, values_NX: Tensor) -> Tensor:
        """What the other ranks, and this one, have about ids of this rank's buckets."""
        if self._alone:
            return values_NX
        got = values_NX.new_empty(sum(self._got), values_NX.shape[1])
        dist.all_to_all_single(got, values_NX[self._order].contiguous(), self._got, self._sent)
        return got

    def back(self, values_M: Tensor) -> Tensor:
        """What the owners answered to what was sent, (N,)."""
        if self._alone:
            return values_M
        got = values_M.new_empty(sum(self._sent))
        dist.all_to_all_single(got, values_M.contiguous(), self._sent, self._got)
        answers = torch.empty_like(got)
        answers[self._order] = got
        return answers


class ManagedIds:
    """The managed tables of a model. Every method is collective.

    Args:
        schema: as the stage reads it. sharded: the model whose tables they are. inits: what their rows begin with, by table.
        seed: of the run. device: where the maps live. frozen: whether the maps are only read, in training too.
    """

    def __init__(
        self,
        schema: Schema,
        sharded: Sharded,
        *,
        inits: Mapping[str, InitConfig],
        seed: int,
        device: torch.device,
        frozen: bool,
    ) -> None:
        parts = list(_parts(sharded))
        self._frozen = frozen
        self.tables = [
            ManagedTable(
                field,
                fields=[own.name for own in schema.fields if isinstance(own, AnyIds) and schema.owner(own) is field],
                init=inits[field.name],
                seed=seed,
                parts=[part for part in parts if owner_of(part.table, inits) == field.name],
                device=device,
            )
            for field in schema.managed
        ]

    @torch.no_grad()
    def __call__(self, batch: Batch, *, learn: bool) -> Batch:
        """The batch with rows for raw ids; the maps learn from it if they may."""
        assert not batch.ids_mapped, "rows would be taken for ids"
        days = batch.days
        newest = int(days.max()) if days is not None and len(days) else -1
        keyed = {"bags": _Keyed(batch.bags), "sequences": _Keyed(batch.sequences) if batch.sequences is not None else None}
        for table in self.tables:
            own = next(own for own in keyed.values() if own is not None and table.fields[0] in own.keys)
            ids, rows = own.take(table.fields)
            ages = days[rows] if days is not None else None
            own.put(table.fields, table.rows_of(ids, ages, newest, learn=learn and not self._frozen))
        bags, sequences = keyed["bags"], keyed["sequences"]
        assert bags is not None
        return replace(
            batch, bags=bags.whole(), sequences=sequences.whole() if sequences is not None else None, ids_mapped=True
        )

    def keep_zero(self) -> None:
        """Take back what a step did to zero vectors."""
        for table in self.tables:
            table.keep_zero()

    def begin_day(self) -> None:
        """Count the day from nothing."""
        for table in self.tables:
            table.clock[PER_DAY:] = 0

    def summary(self) -> dict[str, dict[str, float]]:
        """What the day under way made of every table.

        Returns:
            by table: `held` [ids] that have a row, `occupancy` [1] of all rows, `hit_rate` [1] of the look-ups whose id had a
            row before the step, [ids] `admitted`, `evicted` for another id, `expired` by TTL and `crowded`, for which there was
            no row; and `churn` [1], those that left over those that are here.
        """
        told = {}
        for table in self.tables:
            counted = table.counted()
            left = counted["evicted"] + counted["expired"]
            told[table.name] = {
                "held": counted["held"],
                "occupancy": counted["held"] / table.policy.capacity,
                "hit_rate": counted["hits"] / max(counted["looked"], 1),
                **{name: counted[name] for name in ("admitted", "evicted", "expired", "crowded")},
                "churn": left / max(counted["held"], 1),
            }
        return told

    def load(self, held: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Let the maps be those of another model, to be read: by table its ids and their rows."""
        for table in self.tables:
            table.map.put(*(values.to(table.map.state["id"].device) for values in held[table.name]))

    def check_shapes(self) -> None:
        """After a load: refuse maps whose buckets are elsewhere."""
        for table in self.tables:
            table.check_shape(table.shape)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The maps, clocks and shapes, live: what is loaded into them is loaded; then `check_shapes`."""
        return {
            table.name: {name: _sharded(value, table) for name, value in table.map.state.items()}
            | {"clock": table.clock, "shape": table.shape}
            for table in self.tables
        }


class _Keyed:
    """A KeyedJaggedTensor whose values are replaced key by key."""

    def __init__(self, ids: KeyedJaggedTensor) -> None:
        self._ids, self.keys = ids, ids.keys()
        self._ends = dict(zip(self.keys, pairwise(ids.offset_per_key()), strict=True))
        self._values: Tensor = ids.values()

    def take(self, fields: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The ids of these fields, one after the other, and the row of the batch each is of."""
        stride = self._ids.stride()
        lengths = self._ids.lengths().view(len(self.keys), stride)[[self.keys.index(name) for name in fields]]
        each = torch.arange(stride, device=lengths.device).repeat(len(fields))
        return torch.cat([self._part(name) for name in fields]), each.repeat_interleave(lengths.flatten())

    def put(self, fields: Sequence[str], values: Tensor) -> None:
        """What take their place."""
        if self._values is self._ids.values():
            self._values = self._values.clone()
        start = 0
        for name in fields:
            part = self._part(name)
            part.copy_(values[start : start + len(part)])
            start += len(part)

    def whole(self) -> KeyedJaggedTensor:
        """All of it."""
        return KeyedJaggedTensor(self.keys, self._values, lengths=self._ids.lengths(), stride=self._ids.stride())

    def _part(self, name: str) -> Tensor:
        begin, end = self._ends[name]
        return self._values[begin:end]


def _parts(sharded: Sharded) -> Iterator[Part]:
    """All that this rank has of tables and of their optimizers' states, live."""
    for table in sharded.tables():
        for shard in table.shards:
            yield Part(table.name, table.size[1], shard.row, shard.column, shard.values, is_weight=True)
    for _, moment in sharded.moments():
        begins = sharded.accumulators.get(moment.name, 0.0)
        for shard in moment.shards:
            yield Part(moment.name, 0, shard.row, 0, shard.values, is_weight=False, begins=begins)


def _newest(back_N: Tensor, days_N: Tensor, ids: int) -> Tensor:
    """The newest day of every distinct id."""
    return days_N.new_zeros(ids).scatter_reduce_(0, back_N, days_N, "amax", include_self=False)


def _gathered(own: Tensor) -> Tensor:
    """The same tensor of every rank, (W, …)."""
    if dist.get_world_size() == 1:
        return own[None]
    found = own.new_empty(dist.get_world_size() * own.numel())
    dist.all_gather_into_tensor(found, own.contiguous().flatten())
    return found.view(-1, *own.shape)


def _gathered_pieces(own_MX: Tensor) -> Tensor:
    """The rows that every rank has, one after the other."""
    sizes = _gathered(torch.tensor([len(own_MX)], device=own_MX.device)).flatten().tolist()
    padded = own_MX.new_zeros(max(sizes), own_MX.shape[1])
    padded[: len(own_MX)] = own_MX
    return torch.cat([part[:size] for part, size in zip(_gathered(padded), sizes, strict=True)])


def _sharded(local: Tensor, table: ManagedTable) -> ShardedTensor:
    """A table's map as DCP wants it: every rank's buckets at their place. Ranks without buckets have no shard."""
    probe, edges = table.policy.probe, table.edges
    shards = [
        ShardMetadata([begin * probe], [(end - begin) * probe], f"rank:{rank}/{local.device}")
        for rank, (begin, end) in enumerate(pairwise(edges))
        if end > begin
    ]
    own = [shard for shard in shards if shard.placement is not None and shard.placement.rank() == dist.get_rank()]
    whole = ShardedTensorMetadata(
        shards, torch.Size([table.policy.capacity]), TensorProperties(dtype=local.dtype, requires_grad=False)
    )
    return ShardedTensor._init_from_local_shards_and_global_metadata([Shard(local, meta) for meta in own], whole)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _signed(word: int) -> int:
    """64 bits as a signed integer, which is what torch has."""
    return word - 2**64 if word >= 2**63 else word
