"""Metrics of click predictions: AUC, logloss, normalised entropy, GAUC, calibration, per task.

logloss = sum w * BCE / sum w                          NE = logloss / entropy of the mean label
calibration = sum w * p / sum w * y                    AUC = P(score of a click > score of a non-click), ties count half
GAUC = mean over groups of the group's AUC, weighted by its rows; groups with one class have none and are left out

w is the row weight times the task's mask; rows of weight 0 do not belong to the task. What is not defined (AUC of one class)
is NaN.
"""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics.functional.classification import binary_auroc
from torchrec.metrics.calibration import compute_calibration
from torchrec.metrics.ne import compute_ne

from data.errors import GenctrError

Scores = dict[str, dict[str, float]]

BINS = 4096
"""[bins] of the running AUC's histogram over the predicted probability's logit, from -EDGE to EDGE."""

EDGE = 12.0
"""[1] logit beyond which predictions share the last bin."""

SUMS = 5
"""weight, label, prediction, cross entropy, rows."""


class Meters:
    """Exact metrics of one evaluation.

    Holds every prediction of this rank: 4 bytes each for logit, label and weight a task, 8 for the group, so 20 bytes a row
    with one task. `compute` gathers them on rank 0.

    Args:
        tasks: names, in the order of the label columns.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self._tasks = tuple(tasks)
        self._rows: list[Tensor] = []
        self._groups: list[Tensor] = []

    def update(self, logits: dict[str, Tensor], labels: Tensor, weights: Tensor, groups: Tensor) -> None:
        """Add rows.

        Shape:
            logits {task: (B,)}, labels (B, T), weights (B, T), groups (B,)
        """
        scores = torch.stack([logits[task] for task in self._tasks], dim=1)
        self._rows.append(torch.stack([scores.float(), labels, weights], dim=2).cpu())
        self._groups.append(groups.cpu())

    def compute(self) -> Scores:
        """The metrics over all ranks' rows; every rank must call, every rank gets them.

        Raises:
            GenctrError: a prediction is NaN.
        """
        rows = _gathered(torch.cat(self._rows)) if self._rows else torch.empty(0, len(self._tasks), 3)
        groups = _gathered(torch.cat(self._groups)) if self._groups else torch.empty(0, dtype=torch.int64)
        return {task: _exact(task, *rows[:, i].unbind(1), groups) for i, task in enumerate(self._tasks)}


class RunningMeters:
    """Metrics of training, in constant memory: sums, and a histogram for the AUC.

    Two predictions in one bin of width 2 * EDGE / BINS = .006 logits count as tied, so the AUC is off by at most half the
    share of click/non-click pairs that fall into one bin: below .001 for any spread of logits of .5 or more.

    Args:
        tasks: names, in the order of the label columns.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self._tasks = tuple(tasks)
        self._state = torch.zeros(len(self._tasks), SUMS + 2 * BINS, dtype=torch.float64)

    def update(self, logits: dict[str, Tensor], labels: Tensor, weights: Tensor, groups: Tensor) -> None:
        """Add rows; shapes as in `Meters`. Groups are not looked at: GAUC needs every prediction."""
        for i, task in enumerate(self._tasks):
            logit, label, weight = logits[task].detach().double().cpu(), labels[:, i].double().cpu(), weights[:, i].double().cpu()
            _refuse_nan(task, logit)
            state = self._state[i]
            loss = binary_cross_entropy_with_logits(logit, label, reduction="none")
            parts = (weight, weight * label, weight * logit.sigmoid(), weight * loss, (weight > 0).double())
            state[:SUMS] += torch.stack([part.sum() for part in parts])
            bins = ((logit + EDGE) * (BINS / (2 * EDGE))).long().clamp_(0, BINS - 1)
            state[SUMS:].index_add_(0, bins + BINS, weight * label)
            state[SUMS:].index_add_(0, bins, weight * (1 - label))

    def compute(self) -> Scores:
        """The metrics over all ranks; every rank must call, every rank gets them."""
        total = self._total()
        return {task: _binned(total[i]) for i, task in enumerate(self._tasks)}

    def state_dict(self) -> dict[str, list[list[float]]]:
        """The sums over all ranks, as a checkpoint stores them; every rank must call."""
        return {"state": self._total().tolist()}

    def load_state_dict(self, state: dict[str, list[list[float]]]) -> None:
        """Go on from stored sums: rank 0 takes them, so their total is the same on any number of ranks."""
        self._state.zero_()
        if not dist.is_initialized() or dist.get_rank() == 0:
            self._state += torch.tensor(state["state"], dtype=torch.float64)

    def _total(self) -> Tensor:
        total = self._state.clone()
        if dist.is_initialized():
            dist.all_reduce(total)
        return total


