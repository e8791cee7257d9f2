"""Two models on the same rows: paired differences of metrics with bootstrap intervals over users; how far scores have moved."""

from typing import Any

import torch
from torch import Tensor

from data.collate import NO_GROUP
from pipeline.training.metrics import auc_by_group

DRAWS = 200
MOST_ROWS = 200_000
"""[rows] that the bootstrap draws from, evenly spaced; beyond, its intervals are narrow anyway."""

BINS = 10
NONE_SEEN = 3.69
"""[1] clicks at most that were to be expected where none came, with 97.5 % certainty: -ln .025."""


def compare(
    logits_N: Tensor, before_N: Tensor | None, labels_N: Tensor, weights_N: Tensor, groups_N: Tensor | None
) -> dict[str, Any]:
    """The metrics of both models, their differences with 95 % intervals, the PSI of their scores, and the new model's
    calibration's interval.

    Args:
        before_N: the serving model's logits; None if nothing serves. groups_N: drawn together, but for `NO_GROUP`; None draws
            rows.
    """
    kept = weights_N > 0
    group_N = torch.arange(len(logits_N)) if groups_N is None else torch.unique(groups_N, return_inverse=True)[1]
    alone_N = torch.zeros_like(kept) if groups_N is None else groups_N == NO_GROUP
    models = {"candidate": logits_N} | ({"serving": before_N} if before_N is not None else {})
    rows = {
        name: ScoredRows(own[kept], labels_N[kept], weights_N[kept], group_N[kept], alone_N[kept])
        for name, own in models.items()
    }
    found: dict[str, Any] = {name: own.metrics(own.weights) for name, own in rows.items()}
    if not kept.any():
        return found
    found["calibration"] = calibration_interval(rows["candidate"])
    if "serving" not in rows:
        found["intervals"] = {"calibration": found["calibration"], **intervals(drawn_metrics(rows["candidate"].thinned()))}
        return found
    whole = {name: found["candidate"][name] - found["serving"][name] for name in found["candidate"]}
    draws = drawn_metrics(rows["candidate"].thinned(), rows["serving"].thinned())
    spread = intervals(draws)
    found["difference"] = {name: [value, *spread[name]] for name, value in whole.items() if name in spread and value == value}
    found["psi"] = population_stability(rows["candidate"].logits, rows["serving"].logits)
    return found


