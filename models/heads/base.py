"""What every head promises, and the scores that most of them end in.

B rows, H features of the decoder, T targets.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.inputs import FieldVectors
from models.layers import MLP, Flat, MakeMLP, linear
from models.output import Output


class Head(nn.Module, ABC):
    """What all heads promise.

    A head is made with `features`, what the decoder returns; `targets`, their names in the order of the label columns; and
    `make_mlp`, which makes its dense layers. What else its constructor takes are the options that a user may set.

    Attributes:
        represents: names of its representations; "{target}/easy" is one for every target.

    Shape:
        x_BH (B, H), and the fields of the rows -> Output with logits {target: (B,)} and what it represents
    """

    represents: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, x_BH: Tensor, fields: FieldVectors | None = None) -> Output:
        """Return the logits by target."""

    def start_at(self, logits: Sequence[float]) -> None:
        """Set the biases, so that the first logits scatter around these, one per target. A head without biases leaves this."""


class Scores(nn.Module):
    """One linear score per target; features that already are a score (H = 1) get only a bias per target.

    logit_t = w_t . x + b_t, or x + b_t if H = 1

    Shape:
        x_BH (B, H) -> (B, T)
    """

    def __init__(self, *, features: int, targets: int) -> None:
        super().__init__()
        self.score = scored(features, targets)

    def start_at(self, logits: Sequence[float]) -> None:
        """Set the biases, so that the first logits scatter around these, one per target."""
        with torch.no_grad():
            self.score.get_parameter("bias").copy_(torch.tensor(logits))

    def forward(self, x_BH: Tensor) -> Tensor:
        """Return the logits, (B, T)."""
        logits_BT: Tensor = self.score(x_BH)
        return logits_BT


class LinearHead(Head):
    """The head of most decoders: their features, scored, see `Scores`."""

    def __init__(self, *, features: Flat, targets: Sequence[str], make_mlp: MakeMLP = MLP) -> None:
        super().__init__()
        self.targets = tuple(targets)
        self.score = scored(features.width, len(targets))

    def start_at(self, logits: Sequence[float]) -> None:
        """Set the bias of every target."""
        with torch.no_grad():
            self.score.get_parameter("bias").copy_(torch.tensor(logits))

    def forward(self, x_BH: Tensor, fields: FieldVectors | None = None) -> Output:
        """Return the logits by target."""
        return Output(by_target(self.score(x_BH), self.targets))


def by_target(logits_BT: Tensor, targets: Sequence[str]) -> dict[str, Tensor]:
    """Return {target: (B,)}."""
    # By index and not by unbind: training pipelines trace models symbolically, where tensors have no length.
    return {target: logits_BT[:, i] for i, target in enumerate(targets)}


def scored(features: int, targets: int) -> nn.Module:
    """Return the layer of `Scores`."""
    return _Bias(targets) if features == 1 else linear(features, targets)


class _Bias(nn.Module):
    def __init__(self, targets: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(targets))

    def forward(self, score_B1: Tensor) -> Tensor:
        return score_B1 + self.bias
