"""Criteo's click logs: Kaggle's train.txt and the 1TB log's day_0 … day_23, tab-separated, plain or gzipped."""

import re
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data.errors import GenctrError
from data.importers.raw import RawFile, Tap, find

FORM = "40 tab-separated columns without a header: label 0 or 1, 13 integers, 26 hexadecimal ids; missing values empty"
TYPES = {
    "label": pa.int8(),
    **{f"I{k}": pa.int64() for k in range(1, 14)},
    **{f"C{k}": pa.string() for k in range(1, 27)},
}


class Criteo:
    """Columns label (int8), I1 … I13 (int64), C1 … C26 (string); rows in the file's order, which is the order of time.

    Criteo never said on which dates the rows happened, so the days' names are made up: `start` and the days after it.

    Args:
        source: train.txt, one day_N, or a folder with them; .gz too.
        days: [days] into which train.txt is cut, equal in rows; its seven days have no marks. A day_N is always one day.
        start: the first day's name; day_N becomes `start` + N days.
    """

    def __init__(self, source: str, *, days: int = 7, start: str = "2013-10-01") -> None:
        if not isinstance(days, int) or days < 1:
            raise GenctrError(f"days: expected 1 or more, got {days!r}")
        try:
            self._start = date.fromisoformat(start)
        except (TypeError, ValueError) as error:
            raise GenctrError(f"start: {start!r} is not a date: {error}") from error
        self._days = days
        self.files = [RawFile(path) for path in find(source, ["train.txt", "train.txt.gz", "day_*"], FORM)]

    def days(self, scratch: Path) -> Iterator[tuple[str, Iterator[pa.Table]]]:
        """Every day's name and rows."""
        for file in self.files:
            number = re.match(r"day_(\d+)", file.path.name)
            parts: Sequence[int | None] = [None] if number else self._parts(file)
            tap = Tap(self._rows(file))
            for part, rows in enumerate(parts, start=int(number[1]) if number else 0):
                yield str(self._start + timedelta(days=part)), tap.pour(rows)

    def _rows(self, file: RawFile) -> Iterator[pa.RecordBatch]:
        for line, batch in file.batches(TYPES, delimiter="\t", form=FORM):
            file.insist(pc.is_in(batch["label"], value_set=pa.array([0, 1], pa.int8())), line, "the label is not 0 or 1", FORM)
            yield batch

    def _parts(self, file: RawFile) -> Sequence[int | None]:
        total = file.count_lines()
        if total < self._days:
            raise GenctrError(f"{file.path} has {total} rows: too few for {self._days} days")
        return [total * (part + 1) // self._days - total * part // self._days for part in range(self._days)]
