"""The one-shot job: train the stages and days a config names, in order, from wherever the run folder stands."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from data.cursor import Cursor
from data.day_names import open_end
from data.errors import GenctrError
from pipeline.builders.job import Job
from pipeline.config.train import EarlyStopConfig, TrainConfig
from pipeline.jobs.advice import warn_of_scores
from pipeline.jobs.day_run import train_rows
from pipeline.jobs.evaluate import evaluate
from pipeline.jobs.restore import begin, restore, restore_best, start
from pipeline.training.loop import Callback, TrainState
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
        job.world.from_rank_zero(lambda: job.checkpoints.pin(name, newest), None)
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
    if (
        config.progressive_validation
        and epoch == 0
        and state.cursor.row == 0
        and state.step > state.began
        and day not in state.scores
    ):
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
