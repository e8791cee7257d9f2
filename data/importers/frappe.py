"""Frappe in libFM format, as the published benchmarks split it: train, validation and test."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data.errors import GenctrError
from data.importers.raw import RawFile, Tap, find

FIELDS = ["user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city"]
FORM = f"a label (1, and -1 or 0) and ten index:1 separated by single blanks, in the order {', '.join(FIELDS)}"
TYPES = {"label": pa.int8(), **dict.fromkeys(FIELDS, pa.string())}
PARTS = {"train": "*train*.libfm", "valid": "*valid*.libfm", "test": "*test*.libfm"}


class Frappe:
    """Columns label (int8) and the ten fields (int32). The three parts become the "days" train, valid and test.

    Args:
        source: the folder with the three files.
    """

    def __init__(self, source: str) -> None:
        self._parts = {}
        for part, pattern in PARTS.items():
            found = find(source, [pattern], FORM)
            if len(found) > 1 or not Path(source).is_dir():
                raise GenctrError(f"{source}: expected a folder with one file {pattern}, found {', '.join(map(str, found))}")
            self._parts[part] = RawFile(found[0])
        self.files = list(self._parts.values())

    def days(self, scratch: Path) -> Iterator[tuple[str, Iterator[pa.Table]]]:
        """Every part's name and rows."""
        for part, file in self._parts.items():
            yield part, Tap(self._numbers(file)).pour()

    def _numbers(self, file: RawFile) -> Iterator[pa.Table]:
        for line, batch in file.batches(TYPES, delimiter=" ", form=FORM):
            columns = {"label": pc.if_else(pc.equal(batch["label"], 1), 1, 0).cast(pa.int8())}
            known = pa.array([-1, 0, 1], pa.int8())
            file.insist(pc.is_in(batch["label"], value_set=known), line, "the label is not 1, 0 or -1", FORM)
            for name in FIELDS:
                file.insist(pc.match_substring_regex(batch[name], r"^\d{1,9}:1$"), line, f"{name} is not an index:1", FORM)
                columns[name] = pc.utf8_slice_codeunits(batch[name], 0, -2).cast(pa.int32())
            yield pa.table(columns)
