"""A day that was begun goes on with the files it was begun with.

Run: pytest tests/pipeline/daily/test_day.py
"""

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from data.cursor import Cursor
from data.days import Day, DayFile
from pipeline.daily.day import DayWork
from pipeline.daily.ledger import DayRecord
from pipeline.daily.policy import Action, OperatorRequired

SCHEMA = pa.schema({"y": pa.int64()})
DAY = Day("2026-11-02", tuple(DayFile(name, 100, (4,), SCHEMA) for name in ("a.parquet", "b.parquet")), SCHEMA)


def opened(files: list[list[Any]]) -> Day:
    """The day as a job opens it that stands in the middle of it, with a checkpoint that says these files, sizes and rows."""
    work: Any = object.__new__(DayWork)
    days = SimpleNamespace(below_root=lambda path: path)
    work._job = SimpleNamespace(open=lambda day, step, known: DAY, source=SimpleNamespace(days=days))
    work._ledger = SimpleNamespace(history=SimpleNamespace(files=lambda day: {}))
    state = SimpleNamespace(cursor=Cursor(0, DAY.name, 2, 1), step=3)
    found: Day = work._open(DAY.name, DayRecord(DAY.name), Action("train", DAY.name), state, {"files": files})
    return found


def test_a_half_trained_day_goes_on_with_its_own_files() -> None:
    assert [file.path for file in opened([["b.parquet", 100, 4]]).files] == ["b.parquet"]


def test_a_half_trained_day_whose_file_has_another_size_waits_for_a_person() -> None:
    with pytest.raises(OperatorRequired, match=r"b.parquet has 100 bytes, had 99"):
        opened([["a.parquet", 100, 4], ["b.parquet", 99, 4]])