def _gathered(tensor: Tensor) -> Tensor:
    """The ranks' rows one after the other, on every rank; they may be of different number."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(tensor)]))
    most = max(int(count) for count in counts)
    padded = torch.zeros(most, *tensor.shape[1:], dtype=tensor.dtype)
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


def _exact(task: str, logit: Tensor, label: Tensor, weight: Tensor, group: Tensor) -> dict[str, float]:
    counts = weight > 0
    logit, label, weight, group = logit[counts].double(), label[counts].double(), weight[counts].double(), group[counts]
    _refuse_nan(task, logit)
    loss = binary_cross_entropy_with_logits(logit, label, reduction="none")
    sums = torch.stack([part.sum() for part in (weight, weight * label, weight * logit.sigmoid(), weight * loss)])
    both = 0 < float(label.sum()) < len(label)
    # Unweighted, as the field reports it; of logits, since equal float32 probabilities would tie what the model tells apart.
    auc = float(binary_auroc(_ranks(logit), label.long())) if both else float("nan")
    return {"auc": auc, **_ratios(sums), "gauc": gauc(logit, label, group), "rows": len(label)}


def _ranks(logit: Tensor) -> Tensor:
    """Scores in [0, 1] in the same order with the same ties: torchmetrics squeezes anything else through a sigmoid."""
    return torch.unique(logit, return_inverse=True)[1].double() / max(len(logit), 1)


def gauc(logit: Tensor, label: Tensor, group: Tensor) -> float:
    """Mean AUC of the groups, weighted by their rows.

    Ours: torchrec's counts tied predictions by their place in the batch, so its value changes with the order of the rows.

    The AUC of a group with P clicks and N others is (sum of the clicks' ranks - P (P + 1) / 2) / (P N), ranks from 1, tied
    scores sharing the mean of theirs.

    Shape:
        logit, label, group: (B,)
    """
    if not len(logit):
        return float("nan")
    by_score = torch.argsort(logit, stable=True)
    order = by_score[torch.argsort(group[by_score], stable=True)]
    logit, label, group = logit[order], label[order], group[order]
    _, member, size = torch.unique_consecutive(group, return_inverse=True, return_counts=True)
    place = torch.arange(1, len(logit) + 1, dtype=torch.float64) - (size.cumsum(0) - size)[member]
    changes = torch.ones(len(logit), dtype=torch.bool)
    changes[1:] = (logit[1:] != logit[:-1]) | (member[1:] != member[:-1])
    tie = changes.long().cumsum(0) - 1
    tied = torch.bincount(tie)
    rank = (torch.zeros(len(tied), dtype=torch.float64).index_add_(0, tie, place) / tied)[tie]
    zeros = torch.zeros(len(size), dtype=torch.float64)
    clicks = zeros.index_add(0, member, label)
    others = size - clicks
    ranks = zeros.index_add(0, member, rank * label)
    mixed = (clicks > 0) & (others > 0)
    if not mixed.any():
        return float("nan")
    auc = (ranks - clicks * (clicks + 1) / 2)[mixed] / (clicks * others)[mixed]
    return float((auc * size[mixed]).sum() / size[mixed].sum())


def _binned(total: Tensor) -> dict[str, float]:
    others, clicks = total[SUMS : SUMS + BINS], total[SUMS + BINS :]
    below = others.cumsum(0) - others
    pairs = others.sum() * clicks.sum()
    auc = float((clicks * (below + others / 2)).sum() / pairs) if pairs > 0 else float("nan")
    return {"auc": auc, **_ratios(total[:4]), "rows": int(total[4])}


def _ratios(sums: Tensor) -> dict[str, float]:
    weight, label, prediction, entropy = sums
    if not weight:
        return {"logloss": float("nan"), "ne": float("nan"), "calibration": float("nan")}
    ne = compute_ne(entropy / math.log(2), weight, label, weight - label, eta=1e-12)  # torchrec counts in bits
    calibration = float(compute_calibration(prediction, label)) if label else float("nan")
    both = 0 < float(label) < float(weight)
    return {"logloss": float(entropy / weight), "ne": float(ne) if both else float("nan"), "calibration": calibration}


def _refuse_nan(task: str, logit: Tensor) -> None:
    if bool(logit.isnan().any()):
        raise GenctrError(
            f"task {task!r}: the model predicts NaN\n  next: lower the learning rates or set train.dense.clip_norm, and go on "
            "from an older checkpoint"
        )
