"""Embedding collections over the ranks: TorchRec's, with what laws 2 and 4 need and it cannot do.

- A rank may have fewer rows than others in a step, or none (the end of a day). TorchRec fails on a rank without rows, and on
  gloo row-wise tables want the same number on every rank.
- Row-wise on CPU, which TorchRec leaves out though gloo can do it.
- The mean over a bag of a row-wise table. TorchRec divides by the length + 1e-6, sums too, and by another field's length
  where two tables read one field.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as functional
from torch import Tensor
from torchrec.distributed import dist_data
from torchrec.distributed.comm_ops import QuantizedCommCodecs, reduce_scatter_base_pooled, reduce_scatter_v_pooled
from torchrec.distributed.embedding import (
    EmbeddingCollectionContext,
    EmbeddingCollectionSharder,
    ShardedEmbeddingCollection,
)
from torchrec.distributed.embedding_types import KJTList
from torchrec.distributed.embeddingbag import (
    EmbeddingBagCollectionContext,
    EmbeddingBagCollectionSharder,
    ShardedEmbeddingBagCollection,
)
from torchrec.distributed.types import Awaitable, LazyAwaitable, ParameterSharding, ShardingEnv, ShardingType
from torchrec.modules.embedding_configs import PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection, get_embedding_names_by_table
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

T = TypeVar("T")

SUMMED_OVER_RANKS = ("row_wise", "table_row_wise", "grid_shard")
"""Shardings that spread a bag over ranks, so that the mean has to be taken after the sum of their parts."""


@dataclass
class PooledContext(EmbeddingBagCollectionContext):
    """A step's notes: whether this rank has no rows in it, and the lengths (B, 1) of the fields still to be averaged."""

    empty: bool = False
    lengths: dict[str, Tensor] = field(default_factory=dict)

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the lengths until `stream` has used them."""
        super().record_stream(stream)
        for lengths in self.lengths.values():
            lengths.record_stream(stream)


@dataclass
class UnpooledContext(EmbeddingCollectionContext):
    """A step's notes: whether this rank has no rows in it."""

    empty: bool = False


class PooledTables(ShardedEmbeddingBagCollection):
    """An EmbeddingBagCollection over the ranks. A rank without rows looks up one without ids, and forgets it again."""

    def __init__(
        self,
        module: EmbeddingBagCollection,
        params: dict[str, ParameterSharding],
        env: ShardingEnv,
        device: torch.device | None,
        module_fqn: str | None,
        codecs: dict[str, QuantizedCommCodecs] | None = None,
    ) -> None:
        super().__init__(module, params, env, device=device, module_fqn=module_fqn, qcomm_codecs_registry=codecs)
        self._has_mean_pooling_callback = False  # theirs
        configs = module.embedding_bag_configs()
        self._averaged = [
            name
            for config, names in zip(configs, get_embedding_names_by_table(configs), strict=True)
            for name in names
            if config.pooling == PoolingType.MEAN and params[config.name].sharding_type in SUMMED_OVER_RANKS
        ]

    def create_context(self) -> PooledContext:
        """A new step's notes."""
        return PooledContext()

    def input_dist(self, ctx: PooledContext, features: KeyedJaggedTensor) -> Awaitable[Awaitable[KJTList]]:
        """Send the ids to the ranks that hold their rows."""
        ctx.empty = features.stride() == 0
        if ctx.empty:
            features = _with_a_row(features)
        if self._averaged:
            lengths_by_field = dict(zip(features.keys(), features.lengths().view(-1, features.stride(), 1), strict=True))
            ctx.lengths = {name: lengths_by_field[name.split("@")[0]] for name in self._averaged}
        return super().input_dist(ctx, features)

    def output_dist(self, ctx: PooledContext, output: list[Tensor]) -> LazyAwaitable[KeyedTensor]:
        """Bring the vectors back."""
        with _padding():
            return _finished(super().output_dist(ctx, output), ctx)

    def compute_and_output_dist(self, ctx: PooledContext, input: KJTList) -> LazyAwaitable[KeyedTensor]:
        """Look the vectors up and bring them back."""
        with _padding():
            return _finished(super().compute_and_output_dist(ctx, input), ctx)


