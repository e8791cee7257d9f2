"""The loop: what was trained is what the state says, whatever the pipe has read ahead."""

from collections import deque
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from torchrec import KeyedJaggedTensor

from data.batch import Batch, Tally
from data.cursor import Cursor
from pipeline.training.loop import TrainState, train
from pipeline.training.objective import StepOutput

ROWS = [4, 4, 4, 2]  # of the steps of a day of 14 rows in two lanes
START = TrainState(step=0, rows=0, cursor=Cursor(0, "monday", 0, 2))


def batches(cursor: Cursor) -> Iterator[Batch]:
    """The steps of monday that are left at the cursor."""
    done = 0
    for rows in ROWS:
        done += rows // 2
        if done > cursor.row:
            nothing = torch.zeros(rows, 0)
            yield Batch(
                bags=KeyedJaggedTensor(keys=[], values=torch.zeros(0), lengths=torch.zeros(0)),
                sequences=None,
                numbers=nothing,
                vectors=nothing,
                labels=torch.zeros(rows, 1),
                weights=torch.ones(rows, 1),
                groups=torch.zeros(rows, dtype=torch.int64),
                rows=rows,
                cursor=Cursor(0, "monday", done, 2),
                tally=Tally.zeros(1),
            )


class ReadAhead:
    """A pipe that holds as many batches as TorchRec's before it trains the first of them."""

    def __init__(self, depth: int) -> None:
        self.depth, self.held, self.trained = depth, deque(), []

    def progress(self, batches: Iterator[Batch], /) -> StepOutput:
        while len(self.held) <= self.depth and (batch := next(batches, None)) is not None:
            self.held.append(batch)
        if not self.held:
            raise StopIteration
        batch = self.held.popleft()
        self.trained.append(batch.cursor.row)
        return StepOutput(batch, logits={}, losses={})


class Diary:
    """A callback that writes down when it is called, and with which step."""

    def __init__(self, name: str, lines: list[str]) -> None:
        self.name, self.lines = name, lines

    def on_step_begin(self, state: TrainState) -> None:
        self.lines.append(f"{self.name} before {state.step + 1}")

    def on_step_end(self, state: TrainState, output: StepOutput) -> None:
        self.lines.append(f"{self.name} after {state.step} at row {state.cursor.row}")
        assert output.batch.cursor == state.cursor


def test_the_state_counts_every_step_and_row_and_stands_behind_the_last_one() -> None:
    state = train(ReadAhead(2), batches(START.cursor), START, [], None)

    assert (state.step, state.rows, state.cursor) == (4, 14, Cursor(0, "monday", 7, 2))


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_the_cursor_is_that_of_the_batch_trained_and_not_of_those_read_ahead(depth: int, stop: int) -> None:
    first, second = ReadAhead(depth), ReadAhead(depth)

    stopped = train(first, batches(START.cursor), START, [], stop)
    ended = train(second, batches(stopped.cursor), stopped, [], None)

    assert stopped.cursor.row == [2, 4, 6][stop - 1]
    assert first.trained + second.trained == [2, 4, 6, 7], "every batch once"
    assert (ended.step, ended.rows) == (4, 14)


@pytest.mark.parametrize(("max_steps", "steps"), [(1, 1), (3, 3), (4, 4), (9, 4), (None, 4)])
def test_it_stops_after_max_steps_or_at_the_end(max_steps: int | None, steps: int) -> None:
    assert train(ReadAhead(2), batches(START.cursor), START, [], max_steps).step == steps


def test_a_state_beyond_max_steps_trains_nothing() -> None:
    pipe, state = ReadAhead(0), TrainState(step=9, rows=36, cursor=START.cursor)

    assert train(pipe, batches(START.cursor), state, [], 5) == state
    assert pipe.trained == []


def test_parts_are_called_in_their_order_around_every_step_with_the_state_that_includes_it() -> None:
    lines: list[str] = []

    train(ReadAhead(2), batches(START.cursor), START, [Diary("lr", lines), Diary("save", lines)], 2)

    assert lines == [
        *("lr before 1", "save before 1", "lr after 1 at row 2", "save after 1 at row 2"),
        *("lr before 2", "save before 2", "lr after 2 at row 4", "save after 2 at row 4"),
    ]


def test_a_state_comes_back_from_json_as_it_was() -> None:
    cursor = Cursor(1, "tuesday", 3, 4)
    state = TrainState(5, 80, cursor, {"tuesday": {"rows": 14}}, best=0.7, stale=1, lr_factor=0.1, stopped=True)

    assert TrainState.from_json(state.to_json()) == state


def test_the_batches_of_this_file_are_those_left_at_every_cursor() -> None:
    whole = [batch.cursor for batch in batches(START.cursor)]

    assert [b.row - a.row for a, b in pairwise([START.cursor, *whole])] == [2, 2, 2, 1]
    for done, cursor in enumerate(whole, start=1):
        assert [batch.cursor for batch in batches(cursor)] == whole[done:]
