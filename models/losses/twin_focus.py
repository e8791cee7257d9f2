"""TF4CTR's loss of a model and its two encoders.

B rows of this rank.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from models.losses.base import Targets
from models.losses.cross_entropy import BCE
from models.output import Output


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
        super().__init__()
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
