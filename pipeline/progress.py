"""How far, how fast, how long still: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0
"""[s] between two plain lines."""


class Progress:
    """Shows rows done.

    Args:
        rows: [rows] in all.
        label: what is being done.
        shown: whether this process speaks at all.
        plain: lines instead of a bar, as also where standard error is no terminal.
    """

    def __init__(self, rows: int, label: str, *, shown: bool, plain: bool) -> None:
        self._rows, self._label, self._shown = rows, label, shown
        self._done = self._skipped = 0
        self._since = self._told = time.monotonic()
        console = Console(stderr=True)
        self._bar: Bar | None = None
        if shown and not plain and console.is_terminal:
            columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")]
            self._bar = Bar(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console)
            self._task = self._bar.add_task(label, total=rows, rate="", note="")

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._shown:
            self._line("")

    def skip(self, rows: int) -> None:
        """Count rows that were done before."""
        self._skipped = rows
        self.advance(0)

    def advance(self, rows: int, note: str = "") -> None:
        """Count rows; an empty note leaves the last one standing."""
        self._done += rows
        done = self._done + self._skipped
        if self._bar is not None:
            fields = {"note": note} if note else {}
            self._bar.update(self._task, completed=done, rate=f"{self.rate:,.0f} rows/s", **fields)
        elif self._shown and time.monotonic() - self._told >= LINE_SECONDS:
            self._line(note)

    @property
    def rate(self) -> float:
        """[rows/s] since the beginning."""
        return self._done / max(time.monotonic() - self._since, 1e-9)

    def _line(self, note: str) -> None:
        self._told = time.monotonic()
        done = self._done + self._skipped
        left = (self._rows - done) / self.rate if self.rate else float("nan")
        ahead = f", {left:.0f} s left" if done < self._rows else ""
        print(f"{self._label}: {done:,} of {self._rows:,} rows, {self.rate:,.0f} rows/s{ahead} {note}".rstrip(), file=sys.stderr)
