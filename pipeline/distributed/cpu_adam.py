"""Adam for embedding tables on CPU: what FBGEMM has on CUDA only, inside the same TorchRec kernels.

A CPU group of tables marked with Adam is made as an Adagrad one: weights, layout, look-up and first moment stay FBGEMM's.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor
from torch.optim.adam import adam
from torchrec.distributed.embedding_types import GroupedEmbeddingConfig

from pipeline.distributed.cpu_kernels import CustomTables

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

    @property
    def base_optimizer(self) -> EmbOptimType:
        """Pointwise Adagrad: its moment becomes the first one."""
        return EmbOptimType.EXACT_ADAGRAD

    def memory(self, numbers: int, rows: int) -> dict[str, Tensor]:
        """All of it FBGEMM's."""
        return {}

    def wrap(self, tables: SplitTableBatchedEmbeddingBagsCodegen, config: GroupedEmbeddingConfig) -> "AdamTables":
        """Take over a group's tables."""
        return AdamTables(tables, self)


class AdamTables(CustomTables):
    """A TBE of equally wide CPU tables that learns by Adam.

    Args:
        tables: made with pointwise Adagrad, whose moment becomes the first one.
        rule: how the tables move.
    """

    def __init__(self, tables: SplitTableBatchedEmbeddingBagsCodegen, rule: Adam) -> None:
        super().__init__(tables)
        self.rule = rule
        self.register_buffer("second", torch.zeros_like(tables.momentum1_host.detach()))

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
        rows, summed = self.summed(indices.long(), offsets.long(), grad)
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
