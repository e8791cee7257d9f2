"""Train the rows of one day: what is done around its steps, and what is known of it afterwards."""

import hashlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch

from data.batch import Tally
from data.cursor import Cursor
from data.days import Day
from data.errors import BadInput
from models.sparse import table_dims
from pipeline.builders.job import Job
from pipeline.config.registry import NOTHING
from pipeline.jobs.advice import warn, warn_of_few_steps
from pipeline.jobs.evaluate import check_skipped
from pipeline.run_folder.progress import Progress
from pipeline.training.callbacks import CheckpointCallback, KeepZeros, MetricsLogger, ProgressCallback, RowTally
from pipeline.training.collapse_monitor import CollapseMonitor
from pipeline.training.loop import Callback, TrainState, train


def train_rows(
    job: Job,
    opened: Day,
    state: TrainState,
    restored: Mapping[str, Any],
    *,
    quiet: bool,
    pause: Cursor | None = None,
    look: Callable[[], dict[str, Any]] = dict,
    facts: Mapping[str, Any] = NOTHING,
    others: Sequence[Callback] = (),
) -> tuple[TrainState, CheckpointCallback, bool]:
    """Train what is left of an opened day, the one the cursor is in.

    Args:
        restored: what was saved with the checkpoint the state is of, if it was just loaded.
        pause: where to stop and `look`, once, unless that was done: what it returns is kept as `TrainState.fresh`.
        facts: what checkpoints also say. others: what else is done around a step, before anything is saved.

    Returns:
        the state after it, what saves it, and whether the day has ended (else `train.max_steps` has stopped it).
    """
    day = _DayRun(job, opened, state, restored, facts)
    with day.progress(quiet=quiet) as progress:
        progress.skip(day.rows_at(state.cursor))
        callbacks = day.callbacks(progress, others)
        if pause is not None and not state.holdout:
            state = day.train(state, callbacks, day.steps_until(state, pause))
            state = replace(state, holdout=look())
        state = day.train(state, callbacks, job.config.train.max_steps)
    return day.finish(state), day.saver, day.ended(state)


