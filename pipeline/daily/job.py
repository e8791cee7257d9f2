"""The daily job: bring a model up to date with its log. Run it again and nothing happens twice.

For each complete day after the last one: score it, train it, save, judge the model, publish or hold it, and write it down.
What has happened is in two places: the checkpoint says how far the tensors are, the ledger what came of each day. The
checkpoint is written first, and the ledger's entry is made from what the checkpoint remembers; so a job that was killed
anywhere finds out what is left to do, and does it to the same bits.
"""

import time

from data.cursor import Cursor
from pipeline.builders.job import Job
from pipeline.daily.day import DayWork, Outcome
from pipeline.daily.dry_run import mark_before
from pipeline.daily.ledger import SharedLedger
from pipeline.daily.policy import Action, OperatorRequired, check, last_day, next_action
from pipeline.daily.rewind import drop_abandoned, resumed, rewind
from pipeline.jobs.train import train_stages
from pipeline.run_folder.lease import Lease
from pipeline.training.loop import Callback, TrainState
from pipeline.training.objective import StepOutput


class LeaseGuard(Callback):
    """Stops a job whose lease another job has taken, so that two jobs never write to one run folder."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def on_step_end(self, state: TrainState, output: StepOutput) -> None:
        """Raise `LeaseHeld` if the lease is lost, before the step is saved."""
        if self._lease.was_lost:
            self._lease.check()


class Daily:
    """The daily job of a run folder. All ranks make one and call it alike; rank 0 reads and writes the ledger.

    Args:
        job: standing where its newest checkpoint stands. lease: held by rank 0, None elsewhere.
        until: the last day to take up; None for all there are.
    """

    def __init__(self, job: Job, lease: Lease | None, *, until: str | None, quiet: bool) -> None:
        self._job, self._quiet = job, quiet
        self._callbacks = [LeaseGuard(lease)] if lease is not None else []
        last = job.stages[-1].config
        self._config, self._world, self._until = last.daily, job.world, last_day(last, until)
        self._ledger = SharedLedger(job.folder, job.world, lease)
        self._day = DayWork(job, self._ledger, lease, self._callbacks, quiet=quiet)
        check(last)

    def run(self, *, follow: bool) -> Outcome:
        """Take up days until there is none left, or for ever.

        Raises:
            OperatorRequired: the log changed, or a day is missing, in a way that the policies leave to a person.
        """
        job, outcome = self._job, Outcome()
        self._day.tidy()
        drop_abandoned(job, self._ledger)
        state, restored = resumed(job, self._ledger)
        state, restored = train_stages(
            job, state, restored, last=len(job.stages) - 1, quiet=self._quiet, others=self._callbacks
        )
        poll = self._config.poll_seconds
        while True:
            action = self._world.from_rank_zero(self._decide, Action)
            if action.kind == "stop":
                raise OperatorRequired(action.why)
            if action.kind == "wait":
                job.log.write("waiting", state.step, {"day": action.day, "why": action.why})
                outcome.waits = action.why
                done = self._until is not None and (self._ledger.history.last_day or "") >= self._until
                if not follow or done:
                    return outcome
                self._sleep(poll)
                poll = min(poll * 2, self._config.max_poll_seconds)
                continue
            poll = self._config.poll_seconds
            if action.kind == "skip":
                self._ledger.append("skipped", {"day": action.day, "why": action.why}, state.step)
                outcome.skipped.append(action.day)
            elif action.kind == "leave":
                self._ledger.append("late", {"day": action.day, "files": list(action.files)}, state.step)
            elif action.kind == "rewind":
                state, restored = rewind(job, self._ledger, action.day, action.why)
            else:
                state = self._day.take_up(action, state, restored, outcome)
                restored = {}

    def backfill(self, day: str, mark: str) -> None:
        """Go back to a checkpoint by its name or its pin's, to train again from `day` on.

        Raises:
            GenctrError: there is none of this name, or it does not end the day that was trained before `day`.
        """
        mark = mark_before(self._job.checkpoints, self._ledger.history, day, mark)
        rewind(self._job, self._ledger, day, f"backfill from {mark}", mark)

    def _decide(self) -> Action:
        """What is next; of rank 0 alone."""
        return next_action(self._ledger.own.history(), self._job.stages[-1].config, self._job.source.days, self._until)

    def _sleep(self, seconds: float) -> None:
        """Wait on every rank alike; Ctrl-C is heard."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(0.2, seconds))
            self._job.interrupt.on_step_begin(TrainState(0, 0, Cursor(0, "", 0, 1)))
