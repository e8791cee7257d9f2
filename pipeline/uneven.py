"""Sharded tables for steps in which ranks have different numbers of rows, down to none: the end of a day.

TorchRec's own cannot: row-wise pooled tables on gloo want the same number on every rank, unpooled ones at least one row.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

T = TypeVar("T")


class PooledSharder(EmbeddingBagCollectionSharder):  # type: ignore[misc]
    """TorchRec's, with row-wise on CPU, which it leaves out though gloo can do it, and with any number of rows."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        return [kind.value for kind in ShardingType if kind != ShardingType.DATA_PARALLEL]

    def shard(
        self,
        module: EmbeddingBagCollection,
        params: dict[str, ParameterSharding],
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> ShardedEmbeddingBagCollection:
        return PooledTables(module, params, env, self.fused_params, device, module_fqn=module_fqn)

    @property
    def sharded_module_type(self) -> type[ShardedEmbeddingBagCollection]:
        return PooledTables


class UnpooledSharder(EmbeddingCollectionSharder):  # type: ignore[misc]
    """TorchRec's, with any number of rows."""

    def shard(
        self,
        module: EmbeddingCollection,
        params: dict[str, ParameterSharding],
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> ShardedEmbeddingCollection:
        return UnpooledTables(module, params, env, self.fused_params, device, module_fqn=module_fqn)

    @property
    def sharded_module_type(self) -> type[ShardedEmbeddingCollection]:
        return UnpooledTables


@dataclass
class PooledContext(EmbeddingBagCollectionContext):  # type: ignore[misc]
    """A step's notes, with whether this rank has no rows in it."""

    empty: bool = False


@dataclass
class UnpooledContext(EmbeddingCollectionContext):  # type: ignore[misc]
    """A step's notes, with whether this rank has no rows in it."""

    empty: bool = False


class PooledTables(ShardedEmbeddingBagCollection):  # type: ignore[misc]
    """An EmbeddingBagCollection over the ranks. A rank without rows looks up one without ids, and forgets it again."""

    def create_context(self) -> PooledContext:
        return PooledContext()

    def input_dist(self, ctx: PooledContext, features: KeyedJaggedTensor) -> Awaitable[Awaitable[KJTList]]:
        ctx.empty = features.stride() == 0
        return super().input_dist(ctx, _with_a_row(features) if ctx.empty else features)

    def output_dist(self, ctx: PooledContext, output: list[Tensor]) -> LazyAwaitable[KeyedTensor]:
        with _padding():
            return _cut(super().output_dist(ctx, output), ctx, _no_vectors)

    def compute_and_output_dist(self, ctx: PooledContext, input: KJTList) -> LazyAwaitable[KeyedTensor]:
        with _padding():
            return _cut(super().compute_and_output_dist(ctx, input), ctx, _no_vectors)


class UnpooledTables(ShardedEmbeddingCollection):  # type: ignore[misc]
    """An EmbeddingCollection over the ranks. A rank without rows looks up one without ids, and forgets it again."""

    def create_context(self) -> UnpooledContext:
        return UnpooledContext()

    def input_dist(self, ctx: UnpooledContext, features: KeyedJaggedTensor) -> Awaitable[Awaitable[KJTList]]:
        ctx.empty = features.stride() == 0
        return super().input_dist(ctx, _with_a_row(features) if ctx.empty else features)

    def output_dist(self, ctx: UnpooledContext, output: list[Tensor]) -> LazyAwaitable[dict[str, JaggedTensor]]:
        return _cut(super().output_dist(ctx, output), ctx, _no_events)

    def compute_and_output_dist(self, ctx: UnpooledContext, input: KJTList) -> LazyAwaitable[dict[str, JaggedTensor]]:
        return _cut(super().compute_and_output_dist(ctx, input), ctx, _no_events)


def _with_a_row(features: KeyedJaggedTensor) -> KeyedJaggedTensor:
    keys = features.keys()
    return KeyedJaggedTensor(keys, features.values(), lengths=features.lengths().new_zeros(len(keys)))


def _cut(looked: LazyAwaitable[T], ctx: PooledContext | UnpooledContext, none: Callable[[T], T]) -> LazyAwaitable[T]:
    if ctx.empty:
        looked.callbacks.append(none)
    return looked


def _no_vectors(looked: KeyedTensor) -> KeyedTensor:
    # Cut, not made new: the backward of what was looked up is where this rank meets the others.
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
    parts = [functional.pad(part, (0, 0, 0, longest - len(part))) for part in looked.split(input_splits)]
    summed: Awaitable[Tensor] = reduce_scatter_base_pooled(torch.cat(parts), group, codecs)
    summed.callbacks.append(lambda rows: rows[:mine])
    return summed