class _DayRun:
    """An opened day in training.

    Args:
        job: the composed job, in the stage that trains. opened: the day. state: where it begins or goes on. restored, facts: as
            `train_rows` has them.

    Raises:
        BadInput: the day is half trained, and was cut into other files or row groups then.
    """

    def __init__(self, job: Job, opened: Day, state: TrainState, restored: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        self._job, self._opened = job, opened
        self._day, self._epoch, self._rows_before = state.cursor.day, state.cursor.epoch, state.rows
        self._stream = job.source.stream(opened, epoch=self._epoch, shuffle=True)
        self._meters = job.objective.step_metrics()
        self._tallies = RowTally(self._begin(state, restored))
        self._since = time.perf_counter()
        self.saver = CheckpointCallback(
            job.checkpoints,
            tensors=job.tensors,
            meters=self._meters,
            tallies=self._tallies,
            world=job.world,
            every_steps=job.config.checkpoint.every_steps,
            ends=lambda cursor: self._stream.steps_left(cursor) == 0,
            cut=_cut(opened),
            accept=self._check_skipped,
            dims=table_dims(job.objective.model),
            facts=lambda: {"files": self._files(), **facts, **self._ids_told()},
        )

    def _begin(self, state: TrainState, restored: Mapping[str, Any]) -> Tally:
        """The rows counted so far on this rank; a day that is begun is said to the id maps and, if it is the first, judged."""
        job, tally = self._job, Tally.zeros(len(self._opened.files))
        if restored and state.cursor.row > 0:
            if restored["cut"] != _cut(self._opened):
                raise BadInput(
                    f"day {self._day} is half trained, and its rows are not where they were when it was begun",
                    file=job.config.data.root,
                    expected="the same rows in the same files and row groups; fixed values are welcome",
                    hint="bring back the files as they were, or give a new --out",
                )
            self._warn_of_changed(restored.get("files", ()), state.step)
            self._meters.load_state_dict(restored["meters"])
            if job.world.is_rank_zero:
                tally = Tally(*torch.tensor(restored["tally"], dtype=torch.int64))
        if state.step == 0:
            warn_of_few_steps(job, 0, rows=self._stream.rows, steps=self._stream.steps_left(state.cursor))
        if job.ids is not None and state.cursor.row == 0:
            job.ids.begin_day()
        return tally

    def _files(self) -> list[list[Any]]:
        """Name below the root, size in bytes and rows of every file of the day."""
        days = self._job.source.days
        return [[days.below_root(file.path), file.size, file.rows] for file in self._opened.files]

    def _warn_of_changed(self, before: Sequence[Sequence[Any]], step: int) -> None:
        """Say which files have another size than when the day was begun. A fixed value is a good reason, so the day goes on;
        but what was trained of such a file came from the one before."""
        had = {name: size for name, size, _ in before}
        changed = [(name, size) for name, size, _ in self._files() if size != had.get(name, size)]
        if not changed:
            return
        (name, size), more = changed[0], f" ({len(changed)} files have changed)" if len(changed) > 1 else ""
        why = (
            f"day {self._day} is half trained, and {name} has {size:,} bytes, had {had[name]:,}{more}: the rows that were "
            "trained before are those of the old file\n"
            "  next: nothing if values were fixed; otherwise bring the files back as they were, or give a new --out"
        )
        warn(self._job, step, why)

    def progress(self, *, quiet: bool) -> Progress:
        """The bar of the day."""
        job = self._job
        verb = "train" if len(job.stages) == 1 else job.stage.name
        label = f"{verb} {self._day}" if job.config.train.epochs == 1 else f"{verb} {self._day} epoch {self._epoch + 1}"
        return Progress(self._stream.rows, label, shown=job.world.is_rank_zero, plain=quiet)

    def rows_at(self, cursor: Cursor) -> int:
        """[rows] of the day before a cursor in it, over all lanes."""
        return min(cursor.row * cursor.lanes, self._stream.rows)

    def callbacks(self, progress: Progress, others: Sequence[Callback]) -> list[Callback]:
        """What is done around a step, in order: id maps first, since all the rest sees and saves what they leave; what may end
        the job; then the learning rates; what only watches; the save last, of all that the others have counted."""
        job, config = self._job, self._job.config.train
        maps: list[Callback] = [KeepZeros(job.ids)] if job.ids is not None else []
        metrics = MetricsLogger(self._meters, log=job.log, every_steps=config.log_every_steps, known=self._stage())
        watch = CollapseMonitor(
            job.objective.model,
            job.sharded,
            job.observed,
            job.log,
            every_steps=config.diagnose_every_steps,
            batch_rows=config.global_batch_rows,
        )
        bar = ProgressCallback(progress, ranks=job.world.ranks)
        return [*maps, job.interrupt, *others, job.schedule, watch, self._tallies, metrics, bar, self.saver]

    def steps_until(self, state: TrainState, pause: Cursor) -> int:
        """[steps] of the stage when the day has come to `pause`."""
        return state.step - state.began + self._stream.steps_left(state.cursor) - self._stream.steps_left(pause)

    def train(self, state: TrainState, callbacks: Sequence[Callback], max_steps: int | None) -> TrainState:
        """Train to the end of the day, or until the stage has `max_steps`."""
        with closing(self._stream.batches(state.cursor)) as batches, self._job.pipe() as pipe:
            return train(pipe, (replace(batch, learns=True) for batch in batches), state, callbacks, max_steps)

    def ended(self, state: TrainState) -> bool:
        """Whether no row of the day is left."""
        return not self._stream.steps_left(state.cursor)

    def finish(self, state: TrainState) -> TrainState:
        """Log what was trained; the state after it, which does not count the rows that were skipped. Collective.

        Raises:
            GenctrError: more rows were left out than `data.max_bad_rows_share` allows.
        """
        job, seconds = self._job, time.perf_counter() - self._since
        counts = job.world.all_reduce_sum(self._tallies.here.stacked())
        self._check_skipped(counts)
        total = counts.tolist()
        if job.world.is_rank_zero and (skipped := sum(total[2])):
            sys.stderr.write(f"genctr: day {self._day}: {skipped:,} bad rows of {self._opened.rows:,} left out\n")
        files = {
            file.path: {"rows": r, "hash": h, "skipped": s} for file, r, h, s in zip(self._opened.files, *total, strict=True)
        }
        rate = (state.rows - self._rows_before) / seconds
        values = {"day": self._day, "epoch": self._epoch, "rows": sum(total[0]), "seconds": seconds, "rows_per_second": rate}
        known = {**self._stage(), "files": files, **self._ids_told(), "metrics": self._meters.compute()}
        job.log.write("trained", state.step, {**values, **known})
        return replace(state, rows=state.rows - self.ended(state) * sum(total[2]))  # a step counts the rows it skips

    def _check_skipped(self, counts: torch.Tensor) -> None:
        check_skipped(self._job, self._opened, int(counts[2].sum()))

    def _stage(self) -> dict[str, str]:
        return {"stage": self._job.stage.name} if len(self._job.stages) > 1 else {}

    def _ids_told(self) -> dict[str, Any]:
        return {"ids": self._job.ids.summary()} if self._job.ids is not None else {}


def _cut(day: Day) -> str:
    """How a day is cut into files and units: all that a cursor inside it relies on."""
    return hashlib.sha256(repr([file.units for file in day.files]).encode()).hexdigest()[:16]
