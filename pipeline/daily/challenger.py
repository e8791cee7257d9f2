"""The new model against the serving one on rows that neither has seen: the last steps of the day, before they train.

Paired: both score the same rows, and the bootstrap draws the same groups (users, if the schema has a group) for both. Rows
whose group is null are drawn one by one: they are not one user's. Which is better by how much is then known to within the
2.5 % and 97.5 % quantiles of 200 such draws.
"""

from typing import Any

import torch
from torch import Tensor
from torchrec.distributed.types import ShardedTensor

from data.collate import NO_GROUP
from data.cursor import Cursor
from data.stream import DayStream
from pipeline.builders.job import Job
from pipeline.distributed.cpu_fp16 import marked
from pipeline.jobs.reshape import fits, load_grown
from pipeline.jobs.train import begin, load
from pipeline.serving.bundle import Bundle
from pipeline.serving.export import INSIDE
from pipeline.training.collapse_monitor import Sight, sight_of
from pipeline.training.loop import TrainState
from pipeline.training.metrics import Meters, auc_by_group

DRAWS = 200
MOST_ROWS = 200_000
"""[rows] that the bootstrap draws from, evenly spaced; beyond, its intervals are narrow anyway."""

BINS = 10

NONE_SEEN = 3.69
"""[1] clicks at most that were to be expected where none came, with 97.5 % certainty: -ln .025."""


class FreshLook:
    """Compares the model in training with the one that serves.

    Args:
        share: [1] of the day's steps that are looked at. serving: what serves; None for nothing.
        same: whether the job's model, before the day's first row, is the very model that serves.
    """

    def __init__(self, job: Job, *, share: float, serving: Bundle | None, same: bool) -> None:
        self._job, self._share, self._serving, self._same = job, share, serving, same
        self._before: Tensor | None = None

    def begins(self, stream: DayStream, cursor: Cursor) -> Cursor | None:
        """Where the rows that are looked at begin; None if the day has a single step."""
        steps = stream.steps_of(cursor)
        return stream.before_last(cursor, max(round(self._share * steps), 1)) if steps > 1 else None

    def before(self, stream: DayStream, at: Cursor, state: TrainState) -> None:
        """What the serving model says of the rows."""
        if self._serving is None:
            return
        if self._same and state.cursor.row == 0:
            self._before = self._scored(stream, at).gathered()[0]
            return
        job = self._job
        take_over(job, self._serving)
        self._before = self._scored(stream, at).gathered()[0]
        mark = job.checkpoints.latest()
        if mark is None or job.checkpoints.read_meta(mark)["state"]["stage"] != job.at:
            begin(job, job.at)  # the stage's first day, again: nothing of it is saved
        elif job.config.daily.accept and not fits(job, mark):  # what of it was taken over, again
            job.enter(job.at)
            load_grown(job, mark)
        else:
            load(job, mark)

    def __call__(self, stream: DayStream, at: Cursor) -> dict[str, Any]:
        """{rows, candidate, serving, calibration: [low, high], difference: {metric: [value, low, high]}, psi, effective_rank,
        finite}; of the first task. Without a serving model `intervals: {metric: [low, high]}` of the new one's own."""
        sight = sight_of(self._job)
        logits_TN, labels_TN, weights_TN, groups_N = self._scored(stream, at, sight).gathered()
        seen = sight.told().get("emb", {}).get("rankme_share")
        healthy = _finite_share(self._job)
        grouped = self._job.schema.group is not None

        def told() -> dict[str, Any]:
            finite = min(float(logits_TN.isfinite().double().mean()), healthy)
            known = {"rows": int(logits_TN.shape[1]), "finite": finite, "effective_rank": seen}
            if finite < 1:
                return known
            before = self._before[0] if self._before is not None else None
            return {**known, **compare(logits_TN[0], before, labels_TN[0], weights_TN[0], groups_N if grouped else None)}

        return self._job.world.agree(told, dict[str, Any])

    def _scored(self, stream: DayStream, at: Cursor, sight: Sight | None = None) -> Meters:
        """The rows from `at` on, scored by the model as it is."""
        model, meters = self._job.sharded.model, Meters(self._job.schema.task_names)
        model.eval()
        with torch.no_grad():
            for batch in stream.batches(at):
                _, output = model(batch.to(self._job.world.device))
                meters.update(output)
                if sight is not None:
                    sight.add(output.seen)
        model.train()
        return meters


@torch.no_grad()
def take_over(job: Job, bundle: Bundle) -> None:
    """Put a bundle's weights into the job's model, each rank its own shards. Collective in effect: all ranks call it."""
    if job.ids is not None:
        job.ids.take_over({name: bundle.held(name) for name in bundle.ids})
    state, dense = job.sharded.model.state_dict(), bundle.dense()
    for key, value in state.items():
        name = key.removeprefix(INSIDE)
        if isinstance(value, ShardedTensor):
            for shard in value.local_shards():
                bundle.fill(name, shard.tensor, *shard.metadata.shard_offsets)
                if key.split(".")[-2] in job.sharded.first:
                    marked(shard.tensor)  # int8 has no minus that tells a row of zeros from a blank one
        elif isinstance(value, Tensor) and name in dense:
            value.copy_(dense[name])
    job.sharded.model.load_state_dict(state)  # what a card keeps of tables in main memory is read anew


def _finite_share(job: Job) -> float:
    """[1] share of the network's numbers that are finite, over all ranks' own copies."""
    counts = torch.zeros(2, dtype=torch.int64)
    for value in job.sharded.model.state_dict().values():
        if isinstance(value, Tensor) and not isinstance(value, ShardedTensor) and value.is_floating_point():
            counts += torch.tensor([int(value.isfinite().sum()), value.numel()])
    finite, numbers = job.world.total(counts).tolist()
    return finite / numbers if numbers else 1.0


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
        name: _Rows(own[kept], labels_N[kept], weights_N[kept], group_N[kept], alone_N[kept]) for name, own in models.items()
    }
    found: dict[str, Any] = {name: own.metrics(own.weights) for name, own in rows.items()}
    if not kept.any():
        return found
    found["calibration"] = _calibration(rows["candidate"])
    if "serving" not in rows:
        found["intervals"] = {"calibration": found["calibration"], **_intervals(_drawn(rows["candidate"].thinned()))}
        return found
    whole = {name: found["candidate"][name] - found["serving"][name] for name in found["candidate"]}
    draws = _drawn(rows["candidate"].thinned(), rows["serving"].thinned())
    spread = _intervals(draws)
    found["difference"] = {name: [value, *spread[name]] for name, value in whole.items() if name in spread and value == value}
    found["psi"] = population_stability(rows["candidate"].logits, rows["serving"].logits)
    return found


class _Rows:
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

    def thinned(self) -> "_Rows":
        """Every so-manieth row, MOST_ROWS of them at most."""
        step = -(-len(self.logits) // MOST_ROWS)
        groups = torch.unique(self.groups[::step], return_inverse=True)[1]
        return _Rows(self.logits[::step], self.labels[::step], self.weights[::step], groups, self.alone[::step])

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


def _drawn(one: _Rows, minus: _Rows | None = None) -> dict[str, Tensor]:
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


def _intervals(draws: dict[str, Tensor]) -> dict[str, list[float]]:
    """{metric: its 2.5 % and 97.5 % quantiles}, of those that some draw has."""
    quantiles = (0.025, 0.975)
    return {name: [own.nanquantile(q).item() for q in quantiles] for name, own in draws.items() if not own.isnan().all()}


def _calibration(rows: _Rows) -> list[float]:
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
