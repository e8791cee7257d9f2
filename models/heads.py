"""Heads: what a decoder returns becomes one logit per row and task.

B rows, H features of the decoder, T tasks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers import linear
from models.output import Output


class Scores(nn.Module):
    """One linear score per task; features that already are a score (H = 1) get only a bias per task.

    logit_t = w_t . x + b_t, or x + b_t if H = 1

    Shape:
        x_BH (B, H) -> (B, T)
    """

    def __init__(self, *, features: int, tasks: int) -> None:
        super().__init__()
        self.score = _Bias(tasks) if features == 1 else linear(features, tasks)

    def start_at(self, logits: Sequence[float]) -> None:
        """Set the biases, so that the first logits scatter around these, one per target."""
        with torch.no_grad():
            self.score.bias.copy_(torch.tensor(logits))

    def forward(self, x_BH: Tensor) -> Tensor:
        """Return the logits, (B, T)."""
        logits_BT: Tensor = self.score(x_BH)
        return logits_BT


class Head(Scores):
    """The head of most decoders: their features, scored.

    Args:
        features: H, the decoder's out_features.
        tasks: names, in the order of the label columns.

    Shape:
        x_BH (B, H) -> Output with logits {task: (B,)}
    """

    def __init__(self, *, features: int, tasks: Sequence[str]) -> None:
        super().__init__(features=features, tasks=len(tasks))
        self.tasks = tuple(tasks)

    def forward(self, x_BH: Tensor) -> Output:  # type: ignore[override]
        """Return the logits by task."""
        return Output(by_task(super().forward(x_BH), self.tasks))


def by_task(logits_BT: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
    """Return {task: (B,)}."""
    # By index and not by unbind: training pipelines trace models symbolically, where tensors have no length.
    return {task: logits_BT[:, i] for i, task in enumerate(tasks)}


class _Bias(nn.Module):
    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(tasks))

    def forward(self, score_B1: Tensor) -> Tensor:
        return score_B1 + self.bias
