"""Losses: what a model answers and what it should have, in; named numbers out, right for any number of ranks.

Every loss is a share of a mean over the rows of the whole step: it divides by them, not by the rows of this rank. So the losses
of the ranks add up to the loss of one big batch, however unevenly its rows are spread; a rank without rows adds zero. A loss
over pairs of rows has to gather them from all ranks, with their gradients, or it would be another one on other ranks.
B rows of this rank, T targets.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch
from torch import Tensor

from models.output import Output

LINKS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"sigmoid": torch.sigmoid, "identity": torch.Tensor.clone, "expm1": torch.expm1, "exp": torch.exp}
)
"""How a logit becomes a prediction: of a probability by the first, of an amount by one of the others."""

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
        importance: target -> [1] factor of all of its losses; 1 for those left out.
    """

    names: tuple[str, ...]
    labels_BT: Tensor
    weights_BT: Tensor
    rows: int
    groups_B: Tensor
    importance: Mapping[str, float] = field(default_factory=dict)

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
        within_groups: whether it compares the rows of a group, so that rows need one.
        link: what makes a prediction of a logit, see `LINKS`; None: it orders rows, and another loss may say it.
    """

    reads: tuple[str, ...] = ()
    within_groups: bool = False
    link: str | None = "sigmoid"

    @abstractmethod
    def __call__(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """Return the parts of the loss, each (); training differentiates their sum. A part is called as its target, or
        "TARGET/NAME" if a target has several."""
        # Training pipelines trace losses symbolically: what is in `output` can be asked by name, and not looped over.


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


def links_of(terms: Sequence[LossTerm], targets: Sequence[str]) -> dict[str, str]:
    """Return what makes a prediction of every target's logit.

    Raises:
        ValueError: two losses of a target disagree.
    """
    links = {}
    for target in targets:
        own = {term.loss.link: term.name for term in terms if term.targets is None or target in term.targets}
        own.pop(None, None)
        if len(own) > 1:
            raise ValueError(
                f"{' and '.join(own.values())} read a logit of {target} differently: give one of them other targets"
            )
        links[target] = next(iter(own), None) or "sigmoid"
    return links


def losses_of(terms: Sequence[LossTerm], output: Output, targets: Targets) -> dict[str, Tensor]:
    """Return the parts of all losses with their weights, each (): the names are those of the losses; where there are several
    losses, "LOSS/NAME", and "LOSS-2/NAME" for a second one of that name."""
    found: dict[str, Tensor] = {}
    for at, term in enumerate(terms):
        same = sum(other.name == term.name for other in terms[: at + 1])
        before = f"{term.name}{f'-{same}' if same > 1 else ''}/" if len(terms) > 1 else ""
        for name, loss in term.loss(output, targets.only(term.targets)).items():
            found[before + name] = loss * (term.weight * targets.importance.get(name.partition("/")[0], 1.0))
    return found


def unread(loss: type[Loss] | Loss, represented: Collection[str]) -> list[str]:
    """Return the representations that a loss needs and a model has not.

    Args:
        represented: names of what the model represents; "{target}/easy" is one for every target.
    """
    return [name for name in loss.reads if name not in represented]
