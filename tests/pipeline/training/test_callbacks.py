"""What happens around the steps of a real run: lines in the log, saves, a bar."""

import json
from pathlib import Path

import pytest
import torch
from torchrec import KeyedJaggedTensor

from data.batch import Batch, Tally
from data.cursor import Cursor
from pipeline.run_folder.progress import Progress
from pipeline.training.callbacks import ProgressCallback
from pipeline.training.loop import TrainState
from pipeline.training.objective import StepOutput
from tests.jobs import events
from tests.tiny import DAYS, train, write_log


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("parts"))


def test_a_line_every_so_many_steps_counts_the_rows_of_the_run_and_measures_those_of_the_day(
    config: Path, tmp_path: Path
) -> None:
    train(config, tmp_path / "run", "train.log_every_steps=5")

    lines = events(tmp_path / "run", "train")
    first, second = (event["step"] for event in events(tmp_path / "run", "trained"))
    assert [line["step"] for line in lines] == list(range(5, second + 1, 5))
    for line in lines:
        done = line["step"] - (first if line["day"] == DAYS[1] else 0)
        whole = done < (first if line["day"] == DAYS[0] else second - first) - 1  # the last two steps share what is left
        assert not whole or line["metrics"]["is_click"]["rows"] == 16 * done
    assert lines[0]["rows"] == 80
    assert {line["day"] for line in lines} == {DAYS[0], DAYS[1]}


def test_saves_fall_on_every_so_many_steps_and_on_the_end_of_every_day_and_the_newest_are_kept(
    config: Path, tmp_path: Path
) -> None:
    train(config, tmp_path / "all", "checkpoint={every_steps: 3, keep_last: 99}")
    train(config, tmp_path / "two", "checkpoint={every_steps: 3, keep_last: 2}")

    ends = [event["step"] for event in events(tmp_path / "all", "trained")]
    steps = sorted({*range(3, ends[-1] + 1, 3), *ends})
    assert [folder.name for folder in sorted((tmp_path / "all" / "checkpoints").glob("step-*"))] == [
        f"step-{step:07d}" for step in steps
    ]
    assert [folder.name for folder in sorted((tmp_path / "two" / "checkpoints").glob("step-*"))] == [
        f"step-{step:07d}" for step in steps[-2:]
    ]
    cursors = [
        json.loads((tmp_path / "all" / "checkpoints" / f"step-{step:07d}" / "checkpoint.json").read_text())["meta"]["state"]
        for step in ends
    ]
    assert [(state["cursor"]["epoch"], state["cursor"]["day"], state["cursor"]["row"]) for state in cursors] == [
        (0, DAYS[1], 0),
        (1, DAYS[0], 0),
    ], "the end of a day is the beginning of the next one"


def test_the_bar_shows_the_loss_of_the_step_and_not_this_ranks_share_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = torch.zeros(4, 0)
    ones = torch.ones(4, 1)
    ids = KeyedJaggedTensor(keys=[], values=torch.zeros(0), lengths=torch.zeros(0))
    cursor = Cursor(0, "monday", 8, 2)
    batch = Batch(ids, None, nothing, nothing, ones, ones, torch.zeros(4, dtype=torch.int64), 8, cursor, Tally.zeros(1))

    with Progress(8, "train monday", shown=True, plain=True) as progress:
        ProgressCallback(progress, ranks=2).on_step_end(
            TrainState(1, 8, cursor), StepOutput(batch, {}, {"click": torch.tensor(0.25)})
        )

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train monday: 8/8 rows, ")
    assert line.endswith(", click 0.5000")
