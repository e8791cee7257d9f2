"""Metrics per target: exact ones for a scored day, and running ones of constant size for training.

For rows i with label y, weight w and predicted probability p (the sum is over the rows of a target, w = 0 takes a row out):

    logloss      [nats]  sum w (-y log p - (1-y) log(1-p)) / sum w
    ne           [1]     normalised entropy: logloss / the logloss of always predicting the mean label
    calibration  [1]     mean prediction / mean label
    calibration_whole  [1]  of a target with a `sampling_rate`: the same for the whole log, in which a row of label 0 stands for
                         1 / rate rows
    auc          [1]     chance that a positive row scores above a negative one; a tie counts one half
    gauc         [1]     auc of every group, averaged by the weight (without weights: the rows) of the group; groups of one
                         class and rows without a group (a null) are left out
    rows         [rows]  with a weight

and for amounts, of which p is the predicted mean (what of a logit, the loss says):

    rmse         [label] root of the mean of (p - y)^2
    mae          [label] mean of |p - y|
    calibration, rows    as above

A metric that is not defined (one class only, no rows) is nan. A row of weight 2 counts like two rows.

T targets, B rows of a batch, N rows in all.
Sources: NE is of He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", 2014; GAUC of Zhu et al.,
"Optimized Cost per Click in Taobao Display Advertising", 2017.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.metrics.calibration import get_calibration_states
from torchrec.metrics.ne import compute_ne, get_ne_states

from data.collate import NO_GROUP
from data.errors import GenctrError
from models.losses.base import LINKS
from pipeline.distributed.world import share
from pipeline.training.objective import StepOutput

NOTHING: Mapping[str, str] = MappingProxyType({})

ETA = 1e-12
"""[1] a probability is at least this far from 0 and 1, as torchrec has it."""

SUMS = ("cross_entropy_sum", "weighted_num_samples", "pos_labels", "neg_labels", "calibration_num", "rows", "not_finite")
AMOUNT_SUMS = ("weight", "labels", "predictions", "squares", "distances", "rows", "not_finite")
"""Of an amount, in the places of `SUMS`."""

BINS = 4096
EDGE = 16.0
"""[1] logits beyond ±this share the outermost bins; a bin is 2 * EDGE / BINS = 1/128 wide."""


class NotFinite(GenctrError):
    """Predictions that are nan or infinite: the model has diverged."""


class Meters:
    """Exact metrics of the rows it was shown, over all ranks.

    Keeps every row in CPU memory: 8 bytes for the group and 9 for each target, 17 bytes a row for one target. `compute` brings
    the rows of all ranks to rank 0 and sorts them there, 150 bytes a row more while it does: 1 GB for 6 million rows.

    Args:
        targets: their names, in the order of the columns of `labels`.
        links: target -> what makes a prediction of its logit, see `models.losses.base.LINKS`; those left out are probabilities.
    """

    def __init__(self, targets: Sequence[str], links: Mapping[str, str] = NOTHING) -> None:
        self.targets, self.links = tuple(targets), links
        self._label = torch.float32 if any(_is_amount(links, target) for target in targets) else torch.bool
        self._logits = [torch.zeros(len(self.targets), 0)]
        self._labels = [torch.zeros(len(self.targets), 0, dtype=self._label)]
        self._weights = [torch.zeros(len(self.targets), 0)]
        self._whole: Tensor | None = None
        self._groups = [torch.zeros(0, dtype=torch.int64)]

    @torch.no_grad()
    def update(self, output: StepOutput) -> None:
        """Add the rows of one step; there may be none."""
        labels, weights, groups = output.batch.labels, output.batch.weights, output.batch.groups
        self._logits.append(torch.stack([output.logits[target] for target in self.targets]).float().cpu())
        # Copies: a view would keep the memory of the whole batch, and change when its buffers are used again.
        self._labels.append(labels.T.to("cpu", self._label, copy=True))
        self._weights.append(weights.T.to("cpu", torch.float32, copy=True))
        self._groups.append(groups.to("cpu", copy=True))
        if output.batch.offsets is not None:
            own = _whole(self._logits[-1], labels.T.cpu(), weights.T.cpu(), output.batch.offsets.T.cpu())
            self._whole = own if self._whole is None else self._whole + own

    def gathered(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The rows of all ranks on rank 0, elsewhere none: logits, labels and weights (T, N), groups (N,). Collective."""
        logits_TN, labels_TN, weights_TN = (
            _on_rank_0(torch.cat(parts, 1).T).T for parts in (self._logits, self._labels, self._weights)
        )
        return logits_TN, labels_TN, weights_TN, _on_rank_0(torch.cat(self._groups))

    def compute(self) -> dict[str, dict[str, float]]:
        """The metrics over all ranks: {target: {auc, gauc, logloss, ne, calibration, rows}}, see the top
        of this file. Collective.

        Raises:
            NotFinite: on every rank, if a prediction of a weighted row is nan or infinite.
        """
        logits_TN, labels_TN, weights_TN, groups_N = self.gathered()
        columns = zip(self.targets, logits_TN, labels_TN, weights_TN, strict=True)

        def exact() -> dict[str, dict[str, float]]:
            return {
                target: _amount(target, amount_sums(x, y, w, self.links[target]).tolist())
                if _is_amount(self.links, target)
                else _exact(target, x, y, w, groups_N)
                for target, x, y, w in columns
            }

        found = share(exact, dict[str, dict[str, float]])
        if self._whole is not None:
            if dist.is_initialized():
                dist.all_reduce(self._whole)
            for target, (predicted, positive, offsets) in zip(self.targets, self._whole.tolist(), strict=True):
                if offsets:
                    found[target]["calibration_whole"] = predicted / positive if positive else float("nan")
        return found


