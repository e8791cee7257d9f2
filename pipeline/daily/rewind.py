"""Where a daily job stands, and how it goes back: to its newest good checkpoint, or to one before a day."""

import sys
from collections.abc import Mapping
from typing import Any

from data.errors import GenctrError
from pipeline.builders.job import Job
from pipeline.daily.dry_run import DAY_PIN, abandoned, trained_before
from pipeline.daily.ledger import DayRecord, SharedLedger
from pipeline.daily.policy import OperatorRequired
from pipeline.jobs.restore import restore
from pipeline.training.loop import TrainState


def resumed(job: Job, ledger: SharedLedger) -> tuple[TrainState, Mapping[str, Any]]:
    """Where the newest good checkpoint stands. It and the ledger must agree, or nothing is trained."""
    restored: Mapping[str, Any]
    state, restored = restore(job)
    if "ledger" in restored:
        ledger.check(restored)
    elif job.at == len(job.stages) - 1 and state.step > state.began:
        raise GenctrError(
            f"{job.folder} was trained by `genctr train`: no ledger has its days, so they would be trained again\n"
            "  next: give a new --out, which begins with the first day of the log"
        )
    _forget_lost_days(job, ledger, state)
    _score_again(ledger, state, restored)
    return state, restored


def _forget_lost_days(job: Job, ledger: SharedLedger, state: TrainState) -> None:
    """Days that the ledger has as trained, and the newest checkpoint has not, are trained again."""
    names = list(ledger.history.days)
    lost = [own.name for own in ledger.history.days.values() if own.trained is not None and own.trained["step"] > state.step]
    if lost:
        newest = f"the newest there is stands in {state.cursor.day}" if job.checkpoints.latest() else "there is none"
        kind = "damaged" if job.checkpoints.damaged() else "gone"
        why = f"the checkpoint at the end of day {lost[-1]} is {kind}; {newest}"
        if job.world.is_rank_zero:
            sys.stderr.write(f"genctr: {why}: training again from {lost[0]}\n")
        gone = names[names.index(lost[0]) :]
        ledger.append("rewound", {"day": lost[0], "gone": gone, "why": why}, state.step)


def _score_again(ledger: SharedLedger, state: TrainState, restored: Mapping[str, Any]) -> None:
    """A day that goes on from its middle keeps the scores that this checkpoint has seen in the ledger, even if a later one
    is lost and its day forgotten: the model of the day before, whose they are, cannot be asked again."""
    name = state.cursor.day
    if not state.cursor.row or "ledger" not in restored or ledger.history.days.get(name, DayRecord(name)).scored is not None:
        return
    seen = ledger.before(restored["ledger"]["n"])
    scored = seen.days.get(name, DayRecord(name)).scored
    if scored is not None:
        values = {key: own for key, own in scored.items() if key not in ("n", "prev", "event")}
        ledger.append("scored", values, scored["step"])


def rewind(job: Job, ledger: SharedLedger, day: str, why: str, mark: str | None = None) -> tuple[TrainState, Mapping[str, Any]]:
    """Go back to before `day`: to the checkpoint at the end of the day before it, or to the one named.

    Raises:
        OperatorRequired: there is no such checkpoint any more.
    """
    history = ledger.history
    before = trained_before(history, day)
    begins = not before and mark is None
    pin = f"{DAY_PIN}{before[-1]}" if before else ""
    mark = mark or (None if begins else job.checkpoints.pinned(pin))
    if mark is None and not begins:
        raise OperatorRequired(
            f"{why}\n  the checkpoint at the end of day {before[-1]} is not kept any more (daily.keep_days)\n"
            "  next: bring the files back, or begin a new run folder"
        )
    step = job.checkpoints.read_meta(mark)["step"] if mark else 0
    if begins and len(job.stages) > 1:
        raise OperatorRequired(
            f"{why}\n  it is the first day, and the stages before it are not kept\n  next: begin a new run folder"
        )
    ledger.append("rewound", {"day": day, "gone": history.since(day), "why": why.splitlines()[0]}, step)
    drop_abandoned(job, ledger)
    job.enter_stage(len(job.stages) - 1)
    return resumed(job, ledger)


def drop_abandoned(job: Job, ledger: SharedLedger) -> None:
    """Remove the checkpoints of days that were rewound, should a kill have come between."""
    entries = ledger.entries
    job.checkpoints.wait()
    job.checkpoints.drop(job.world.from_rank_zero(lambda: abandoned(job.checkpoints.store, entries), list[str]))
