"""Losses on logits: row weights in, named numbers out, right for any number of ranks.

Every loss is a share of a mean over the rows of the whole step: it divides by them, not by the rows of this rank. So the losses
of the ranks add up to the loss of one big batch, however unevenly its rows are spread; a rank without rows adds zero.
B rows of this rank.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from models.output import Output


class Loss(ABC):
    """What all losses promise.

    Attributes:
        branches: whether it reads what the two encoders of a model say on their own.
    """

    branches: bool = False

    @abstractmethod
    def __call__(self, output: Output, task: str, labels_B: Tensor, weights_B: Tensor, rows: int) -> dict[str, Tensor]:
        """Return the parts of the loss of one task, each (); training differentiates their sum.

        Args:
            rows: [rows] of this step over all ranks.

        Shape:
            labels_B, weights_B (B,)
        """


class BCE(Loss):
    """Binary cross-entropy.

    loss = sum_b weights[b] * BCE(labels[b], sigmoid(logits[b])) / rows
    """

    def __call__(self, output: Output, task: str, labels_B: Tensor, weights_B: Tensor, rows: int) -> dict[str, Tensor]:
        """Return {task: loss}."""
        loss = binary_cross_entropy_with_logits(output.logits[task], labels_B, weights_B, reduction="sum")
        return {task: loss / rows}


class TwinFocus(BCE):
    """TF4CTR's loss: binary cross-entropy of the model, and of its two encoders with an eye for easy and for hard rows.

    loss = BCE(y, p) + alpha * mean((c + e)^gamma * CE(e)) + (1 - alpha) * mean(max(2 - c - h, 0)^gamma * CE(h))

    e and h are the probabilities that the easy and the hard encoder give to the true label, CE(x) = -ln x. Gradients flow
    through the factors. Gamma 0 is plain cross-entropy on each encoder. With c > 1 the factor of a hard row would turn
    negative, so it is cut at 0. The easy loss falls with e everywhere only if c > gamma * exp(-1 - 1/gamma), which is .135,
    .446 and .791 for gamma 1, 2 and 3: below that there are e from which it pushes the easy encoder away from the label.

    Args:
        gamma: how sharply rows are told apart. c: the middle between easy and hard. alpha: the easy encoder's share.

    Source: TF4CTR (salmon1802/TF4CTR), the released code's formula; the cut at 0 is ours.
    """

    branches = True

    def __init__(self, *, gamma: float = 1.0, c: float = 0.8, alpha: float = 0.25) -> None:
        if gamma < 0 or c <= 0 or not 0 <= alpha <= 1:
            raise ValueError(f"gamma {gamma}, c {c}, alpha {alpha}; expected gamma >= 0, c > 0 and alpha between 0 and 1")
        self.gamma, self.c, self.alpha = gamma, c, alpha

    def __call__(self, output: Output, task: str, labels_B: Tensor, weights_B: Tensor, rows: int) -> dict[str, Tensor]:
        """Return {task, task/easy, task/hard}."""
        sign_B = 2 * labels_B - 1
        branches = output.branches[task]  # by index: training pipelines trace losses symbolically
        easy_B, hard_B = logsigmoid(sign_B * branches[0]), logsigmoid(sign_B * branches[1])  # ln e, ln h
        easy = ((self.c + easy_B.exp()) ** self.gamma * -easy_B * weights_B).sum() / rows
        # Not clamp, which at 0 hands on a gradient, and that of x^gamma is infinite there for gamma < 1.
        hard = ((2 - self.c - hard_B.exp()).relu() ** self.gamma * -hard_B * weights_B).sum() / rows
        both = {f"{task}/easy": self.alpha * easy, f"{task}/hard": (1 - self.alpha) * hard}
        return super().__call__(output, task, labels_B, weights_B, rows) | both


LOSSES: Mapping[str, type[Loss]] = MappingProxyType({"bce": BCE, "tf": TwinFocus})
