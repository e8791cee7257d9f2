"""What a job does around a step: meters, the tally of rows, saves, progress."""

import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import torch

from data.batch import Tally
from data.cursor import Cursor
from pipeline.checkpoint.manager import Checkpoints
from pipeline.config.registry import NOTHING
from pipeline.distributed.managed_ids import ManagedIds
from pipeline.distributed.world import World
from pipeline.run_folder.log import RunLog
from pipeline.run_folder.progress import Progress
from pipeline.training.diverged import check_finite
from pipeline.training.loop import Callback, TrainState
from pipeline.training.objective import StepMetrics, StepOutput


class MetricsLogger(Callback):
    """Running metrics of the day in training, one `train` line in the log every so many steps, with what else is `known`."""

    def __init__(self, meters: StepMetrics, *, log: RunLog, every_steps: int, known: Mapping[str, Any] = NOTHING) -> None:
        self.meters, self._log, self._every, self._known = meters, log, every_steps, known
        self._rows, self._since = 0, time.perf_counter()

    def on_step_end(self, state: TrainState, output: StepOutput) -> None:
        """Count the step; on every rank, since the metrics are summed over ranks."""
        batch = output.batch
        self.meters.update(output)
        self._rows += batch.rows
        if state.step % self._every == 0:
            now = time.perf_counter()
            rate = self._rows / (now - self._since)
            values = {"day": batch.cursor.day, "epoch": batch.cursor.epoch, "rows": state.rows, "rows_per_second": rate}
            self._log.write("train", state.step, {**values, **self._known, "metrics": self.meters.compute()})
            self._rows, self._since = 0, now


class KeepZeros(Callback):
    """Keeps the zero vectors of managed tables zero, whatever a step did to them."""

    def __init__(self, ids: ManagedIds) -> None:
        self._ids = ids

    def on_step_end(self, state: TrainState, output: StepOutput) -> None:
        """Take it back, before anybody saves it. Collective."""
        self._ids.keep_zero()


class RowTally(Callback):
    """Which rows of the day were trained: counted and hashed per file, on this rank."""

    def __init__(self, start: Tally) -> None:
        self.here = start

    def on_step_end(self, state: TrainState, output: StepOutput) -> None:
        """Add the rows of the step."""
        self.here = self.here + output.batch.tally


class CheckpointCallback(Callback):
    """Writes checkpoints: model, optimizers, state, meters and tally, all of the same step; the widths that are read of
    the tables, `dims`, by which others know what of a table is padding; and what else is known, `facts`.

    `accept` is called with the tally over all ranks first, and raises where such a day must not be saved.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        tensors: Callable[[], dict[str, Any]],
        meters: StepMetrics,
        tallies: RowTally,
        world: World,
        every_steps: int,
        ends: Callable[[Cursor], bool],
        cut: str,
        dims: Mapping[str, int],
        facts: Callable[[], Mapping[str, Any]],
        accept: Callable[[torch.Tensor], None],
    ) -> None:
        self._checkpoints, self._tensors = checkpoints, tensors
        self._meters, self._tallies, self._world = meters, tallies, world
        self._every, self._ends, self._cut, self._dims, self._facts = every_steps, ends, cut, dims, facts
        self._saved: TrainState | None = None
        self._accept = accept

    def on_step_begin(self, state: TrainState) -> None:
        """Remember where the steps begin that the next save is of."""
        self._saved = self._saved or state

    def on_step_end(self, state: TrainState, output: StepOutput) -> None:
        """Save if due; the day's last step is saved by the caller, with what it has learnt by then."""
        if state.step % self._every == 0 and not self._ends(state.cursor):
            self.save(state)

    def save(self, state: TrainState, *, pin: str | None = None) -> None:
        """Save now, on every rank; `pin` names a checkpoint that is kept in addition to the newest.

        Raises:
            Diverged: a number is nan or infinite; nothing is saved.
        """
        tensors = self._tensors()
        kept = self._checkpoints.latest()  # waits for the save in the background too
        check_finite(tensors, self._world, since=self._saved or state, now=state, kept=kept)
        self._saved = state
        tally = self._world.all_reduce_sum(self._tallies.here.stacked())
        self._accept(tally)
        meta: dict[str, Any] = {
            "state": state.to_json(),
            "cut": self._cut,
            "tally": tally.tolist(),
            "meters": self._meters.state_dict(),
            "ranks": self._world.ranks,
            "dims": self._dims,
            "versions": {"torch": torch.__version__},
            **self._facts(),
        }
        self._checkpoints.save(state.step, tensors=tensors, meta=meta, pin=pin)


class ProgressCallback(Callback):
    """Moves the progress bar and shows the loss now and then, as this rank's rows have it."""

    def __init__(self, progress: Progress, *, ranks: int) -> None:
        self._progress, self._ranks, self._steps = progress, ranks, 0

    def on_step_end(self, state: TrainState, output: StepOutput) -> None:
        """Advance by the rows of the step."""
        self._steps += 1
        note = ""
        if self._steps % 20 == 1:
            note = " ".join(f"{name} {float(loss) * self._ranks:.4f}" for name, loss in output.losses.items())
        self._progress.advance(output.batch.rows, note)


class Interrupt(Callback):
    """Ends the run between two steps after Ctrl-C.

    Python raises KeyboardInterrupt wherever it stands; inside a library's callback it is printed and forgotten, and the run
    would go on. So it is remembered, and raised again before the next step.
    """

    def __init__(self) -> None:
        self._asked = False
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            signal.signal(signal.SIGINT, self._ask)

    def on_step_begin(self, state: TrainState) -> None:
        """Stop if it was asked for."""
        if self._asked:
            raise KeyboardInterrupt

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        raise KeyboardInterrupt
