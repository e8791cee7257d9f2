"""Batch normalisation over the rows of all ranks.

torch's SyncBatchNorm refuses CPU tensors and ranks without rows; both are ordinary here. B rows of this rank, C channels.
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn


class BatchNorm1d(nn.BatchNorm1d):
    """Normalise every channel by the mean and variance of the global batch.

    out = (x - mean) / sqrt(var + eps) * weight + bias       mean, var (biased) over the rows of all ranks

    Gradients flow through the mean and variance of all ranks. A rank may have no rows: it takes part in the sums with
    zeros. A global batch of one row has variance 0 and comes out as `bias`; it leaves the running variance alone, which
    it knows nothing about, and one without rows the running mean as well. Running averages and evaluation are torch's own,
    and so is the state dict. Training forwards and backwards must happen on all ranks together.

    Shape:
        x_BC (B, C) -> (B, C)
    """

    def forward(self, x_BC: Tensor) -> Tensor:
        """Return the normalised rows, (B, C)."""
        if not self.training or (_ranks() == 1 and x_BC.shape[0] > 1):
            return super().forward(x_BC)  # the same numbers from torch's fused kernel
        normal_BC, mean_C, var_C, rows = _Normalise.apply(x_BC, self.eps)  # type: ignore[no-untyped-call]
        self._remember(mean_C, var_C, rows)
        return torch.addcmul(self.bias, normal_BC, self.weight)

    @torch.no_grad()
    def _remember(self, mean_C: Tensor, var_C: Tensor, rows: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(torch.where(rows > 0, mean_C, self.running_mean), self.momentum)
        unbiased_C = torch.where(rows > 1, var_C * rows / (rows - 1), self.running_var)
        self.running_var.lerp_(unbiased_C, self.momentum)


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) over all ranks, with one all-reduce on the way back.

    With n = the normalised x, g = dL/dn and N = the rows of all ranks:
    dL/dx = (g - (sum g + n * sum(g * n)) / N) / sqrt(var + eps)
    """

    @staticmethod
    def forward(ctx: Any, x_BC: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x_BC = x_BC.to(torch.promote_types(x_BC.dtype, torch.float32))  # bf16 cannot count rows
        local_rows = x_BC.new_full((1,), x_BC.shape[0])
        sums = _sum_over_ranks(torch.cat([x_BC.sum(0), local_rows]))
        counted, rows = sums[-1].clone(), sums[-1].clamp(min=1)
        mean_C = sums[:-1] / rows
        centred_BC = x_BC - mean_C
        var_C = _sum_over_ranks(centred_BC.square().sum(0)) / rows  # a second sum: E[x^2] - mean^2 would cancel
        scale_C = torch.rsqrt(var_C + eps)
        normal_BC = centred_BC * scale_C
        ctx.save_for_backward(normal_BC, scale_C, rows)
        ctx.mark_non_differentiable(mean_C, var_C, counted)
        return normal_BC, mean_C, var_C, counted

    @staticmethod
    def backward(ctx: Any, grad_BC: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        normal_BC, scale_C, rows = ctx.saved_tensors
        sums = _sum_over_ranks(torch.stack([grad_BC.sum(0), (grad_BC * normal_BC).sum(0)])) / rows
        return (grad_BC - sums[0] - normal_BC * sums[1]) * scale_C, None


def _ranks() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _sum_over_ranks(x: Tensor) -> Tensor:
    if _ranks() > 1:
        distributed.all_reduce(x)
    return x
