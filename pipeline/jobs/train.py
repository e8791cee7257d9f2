"""The one-shot job: train the stages and days a config names, in order, from wherever the run folder stands."""

import hashlib
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch

from data.batch import Tally
from data.cursor import Cursor
from data.days import Day, open_end
from data.errors import BadInput, GenctrError
from data.stream import DayStream
from models.sparse import table_dims
from pipeline.builders.job import Job
from pipeline.config.train import EarlyStopConfig, TrainConfig
from pipeline.jobs.advice import warn_of_few_steps, warn_of_scores
from pipeline.jobs.evaluate import check_skipped, evaluate
from pipeline.jobs.restore import begin, restore, restore_best, start
from pipeline.run_folder.progress import Progress
from pipeline.training.callbacks import NOTHING, Bar, KeepZeros, Saver, Tallies, TrainMeters
from pipeline.training.collapse_monitor import Watch
from pipeline.training.loop import Callback, TrainState, train
from pipeline.training.objective import MetricSpec


def run(job: Job, *, quiet: bool) -> dict[str, Any]:
    """Train to the end, validate, and score the test days with the best model.

    Every step of it can be killed and run again: what a checkpoint holds is not repeated, what it does not hold is done
    again from the same bits.

    Returns:
        {"days": {day: scores before training}, "test": scores or None, "rows": rows trained, "step": steps}.
    """
    for config in (stage.config.data for stage in job.stages):
        if open_end(config.days):
            raise GenctrError(f"data.days {config.days!r} has no last day\n  next: name one, or run `genctr daily`")
    state, restored = restore(job)
    if "ledger" in restored:
        raise GenctrError(
            f"{job.folder} is trained by `genctr daily`: its ledger would not have the days that are trained without it\n"
            "  next: run `genctr daily`, or give a new --out"
        )
    state, _ = train_stages(job, state, restored, last=len(job.stages), quiet=quiet)
    job.checkpoints.wait()
    return {"days": state.scores, "test": _test(job, quiet=quiet), "rows": state.rows, "step": state.step}


def train_stages(
    job: Job, state: TrainState, restored: Mapping[str, Any], *, last: int, quiet: bool, others: Sequence[Callback] = ()
) -> tuple[TrainState, Mapping[str, Any]]:
    """Train what is left of the stages before `last`, counted from 0, and enter that one, if there is one; `others`: see
    `train_rows`."""
    while job.at < last:
        while _is_left(job.config.train, state):
            state, restored = _train_day(job, state, restored, quiet=quiet, others=others), {}
        if job.at + 1 == len(job.stages):
            break
        state, restored = _next_stage(job, state), {}
    return state, restored


def _is_left(config: TrainConfig, state: TrainState) -> bool:
    """Whether there is something left to train in the stage."""
    in_time = config.max_steps is None or state.step - state.began < config.max_steps
    return in_time and not state.stopped and state.cursor.epoch < config.epochs


def _next_stage(job: Job, state: TrainState) -> TrainState:
    """Enter the next stage and take over what it loads. Nothing is saved: it can be done again from the former stage's end."""
    name, newest = job.stage.name, job.checkpoints.latest()
    if newest is not None and job.checkpoints.pinned(name) is None:  # told to end before what was trained by then
        job.world.agree(lambda: job.checkpoints.pin(name, newest), None)
    took = begin(job, job.at + 1)
    job.log.write("stage", state.step, {"stage": job.stage.name, "objective": job.stage.objective, **took})
    return TrainState(state.step, state.rows, start(job), scores=state.scores, stage=job.at, began=state.step)


