"""Adam for embedding tables on CPU: what FBGEMM has on CUDA only, inside the same TorchRec kernels.

FBGEMM's CPU tables (TBE) know SGD, Adagrad and row-wise Adagrad. Here a CPU group of tables marked with Adam is made as an
Adagrad one and taken over by `AdamTables`: weights, layout, look-up and first moment stay FBGEMM's, the backward is ours.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as functional
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import PoolingMode, SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim.adam import adam
from torchrec.distributed import embedding_lookup
from torchrec.distributed.batched_embedding_kernel import (
    BatchedFusedEmbedding,
    BatchedFusedEmbeddingBag,
    EmbeddingFusedOptimizer,
)
from torchrec.distributed.embedding_types import GroupedEmbeddingConfig
from torchrec.distributed.types import ShardingEnv, ShardingType

Rows = Literal["touched", "all"]


@dataclass(frozen=True)
class Adam:
    """How a group of tables moves.

    With g the gradient of a row (that of all its look-ups in the step, summed) and t the number of steps so far:

        m = beta1 m + (1 - beta1) g        v = beta2 v + (1 - beta2) g^2
        w = w - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    Args:
        beta1, beta2, eps: as above.
        weight_decay: lambda. For lazy Adam w also falls by lr lambda w, apart from m and v, as FBGEMM's CUDA kernel has it;
            for whole-table Adam lambda w is added to g, as `torch.optim.Adam` has it.
        moves: the rows whose m, v and w move: those looked up in the step (lazy Adam), or all of the table, g = 0 for the rest.
        decays: the rows that decay.
        clip: largest absolute value of a coordinate of the gradient of a looked-up vector, before those of a row are summed.
    """

    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    moves: Rows
    decays: Rows
    clip: float | None = None


class AdamTables(nn.Module):
    """A TBE of equally wide CPU tables that learns by Adam; anything else asked of it, it asks the TBE.

    The count of steps is the TBE's own `iter`, as on CUDA.

    Args:
        tables: made with pointwise Adagrad, whose moment becomes the first one.
        rule: how the tables move.
    """

    def __init__(self, tables: SplitTableBatchedEmbeddingBagsCodegen, rule: Adam) -> None:
        super().__init__()
        assert len(set(tables.dims)) == 1, "tables of different widths are different groups"
        self.tables, self.rule, self.width = tables, rule, tables.dims[0]
        self.register_buffer("second", torch.zeros_like(tables.momentum1_host.detach()))
        starts = [tables.weights_physical_offsets[table] // self.width for table in tables.feature_table_map]
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

    def get_optimizer_state(self) -> list[dict[str, Tensor]]:
        """Both moments of every table, as views."""
        tables, states = self.tables, []
        for (rows, width, _, _), start in zip(tables.embedding_specs, tables.momentum1_physical_offsets, strict=True):
            part = slice(start, start + rows * width)
            first, second = tables.momentum1_host.detach()[part], self.second[part]
            states.append({"exp_avg": first.view(rows, width), "exp_avg_sq": second.view(rows, width)})
        return states

    def split_optimizer_states(self) -> list[list[Tensor]]:
        """Both moments of every table, as views."""
        return [list(state.values()) for state in self.get_optimizer_state()]

    @torch.no_grad()
    def update(self, indices: Tensor, offsets: Tensor, grad: Tensor) -> None:
        """Move the tables by one step, given the gradient of what `forward` returned."""
        if self.rule.clip is not None:
            grad = grad.clamp(-self.rule.clip, self.rule.clip)
        rows, summed = self._summed(indices.long(), offsets.long(), grad)
        flat = (self.tables.weights_host, self.tables.momentum1_host, self.second)
        whole = [state.detach().view(-1, self.width) for state in flat]
        if self.rule.moves == "all":
            if self.rule.weight_decay and self.rule.decays == "touched":
                summed.add_(whole[0].index_select(0, rows), alpha=self.rule.weight_decay)
            self._step(torch.zeros_like(whole[0]).index_copy_(0, rows, summed), *whole)
        else:
            touched = [state.index_select(0, rows) for state in whole]
            self._step(summed, *touched)
            for state, moved in zip(whole, touched, strict=True):
                state.index_copy_(0, rows, moved)
        self.tables.iter.add_(1)

    def _summed(self, indices: Tensor, offsets: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """The rows looked up, each once and ascending, and the sum of their gradients.

        Sorting the look-ups makes one row's gradients neighbours; summing neighbours is what an embedding bag does.
        """
        fields = len(self.starts)
        bags = (offsets.numel() - 1) // fields
        if indices.numel() == 0:
            return indices, grad.new_zeros(0, self.width)
        rows, order = (indices + self.starts.repeat_interleave(offsets[::bags].diff())).sort(stable=True)
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

    def _step(self, grad: Tensor, weight: Tensor, first: Tensor, second: Tensor) -> None:
        """One step of torch's own fused Adam on these rows."""
        lazy = self.rule.moves == "touched"
        adam(
            [weight],
            [grad],
            [first],
            [second],
            [],
            [self.tables.iter.float()],
            fused=True,
            decoupled_weight_decay=lazy,
            amsgrad=False,
            maximize=False,
            lr=self.tables.get_learning_rate(),
            beta1=self.rule.beta1,
            beta2=self.rule.beta2,
            eps=self.rule.eps,
            weight_decay=self.rule.weight_decay if self.rule.moves == self.rule.decays else 0.0,
        )


