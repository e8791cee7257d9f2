"""Losses on logits: row weights in, one number out, right for any number of ranks.

B rows of this rank.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def bce(logits_B: Tensor, labels_B: Tensor, weights_B: Tensor, rows: int) -> Tensor:
    """Binary cross-entropy of this rank's rows, as a share of the mean over the rows of all ranks.

    loss = sum_b weights[b] * BCE(labels[b], sigmoid(logits[b])) / rows

    Dividing by the rows of the whole step, not of this rank, makes the losses of the ranks add up to the loss of
    one big batch, however unevenly its rows are spread; a rank without rows adds zero.

    Args:
        rows: [rows] of this step over all ranks.

    Shape:
        logits_B, labels_B, weights_B (B,) -> ()
    """
    return binary_cross_entropy_with_logits(logits_B, labels_B, weights_B, reduction="sum") / rows


Loss = Callable[[Tensor, Tensor, Tensor, int], Tensor]

LOSSES: Mapping[str, Loss] = MappingProxyType({"bce": bce})