class ScoredRows:
    """Rows in the order of one model's scores, so that a weighted AUC takes no sort.

    Attributes:
        units: what a bootstrap draws, of every row: its group, or where it is `alone` one of its own, numbered after these.
    """

    def __init__(self, logits: Tensor, labels: Tensor, weights: Tensor, groups: Tensor, alone: Tensor) -> None:
        self.logits, self.labels = logits.double(), labels.double()
        self.weights, self.groups, self.alone = weights.double(), groups, alone
        self._order = self.logits.argsort(stable=True)
        ordered = self.logits[self._order]
        starts = torch.ones(len(ordered), dtype=torch.bool)
        starts[1:] = ordered[1:] != ordered[:-1]
        self._tie = starts.cumsum(0) - 1
        self._losses = torch.nn.functional.binary_cross_entropy_with_logits(self.logits, self.labels, reduction="none")
        self._auc_G, self._weight_G = auc_by_group(self.logits, self.labels, self.weights, groups)
        self._auc_G[groups[alone]] = float("nan")  # what they share is that nobody knows whose they are
        self.units = torch.where(alone, len(self._auc_G) + alone.cumsum(0) - 1, groups)

    def thinned(self) -> "ScoredRows":
        """Every k-th row, at most MOST_ROWS rows."""
        step = -(-len(self.logits) // MOST_ROWS)
        groups = torch.unique(self.groups[::step], return_inverse=True)[1]
        return ScoredRows(self.logits[::step], self.labels[::step], self.weights[::step], groups, self.alone[::step])

    def metrics(self, weights: Tensor) -> dict[str, float]:
        """auc, gauc, logloss, ne, calibration with these weights; all groups as they are."""
        own = self.drawn(weights, torch.ones_like(self._auc_G))
        predicted = (self.logits.sigmoid() * weights).sum()
        return {**own, "calibration": (predicted / (self.labels * weights).sum()).item()}

    def drawn(self, weights: Tensor, times_U: Tensor) -> dict[str, float]:
        """auc, gauc, logloss, ne where a row weighs `weights`, and a unit was drawn `times_U` times, groups first."""
        positive, negative = (weights * self.labels)[self._order], (weights * (1 - self.labels))[self._order]
        ties = int(self._tie[-1]) + 1 if len(self._tie) else 0
        positive_K = torch.zeros(ties, dtype=torch.float64).index_add_(0, self._tie, positive)
        negative_K = torch.zeros(ties, dtype=torch.float64).index_add_(0, self._tie, negative)
        won = (positive_K * (negative_K.cumsum(0) - negative_K / 2)).sum()
        auc = won / (positive_K.sum() * negative_K.sum())
        share_G = torch.where(self._auc_G.isnan(), 0.0, self._weight_G * times_U[: len(self._auc_G)])
        gauc = (self._auc_G.nan_to_num() * share_G).sum() / share_G.sum()
        loss = (self._losses * weights).sum() / weights.sum()
        rate = positive_K.sum() / weights.sum()
        entropy = -(rate * rate.log() + (1 - rate) * (1 - rate).log())
        return {"auc": auc.item(), "gauc": gauc.item(), "logloss": loss.item(), "ne": (loss / entropy).item()}


def drawn_metrics(one: ScoredRows, minus: ScoredRows | None = None) -> dict[str, Tensor]:
    """Every metric in every draw, less that of other scores of the same rows: {metric: (DRAWS,)}."""
    generator = torch.Generator().manual_seed(0)  # the same rows, the same interval
    found: dict[str, list[float]] = {}
    units = torch.ones(int(one.units.max()) + 1, dtype=torch.float64)
    for _ in range(DRAWS):
        times_U = torch.poisson(units, generator=generator)
        weights = one.weights * times_U[one.units]
        values = one.drawn(weights, times_U)
        other = minus.drawn(weights, times_U) if minus is not None else dict.fromkeys(values, 0.0)
        for name, value in values.items():
            found.setdefault(name, []).append(value - other[name])
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}


def intervals(draws: dict[str, Tensor]) -> dict[str, list[float]]:
    """{metric: its 2.5 % and 97.5 % quantiles}, of those that some draw has."""
    quantiles = (0.025, 0.975)
    return {name: [own.nanquantile(q).item() for q in quantiles] for name, own in draws.items() if not own.isnan().all()}


def calibration_interval(rows: ScoredRows) -> list[float]:
    """The 95 % interval of mean prediction / mean label: forty clicks tell it to a third, none at all only its lower end."""
    units = torch.ones(int(rows.units.max()) + 1, dtype=torch.float64)
    clicked_U = torch.zeros_like(units).index_add_(0, rows.units, rows.labels * rows.weights)
    predicted_U = torch.zeros_like(units).index_add_(0, rows.units, rows.logits.sigmoid() * rows.weights)
    if not clicked_U.any():
        return [(predicted_U.sum() / (NONE_SEEN * rows.weights.mean())).item(), float("inf")]
    generator = torch.Generator().manual_seed(0)
    shares = torch.empty(DRAWS, dtype=torch.float64)  # label / prediction: its inverse has no infinity
    for draw in range(DRAWS):
        times_U = torch.poisson(units, generator=generator)  # one draw in memory: without a group it is as long as the rows
        shares[draw] = (times_U @ clicked_U) / (times_U @ predicted_U)
    return [(1 / shares.nanquantile(q)).item() for q in (0.975, 0.025)]


def population_stability(scores_N: Tensor, reference_M: Tensor) -> float:
    """PSI of scores against reference ones, in ten bins of equally many reference scores; half a row is added to a bin.

    >>> population_stability(torch.arange(1000.0), torch.arange(1000.0))
    0.0
    """
    tenths = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)[1:-1]
    edges = reference_M[:: max(len(reference_M) >> 20, 1)].double().quantile(tenths)  # torch takes 16 million at most
    shares = []
    for values in (scores_N, reference_M):
        counts = torch.bincount(torch.bucketize(values.double(), edges), minlength=BINS).double() + 0.5
        shares.append(counts / counts.sum())
    p, q = shares
    return float(((p - q) * (p / q).log()).sum())
