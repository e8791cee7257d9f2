"""Progress is a bar on a terminal and a few plain lines elsewhere."""

import io
import sys

import pytest

from pipeline.run_folder import progress
from pipeline.run_folder.progress import Progress


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_without_a_terminal_there_is_a_line_every_ten_seconds_and_one_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(10_000, "train 2026-11-01", shown=True, plain=False) as shown:
        for step in range(25):
            clock.now += 1
            shown.advance(400, f"loss .{step:02}")

    assert lines(capsys) == [
        "train 2026-11-01: 4,000/10,000 rows, 400 rows/s, 0:15 left, loss .09",
        "train 2026-11-01: 8,000/10,000 rows, 400 rows/s, 0:05 left, loss .19",
        "train 2026-11-01: 10,000/10,000 rows, 400 rows/s, 0:25, loss .24",
    ]


def test_rows_skipped_are_done_but_not_counted_as_speed(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100_000, "train", shown=True, plain=True) as shown:
        shown.skip(90_000)
        clock.now += 100
        shown.advance(1_000)

    assert lines(capsys)[0] == "train: 91,000/100,000 rows, 10 rows/s, 15:00 left"


def test_an_empty_note_leaves_the_last_one(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, "score", shown=True, plain=True) as shown:
        shown.advance(4, "loss .6")
        clock.now += 10_000
        shown.advance(4, "")

    assert lines(capsys)[-1] == "score: 8/10 rows, 0 rows/s, 41:40 left, loss .6"


def test_nothing_to_do_is_done(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(0, "train", shown=True, plain=True):
        pass

    assert lines(capsys) == ["train: 0/0 rows, 0 rows/s, 0:00"]


def test_a_rank_that_is_not_shown_prints_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for plain in (False, True):
        with Progress(10, "train", shown=False, plain=plain) as shown:
            clock.now += 100
            shown.advance(10, "loss .6")

    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("plain", [False, True])
def test_a_terminal_gets_a_bar_unless_plain_lines_are_asked_for(monkeypatch: pytest.MonkeyPatch, plain: bool) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with Progress(100, "train", shown=True, plain=plain) as shown:
        shown.advance(50, "loss .6")
        if shown._bar is not None:
            shown._bar.refresh()

    output = terminal.getvalue()
    assert ("━" in output) is not plain
    assert ("\x1b[" in output) is not plain
    assert "50/100 rows" in output  # the last line stays when the bar is gone
    assert "loss .6" in output


def test_what_is_counted_may_be_something_else_than_rows(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(600, "reshard", shown=True, plain=True, unit="MiB") as shown:
        clock.now += 4
        shown.advance(600)

    assert lines(capsys) == ["reshard: 600/600 MiB, 150 MiB/s, 0:04"]
