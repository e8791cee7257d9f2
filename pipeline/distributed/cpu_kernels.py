"""Embedding tables on CPU that learn by a rule of ours: FBGEMM's memory and layout, TorchRec's kernels, our backward.

FBGEMM's CPU tables (TBE) know SGD, Adagrad and row-wise Adagrad in fp32. A group of tables marked with an `UpdateRule` is made
as one of these and taken over by `CustomTables`. TorchRec's own initial values are left out: `shard.py` gives better ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as functional
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import PoolingMode, SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torchrec.distributed import embedding_lookup
from torchrec.distributed.batched_embedding_kernel import (
    BatchedFusedEmbedding,
    BatchedFusedEmbeddingBag,
    EmbeddingFusedOptimizer,
)
from torchrec.distributed.embedding_types import GroupedEmbeddingConfig
from torchrec.distributed.types import ShardingEnv, ShardingType


class UpdateRule(Protocol):
    """How a group of tables learns; groups with different rules are never one."""

    @property
    def base_optimizer(self) -> EmbOptimType:
        """The optimizer that FBGEMM makes the tables with: it decides which state there is."""
        ...

    def memory(self, numbers: int, rows: int) -> dict[str, Tensor]:
        """Where weights and state lie, by FBGEMM's names, given how many numbers and rows; what is left out FBGEMM makes."""
        ...

    def wrap(self, tables: SplitTableBatchedEmbeddingBagsCodegen, config: GroupedEmbeddingConfig) -> "CustomTables":
        """Take over a group's tables."""
        ...


