"""Losses of amounts: seconds watched, money spent. Labels are 0 or more.

B rows of this rank.
"""

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import softplus

from models.losses.base import Loss, Targets
from models.output import Output


class AmountLoss(Loss):
    """A sum over rows: weights[b] * of(logit, label) / rows."""

    def __call__(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """Return {target: loss}."""
        return {
            name: (targets.weights_BT[:, at] * self.of(output.logits[name], targets.labels_BT[:, at])).sum() / targets.rows
            for at, name in enumerate(targets.names)
        }

    @abstractmethod
    def of(self, logits_B: Tensor, labels_B: Tensor) -> Tensor:
        """Return the loss of every row, (B,)."""


class SquaredError(AmountLoss):
    """(logit - y)^2; the logit is the prediction. A few large amounts rule it."""

    link = "identity"

    def of(self, logits_B: Tensor, labels_B: Tensor) -> Tensor:
        """Return the loss of every row, (B,)."""
        return (logits_B - labels_B).square()


class SquaredLogError(AmountLoss):
    """(logit - ln(1 + y))^2; predicts exp(logit) - 1, which is below the mean of skewed amounts: look at `calibration`."""

    link = "expm1"

    def of(self, logits_B: Tensor, labels_B: Tensor) -> Tensor:
        """Return the loss of every row, (B,)."""
        return (logits_B - torch.log1p(labels_B)).square()


class WeightedLogistic(AmountLoss):
    """y * -ln sigmoid(logit) + -ln(1 - sigmoid(logit)); predicts exp(logit).

    Every row is one miss and y hits, so that the odds are the mean of y. In the paper a row with an amount is y hits and no
    miss, which makes odds of E[y] (1 + P) for a small share P of such rows; as it stands here it has no such factor.

    Source: Covington et al., "Deep Neural Networks for YouTube Recommendations", 2016; the miss of every row is ours.
    """

    link = "exp"

    def of(self, logits_B: Tensor, labels_B: Tensor) -> Tensor:
        """Return the loss of every row, (B,)."""
        return labels_B * softplus(-logits_B) + softplus(logits_B)