def _train_day(
    job: Job, state: TrainState, restored: Mapping[str, Any], *, quiet: bool, others: Sequence[Callback]
) -> TrainState:
    """Train what is left of the cursor's day; save; move the cursor on."""
    config = job.config.train
    day, epoch = state.cursor.day, state.cursor.epoch
    if day not in job.source.train_days:
        raise GenctrError(
            f"{job.folder} stands in day {day}, which data.days has no longer\n  next: set it back, or give a new --out"
        )
    if config.score_first and epoch == 0 and state.cursor.row == 0 and state.step > state.began and day not in state.scores:
        scores = evaluate(job, [day], step=state.step, quiet=quiet)
        state = replace(state, scores={**state.scores, day: scores})
        job.log.write("scored", state.step, {"day": day, **scores})
        warn_of_scores(job, f"day {day}", scores, state.step)

    state, saver, ended = train_rows(job, job.open(day, state.step), state, restored, quiet=quiet, others=others)
    best = False
    if ended:  # else stopped by max_steps
        state, best = _next(job, state, quiet=quiet)
    last = not _is_left(config, state) and (config.early_stop is None or state.best is None)
    saver.save(state, pin=job.stage.name if best or last else None)
    return state


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
) -> tuple[TrainState, Saver, bool]:
    """Train what is left of an opened day, the one the cursor is in.

    Args:
        restored: what was saved with the checkpoint the state is of, if it was just loaded.
        pause: where to stop and `look`, once, unless that was done: what it returns is kept as `TrainState.fresh`.
        facts: what checkpoints also say. others: what else is done around a step, before anything is saved.

    Returns:
        the state after it, what saves it, and whether the day has ended (else `train.max_steps` has stopped it).
    """
    config, world, day, epoch = job.config.train, job.world, state.cursor.day, state.cursor.epoch
    stream = job.source.stream(opened, epoch=epoch, shuffle=True)
    meters = job.objective.step_metrics()
    tally = Tally.zeros(len(opened.files))
    if restored and state.cursor.row > 0:
        if restored["cut"] != _cut(opened):
            raise BadInput(
                f"day {day} is half trained, and its rows are not where they were when it was begun",
                file=job.config.data.root,
                expected="the same rows in the same files and row groups; mended values are welcome",
                hint="bring back the files as they were, or give a new --out",
            )
        meters.load_state_dict(restored["meters"])
        if world.first:
            tally = Tally(*torch.tensor(restored["tally"], dtype=torch.int64))
    if state.step == 0:
        warn_of_few_steps(job, 0, rows=stream.rows, steps=stream.steps_left(state.cursor))
    tallies, ids = Tallies(tally), job.ids
    if ids is not None and state.cursor.row == 0:
        ids.begin_day()
    saver = Saver(
        job.checkpoints,
        tensors=job.tensors,
        meters=meters,
        tallies=tallies,
        world=world,
        every_steps=job.config.checkpoint.every_steps,
        ends=lambda cursor: stream.steps_left(cursor) == 0,
        cut=_cut(opened),
        accept=lambda counts: check_skipped(job, opened, int(counts[2].sum())),
        dims=table_dims(job.objective.model),
        facts=lambda: {**facts, **({"ids": ids.told()} if ids is not None else {})},
    )
    since, before = time.perf_counter(), state.rows
    stage = {"stage": job.stage.name} if len(job.stages) > 1 else {}
    verb = "train" if len(job.stages) == 1 else job.stage.name
    label = f"{verb} {day}" if config.epochs == 1 else f"{verb} {day} epoch {epoch + 1}"
    with Progress(stream.rows, label, shown=world.first, plain=quiet) as progress:
        progress.skip(min(state.cursor.row * state.cursor.lanes, stream.rows))
        told = TrainMeters(meters, log=job.log, every_steps=config.log_every_steps, known=stage)
        watch = Watch(
            job.objective.model,
            job.sharded,
            job.observed,
            job.log,
            every_steps=config.diagnose_every_steps,
            batch_rows=config.batch_rows,
        )
        bar = Bar(progress, ranks=world.ranks)
        maps: list[Callback] = [KeepZeros(ids)] if ids is not None else []
        callbacks: list[Callback] = [*maps, job.interrupt, *others, job.schedule, watch, tallies, told, bar, saver]
        if pause is not None and not state.fresh:
            steps = stream.steps_left(state.cursor) - stream.steps_left(pause)
            state = _train(job, stream, state, callbacks, state.step - state.began + steps)
            state = replace(state, fresh=look())
        state = _train(job, stream, state, callbacks, config.max_steps)

    seconds = time.perf_counter() - since
    counts = world.total(tallies.here.stacked())
    check_skipped(job, opened, int(counts[2].sum()))
    total = counts.tolist()
    if world.first and (skipped := sum(total[2])):
        sys.stderr.write(f"genctr: day {day}: {skipped:,} bad rows of {opened.rows:,} left out\n")
    files = {file.path: {"rows": r, "hash": h, "skipped": s} for file, r, h, s in zip(opened.files, *total, strict=True)}
    rate = (state.rows - before) / seconds
    values = {"day": day, "epoch": epoch, "rows": sum(total[0]), "seconds": seconds, "rows_per_second": rate}
    managed = {"ids": ids.told()} if ids is not None else {}
    job.log.write("trained", state.step, {**values, **stage, "files": files, **managed, "metrics": meters.compute()})

    ended = not stream.steps_left(state.cursor)
    return replace(state, rows=state.rows - ended * sum(total[2])), saver, ended  # a step counts the rows it skips


