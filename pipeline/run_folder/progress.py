"""How far a day has come: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from data.errors import visible

LINE_SECONDS = 10.0


class Progress:
    """Shows rows (or another unit) done, how many a second and time left on stderr, and a last line when it is over.

    On a terminal: a bar. Where there is none, or with `plain`: a line at most every 10 seconds.

    Args:
        total_rows: [rows] there are, over all ranks.
        label: what is being done.
        shown: whether to show anything; one rank should.
        plain: no bar.
        unit: what is counted, where it is not rows.

    Example:
        >>> with Progress(1000, "train 2026-11-01", shown=True, plain=True) as progress:
        ...     progress.advance(500, "loss .61")
    """

    def __init__(self, total_rows: int, label: str, *, shown: bool, plain: bool, unit: str = "rows") -> None:
        self.total_rows, self.label, self._unit = total_rows, visible(label), unit
        self._done = self._skipped = 0
        self._note = ""
        self._is_shown = shown
        console = Console(file=getattr(sys.stderr, "raw", sys.stderr))
        self._bar: RichProgress | None = None
        if console.is_terminal and shown and not plain:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._bar = RichProgress(
                *columns, TextColumn("{task.fields[shown]}", markup=False), console=console, transient=True
            )

    def __enter__(self) -> "Progress":
        self._since = self._last = time.monotonic()
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total_rows, shown="")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._print()

    def skip(self, rows: int) -> None:
        """Count rows that were done before this run was started: they are done, but say nothing about its speed."""
        self._skipped += rows
        self._move(rows)

    def advance(self, rows: int, note: str = "") -> None:
        """Count rows that were just done.

        Args:
            rows: [rows] over all ranks.
            note: shown from now on; an empty one leaves the last.
        """
        self._note = visible(note) or self._note
        self._move(rows)

    def _move(self, rows: int) -> None:
        self._done += rows
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, advance=rows, shown=self._shown(now))
        elif now - self._last >= LINE_SECONDS:
            self._last = now
            self._print()

    def _rate(self, now: float) -> float:
        return (self._done - self._skipped) / max(now - self._since, 1e-9)

    def _shown(self, now: float) -> str:
        return f"{self._rate(now):,.0f} {self._unit}/s  {self._note}"

    def _print(self) -> None:
        if not self._is_shown:
            return
        now = time.monotonic()
        rate, left = self._rate(now), self.total_rows - self._done
        parts = [f"{self._done:,}/{self.total_rows:,} {self._unit}", f"{rate:,.0f} {self._unit}/s"]
        if left > 0 and rate > 0:
            parts.append(f"{_clock(left / rate)} left")
        elif left <= 0:
            parts.append(_clock(now - self._since))
        parts += [self._note] if self._note else []
        sys.stderr.write(f"{self.label}: {', '.join(parts)}\n")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
