"""The rows of all ranks on every rank, with their gradients: for losses that compare rows with each other.

B rows of this rank, N rows of all ranks in rank order.
"""

from typing import Any

import torch
from torch import Tensor, distributed


def gathered(x_BX: Tensor) -> tuple[Tensor, slice]:
    """The rows of all ranks, and where those of this rank are among them. Collective.

    What the ranks' losses owe to a row comes back to it summed. A rank may have no rows.

    Shape:
        (B, ...) -> (N, ...)
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return x_BX, slice(0, x_BX.shape[0])
    rows = torch.zeros(distributed.get_world_size(), dtype=torch.int64, device=x_BX.device)
    rows[distributed.get_rank()] = x_BX.shape[0]
    distributed.all_reduce(rows)
    counts = rows.tolist()
    start = sum(counts[: distributed.get_rank()])
    x_NX: Tensor = _Gather.apply(x_BX, counts)  # type: ignore[no-untyped-call]
    return x_NX, slice(start, start + x_BX.shape[0])


class _Gather(torch.autograd.Function):
    """torch.distributed.nn has an all_gather with gradients too; it wants as many rows on every rank."""

    @staticmethod
    def forward(ctx: Any, x_BX: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = x_BX.new_zeros(max(counts), *x_BX.shape[1:])
        padded[: x_BX.shape[0]] = x_BX
        parts = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad_NX: Tensor) -> tuple[Tensor, None]:
        grad_NX = grad_NX.clone()
        distributed.all_reduce(grad_NX)
        own_BX: Tensor = torch.split(grad_NX, ctx.counts)[distributed.get_rank()]
        return own_BX, None
