"""One logit for yes and one for no, for losses that compare rows within a group by either.

B rows, H features of the decoder, T targets.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.heads.base import Head, by_target
from models.heads.towers import several
from models.inputs import FieldVectors
from models.layers import MLP, Flat, MakeMLP, linear
from models.output import Output


class TwoLogitsHead(Head):
    """logit_t = yes_t - no_t,  yes_t and no_t linear in the features.

    Shape:
        x_BH (B, H) -> Output with logits {target: (B,)}, representations {"TARGET/yes": (B,), "TARGET/no": (B,)}

    Source: Sheng et al., "Joint Optimization of Ranking and Calibration with Contextualized Hybrid Model", 2023.
    """

    represents = ("{target}/yes", "{target}/no")

    def __init__(self, *, features: Flat, targets: Sequence[str], make_mlp: MakeMLP = MLP) -> None:
        super().__init__()
        self.targets = tuple(targets)
        self.yes, self.no = (linear(several(features, "two_logits"), len(targets)) for _ in range(2))

    def start_at(self, logits: Sequence[float]) -> None:
        """Set the biases: half of each for yes, half against no."""
        with torch.no_grad():
            self.yes.bias.copy_(torch.tensor(logits) / 2)
            self.no.bias.copy_(-torch.tensor(logits) / 2)

    def forward(self, x_BH: Tensor, fields: FieldVectors | None = None) -> Output:
        """Return the logits by target, and what they are differences of."""
        yes_BT, no_BT = self.yes(x_BH), self.no(x_BH)
        yes, no = by_target(yes_BT, self.targets), by_target(no_BT, self.targets)
        sides = {f"{name}/{side}": own[name] for name in self.targets for side, own in (("yes", yes), ("no", no))}
        return Output(by_target(yes_BT - no_BT, self.targets), sides)
