"""Targets that presuppose others, learnt over all rows: clicks, and purchases after clicks.

B rows, H features of the decoder, T targets.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from models.heads.base import Head
from models.heads.towers import TOWER, Towers, several
from models.inputs import FieldVectors
from models.layers import MLP, Flat, MakeMLP, MLPOptions
from models.output import Output

NOTHING: Mapping[str, str] = MappingProxyType({})


class ESMMHead(Head):
    """The probability of a target is that of the one it presupposes times that of itself given that one.

    p(buy) = p(click) p(buy | click)        logits of both and of the conditional from towers over the same features

    The label of `buy` is 1 where a row was clicked and bought, and counts in every row: so `p(buy | click)` is learnt
    without the bias of the rows that were clicked. Logits are those of the products, so losses, metrics and bundles read them
    as any other.

    Args:
        given: target -> the one that it presupposes; chains are allowed, circles are not. Targets that are not named
            presuppose nothing.
        network: hidden, dropout, batch_norm of every tower.

    Shape:
        x_BH (B, H) -> Output with logits {target: (B,)}, representations {"TARGET/given": (B,)}, the logit of p(target | given)

    Source: Ma et al., "Entire Space Multi-Task Model", 2018.
    """

    represents = ("{target}/given",)

    def __init__(
        self,
        *,
        features: Flat,
        targets: Sequence[str],
        make_mlp: MakeMLP = MLP,
        given: Mapping[str, str] = NOTHING,
        network: MLPOptions = TOWER,
    ) -> None:
        super().__init__()
        self.targets, self.given = tuple(targets), dict(given)
        self.order = _ordered(self.targets, self.given)
        self.towers = Towers(features=several(features, "esmm"), targets=len(targets), make_mlp=make_mlp, network=network)

    def start_at(self, logits: Sequence[float]) -> None:
        """Set the bias of every target: that of p(target | given) is the ratio of both rates."""
        rates = dict(zip(self.targets, torch.tensor(logits).sigmoid().tolist(), strict=True))
        own = {name: min(rates[name] / rates.get(self.given.get(name, ""), 1.0), 0.99) for name in self.targets}
        self.towers.start_at(torch.tensor([own[name] for name in self.targets]).logit().tolist())

    def forward(self, x_BH: Tensor, fields: FieldVectors | None = None) -> Output:
        """Return the logits by target."""
        own_BT = self.towers([x_BH] * len(self.targets), fields)
        own = {name: own_BT[:, at] for at, name in enumerate(self.targets)}
        logits: dict[str, Tensor] = {}
        for name in self.order:
            logits[name] = both(logits[self.given[name]], own[name]) if name in self.given else own[name]
        return Output({name: logits[name] for name in self.targets}, {f"{name}/given": own[name] for name in self.targets})


def both(a_B: Tensor, b_B: Tensor) -> Tensor:
    """Return the logit of sigmoid(a) sigmoid(b).

    logit(pq) = ln pq - ln(1 - pq)        1 - pq = (1 - p) + p (1 - q), which keeps all digits where pq is next to 1

    >>> both(torch.tensor(0.0), torch.tensor(0.0)).sigmoid().item()
    0.25
    """
    log_p_B = logsigmoid(a_B)
    return log_p_B + logsigmoid(b_B) - torch.logaddexp(logsigmoid(-a_B), log_p_B + logsigmoid(-b_B))


def _ordered(targets: Sequence[str], given: Mapping[str, str]) -> tuple[str, ...]:
    """The targets, each after the one it presupposes."""
    for name in (*given, *given.values()):
        if name not in targets:
            raise ValueError(f"esmm: given names {name!r}, which is no target; choose from {list(targets)}")
    ordered: list[str] = []
    while len(ordered) < len(targets):
        ready = [name for name in targets if name not in ordered and given.get(name, name) in (name, *ordered)]
        if not ready or any(given.get(name) == name for name in ready):
            circle = sorted(set(targets) - set(ordered))
            raise ValueError(f"esmm: {', '.join(circle)} presuppose each other in a circle")
        ordered += ready
    return tuple(ordered)