def _train(job: Job, stream: DayStream, state: TrainState, callbacks: Sequence[Callback], max_steps: int | None) -> TrainState:
    with closing(stream.batches(state.cursor)) as batches, job.pipe() as pipe:
        return train(pipe, (replace(batch, learns=True) for batch in batches), state, callbacks, max_steps)


def _cut(day: Day) -> str:
    """How a day is cut into files and units: all that a cursor inside it relies on."""
    return hashlib.sha256(repr([file.units for file in day.files]).encode()).hexdigest()[:16]


def _next(job: Job, state: TrainState, *, quiet: bool) -> tuple[TrainState, bool]:
    """The state at the start of the next day or epoch; whether this epoch is the best so far."""
    config, days = job.config.train, job.source.train_days
    position = days.index(state.cursor.day) + 1
    if position < len(days):
        return replace(state, cursor=Cursor(state.cursor.epoch, days[position], 0, job.config.data.lanes)), False
    epoch = state.cursor.epoch + 1
    state = replace(state, cursor=Cursor(epoch, days[0], 0, job.config.data.lanes))
    if not job.source.validation_days:
        return state, False
    scores = evaluate(job, job.source.validation_days, step=state.step, quiet=quiet)
    job.log.write("validated", state.step, {"epoch": epoch, **scores})
    if config.early_stop is None:
        return state, False
    metric = job.objective.metric(config.early_stop.metric)
    return judge(config.early_stop, state, metric, metric.of(scores["metrics"]))


def judge(config: EarlyStopConfig, state: TrainState, metric: MetricSpec, value: float) -> tuple[TrainState, bool]:
    """Early stopping's answer to one validation: the state after it, and whether this is the best so far."""
    if math.isnan(value):
        raise GenctrError(
            f"train.early_stop: {metric.name} is not defined on the validation days\n"
            "  expected: rows of both labels\n  next: choose other days or another metric, and give a new --out"
        )
    sign = 1 if metric.higher_is_better else -1
    if state.best is None or sign * (value - state.best) >= config.min_delta:
        return replace(state, best=value, stale=0), True
    stale = state.stale + 1
    factor = state.lr_factor * config.lr_factor
    return replace(state, stale=stale, lr_factor=factor, stopped=stale >= config.patience), False


def _test(job: Job, *, quiet: bool) -> dict[str, Any] | None:
    """Score the test days with the best epoch's model."""
    if not job.source.test_days:
        return None
    step = restore_best(job)
    scores = evaluate(job, job.source.test_days, step=step, quiet=quiet)
    job.log.write("tested", step, scores)
    warn_of_scores(job, f"test {job.config.data.test}", scores, step)
    return scores