class CustomTables(nn.Module):
    """A TBE of equally wide CPU tables whose backward is ours; anything else asked of it, it asks the TBE.

    The count of steps is the TBE's own `iter`, as on CUDA.

    Args:
        tables: the TBE; its weights, layout and first state are used.
    """

    def __init__(self, tables: SplitTableBatchedEmbeddingBagsCodegen) -> None:
        super().__init__()
        assert len(set(tables.dims)) == 1, "tables of different widths are different groups"
        self.tables, self.width = tables, tables.dims[0]
        self.firsts = [offset // self.width for offset in tables.weights_physical_offsets]
        starts = [self.firsts[table] for table in tables.feature_table_map]
        self.register_buffer("starts", torch.tensor(starts), persistent=False)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("tables"), name)

    def forward(self, indices: Tensor, offsets: Tensor, per_sample_weights: Tensor | None = None) -> Tensor:
        """Look the rows up; their backward updates them.

        Shape:
            indices (N,), offsets (F B + 1,) -> (B, F D) pooled, (N, D) unpooled
        """
        assert per_sample_weights is None, "weighted bags are not among our features"
        looked: Tensor = _LookUp.apply(  # type: ignore[no-untyped-call]
            self.tables.placeholder_autograd_tensor, self, indices, offsets
        )
        return looked

    def look(self, indices: Tensor, offsets: Tensor) -> Tensor:
        """What the rows hold; fixes ids that are out of bounds in place."""
        looked: Tensor = self.tables(indices, offsets)
        return looked

    def update(self, indices: Tensor, offsets: Tensor, grad: Tensor) -> None:
        """Move the tables by one step, given the gradient of what `forward` returned."""
        raise NotImplementedError

    def physical(self, indices: Tensor, offsets: Tensor) -> Tensor:
        """Where the rows of the look-ups lie in the memory of all the group's tables.

        Shape:
            indices (N,), offsets (F B + 1,) -> (N,)
        """
        bags = (offsets.numel() - 1) // len(self.starts)
        if bags == 0:
            return indices
        rows: Tensor = indices + self.starts.repeat_interleave(offsets[::bags].diff())
        return rows

    def summed(self, indices: Tensor, offsets: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """The rows looked up, each once and ascending, and the sum of their gradients.

        Sorting the look-ups makes one row's gradients neighbours; summing neighbours is what an embedding bag does.
        """
        fields = len(self.starts)
        bags = (offsets.numel() - 1) // fields
        if indices.numel() == 0:
            return indices, grad.new_zeros(0, self.width)
        rows, order = self.physical(indices, offsets).sort(stable=True)
        is_head = torch.ones_like(rows, dtype=torch.bool)
        torch.ne(rows[1:], rows[:-1], out=is_head[1:])
        heads = is_head.nonzero().flatten()
        if not self.tables.is_nobag:
            lengths = offsets.diff()
            order = torch.arange(lengths.numel()).repeat_interleave(lengths)[order]
            order = order % bags * fields + order // bags  # offsets go field by field, gradients row by row
            grad = grad.reshape(-1, self.width)
            if self.tables.pooling_mode == PoolingMode.MEAN:
                grad = grad / lengths.view(fields, bags).t().reshape(-1, 1).clamp(min=1)
        return rows[heads], functional.embedding_bag(order, grad.contiguous(), heads, mode="sum")


class _LookUp(torch.autograd.Function):
    """The look-up, with the update as its backward."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, module: CustomTables, indices: Tensor, offsets: Tensor) -> Tensor:
        looked = module.look(indices, offsets)
        ctx.save_for_backward(indices, offsets)  # the look-up has fixed ids that are out of bounds
        ctx.module = module
        return looked

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None, None]:
        ctx.module.update(*ctx.saved_tensors, grad)
        return None, None, None, None


class TableOptimizer(EmbeddingFusedOptimizer):
    """TorchRec's view of a group's optimizer, with the state that a checkpoint needs under any plan.

    A count of steps is added where the next step depends on it, one replicated number per table: TorchRec saves the moments
    only, and a restored run would correct Adam's bias, or round, as if it had just begun. An empty state (SGD) is taken out:
    DCP saves it on rank 0 only, and then misses the others'.
    """

    def __init__(self, config: GroupedEmbeddingConfig, tables: Any, group: dist.ProcessGroup | None, *, counted: bool) -> None:
        super().__init__(config, tables, group)
        for key, weight in self.params.items():
            if counted:
                self.state[weight][key.removesuffix("weight") + "step"] = tables.iter
            if not self.state[weight]:
                del self.state[weight]


class PooledKernel(BatchedFusedEmbeddingBag):
    """TorchRec's kernel of pooled tables, with rules of ours on CPU and a state that can be saved."""

    def __init__(
        self,
        config: GroupedEmbeddingConfig,
        pg: dist.ProcessGroup | None = None,
        device: torch.device | None = None,
        sharding_type: ShardingType | None = None,
        env: ShardingEnv | None = None,
    ) -> None:
        counted, rule = _take(config)
        super().__init__(config, pg, device, sharding_type, env)
        _equip(self, config, pg, counted, rule)

    def init_parameters(self) -> None:
        """Nothing: initial values come later, the same for every plan."""


class UnpooledKernel(BatchedFusedEmbedding):
    """The same for unpooled tables."""

    def __init__(
        self, config: GroupedEmbeddingConfig, pg: dist.ProcessGroup | None = None, device: torch.device | None = None
    ) -> None:
        counted, rule = _take(config)
        super().__init__(config, pg, device)
        _equip(self, config, pg, counted, rule)

    def init_parameters(self) -> None:
        """Nothing: initial values come later, the same for every plan."""


def _take(config: GroupedEmbeddingConfig) -> tuple[bool, UpdateRule | None]:
    """Whether a group's next step depends on the count of steps; our rule for it, taken out of the group's settings."""
    settings = config.fused_params
    rule: UpdateRule | None = settings.pop("rule", None)
    counted = rule is not None or settings["optimizer"] == EmbOptimType.ADAM
    if rule is not None:
        settings["optimizer"] = rule.base_optimizer
        del settings["width"]  # it was there to keep tables of different widths in different groups
        rows = [(table.local_rows, table.local_rows * table.local_cols) for table in config.embedding_tables]
        memory = rule.memory(sum(numbers for _, numbers in rows), sum(own for own, _ in rows))
        if memory:
            settings["preallocated_host_buffers"] = memory
    return counted, rule


def _equip(
    kernel: Any, config: GroupedEmbeddingConfig, group: dist.ProcessGroup | None, counted: bool, rule: UpdateRule | None
) -> None:
    config.fused_params.pop("preallocated_host_buffers", None)
    if rule is not None:
        kernel._emb_module = rule.wrap(kernel._emb_module, config)
    elif counted:
        count_training_steps(kernel._emb_module)
    kernel._optim = TableOptimizer(config, kernel._emb_module, group, counted=counted)


def count_training_steps(tables: Any) -> None:
    """Let FBGEMM's Adam count steps of training only, and go on from a count that was loaded or reset.

    `iter` is what a checkpoint has; `iter_cpu` is what the next step's bias correction reads. FBGEMM adds 1 to both in every
    forward, of an evaluation too, and copies `iter` to `iter_cpu` only while that is 0.
    """

    def take_over(module: Any, _: object) -> None:
        module.iter_cpu = module.iter.detach().to("cpu", copy=True)

    def take_back(module: Any, _: object, __: object) -> None:
        if not module.training:
            module.iter.sub_(1)

    tables.register_forward_pre_hook(take_over)
    tables.register_forward_hook(take_back)


@contextmanager
def _replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """Let a name of a library's module mean something else inside the block."""
    theirs = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, theirs)


@contextmanager
def our_kernels() -> Iterator[None]:
    """Let TorchRec make its tables with the kernels above, inside the block: it has no other way to be given a kernel."""
    with (
        _replaced(embedding_lookup, "BatchedFusedEmbeddingBag", PooledKernel),
        _replaced(embedding_lookup, "BatchedFusedEmbedding", UnpooledKernel),
    ):
        yield
