"""The one-shot job: train the stages and days a config names, in order, from wherever the run folder stands."""

import hashlib
import math
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch

from data.batch import Tally
from data.cursor import Cursor
from data.days import Day
from data.errors import BadInput, GenctrError
from pipeline.build import Job
from pipeline.config import EarlyStopConfig, TrainConfig
from pipeline.evaluate import evaluate
from pipeline.parts import Bar, Saver, Tallies, TrainMeters
from pipeline.progress import Progress
from pipeline.trainer import Part, TrainState, train
from pipeline.transfer import transfer
from pipeline.watch import Watch

HIGHER_IS_BETTER = {"auc": True, "gauc": True, "logloss": False, "ne": False, "loss": False}


def run(job: Job, *, quiet: bool) -> dict[str, Any]:
    """Train to the end, validate, and score the test days with the best model.

    Every step of it can be killed and run again: what a checkpoint holds is not repeated, what it does not hold is done
    again from the same bits.

    Returns:
        {"days": {day: scores before training}, "test": scores or None, "rows": rows trained, "step": steps}.
    """
    state, restored = _restore(job)
    while True:
        while _is_left(job.config.train, state):
            state = _train_day(job, state, restored, quiet=quiet)
            restored = {}
        if job.at + 1 == len(job.stages):
            break
        state = _next_stage(job, state)
    job.checkpoints.wait()
    return {"days": state.scores, "test": _test(job, quiet=quiet), "rows": state.rows, "step": state.step}


def _is_left(config: TrainConfig, state: TrainState) -> bool:
    """Whether there is something left to train in the stage."""
    in_time = config.max_steps is None or state.step - state.began < config.max_steps
    return in_time and not state.stopped and state.cursor.epoch < config.epochs


def _restore(job: Job) -> tuple[TrainState, dict[str, Any]]:
    """The newest checkpoint's state, or the beginning."""
    mark = job.checkpoints.latest()
    if mark is None:
        return TrainState(0, 0, _start(job)), {}
    meta = _load(job, mark)
    state = TrainState.from_json(meta["state"])
    job.log.write("resumed", state.step, {"cursor": state.cursor.to_json(), "rows": state.rows, "ranks": job.world.ranks})
    return state, meta


def _start(job: Job) -> Cursor:
    """The first row of the stage's first day."""
    return Cursor(0, job.source.train_days[0], 0, job.config.data.lanes)


def _next_stage(job: Job, state: TrainState) -> TrainState:
    """Enter the next stage and take over what it loads. Nothing is saved: it can be done again from the former stage's end."""
    job.checkpoints.wait()
    job.enter(job.at + 1)
    stage, took = job.stage, {}
    if stage.load is not None:
        took = {"from": stage.load.stage, "what": stage.load.what, **transfer(job, stage.load).to_json()}
    job.log.write("stage", state.step, {"stage": stage.name, "task": stage.task, **took})
    return TrainState(state.step, state.rows, _start(job), scores=state.scores, stage=job.at, began=state.step)


def _load(job: Job, mark: str) -> dict[str, Any]:
    model, optimizer = job.sharded.model, job.optimizer
    tensors = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    meta: dict[str, Any] = job.checkpoints.restore(mark, tensors)
    model.load_state_dict(tensors["model"])
    optimizer.load_state_dict(tensors["optimizer"])
    return meta


