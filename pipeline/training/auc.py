"""The area under the ROC curve, exact, per group of rows."""

import torch
from torch import Tensor


def auc_by_group(scores_N: Tensor, labels_N: Tensor, weights_N: Tensor, group_N: Tensor) -> tuple[Tensor, Tensor]:
    """The AUC of every group, and its weight: two (G,) float64 tensors. nan where a group has one class only.

    AUC = sum over positives i of w_i (weight of negatives below i + half the weight of negatives level with i)
          / (weight of positives * weight of negatives)

    Ours, because none of the libraries has it right for weighted rows with ties: torchmetrics' `binary_auroc` takes no
    weights; torchrec's `compute_auc` and `compute_gauc_3d`, and FBGEMM's, give tied rows whatever order the sort leaves them
    in, and average groups without their size. One sort does all groups.

    Shape:
        all (N,); group_N int64, 0..G-1.

    Example:
        >>> scores, labels = torch.tensor([3.0, 1.0, 2.0, 2.0, 2.0]), torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
        >>> auc_by_group(scores, labels, torch.ones(5), torch.tensor([0, 0, 1, 1, 1]))
        (tensor([1.0000, 0.5000], dtype=torch.float64), tensor([2., 3.], dtype=torch.float64))
    """
    order = scores_N.argsort()
    order = order[group_N[order].argsort(stable=True)]
    scores_N, group_N = scores_N[order], group_N[order]
    weights_N, labels_N = weights_N[order].double(), labels_N[order].double()
    starts_N = torch.ones_like(group_N, dtype=torch.bool)
    starts_N[1:] = (scores_N[1:] != scores_N[:-1]) | (group_N[1:] != group_N[:-1])
    tie_N = starts_N.cumsum(0) - 1  # rows of one group and one score share a number
    ties, groups = int(starts_N.sum()), int(group_N[-1]) + 1 if len(group_N) else 0
    positive_K = torch.zeros(ties, dtype=torch.float64).index_add_(0, tie_N, weights_N * labels_N)
    negative_K = torch.zeros(ties, dtype=torch.float64).index_add_(0, tie_N, weights_N * (1 - labels_N))
    group_K = group_N[starts_N]
    positive_G = torch.zeros(groups, dtype=torch.float64).index_add_(0, group_K, positive_K)
    negative_G = torch.zeros(groups, dtype=torch.float64).index_add_(0, group_K, negative_K)
    before_G = negative_G.cumsum(0) - negative_G  # negatives of the groups before
    below_K = negative_K.cumsum(0) - negative_K - before_G[group_K]
    won_K = positive_K * (below_K + negative_K / 2)
    won_G = torch.zeros(groups, dtype=torch.float64).index_add_(0, group_K, won_K)
    return won_G / (positive_G * negative_G), positive_G + negative_G