class _LookUp(torch.autograd.Function):
    """The TBE's look-up, with the update as its backward."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, module: AdamTables, indices: Tensor, offsets: Tensor) -> Tensor:
        looked: Tensor = module.tables(indices, offsets)
        ctx.save_for_backward(indices, offsets)  # the look-up has mended ids that are out of bounds
        ctx.module = module
        return looked

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None, None]:
        ctx.module.update(*ctx.saved_tensors, grad)
        return None, None, None, None


class TableOptimizer(EmbeddingFusedOptimizer):
    """TorchRec's view of a group's optimizer, with the state that a checkpoint needs under any plan.

    Adam's count of steps is added, one replicated number per table: TorchRec saves the moments only, and a restored run would
    correct their bias as if it had just begun. An empty state (SGD) is taken out: DCP saves it on rank 0 only, and then misses
    the others'.
    """

    def __init__(self, config: GroupedEmbeddingConfig, tables: Any, group: dist.ProcessGroup | None, *, counted: bool) -> None:
        super().__init__(config, tables, group)
        for key, weight in self.params.items():
            if counted:
                self.state[weight][key.removesuffix("weight") + "step"] = tables.iter
            if not self.state[weight]:
                del self.state[weight]


class PooledKernel(BatchedFusedEmbeddingBag):
    """TorchRec's kernel of pooled tables, with Adam on CPU and a state that can be saved."""

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


class UnpooledKernel(BatchedFusedEmbedding):
    """The same for unpooled tables."""

    def __init__(
        self, config: GroupedEmbeddingConfig, pg: dist.ProcessGroup | None = None, device: torch.device | None = None
    ) -> None:
        counted, rule = _take(config)
        super().__init__(config, pg, device)
        _equip(self, config, pg, counted, rule)


def _take(config: GroupedEmbeddingConfig) -> tuple[bool, Adam | None]:
    """Whether a group learns by Adam; our rule for it, taken out of the group's settings, which then make an Adagrad TBE."""
    settings = config.fused_params
    learns_by_adam = settings["optimizer"] == EmbOptimType.ADAM
    rule = settings.pop("rule", None)
    if rule is not None:
        settings["optimizer"] = EmbOptimType.EXACT_ADAGRAD
        del settings["width"]  # it was there to keep tables of different widths in different groups
    return learns_by_adam, rule


def _equip(
    kernel: Any, config: GroupedEmbeddingConfig, group: dist.ProcessGroup | None, counted: bool, rule: Adam | None
) -> None:
    if rule is not None:
        kernel._emb_module = AdamTables(kernel._emb_module, rule)
    kernel._optim = TableOptimizer(config, kernel._emb_module, group, counted=counted)


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