class RunningMeters:
    """Metrics of a training run: sums and a histogram of the logits, of the same size however many rows.

    logloss, ne, calibration and rows are exact. For auc, positive and negative rows of one bin count as ties, so that it is
    off by at most half the pairs that share a bin, over all pairs: `auc_error`, computed from the same histogram.

    One (T, 7 + 2 * 4096) tensor, 66 kB a target, holds it all, each rank the rows it saw; `compute` and `state_dict` add the
    ranks up, so that a run may go on with another number of them.

    Args:
        targets: their names, in the order of the columns of `labels`.
        links: target -> what makes a prediction of its logit, see `models.losses.base.LINKS`; those left out are probabilities.
    """

    def __init__(self, targets: Sequence[str], links: Mapping[str, str] = NOTHING) -> None:
        self.targets, self.links = tuple(targets), links
        self._state = torch.zeros(len(self.targets), len(SUMS) + 2 * BINS, dtype=torch.float64)

    @torch.no_grad()
    def update(self, output: StepOutput) -> None:
        """Add the rows of one step, on the device they are on, without waiting for it; there may be none."""
        logits_TB = torch.stack([output.logits[target] for target in self.targets]).double()
        labels_TB, weights_TB = output.batch.labels.T.double(), output.batch.weights.T.double()
        inside_TB = logits_TB.nan_to_num().clamp(-EDGE, EDGE)  # before they are integers, which huge ones overflow
        bins_TB = ((inside_TB + EDGE) * (BINS / (2 * EDGE))).long().clamp(max=BINS - 1)
        self._state = self._state.to(logits_TB.device)
        sums_TX, negative_TX, positive_TX = _parts(self._state)
        for at, target in enumerate(self.targets):
            if _is_amount(self.links, target):
                sums_TX[at] += amount_sums(logits_TB[at], labels_TB[at], weights_TB[at], self.links[target])
                weights_TB = weights_TB.index_fill(0, torch.tensor(at, device=weights_TB.device), 0)  # not for what follows
        sums_TX += _sums(logits_TB, labels_TB, weights_TB)
        positive_TX.scatter_add_(1, bins_TB, weights_TB * labels_TB)
        negative_TX.scatter_add_(1, bins_TB, weights_TB * (1 - labels_TB))

    def compute(self) -> dict[str, dict[str, float]]:
        """The metrics over all ranks: {target: {auc, auc_error, logloss, ne, calibration, rows}}. Collective.

        Raises:
            NotFinite: on every rank, if a prediction was nan or infinite.
        """
        return {
            target: _amount(target, _parts(state)[0].tolist()) if _is_amount(self.links, target) else _running(target, state)
            for target, state in zip(self.targets, self._total(), strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """All rows of all ranks, as JSON values: {target: {sums, bins: [[bin, negative, positive]]}}. Collective."""
        rows = zip(self.targets, self._total(), strict=True)
        return {target: _to_json(state, self._names(target)) for target, state in rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`, with any number of ranks: rank 0 takes it all. A target that is not in it begins here."""
        self._state = torch.zeros_like(self._state)
        if not dist.is_initialized() or dist.get_rank() == 0:
            for row, target in zip(self._state, self.targets, strict=True):
                if target in state:
                    _from_json(state[target], row, self._names(target))

    def _names(self, target: str) -> Sequence[str]:
        return AMOUNT_SUMS if _is_amount(self.links, target) else SUMS

    def _total(self) -> Tensor:
        total = self._state.clone()
        if dist.is_initialized():
            dist.all_reduce(total)
        return total.cpu()


def _parts(state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sums, and the weights of negative and of positive rows in each bin."""
    return state[..., : len(SUMS)], state[..., len(SUMS) : -BINS], state[..., -BINS:]


def _sums(logits_TB: Tensor, labels_TB: Tensor, weights_TB: Tensor) -> Tensor:
    """What logloss, NE and calibration are made of, (T, 7) in the order of SUMS."""
    finite_TB = logits_TB.isfinite()
    predicted_TB = logits_TB.nan_to_num().sigmoid()
    sums = get_ne_states(labels_TB, predicted_TB.clone(), weights_TB, ETA)  # which clamps its argument in place
    sums |= get_calibration_states(labels_TB, predicted_TB, weights_TB)
    sums |= {"rows": (weights_TB > 0).sum(1), "not_finite": (~finite_TB & (weights_TB > 0)).sum(1)}
    return torch.stack([sums[name] for name in SUMS], 1)


def _is_amount(links: Mapping[str, str], target: str) -> bool:
    return links.get(target, "sigmoid") != "sigmoid"


def amount_sums(logits_B: Tensor, labels_B: Tensor, weights_B: Tensor, link: str) -> Tensor:
    """What the metrics of an amount are made of, (7,) float64 in the order of AMOUNT_SUMS."""
    predicted_B, labels_B, weights_B = LINKS[link](logits_B.double()), labels_B.double(), weights_B.double()
    finite_B = predicted_B.isfinite()
    predicted_B = torch.where(finite_B, predicted_B, 0.0)
    off_B, counted_B = predicted_B - labels_B, weights_B > 0
    columns = (torch.ones_like(labels_B), labels_B, predicted_B, off_B.square(), off_B.abs())
    sums = [(weights_B * column).sum() for column in columns]
    return torch.stack([*sums, counted_B.sum().double(), (counted_B & ~finite_B).sum().double()])


def _amount(target: str, values: Sequence[float]) -> dict[str, float]:
    weight, labels, predictions, squares, distances, rows, not_finite = values
    _check_finite(target, rows, not_finite)
    return {
        "rmse": math.sqrt(squares / weight) if weight else math.nan,
        "mae": distances / weight if weight else math.nan,
        "calibration": predictions / labels if labels else math.nan,
        "rows": int(rows),
    }


def _whole(logits_TB: Tensor, labels_TB: Tensor, weights_TB: Tensor, offsets_TB: Tensor) -> Tensor:
    """Predicted and true labels 1 of the whole log, of which rows of label 0 were left out; and all that is known of those,
    (T, 3)."""
    weights_TB = weights_TB.double() * torch.where(labels_TB == 0, offsets_TB.double().exp(), 1.0)
    predicted_TB = (logits_TB.double() - offsets_TB).sigmoid()
    return torch.stack([(weights_TB * predicted_TB).sum(1), (weights_TB * labels_TB).sum(1), offsets_TB.double().sum(1)], 1)


def _check_finite(target: str, rows: float, not_finite: float) -> None:
    if not_finite:
        raise NotFinite(
            f"target {target}: {int(not_finite)} of {int(rows)} predictions are not finite\n"
            "  next: start again from an earlier checkpoint with a smaller learning rate or gradient clipping"
        )


def _from_sums(target: str, values: Sequence[float]) -> dict[str, float]:
    entropy, weight, positive, negative, predicted, rows, not_finite = values
    _check_finite(target, rows, not_finite)
    nats = torch.log(torch.tensor(2.0, dtype=torch.float64)).item()  # torchrec counts in bits
    # torchrec answers 0, 0.5 or a huge number where a metric is not defined; a reader should see that it is not.
    both = positive > 0 and negative > 0
    sums = (torch.tensor(value, dtype=torch.float64) for value in (entropy, weight, positive, negative))
    return {
        "logloss": entropy * nats / weight if weight else float("nan"),
        "ne": compute_ne(*sums, ETA).item() if both else float("nan"),
        "calibration": predicted / positive if positive > 0 else float("nan"),
        "rows": int(rows),
    }


def _exact(target: str, logits: Tensor, labels: Tensor, weights: Tensor, groups: Tensor) -> dict[str, float]:
    logits, labels, weights = logits.double(), labels.double(), weights.double()
    sums = _from_sums(target, _sums(logits[None], labels[None], weights[None])[0].tolist())
    names_G, group_N = torch.unique(groups, return_inverse=True)
    auc_G, weight_G = auc_by_group(logits, labels, weights, group_N)
    known_G = ~auc_G.isnan() & (names_G != NO_GROUP)
    gauc = (auc_G[known_G] * weight_G[known_G]).sum() / weight_G[known_G].sum()
    auc_1, _ = auc_by_group(logits, labels, weights, torch.zeros_like(group_N))
    return {"auc": auc_1.sum().item() if len(auc_1) else float("nan"), "gauc": gauc.item(), **sums}


def _running(target: str, state: Tensor) -> dict[str, float]:
    sums, negative_K, positive_K = _parts(state)
    pairs = negative_K.sum() * positive_K.sum()
    tied = positive_K * negative_K / 2
    won = positive_K * (negative_K.cumsum(0) - negative_K) + tied
    ratios = {"auc": (won.sum() / pairs).item(), "auc_error": (tied.sum() / pairs).item()}  # 0 / 0 is nan, as it should be
    return {**ratios, **_from_sums(target, sums.tolist())}


def _to_json(state: Tensor, names: Sequence[str]) -> dict[str, Any]:
    sums, negative_K, positive_K = _parts(state)
    filled = (negative_K + positive_K).nonzero().flatten()
    columns = zip(filled.tolist(), negative_K[filled].tolist(), positive_K[filled].tolist(), strict=True)
    return {"sums": dict(zip(names, sums.tolist(), strict=True)), "bins": [list(column) for column in columns]}


def _from_json(stored: Mapping[str, Any], state: Tensor, names: Sequence[str]) -> None:
    sums, negative_K, positive_K = _parts(state)
    sums.copy_(torch.tensor([stored["sums"][name] for name in names], dtype=torch.float64))
    for bin_, negative, positive in stored["bins"]:
        negative_K[bin_], positive_K[bin_] = negative, positive


def _on_rank_0(mine: Tensor) -> Tensor:
    """The rows of all ranks on rank 0, in rank order; elsewhere an empty tensor. `mine` is a CPU tensor, rows first."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return mine
    rows = torch.zeros(dist.get_world_size(), dtype=torch.int64)
    rows[dist.get_rank()] = len(mine)
    dist.all_reduce(rows)
    most = int(rows.max())
    padded = torch.zeros(most, *mine.shape[1:], dtype=mine.dtype)  # gather wants equal sizes
    padded[: len(mine)] = mine
    parts = [torch.empty_like(padded) for _ in rows] if dist.get_rank() == 0 else None
    dist.gather(padded, parts, dst=0)
    return mine[:0] if parts is None else torch.cat([part[:count] for part, count in zip(parts, rows.tolist(), strict=True)])


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
