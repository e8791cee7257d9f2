"""Losses: what a model answers and what it should have, in; named numbers out, right for any number of ranks.

Every loss is a share of a mean over the rows of the whole step: it divides by them, not by the rows of this rank. So the losses
of the ranks add up to the loss of one big batch, however unevenly its rows are spread; a rank without rows adds zero. A loss
over pairs of rows has to gather them from all ranks, with their gradients, or it would be another one on other ranks.
B rows of this rank, T targets.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from models.output import Output

TARGET = "{target}"
"""Stands in the name of a representation for every target."""


@dataclass(frozen=True)
class Targets:
    """What the rows of a batch should have been given.

    Attributes:
        names: of the targets, in the order of the columns.
        labels_BT, weights_BT: (B, T).
        rows: [rows] of this step over all ranks.
        groups_B: (B,) int64, the group of every row, usually its user.
    """

    names: tuple[str, ...]
    labels_BT: Tensor
    weights_BT: Tensor
    rows: int
    groups_B: Tensor

    def only(self, names: Sequence[str] | None) -> "Targets":
        """Some of the targets; None: all."""
        if names is None or tuple(names) == self.names:
            return self
        at = [self.names.index(name) for name in names]
        return replace(self, names=tuple(names), labels_BT=self.labels_BT[:, at], weights_BT=self.weights_BT[:, at])


class Loss(ABC):
    """What all losses promise.

    Attributes:
        reads: the representations it needs, by name; "{target}/easy" is one for every target.
    """

    reads: tuple[str, ...] = ()

    @abstractmethod
    def __call__(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """Return the parts of the loss, by name, each (); training differentiates their sum."""
        # Training pipelines trace losses symbolically: what is in `output` can be asked by name, and not looped over.


class BCE(Loss):
    """Binary cross-entropy.

    loss = sum over targets and rows b of weights[b] * BCE(labels[b], sigmoid(logits[b])) / rows
    """

    def __call__(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """Return {target: loss}."""
        return {name: self._of(output, targets, at) for at, name in enumerate(targets.names)}

    def _of(self, output: Output, targets: Targets, at: int) -> Tensor:
        logits_B, labels_B, weights_B = output.logits[targets.names[at]], targets.labels_BT[:, at], targets.weights_BT[:, at]
        return binary_cross_entropy_with_logits(logits_B, labels_B, weights_B, reduction="sum") / targets.rows


class TwinFocus(BCE):
    """TF4CTR's loss: binary cross-entropy of the model, and of its two encoders with an eye for easy and for hard rows.

    loss = BCE(y, p) + alpha * mean((c + e)^gamma * CE(e)) + (1 - alpha) * mean(max(2 - c - h, 0)^gamma * CE(h))

    e and h are the probabilities that the easy and the hard encoder give to the true label, CE(x) = -ln x. Gradients flow
    through the factors. Gamma 0 is plain cross-entropy on each encoder. With c > 1 the factor of a hard row would turn
    negative, so it is cut at 0. The easy loss falls with e everywhere only if c > gamma * exp(-1 - 1/gamma), which is .135,
    .446 and .791 for gamma 1, 2 and 3: below that there are e from which it pushes the easy encoder away from the label.

    Args:
        gamma: how sharply rows are distinguished. c: the middle between easy and hard. alpha: the easy encoder's share.

    Source: TF4CTR (salmon1802/TF4CTR), the released code's formula; the cut at 0 is ours.
    """

    reads = ("{target}/easy", "{target}/hard")

    def __init__(self, *, gamma: float = 1.0, c: float = 0.8, alpha: float = 0.25) -> None:
        if gamma < 0 or c <= 0 or not 0 <= alpha <= 1:
            raise ValueError(f"gamma {gamma}, c {c}, alpha {alpha}; expected gamma >= 0, c > 0 and alpha between 0 and 1")
        self.gamma, self.c, self.alpha = gamma, c, alpha

    def __call__(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """Return {target, target/easy, target/hard}."""
        losses = {}
        for at, name in enumerate(targets.names):
            sign_B, weights_B = 2 * targets.labels_BT[:, at] - 1, targets.weights_BT[:, at]
            easy_B = logsigmoid(sign_B * output.representations[f"{name}/easy"])  # ln e
            hard_B = logsigmoid(sign_B * output.representations[f"{name}/hard"])  # ln h
            easy = ((self.c + easy_B.exp()) ** self.gamma * -easy_B * weights_B).sum() / targets.rows
            # Not clamp, which at 0 hands on a gradient, and that of x^gamma is infinite there for gamma < 1.
            hard = ((2 - self.c - hard_B.exp()).relu() ** self.gamma * -hard_B * weights_B).sum() / targets.rows
            losses[name] = self._of(output, targets, at)
            losses |= {f"{name}/easy": self.alpha * easy, f"{name}/hard": (1 - self.alpha) * hard}
        return losses


@dataclass(frozen=True)
class LossTerm:
    """One of the losses of a run.

    Args:
        name: what logs call it if there are several.
        weight: [1] of all of its parts.
        targets: those that it reads; None: all.
    """

    name: str
    loss: Loss
    weight: float = 1.0
    targets: tuple[str, ...] | None = None


def losses_of(terms: Sequence[LossTerm], output: Output, targets: Targets) -> dict[str, Tensor]:
    """Return the parts of all losses with their weights, each (): the names are those of the losses; where there are several
    losses, "LOSS/NAME", and "LOSS-2/NAME" for a second one of that name."""
    found: dict[str, Tensor] = {}
    for at, term in enumerate(terms):
        same = sum(other.name == term.name for other in terms[: at + 1])
        before = f"{term.name}{f'-{same}' if same > 1 else ''}/" if len(terms) > 1 else ""
        for name, loss in term.loss(output, targets.only(term.targets)).items():
            found[before + name] = loss * term.weight
    return found


def unread(loss: type[Loss] | Loss, represented: Collection[str]) -> list[str]:
    """Return the representations that a loss needs and a model has not.

    Args:
        represented: names of what the model represents; "{target}/easy" is one for every target.
    """
    return [name for name in loss.reads if name not in represented]
