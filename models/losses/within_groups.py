"""Losses that compare the rows of one group, usually of one user, with each other: BPR and JRC.

The rows of a group are those of the whole step, on whatever ranks they are, gathered with their gradients: a collective, so
every rank takes part in every step. Rows without a group are compared with none.

B rows of this rank, N rows of the step in rank order, P pairs, G groups of the step.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from models.gather import gathered
from models.losses.base import Loss, Targets
from models.losses.cross_entropy import BCE
from models.output import Output

NO_GROUP = -(2**63)
"""The group of a row without one."""


class BPR(Loss):
    """Bayesian personalised ranking: rows whose label is 1 above those of their group whose label is 0.

    loss = sum over rows i with label 1 of w_i * mean over the rows j of its group with label 0 of -ln sigmoid(s_i - s_j) / rows

    The mean over j is weighted by w_j. A group of one label adds nothing. Scores are ordered and not calibrated by it: put
    `bce` beside it where probabilities matter. Memory: about 60 bytes a pair; n positives and m negatives of a group are n m.

    Source: Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", 2009; the mean per positive is ours.
    """

    within_groups = True
    link = None

    def __call__(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """Return {target: loss}."""
        return {
            name: bpr(output.logits[name], targets.labels_BT[:, at], targets.weights_BT[:, at], targets.groups_B, targets.rows)
            for at, name in enumerate(targets.names)
        }


class JRC(BCE):
    """Joint ranking and calibration: the cross-entropy of the label given the row, and that of the row given its label among
    the rows of its group.

    loss = alpha * BCE(y, sigmoid(yes - no))
           + (1 - alpha) * sum over rows i of w_i * -ln (exp s_i / sum over j of its group of w_j exp s_j) / rows
    s = yes of all rows where the label of i is 1, no of all where it is 0

    Args:
        alpha: [1] share of the cross-entropy.

    Source: Sheng et al., "Joint Optimization of Ranking and Calibration with Contextualized Hybrid Model", 2023.
    """

    reads = ("{target}/yes", "{target}/no")
    within_groups = True

    def __init__(self, *, alpha: float = 0.6) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha {alpha}; expected 0 to 1")
        self.alpha = alpha

    def __call__(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """Return {target, target/within_groups}."""
        losses: dict[str, Tensor] = {}
        for at, name in enumerate(targets.names):
            yes_B, no_B = output.representations[f"{name}/yes"], output.representations[f"{name}/no"]
            labels_B, weights_B = targets.labels_BT[:, at], targets.weights_BT[:, at]
            within = listwise(yes_B, no_B, labels_B, weights_B, targets.groups_B, targets.rows)
            losses |= {name: self.alpha * self._of(output, targets, at), f"{name}/within_groups": (1 - self.alpha) * within}
        return losses


# Training pipelines trace losses symbolically and do not look into these: how many groups and pairs there are is known only
# to the rows.


@torch.fx.wrap
def bpr(scores_B: Tensor, labels_B: Tensor, weights_B: Tensor, groups_B: Tensor, rows: int) -> Tensor:
    """Return this rank's share of the loss of `BPR`, ()."""
    scores_N, own = gathered(scores_B)
    positive_P, negative_P, weights_N = pairs(labels_B, weights_B, groups_B, own.start)
    weight_P = weights_N[negative_P]
    per_positive_N = torch.zeros_like(weights_N).index_add_(0, positive_P, weight_P)
    share_P = weights_N[positive_P] * weight_P / per_positive_N[positive_P]
    return -(share_P * logsigmoid(scores_N[positive_P] - scores_N[negative_P])).sum() / rows


@torch.no_grad()
def pairs(labels_B: Tensor, weights_B: Tensor, groups_B: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pairs of a positive row of this rank and a negative one of its group, as places among the rows of the step,
    (P,) each, and the weights of all rows of the step, (N,).

    Args:
        start: where the rows of this rank begin among all.
    """
    (labels_N, _), (weights_N, _), (groups_N, _) = gathered(labels_B), gathered(weights_B), gathered(groups_B)
    counted_N = (weights_N > 0) & (groups_N != NO_GROUP)
    names_G, group_N = torch.unique(groups_N, return_inverse=True)
    negative_M = (counted_N & (labels_N == 0)).nonzero().flatten()
    negative_M = negative_M[group_N[negative_M].argsort(stable=True)]  # group after group
    count_G = torch.bincount(group_N[negative_M], minlength=len(names_G))
    first_G = count_G.cumsum(0) - count_G
    own_B = slice(start, start + len(labels_B))
    positive_K = start + (counted_N[own_B] & (labels_N[own_B] == 1)).nonzero().flatten()
    group_K = group_N[positive_K]
    positive_P = positive_K.repeat_interleave(count_G[group_K])
    begin_K = count_G[group_K].cumsum(0) - count_G[group_K]
    within_P = torch.arange(len(positive_P), device=labels_B.device) - begin_K.repeat_interleave(count_G[group_K])
    return positive_P, negative_M[first_G[group_K].repeat_interleave(count_G[group_K]) + within_P], weights_N


@torch.fx.wrap
def listwise(yes_B: Tensor, no_B: Tensor, labels_B: Tensor, weights_B: Tensor, groups_B: Tensor, rows: int) -> Tensor:
    """Return this rank's share of what `JRC` says of rows within their groups, ()."""
    both_B2 = torch.stack([no_B, yes_B], dim=1)
    both_N2, own = gathered(both_B2)
    with torch.no_grad():
        (weights_N, _), (groups_N, _) = gathered(weights_B), gathered(groups_B)
        names_G, group_N = torch.unique(groups_N, return_inverse=True)
    log_sum_G2 = _log_sum_exp(both_N2 + weights_N.log().unsqueeze(1), group_N, len(names_G))
    counted_B = (weights_B > 0) & (groups_B != NO_GROUP)
    at_B = labels_B.long()[counted_B]
    nats_B = log_sum_G2[group_N[own][counted_B], at_B] - both_B2[counted_B, at_B]
    return (weights_B[counted_B] * nats_B).sum() / rows


def _log_sum_exp(scores_N2: Tensor, group_N: Tensor, groups: int) -> Tensor:
    """Return ln sum over the rows of a group of exp(score), (G, 2); something of a group without weight."""
    index_N2 = group_N.unsqueeze(1).expand_as(scores_N2)
    with torch.no_grad():  # the sum does not depend on it: it only keeps exp small
        top_G2 = scores_N2.new_full((groups, 2), -torch.inf).scatter_reduce(0, index_N2, scores_N2, "amax").nan_to_num(neginf=0)
    sum_G2 = scores_N2.new_zeros(groups, 2).index_add(0, group_N, (scores_N2 - top_G2[group_N]).exp())
    return sum_G2.clamp(min=torch.finfo(sum_G2.dtype).tiny).log() + top_G2  # of none: nobody asks, and its gradient is 0
