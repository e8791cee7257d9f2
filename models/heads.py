"""Heads: what a decoder returns becomes one logit per row and task.

B rows, H features of the decoder, T tasks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers import linear


class Head(nn.Module):
    """One linear score per task; a decoder that already returns a score (H = 1) gets only a bias per task.

    logit_t = w_t . x + b_t, or x + b_t if H = 1

    Args:
        features: H, the decoder's out_features.
        tasks: names, in the order of the label columns.

    Shape:
        x_BH (B, H) -> (B, T), in the order of `tasks`
    """

    def __init__(self, *, features: int, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.score = _Bias(len(self.tasks)) if features == 1 else linear(features, len(self.tasks))

    def forward(self, x_BH: Tensor) -> Tensor:
        """Return the logits, (B, T)."""
        logits_BT: Tensor = self.score(x_BH)
        return logits_BT


class _Bias(nn.Module):
    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(tasks))

    def forward(self, score_B1: Tensor) -> Tensor:
        return score_B1 + self.bias
