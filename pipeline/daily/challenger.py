"""The new model against the serving one on rows that neither has seen: the last steps of the day, before they train.

Paired: both score the same rows, and the bootstrap draws the same groups (users, if the schema has a group) for both. Rows
whose group is null are drawn one by one: they are not one user's. Which is better by how much is then known to within the
2.5 % and 97.5 % quantiles of 200 such draws.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torchrec.distributed.types import ShardedTensor

from data.cursor import Cursor
from data.stream import DayStream
from pipeline.builders.job import Job
from pipeline.distributed.cpu_fp16 import marked
from pipeline.distributed.shard import tables_in
from pipeline.jobs.reshape import fits, load_grown
from pipeline.jobs.restore import begin, load
from pipeline.serving.bundle import Bundle
from pipeline.serving.export import INSIDE
from pipeline.training.collapse_monitor import RepresentationStats
from pipeline.training.loop import TrainState
from pipeline.training.metrics import Meters
from pipeline.training.paired_bootstrap import compare


class ChallengerComparison:
    """Compares the model in training with the one that serves.

    Args:
        share: [1] of the day's steps that are looked at. serving: the serving model; None if there is none.
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
        with borrowed(self._job, self._serving):
            self._before = self._scored(stream, at).gathered()[0]

    def __call__(self, stream: DayStream, at: Cursor) -> dict[str, Any]:
        """{rows, candidate, serving, calibration: [low, high], difference: {metric: [value, low, high]}, psi, effective_rank,
        finite}; of the first target. Without a serving model `intervals: {metric: [low, high]}` of the new one's own."""
        sight = RepresentationStats(self._job.observed)
        logits_TN, labels_TN, weights_TN, groups_N = self._scored(stream, at, sight).gathered()
        seen = sight.summary().get("emb", {}).get("rankme_share")
        healthy = _finite_share(self._job)
        grouped = self._job.schema.group is not None

        def told() -> dict[str, Any]:
            finite = min(float(logits_TN.isfinite().double().mean()), healthy)
            known = {"rows": int(logits_TN.shape[1]), "finite": finite, "effective_rank": seen}
            if finite < 1:
                return known
            before = self._before[0] if self._before is not None else None
            return {**known, **compare(logits_TN[0], before, labels_TN[0], weights_TN[0], groups_N if grouped else None)}

        return self._job.world.from_rank_zero(told, dict[str, Any])

    def _scored(self, stream: DayStream, at: Cursor, sight: RepresentationStats | None = None) -> Meters:
        """The rows from `at` on, scored by the model as it is."""
        model, meters = self._job.sharded.model, Meters(self._job.schema.target_names)
        model.eval()
        with torch.no_grad():
            for batch in stream.batches(at):
                _, output = model(batch.to(self._job.world.device))
                meters.update(output)
                if sight is not None:
                    sight.add(output.observed)
        model.train()
        return meters


@contextmanager
def borrowed(job: Job, bundle: Bundle) -> Iterator[None]:
    """The job's model with a bundle's weights, for as long as this lasts; then again what it was, bit by bit.

    In place, because two models of production size do not fit into one machine's memory. What the job's model was must be in
    its newest checkpoint, or be what its stage begins with. If scoring fails, the job fails, and resumes from there too.
    """
    load_bundle_weights(job, bundle)
    yield
    mark = job.checkpoints.latest()
    if mark is None or job.checkpoints.read_meta(mark)["state"]["stage"] != job.at:
        begin(job, job.at)  # the stage's first day: nothing of it is saved
    elif job.config.daily.accept_changes and not fits(job, mark):  # what of it was taken over
        job.enter_stage(job.at)
        load_grown(job, mark)
    else:
        load(job, mark)


@torch.no_grad()
def load_bundle_weights(job: Job, bundle: Bundle) -> None:
    """Put a bundle's weights into the job's model, each rank its own shards. Collective in effect: all ranks call it."""
    if job.ids is not None:
        job.ids.load({name: bundle.held(name) for name in bundle.ids})
    state, dense = job.sharded.model.state_dict(), bundle.dense()
    for table in tables_in(state):
        for shard in table.shards:
            bundle.fill(table.key.removeprefix(INSIDE), shard.values, shard.row, shard.column)
            if table.name in job.sharded.first:
                marked(shard.values)  # int8 has no minus that tells a row of zeros from a blank one
    for key, value in state.items():
        if (name := key.removeprefix(INSIDE)) in dense:
            value.copy_(dense[name])
    job.sharded.model.load_state_dict(state)  # what a GPU keeps of tables in main memory is read again


def _finite_share(job: Job) -> float:
    """[1] share of the network's numbers that are finite, over all ranks' own copies."""
    counts = torch.zeros(2, dtype=torch.int64)
    for value in job.sharded.model.state_dict().values():
        if isinstance(value, Tensor) and not isinstance(value, ShardedTensor) and value.is_floating_point():
            counts += torch.tensor([int(value.isfinite().sum()), value.numel()])
    finite, numbers = job.world.all_reduce_sum(counts).tolist()
    return finite / numbers if numbers else 1.0
