"""Losses of one row at a time: binary cross-entropy and what was made of it.

B rows of this rank.
"""

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from models.losses.base import Loss, Targets
from models.output import Output


class BCE(Loss):
    """Binary cross-entropy.

    loss = sum over targets and rows b of weights[b] * BCE(y[b], sigmoid(logits[b])) / rows
    y = (1 - smoothing) labels + smoothing / 2

    Args:
        smoothing: [1] how far labels are drawn towards 1/2, from 0 to 1. Predictions are drawn with them, so that a calibrated
            model needs 0.
    """

    def __init__(self, *, smoothing: float = 0.0) -> None:
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing {smoothing}; expected 0 or more and less than 1")
        self.smoothing = smoothing

    def __call__(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """Return {target: loss}."""
        return {name: self._of(output, targets, at) for at, name in enumerate(targets.names)}

    def _of(self, output: Output, targets: Targets, at: int) -> Tensor:
        logits_B, labels_B, weights_B = output.logits[targets.names[at]], targets.labels_BT[:, at], targets.weights_BT[:, at]
        if self.smoothing:
            labels_B = labels_B * (1 - self.smoothing) + self.smoothing / 2
        return binary_cross_entropy_with_logits(logits_B, labels_B, weights_B, reduction="sum") / targets.rows


class Focal(Loss):
    """Cross-entropy that counts a row the less, the surer the model is of its label.

    loss = sum over rows of weights * a * (1 - p)^gamma * -ln p / rows,  p the probability of the true label,
    a = alpha where the label is 1 and 1 - alpha where it is 0

    gamma 0 and alpha 1/2 is half of binary cross-entropy. It does not end at calibrated probabilities unless gamma is 0.

    Args:
        gamma: how much sure rows are left aside. alpha: [1] weight of the rows whose label is 1.

    Source: Lin et al., "Focal Loss for Dense Object Detection", 2017, for gamma and alpha and their first values.
    """

    def __init__(self, *, gamma: float = 2.0, alpha: float = 0.25) -> None:
        if gamma < 0 or not 0 < alpha < 1:
            raise ValueError(f"gamma {gamma}, alpha {alpha}; expected gamma >= 0 and alpha between 0 and 1")
        self.gamma, self.alpha = gamma, alpha

    def __call__(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """Return {target: loss}."""
        losses = {}
        for at, name in enumerate(targets.names):
            logits_B, labels_B = output.logits[name], targets.labels_BT[:, at]
            nats_B = binary_cross_entropy_with_logits(logits_B, labels_B, reduction="none")
            # (1 - p)^gamma as exp(gamma ln(1 - p)): the gradient of a power is infinite at 0 for gamma < 1.
            wrong_B = binary_cross_entropy_with_logits(logits_B, 1 - labels_B, reduction="none").mul(-self.gamma).exp()
            class_B = 1 - self.alpha + (2 * self.alpha - 1) * labels_B
            losses[name] = (targets.weights_BT[:, at] * class_B * wrong_B * nats_B).sum() / targets.rows
        return losses