class UnpooledTables(ShardedEmbeddingCollection):
    """An EmbeddingCollection over the ranks. A rank without rows looks up one without ids, and forgets it again."""

    def create_context(self) -> UnpooledContext:
        """A new step's notes."""
        return UnpooledContext(sharding_contexts=[])

    def input_dist(self, ctx: UnpooledContext, features: KeyedJaggedTensor) -> Awaitable[Awaitable[KJTList]]:
        """Send the ids to the ranks that hold their rows."""
        ctx.empty = features.stride() == 0
        return super().input_dist(ctx, _with_a_row(features) if ctx.empty else features)

    def output_dist(self, ctx: UnpooledContext, output: list[Tensor]) -> LazyAwaitable[dict[str, JaggedTensor]]:
        """Bring the vectors back."""
        return _then(super().output_dist(ctx, output), _no_events, needed=ctx.empty)

    def compute_and_output_dist(self, ctx: UnpooledContext, input: KJTList) -> LazyAwaitable[dict[str, JaggedTensor]]:
        """Look the vectors up and bring them back."""
        return _then(super().compute_and_output_dist(ctx, input), _no_events, needed=ctx.empty)


class PooledSharder(EmbeddingBagCollectionSharder):
    """Makes `PooledTables`."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """All but a copy on every rank."""
        return [kind.value for kind in ShardingType if kind != ShardingType.DATA_PARALLEL]

    def shard(
        self,
        module: EmbeddingBagCollection,
        params: dict[str, ParameterSharding],
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> PooledTables:
        """Spread a collection."""
        return PooledTables(module, params, env, device, module_fqn, self.qcomm_codecs_registry)

    @property
    def sharded_module_type(self) -> type[PooledTables]:
        """What `shard` makes."""
        return PooledTables


class UnpooledSharder(EmbeddingCollectionSharder):
    """Makes `UnpooledTables`."""

    def shard(
        self,
        module: EmbeddingCollection,
        params: dict[str, ParameterSharding],
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> UnpooledTables:
        """Spread a collection."""
        codecs = self.qcomm_codecs_registry
        return UnpooledTables(module, params, env, device=device, module_fqn=module_fqn, qcomm_codecs_registry=codecs)

    @property
    def sharded_module_type(self) -> type[UnpooledTables]:
        """What `shard` makes."""
        return UnpooledTables


def _with_a_row(features: KeyedJaggedTensor) -> KeyedJaggedTensor:
    keys = features.keys()
    return KeyedJaggedTensor(keys, features.values(), lengths=features.lengths().new_zeros(len(keys)))


def _finished(looked: LazyAwaitable[KeyedTensor], ctx: PooledContext) -> LazyAwaitable[KeyedTensor]:
    looked = _then(looked, partial(_averaged, lengths=ctx.lengths), needed=bool(ctx.lengths))
    return _then(looked, _no_vectors, needed=ctx.empty)


def _then(looked: LazyAwaitable[T], change: Callable[[T], T], *, needed: bool) -> LazyAwaitable[T]:
    if needed:
        looked.callbacks.append(change)
    return looked


def _averaged(looked: KeyedTensor, lengths: dict[str, Tensor]) -> KeyedTensor:
    parts = [part / lengths[name].clamp(min=1) if name in lengths else part for name, part in looked.to_dict().items()]
    return KeyedTensor(looked.keys(), looked.length_per_key(), torch.cat(parts, dim=1))


def _no_vectors(looked: KeyedTensor) -> KeyedTensor:
    # Cut, not made again: the backward of what was looked up is where this rank meets the others.
    return KeyedTensor(looked.keys(), looked.length_per_key(), looked.values()[:0])


def _no_events(looked: dict[str, JaggedTensor]) -> dict[str, JaggedTensor]:
    return {name: JaggedTensor(events.values(), lengths=events.lengths()[:0]) for name, events in looked.items()}


@contextmanager
def _padding() -> Iterator[None]:
    """Inside the block, TorchRec's sum over ranks is the one below; it has no other way to be given one."""
    theirs = dist_data.reduce_scatter_v_pooled
    dist_data.reduce_scatter_v_pooled = _padded_reduce_scatter
    try:
        yield
    finally:
        dist_data.reduce_scatter_v_pooled = theirs


def _padded_reduce_scatter(
    looked: Tensor, input_splits: list[int], group: dist.ProcessGroup, codecs: QuantizedCommCodecs | None = None
) -> Awaitable[Tensor]:
    """Sum `looked` over ranks and hand every rank its rows of it, `input_splits` of them, where gloo wants equal parts."""
    if looked.device.type != "cpu":
        return reduce_scatter_v_pooled(looked, input_splits, group, codecs)
    longest, mine = max(input_splits), input_splits[dist.get_rank(group)]
    parts = [functional.pad(part, (0, 0, 0, longest - len(part))) for part in torch.split(looked, input_splits)]
    summed: Awaitable[Tensor] = reduce_scatter_base_pooled(torch.cat(parts), group, codecs)
    summed.callbacks.append(lambda rows: rows[:mine])
    return summed
