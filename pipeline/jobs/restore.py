"""Where a run stands: its newest checkpoint into the model, a stage's beginning, its best model."""

import sys
from dataclasses import replace
from typing import Any

from data.cursor import Cursor
from data.errors import GenctrError
from pipeline.builders.job import Job
from pipeline.checkpoint.errors import Damaged
from pipeline.checkpoint.markers import SET_ASIDE
from pipeline.jobs.reshape import fits, load_grown
from pipeline.jobs.warm_start import transfer
from pipeline.training.loop import TrainState


def restore(job: Job) -> tuple[TrainState, dict[str, Any]]:
    """The newest good checkpoint's state and all else that was saved with it, or the beginning. Collective.

    A checkpoint that turns out to be damaged is set aside, with a message, and the one before it is used.
    If the config accepts changes and the model has another shape than the checkpoint's, what fits is loaded, and logged.

    Raises:
        GenctrError: there were checkpoints, and all of them are damaged.
    """
    while (mark := job.checkpoints.latest()) is not None:
        try:
            state, meta = _restored(job, mark)
        except Damaged as error:
            _set_aside(job, mark, error)
            continue
        job.log.write("resumed", state.step, {"cursor": state.cursor.to_json(), "rows": state.rows, "ranks": job.world.ranks})
        return state, meta
    if damaged := job.checkpoints.damaged():
        raise GenctrError(
            f"{job.checkpoints.root}: no good checkpoint is left: {', '.join(damaged)} {'is' if len(damaged) == 1 else 'are'} "
            f"damaged and set aside ({SET_ASIDE})\n"
            "  next: bring the checkpoints back from a copy, or give a new --out, which begins with the first day"
        )
    return TrainState(0, 0, start(job)), {}


def _restored(job: Job, mark: str) -> tuple[TrainState, dict[str, Any]]:
    if job.config.daily.accept_changes and not fits(job, mark):
        meta = job.checkpoints.read_meta(mark)
        job.log.write("grown", meta["step"], {"from": mark, **load_grown(job, mark).to_json()})
        state = replace(TrainState.from_json(meta["state"]), best=None, stale=0)  # the best was another model
    else:
        meta = load(job, mark)
        state = TrainState.from_json(meta["state"])
    if not state.cursor.row:  # a day that was not begun is cut as the config says now
        state = replace(state, cursor=replace(state.cursor, lanes=job.config.data.lanes))
    return state, meta


def _set_aside(job: Job, mark: str, error: Damaged) -> None:
    """Set a damaged checkpoint aside, say what that means, and stand where the one before it stands."""
    lost = job.checkpoints.read_meta(mark)["state"]
    job.checkpoints.set_aside(mark)
    before = job.checkpoints.latest()
    if before is not None:
        state = job.checkpoints.read_meta(before)["state"]
        if job.world.is_rank_zero:
            sys.stderr.write(
                f"genctr: {error.what}\n  where: {error.where}\n  {mark} is set aside ({SET_ASIDE} is its marker now); the run "
                f"resumes from {before}: day {state['cursor']['day']}, step {state['step']:,}; "
                f"{lost['rows'] - state['rows']:,} rows are trained again\n"
            )
        job.enter_stage(int(state["stage"]))  # what was loaded of the damaged one is not kept
    elif job.world.is_rank_zero:
        sys.stderr.write(f"genctr: {error.what}\n  where: {error.where}\n")


def start(job: Job) -> Cursor:
    """The first row of the stage's first day."""
    return Cursor(0, job.source.train_days[0], 0, job.config.data.lanes)


def begin(job: Job, at: int) -> dict[str, Any]:
    """Enter a stage with its initial values and what it takes over; return what that was."""
    job.enter_stage(at)
    own = job.stage.load
    return {} if own is None else {"from": own.stage, "parts": own.parts, **transfer(job, own).to_json()}


def load(job: Job, mark: str) -> dict[str, Any]:
    """Load a checkpoint into the job's model and optimizers; return what was saved with it."""
    tensors = job.tensors()
    meta: dict[str, Any] = job.checkpoints.restore(mark, tensors)
    job.sharded.model.load_state_dict(tensors["model"])
    job.optimizer.load_state_dict(tensors["optimizer"])
    if job.ids is not None:
        job.ids.check_shapes()
    return meta


def restore_best(job: Job) -> int:
    """Load the best epoch's model of the job's stage, or the newest where none was pinned.

    Returns:
        The step it was saved at.

    Raises:
        GenctrError: the run folder holds no checkpoint, or none of the model that the config has accepted since.
    """
    mark = job.checkpoints.pinned(job.stage.name) or job.checkpoints.latest()
    if mark is None:
        raise GenctrError(f"{job.folder}: no checkpoint to load: train it first")
    if job.config.daily.accept_changes and not fits(job, mark):  # scores of what starts over would say nothing
        raise GenctrError(
            f"{job.folder}: another model was accepted after {mark} was saved, and is not trained yet\n  next: train it first"
        )
    return TrainState.from_json(load(job, mark)["state"]).step
