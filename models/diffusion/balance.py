"""How much every field's loss weighs (HeteGenCTR): learnt log-difficulties s, one per field.

The published loss, L = sum_i exp(-s_i) l_i + s_i / 2, is said to move the budget toward harder fields. It does the opposite:
for a fixed l the best s is ln 2l, so the weight exp(-s) is 1/(2l), and a field with twice the loss gets half the weight. No
other loss of that kind helps: a(s) l + b(s), minimised over s, is an infimum of functions affine in l, hence concave in l, and
its slope, which is the field's weight, falls as l grows. Weights that rise with l need a convex potential: a stop-gradient
between s and the network, or a maximum instead of the minimum. `progress`, `hard_track` and `dro` do that; they are ours.

F fields.
"""

import torch
from torch import Tensor, nn

KINDS = ("uniform", "literal", "literal_raw", "literal_norm", "progress", "hard_track", "dro")
LEARNT = ("literal", "literal_raw", "literal_norm", "progress", "hard_track")
LEAST = 0.01
"""[nats] of a reference: a field of one value has nothing to be hard about."""

EDGE = 5.0
"""[1] s stays within ± this."""


class Balance(nn.Module):
    """Weights of the fields' losses. l: loss, H: reference loss, lhat = l / H, p = clip(1 - lhat, p_min, 1), sg: stop-gradient.

    kind          s minimises                weight before normalising   at rest          toward hard fields?
    uniform       -                          1                           1                -
    literal       e^-s l + s/2               e^-s                        1/(2l)           no
    literal_raw   the same, as one loss with the network: not normalised, l's gradient reaches s and the other way round
    literal_norm  e^-s lhat + s/2            e^-s                        1/(2 lhat)       no
    progress      e^-s p + s/2               e^-s                        1/(2p)           yes
    hard_track    e^s - s lhat               e^(beta s)                  lhat^beta        yes
    dro           -                          softmax(lhat / tau) / H     the same         yes

    Weights (of literal_raw excepted) are normalised to mean 1 over the fields that had hidden values in the step, and carry no
    gradient; the others are left out of everything. Losses are those of the step, over all ranks. dro weighs lhat, so l by
    1/H besides.

    Args:
        kind: one of `KINDS`.
        fields: F.
        p_min: least progress; bounds the ratio of weights of `progress` by 1 / p_min.
        beta: sharpness of `hard_track`. tau: of `dro`.

    Attributes:
        s: (F,), 0 at first; None where nothing is learnt.

    Source: literal is arXiv 2605.24986's; the others, and the normalisation, are ours.
    """

    def __init__(self, kind: str, *, fields: int, p_min: float = 0.05, beta: float = 1.0, tau: float = 0.5) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"no balance {kind!r}; choose from {list(KINDS)}")
        self.kind, self.p_min, self.beta, self.tau = kind, p_min, beta, tau
        self.s = nn.Parameter(torch.zeros(fields)) if kind in LEARNT else None

    def forward(self, losses_F: Tensor, references_F: Tensor, present_F: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights of the fields' losses, (F,), and the loss that teaches s, ().

        For literal_raw the weights carry gradients, and with sum_i weight_i l_i the second adds up to the published loss.

        Shape:
            losses_F, references_F (F,) means over the step's hidden values; present_F (F,) bool: there were any
        """
        losses_F = losses_F.detach()
        references_F = references_F.clamp(min=LEAST)
        ratio_F = losses_F / references_F
        nothing = losses_F.new_zeros(())
        if self.s is None:
            if self.kind == "uniform":
                return torch.ones_like(losses_F), nothing
            share_F = torch.where(present_F, ratio_F / self.tau, -torch.inf).softmax(0)
            return _normal(share_F / references_F, present_F), nothing
        with torch.no_grad():
            self.s.clamp_(-EDGE, EDGE)
        s_F = self.s
        if self.kind == "literal_raw":
            return torch.where(present_F, torch.exp(-s_F), 0), torch.where(present_F, s_F / 2, 0).sum()
        if self.kind == "hard_track":
            own_F, weight_F = torch.exp(s_F) - s_F * ratio_F, torch.exp(self.beta * s_F)
        else:
            progress_F = (1 - ratio_F).clamp(self.p_min, 1)
            seen_F = {"literal": losses_F, "literal_norm": ratio_F, "progress": progress_F}[self.kind]
            own_F, weight_F = torch.exp(-s_F) * seen_F + s_F / 2, torch.exp(-s_F)
        return _normal(weight_F.detach(), present_F), torch.where(present_F, own_F, 0).sum()

    def factors(self) -> Tensor | None:
        """Return exp(-s / 2) of every field, (F,), for the guidance of attention; it never learns through it."""
        return None if self.s is None else torch.exp(-self.s.detach() / 2)


def _normal(weight_F: Tensor, present_F: Tensor) -> Tensor:
    """Of mean 1 over the fields that are there, 0 for the others."""
    weight_F = torch.where(present_F, weight_F, 0)
    return weight_F * (present_F.sum() / weight_F.sum().clamp(min=1e-12))
