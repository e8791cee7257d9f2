"""The training loop."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from data.batch import Batch
from data.cursor import Cursor
from pipeline.training.objective import StepOutput


@dataclass(frozen=True)
class TrainState:
    """How far a run has come: all of it that is not a tensor.

    Args:
        step: [steps] trained. rows: [rows] trained, over all ranks; of the day under way, skipped ones too.
        cursor: where the rows after the last trained one begin.
        scores: metrics of days that were scored before they were trained, {day: what `evaluate` returns}.
        best: the best validation value so far, and stale: [epochs] since then.
        lr_factor: [1] what stale epochs have made of the learning rates.
        stopped: early stopping has ended the stage.
        holdout: what a daily job found on the day's last rows before they trained; empty before.
        stage: the stage under way, counted from 0. began: [steps] trained when it began; epochs, early stopping and learning
            rates count from there.
    """

    step: int
    rows: int
    cursor: Cursor
    scores: dict[str, Any] = field(default_factory=dict)
    best: float | None = None
    stale: int = 0
    lr_factor: float = 1.0
    stopped: bool = False
    holdout: dict[str, Any] = field(default_factory=dict)
    stage: int = 0
    began: int = 0

    def after(self, batch: Batch) -> "TrainState":
        """The state once `batch` is trained. The pipe reads ahead: where the stream stands would skip rows."""
        return replace(self, step=self.step + 1, rows=self.rows + batch.rows, cursor=batch.cursor)

    def to_json(self) -> dict[str, Any]:
        """The state as a checkpoint stores it."""
        return {**self.__dict__, "cursor": self.cursor.to_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrainState":
        """The state a checkpoint stored."""
        return cls(**{**values, "cursor": Cursor.from_json(values["cursor"])})


class Pipe(Protocol):
    """A TorchRec train pipeline: forward, backward, update; it may read ahead."""

    def progress(self, batches: Iterator[Batch], /) -> StepOutput:
        """Train the next batch; StopIteration when there is none."""
        ...


class Callback:
    """A concern of the job that is not training: learning rates, metrics, saves, progress."""

    def on_step_begin(self, state: TrainState) -> None:
        """Called before each step."""

    def on_step_end(self, state: TrainState, output: StepOutput) -> None:
        """Called after each step, with the state that includes it."""


def train(
    pipe: Pipe, batches: Iterator[Batch], state: TrainState, callbacks: Sequence[Callback], max_steps: int | None
) -> TrainState:
    """Train until the batches end, or the stage has `max_steps`."""
    while max_steps is None or state.step - state.began < max_steps:
        for callback in callbacks:
            callback.on_step_begin(state)
        try:
            output = pipe.progress(batches)
        except StopIteration:
            break
        state = state.after(output.batch)
        for callback in callbacks:
            callback.on_step_end(state, output)
    return state
