"""Which values of a row are perturbed, what restoring them weighs, and which of them are restored.

B rows, S slots, F fields, n values of a row that can be perturbed, k that are.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LEAST_T = 1e-3


@dataclass(frozen=True)
class Noise:
    """The forward process of an absorbing (or uniform) discrete diffusion, at one random time per row.

    bernoulli: every value is perturbed with probability r(t), t in (0, 1) stratified over the batch.
    count:     k values, k = ceil(r(u) * n) with u uniform: the same distribution as bernoulli for the linear ratio, without the
               rows in which nothing is perturbed.
    r(t) is t (linear) or cos(pi t / 2) (cosine). At least one value is perturbed in every row that has any.

    weight of a row: elbo 1/t; count n/k, or with bernoulli (n + 1)/k, which is the expectation of 1/t given k, so the same
    bound with less variance; mean 1/k; one 1. With the count sampler there is no t, and elbo is count. elbo and count weigh
    nothing where the one value was perturbed for want of any. They bound the likelihood with the linear ratio, for k is then
    uniform, on 1 … n or with bernoulli on 0 … n, and in the mean each value counts once; with cosine they are weights like
    others.

    Args:
        finetune_share: [1] probability that of a row the labels alone are perturbed, with weight 1: the task that follows.

    Source: D3PM's and MDLM's linear schedule; k uniform and its weight are derived from it (ours).
    """

    sampler: Literal["count", "bernoulli"] = "count"
    ratio: Literal["linear", "cosine"] = "linear"
    time_weight: Literal["elbo", "count", "mean", "one"] = "count"
    finetune_share: float = 0.1

    def __call__(self, can_BS: Tensor, label_S: Tensor) -> tuple[Tensor, Tensor]:
        """Return the perturbed slots, (B, S) bool, and the weight of every row, (B,).

        Args:
            can_BS: which slots hold a value that can be perturbed, labels always. label_S: which slots are labels.
        """
        n_B = can_BS.sum(1)
        order_BS = torch.rand(can_BS.shape, device=can_BS.device).masked_fill(~can_BS, 2.0)
        t_B = self._times(n_B)
        if self.sampler == "count":
            k_B = (t_B * n_B).ceil().long().clamp(min=1)
            hidden_BS = order_BS.argsort(1).argsort(1) < k_B.unsqueeze(1)
        else:
            hidden_BS = order_BS < t_B.unsqueeze(1)
            none_B = ~hidden_BS.any(1)
            first_BS = order_BS == order_BS.amin(1, keepdim=True)
            hidden_BS = torch.where(none_B.unsqueeze(1), first_BS, hidden_BS)
        hidden_BS = hidden_BS & can_BS
        k_B = hidden_BS.sum(1).clamp(min=1)
        if self.time_weight == "elbo" and self.sampler == "bernoulli":
            weight_B = 1 / t_B
        else:
            count_B = (n_B if self.sampler == "count" else n_B + 1) / k_B
            weights = {"elbo": count_B, "count": count_B, "mean": 1 / k_B, "one": torch.ones_like(t_B)}
            weight_B = weights[self.time_weight]
        if self.sampler == "bernoulli" and self.time_weight in ("elbo", "count"):
            weight_B = torch.where(none_B, 0.0, weight_B)
        if self.finetune_share:
            finetune_B = torch.rand(n_B.shape, device=n_B.device) < self.finetune_share
            hidden_BS = torch.where(finetune_B.unsqueeze(1), label_S, hidden_BS)
            weight_B = torch.where(finetune_B, 1.0, weight_B)
        return hidden_BS, weight_B

    def _times(self, n_B: Tensor) -> Tensor:
        """Shares to perturb, (B,): one from each of B equal parts of (0, 1), in random order, through r."""
        rows = n_B.shape[0]
        u_B = (torch.rand(rows, device=n_B.device) + torch.randperm(rows, device=n_B.device)) / max(rows, 1)
        t_B = LEAST_T + (1 - LEAST_T) * u_B
        return t_B if self.ratio == "linear" else torch.cos(t_B * (math.pi / 2)).clamp(min=LEAST_T)


def thinned(hidden_BS: Tensor, field_S: Tensor, most_F: Tensor) -> tuple[Tensor, Tensor]:
    """Choose what is restored, at random and at most `most` values of a field, and say how many times as much it weighs.

    A history of 50 ids hides as many values as fifty fields do: its softmax would cost more than all the rest, and memory grows
    with the square of what is hidden.

    Shape:
        hidden_BS (B, S); field_S (S,) every slot's field, most_F (F,) -> (B, S), (F,)
    """
    counts_F = torch.zeros_like(most_F).index_add(0, field_S, hidden_BS.sum(0))
    weight_F = (counts_F / most_F).clamp(min=1)
    if not (weight_F > 1).any():
        return hidden_BS, weight_F
    row_N, slot_N = hidden_BS.nonzero(as_tuple=True)
    field_N = field_S[slot_N]
    order_N = (field_N + torch.rand(len(field_N), dtype=torch.float64, device=field_N.device)).argsort()
    place_N = torch.arange(len(order_N), device=order_N.device) - (counts_F.cumsum(0) - counts_F)[field_N[order_N]]
    kept_N = order_N[place_N < most_F[field_N[order_N]]]
    return torch.zeros_like(hidden_BS).index_put((row_N[kept_N], slot_N[kept_N]), hidden_BS.new_ones(())), weight_F