def _train_day(job: Job, state: TrainState, restored: Mapping[str, Any], *, quiet: bool) -> TrainState:
    """Train what is left of the cursor's day; save; move the cursor on."""
    config, world, source = job.config.train, job.world, job.source
    day, epoch = state.cursor.day, state.cursor.epoch
    if config.score_first and epoch == 0 and state.cursor.row == 0 and state.step > state.began and day not in state.scores:
        scores = evaluate(job, [day], step=state.step, quiet=quiet)
        state = replace(state, scores={**state.scores, day: scores})
        job.log.write("scored", state.step, {"day": day, **scores})

    opened = job.open(day, state.step)
    stream = source.stream(opened, epoch=epoch, shuffle=True)
    meters = job.step_meters()
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
    tallies = Tallies(tally)
    saver = Saver(
        job.checkpoints,
        model=job.sharded.model,
        optimizer=job.optimizer,
        meters=meters,
        tallies=tallies,
        world=world,
        every_steps=job.config.checkpoint.every_steps,
        ends=lambda cursor: stream.steps_left(cursor) == 0,
        cut=_cut(opened),
    )
    since, before = time.perf_counter(), state.rows
    stage = {"stage": job.stage.name} if len(job.stages) > 1 else {}
    verb = "train" if len(job.stages) == 1 else job.stage.name
    label = f"{verb} {day}" if config.epochs == 1 else f"{verb} {day} epoch {epoch + 1}"
    with Progress(stream.rows, label, shown=world.first, plain=quiet) as progress:
        progress.skip(min(state.cursor.row * state.cursor.lanes, stream.rows))
        watch = TrainMeters(meters, log=job.log, every_steps=config.log_every_steps, known=stage)
        with closing(stream.batches(state.cursor)) as batches:
            look = Watch(job, every_steps=config.diagnose_every_steps)
            parts: list[Part] = [job.interrupt, job.schedule, look, tallies, watch, Bar(progress, ranks=world.ranks), saver]
            state = train(job.pipe(), batches, state, parts, config.max_steps)

    seconds = time.perf_counter() - since
    total = world.total(tallies.here.stacked()).tolist()
    files = {file.path: {"rows": r, "hash": h, "skipped": s} for file, r, h, s in zip(opened.files, *total, strict=True)}
    rate = (state.rows - before) / seconds
    values = {"day": day, "epoch": epoch, "rows": sum(total[0]), "seconds": seconds, "rows_per_second": rate}
    job.log.write("trained", state.step, {**values, **stage, "files": files, meters.kind: meters.compute()})

    best = False
    if not stream.steps_left(state.cursor):  # else stopped by max_steps
        state = replace(state, rows=state.rows - sum(total[2]))  # a step counts the rows it skips
        state, best = _next(job, state, quiet=quiet)
    last = config.early_stop is None and not _is_left(config, state)
    saver.save(state, pin=job.stage.name if best or last else None)
    return state


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
    kind, first = ("fields", "all") if job.stage.task == "pretrain" else ("tasks", job.schema.task_names[0])
    return judge(config.early_stop, state, scores[kind][first][config.early_stop.metric])


def judge(config: EarlyStopConfig, state: TrainState, value: float) -> tuple[TrainState, bool]:
    """Early stopping's answer to one validation: the state after it, and whether this is the best so far."""
    if math.isnan(value):
        raise GenctrError(
            f"train.early_stop: {config.metric} is not defined on the validation days\n"
            "  expected: rows of both labels\n  next: choose other days or another metric, and give a new --out"
        )
    sign = 1 if HIGHER_IS_BETTER[config.metric] else -1
    if state.best is None or sign * (value - state.best) >= config.min_delta:
        return replace(state, best=value, stale=0), True
    stale = state.stale + 1
    factor = state.lr_factor * config.lr_factor
    return replace(state, stale=stale, lr_factor=factor, stopped=stale >= config.patience), False


def restore_best(job: Job) -> int:
    """Load the best epoch's model of the job's stage, or the newest where none was pinned.

    Returns:
        The step it was saved at.

    Raises:
        GenctrError: the run folder holds no checkpoint.
    """
    mark = job.checkpoints.pinned(job.stage.name) or job.checkpoints.latest()
    if mark is None:
        raise GenctrError(f"{job.folder}: no checkpoint to load: train it first")
    return TrainState.from_json(_load(job, mark)["state"]).step


def _test(job: Job, *, quiet: bool) -> dict[str, Any] | None:
    """Score the test days with the best epoch's model."""
    if not job.source.test_days:
        return None
    step = restore_best(job)
    scores = evaluate(job, job.source.test_days, step=step, quiet=quiet)
    job.log.write("tested", step, scores)
    return scores
