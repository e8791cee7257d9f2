"""Inspecting a log: facts counted independently, guesses that start a valid schema, and everything odd is told."""

import datetime
import gzip
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from torch import nn

from data.day_names import parse_days
from data.days import Days, write_day
from data.errors import BadInput, GenctrError
from data.inspection.facts import ColumnFacts
from data.inspection.inspect import Report, inspect
from data.inspection.schema_suggestion import TORCH, Guess
from data.inspection.tally import DistinctSketch
from data.readers import CsvReader, ParquetReader
from data.schema import IdField, Schema, SequenceField
from data.synthetic import write
from data.yaml_document import read_document

SHARED = Path(os.environ.get("GENCTR_DATA", "../shared/data"))


def schema_of(report: Report, folder: Path) -> Schema:
    (folder / "guessed.yaml").write_text(report.schema_yaml())
    return read_document(str(folder / "guessed.yaml"), Schema)


def facts_of(table: pa.Table, folder: Path) -> dict[str, ColumnFacts]:
    pq.write_table(table, folder / "one.parquet")
    return {facts.name: facts for facts in inspect(str(folder / "one.parquet")).columns}


def guess_of(folder: Path, **columns: Any) -> dict[str, Guess]:
    pq.write_table(pa.table(columns), folder / "one.parquet")
    report = inspect(str(folder / "one.parquet"))
    report.text()
    json.dumps(report.to_json())
    return report.guesses


# --- facts ---


def test_facts_are_those_counted_by_hand(tmp_path: Path) -> None:
    table = pa.table(
        {
            "number": pa.array([3, None, -1, 3], pa.int16()),
            "text": ["b", "a", None, "b"],
            "list": pa.array([[1, 2, 2], [], None, [5]], pa.list_(pa.int32())),
            "float": [1.0, float("nan"), 2.0, None],
            "nothing": pa.nulls(4),
        }
    )

    facts = facts_of(table, tmp_path)

    number, text, lists, floats = (facts[name] for name in ("number", "text", "list", "float"))
    assert (number.null_share, number.distinct, number.low, number.high) == (0.25, 2, -1, 3)
    assert number.mean == pytest.approx(5 / 3)
    assert (text.null_share, text.distinct, text.low, text.high, text.examples) == (0.25, 2, "a", "b", ("b", "a"))
    assert (lists.null_share, lists.distinct, lists.low, lists.high) == (0.25, 3, 1, 5)
    assert lists.lengths == (0, pytest.approx(4 / 3), 3)
    assert (floats.not_finite, floats.distinct, floats.whole) == (1, 2, True)
    assert (facts["nothing"].null_share, facts["nothing"].distinct) == (1.0, 0)
    assert all(own.exact for own in facts.values())


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 2, 2, 3, -1]),
        pa.array(["x", "y", "y", "z", ""]),
        pa.array([0.5, 1.5, 1.5, -2.0, 0.0]),
        pa.array([datetime.date(2026, 11, day) for day in (1, 2, 2, 3, 4)]),
    ],
)
def test_few_values_are_counted_exactly_however_often_they_come(values: pa.Array) -> None:
    sketch = DistinctSketch()
    for _ in range(3):
        sketch.add(values)

    assert (sketch.count, sketch.full) == (4, False)


def test_many_values_are_estimated_within_two_percent() -> None:
    sketch = DistinctSketch()
    for start in range(0, 1_000_000, 50_000):
        sketch.add(pa.array(range(start, start + 60_000)))

    assert sketch.full
    assert sketch.count == pytest.approx(1_010_000, rel=0.02)  # five standard errors


def test_columns_are_alike_by_the_share_of_their_common_values(tmp_path: Path) -> None:
    many = 300_000
    facts = facts_of(
        pa.table({"a": range(many), "b": range(many // 2, many + many // 2), "c": [n % 10 for n in range(many)]}), tmp_path
    )

    assert facts["a"].likeness(facts["a"]) == 1.0
    # Half of each is common: a third of both together.
    assert facts["a"].likeness(facts["b"]) == pytest.approx(1 / 3, rel=0.05)
    assert facts["c"].likeness(facts["a"]) < 0.01


# --- where ---


def test_a_log_a_day_and_a_file_are_told_apart(tmp_path: Path) -> None:
    for day, rows in {"2026-11-01": 3, "2026-11-02": 2}.items():
        write_day(str(tmp_path / f"log/day={day}"), [pa.table({"a": range(rows)}), pa.table({"a": [9]})])
    (tmp_path / "log/synthetic.json").write_text("{}")

    log = inspect(str(tmp_path / "log"))
    assert log.layout == "day={day}"
    assert [(day.name, day.rows, day.files, day.success) for day in log.days] == [
        ("2026-11-01", 4, 2, True),
        ("2026-11-02", 3, 2, True),
    ]
    assert (log.rows, log.rows_read, log.sample) == (7, 7, "all were read")

    day = inspect(str(tmp_path / "log/day=2026-11-01/"))
    assert (day.layout, day.rows, len(day.days)) == ("", 4, 1)

    write_day(str(tmp_path / "hourly/dt=2026-11-01/hour=00"), [pa.table({"a": [1, 2]})])
    write_day(str(tmp_path / "hourly/dt=2026-11-01/hour=01"), [pa.table({"a": [3]})])
    hours = inspect(str(tmp_path / "hourly/dt=2026-11-01"))
    assert (hours.layout, hours.rows, [day.name for day in hours.days]) == ("", 3, ["dt=2026-11-01"])
    assert inspect(str(tmp_path / "hourly")).layout == "dt={day}"

    file = inspect(str(tmp_path / "log/day=2026-11-01/part-00000.parquet"))
    assert (file.layout, file.rows, file.days[0].success) == ("", 3, None)


def test_a_uri_may_end_in_a_query(tmp_path: Path) -> None:
    write_day(str(tmp_path / "day=1"), [pa.table({"a": [1]}), pa.table({"a": [2]})])

    for uri, rows in {
        f"file://{tmp_path}": 2,
        f"file://{tmp_path}/day=1": 2,
        f"file://{tmp_path}/day=1/part-00000.parquet": 1,
    }.items():
        report = inspect(f"{uri}?use=it")

        assert (report.rows, report.problems, report.format) == (rows, (), "parquet")


def test_days_that_are_not_complete_or_empty_are_shown_as_such(tmp_path: Path) -> None:
    write_day(str(tmp_path / "dt=1"), [pa.table({"a": [1]})])
    write_day(str(tmp_path / "dt=2"), [pa.table({"a": [1]})])
    (tmp_path / "dt=2/_SUCCESS").unlink()
    write_day(str(tmp_path / "dt=3"), [])

    report = inspect(str(tmp_path))

    assert report.layout == "dt={day}"
    assert [(day.name, day.rows, day.success) for day in report.days] == [("1", 1, True), ("2", 1, False), ("3", 0, True)]


def test_csv_and_packed_tsv_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("click,city\n1,Ulm\n0,\n")
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(b"click\tcity\n1\tUlm\n0\t\n"))

    for name in ("a.csv", "b.tsv.gz"):
        report = inspect(str(tmp_path / name))

        assert report.rows == 2
        assert [(facts.name, facts.distinct, facts.null_share) for facts in report.columns] == [
            ("click", 2, 0),
            ("city", 1, 0.5),
        ]


def test_what_cannot_be_read_is_a_problem_and_the_rest_is_counted(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2], "b": [1, 2]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": ["x"]}), tmp_path / "2.parquet")
    (tmp_path / "3.parquet").write_bytes(b"PAR1 cut short")

    report = inspect(str(tmp_path))

    assert report.rows == 3
    unreadable, changed, missing = report.problems
    assert "3.parquet" in unreadable
    assert "column 'b' is in 1 of 2 files" in missing
    assert "column 'a' changes its type: int64 in" in changed
    assert "problem: " in report.text()


def test_what_is_listed_and_not_read_is_a_problem(tmp_path: Path) -> None:
    write_day(f"{tmp_path}/day=2026-11-01", [pa.table({"a": [1, 2]})])
    (tmp_path / "day=2026-11-01" / "gone.parquet").symlink_to("/nowhere.parquet")
    (tmp_path / "day=2026-11-01" / "part-1.orc").write_text("ORC")

    problems = "\n".join(inspect(str(tmp_path)).problems)

    assert "it is listed and cannot be opened: a link whose target is not there" in problems
    assert f"where: file {tmp_path}/day=2026-11-01/gone.parquet" in problems
    assert f"{tmp_path}/day=2026-11-01/part-1.orc" in problems


def test_what_turns_out_bad_while_it_is_read_is_a_problem_and_the_rest_is_counted(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,b\n" + "1,\n" * 400_000 + "2,late\n")
    (tmp_path / "2.csv").write_text("a,b\n3,x\n")

    report = inspect(str(tmp_path))

    assert "invalid value 'late'" in report.problems[0]
    assert report.columns[0].high == 3


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_column_that_is_there_twice_is_a_problem_and_the_others_are_counted(ending: str, tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1, 2]), pa.array([3, 4]), pa.array([5, 6])], names=["a", "b", "a"])
    {"parquet": pq.write_table, "csv": pyarrow.csv.write_csv}[ending](table, tmp_path / f"1.{ending}")

    report = inspect(str(tmp_path))

    assert report.problems == (f"column 'a' is there twice in {tmp_path}/1.{ending}",)
    assert [facts.name for facts in report.columns] == ["b"]


@pytest.mark.parametrize(
    "odd",
    [
        pa.array([1.0, 2.5], pa.float32()).cast(pa.float16()),
        pa.array([0, 3_000_000], pa.int32()).cast(pa.date32()),  # the year 10183
        pa.array([b"a", b"\xff"]).view(pa.string()),
        pa.array([1, 2], pa.timestamp("us", "Nowhere/Bad")),
    ],
    ids=lambda odd: str(odd.type),
)
def test_a_column_that_cannot_be_counted_is_a_problem_and_the_others_are_counted(odd: pa.Array, tmp_path: Path) -> None:
    pq.write_table(pa.table({"odd": odd, "item": [1, 2]}), tmp_path / "1.parquet")

    report = inspect(str(tmp_path))

    (problem,) = report.problems
    assert "column 'odd' cannot be counted" in problem
    assert report.columns[1].distinct == 2
    assert json.dumps(report.to_json())
    assert f"problem: {problem}" in report.text()


def test_strings_in_one_file_and_bytes_in_the_next_are_a_problem(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": ["x", "y"]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": [b"x"]}), tmp_path / "2.parquet")

    uncounted, changed = inspect(str(tmp_path)).problems

    assert "column 'a' cannot be counted" in uncounted
    assert "2.parquet" in uncounted
    assert "column 'a' changes its type" in changed


@pytest.mark.parametrize("make", [lambda p: p / "nowhere", lambda p: p, lambda p: (p / "x.parquet").write_bytes(b"") or p])
def test_nothing_to_read_is_an_error(make: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no such file|no rows"):
        inspect(str(make(tmp_path)))


def test_a_large_log_is_sampled_from_everywhere_and_says_so(tmp_path: Path) -> None:
    for day in range(4):
        write_day(str(tmp_path / f"day={day}"), [pa.table({"a": [day] * 20_000})], row_group_rows=10_000)

    report = inspect(str(tmp_path), sample_rows=40_000)

    assert report.rows == 80_000
    assert report.rows_read == 40_000
    assert report.sample == "sampled: 40,000 rows, the first of 4 row groups out of 8"
    assert report.columns[0].distinct == 4
    assert report.sample in report.text()
    with pytest.raises(GenctrError, match=r"no column .* looks like a feature"):
        inspect(str(tmp_path / "day=0")).schema_yaml()


PEAK = """
import resource, sys
from data.inspection.inspect import inspect

inspect(sys.argv[1], sample_rows=10**9)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_ten_times_as_many_rows_need_no_more_memory(tmp_path: Path) -> None:
    peaks = []
    for rows in (200_000, 2_000_000):
        numbers = np.random.default_rng(0).integers(2**60, size=rows)
        pq.write_table(pa.table(dict.fromkeys("abcd", numbers)), tmp_path / f"{rows}.parquet", use_dictionary=False)
        command = [sys.executable, "-c", PEAK, str(tmp_path / f"{rows}.parquet")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))

    # The rows that were added are 55 MiB.
    assert peaks[1] - peaks[0] < 20, f"peaks of {peaks} MiB"


# --- guesses ---


def test_the_guessed_schema_of_the_synthetic_log_is_that_of_the_demo_in_all_but_the_tables(tmp_path: Path) -> None:
    write(str(tmp_path / "log"), 2, 6_000, 0)
    demo = read_document("launch/configs/demo.schema.yaml", Schema)

    schema = schema_of(inspect(str(tmp_path / "log")), tmp_path)

    assert (schema.label, schema.time, schema.group) == (demo.label, demo.time, demo.group)
    assert [(own.name, own.kind) for own in schema.fields] == [(own.name, own.kind) for own in demo.fields]
    history = next(own for own in schema.fields if isinstance(own, SequenceField))
    assert (history.table, history.length, history.time) == ("item_id", 20, "history_time_ms")


def test_what_happens_after_the_row_was_shown_is_left_out_with_the_reason(tmp_path: Path) -> None:
    zeros_and_ones = [0, 1, 1, 0]
    guesses = guess_of(
        tmp_path, is_click=zeros_and_ones, is_like=zeros_and_ones, long_view=zeros_and_ones, play_time_ms=[5, 9, 7, 0],
        rating=[1, 2, 3, 4], pred_ctr=[0.1, 0.2, 0.3, 0.4], is_author=zeros_and_ones,
    )  # fmt: skip

    assert guesses["is_click"].kind == "label"
    for name in ("is_like", "long_view", "play_time_ms", "rating", "pred_ctr"):
        assert guesses[name].kind == "left out", name
    assert "after the row was shown" in guesses["play_time_ms"].why
    assert guesses["is_author"].kind == "id"


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 1_000), ("us", 1_000_000), ("ns", 1_000_000_000)])
def test_the_unit_of_a_time_is_seen_from_its_size(unit: str, scale: int, tmp_path: Path) -> None:
    guesses = guess_of(tmp_path, event_time=[1_790_000_000 * scale, 1_790_000_007 * scale], request_id=["a", "b"], click=[0, 1])

    assert guesses["event_time"].entry == {"column": "event_time", "unit": unit}
    assert guesses["event_time"].why.startswith("from 2026-09-21 14:13")
    # Nobody is named, so the rows of one visit belong together; as a feature its name is worthless.
    assert guesses["request_id"].also_group
    assert guesses["request_id"].kind == "left out"


def test_kinds_follow_from_type_name_and_number_of_values(tmp_path: Path) -> None:
    rows = 200_000
    n = np.arange(rows)
    guesses = guess_of(
        tmp_path,
        item_id=n,
        slot=n % 4,
        age=n % 90 + 1,
        num_likes_shown=n % 5_000,
        delta=n - 100.5,
        code_with_gaps=pa.array((n % 3).astype(float), mask=n == 0),
        city=pa.array(["Ulm", "Köln"]).take(pa.array(n % 2)),
        constant=np.zeros(rows),
        when=pa.array(n % 1000, pa.timestamp("ns")),
        both=pa.array([{"a": 1}] * rows),
    )

    assert guesses["item_id"].entry == {"name": "item_id", "kind": "id", "ids": "hash", "rows": 524_288}
    assert guesses["slot"].entry == {"name": "slot", "kind": "id", "ids": "vocab"}
    assert guesses["age"].entry["kind"] == "number"
    assert guesses["num_likes_shown"].entry["transform"] == guesses["delta"].entry["transform"] == "buckets"
    assert guesses["num_likes_shown"].entry["buckets"] == guesses["delta"].entry["buckets"] == 64
    assert guesses["code_with_gaps"].entry["buckets"] == 3
    assert guesses["city"].entry["ids"] == "vocab"
    assert {name for name, guess in guesses.items() if guess.kind == "left out"} == {"constant", "both"}
    assert guesses["when"].kind == "time"


def test_lists_are_told_apart_by_what_they_hold(tmp_path: Path) -> None:
    guesses = guess_of(
        tmp_path,
        item=list(range(1000, 1100)),
        seen=[[1000 + n, 1000 + (n + 7) % 100] * 4 for n in range(100)],
        words=[[n % 3, 5] for n in range(100)],
        picture=[[float(n), 0.5] for n in range(100)],
        ragged=[[0.5] * (1 + n % 2) for n in range(100)],
        empty=pa.array([[]] * 100, pa.list_(pa.int64())),
        history=[[f"u{n}"] for n in range(100)],
    )

    assert guesses["seen"].entry == {"name": "seen", "kind": "sequence", "table": "item", "length": 8}
    assert guesses["words"].kind == "ids"
    assert guesses["picture"].entry == {"name": "picture", "kind": "vector", "dim": 2}
    assert guesses["history"].entry == {"name": "history", "kind": "sequence", "ids": "vocab", "length": 1}
    assert {name for name, guess in guesses.items() if guess.kind == "left out"} == {"ragged", "empty"}


def test_columns_with_impossible_names_get_a_field_name_and_keep_their_column(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"user id": [1, 2], "on": ["a", "b"], "2nd": ["a", "b"], "clicked": [0, 1]}), tmp_path / "1.parquet"
    )

    schema = schema_of(inspect(str(tmp_path / "1.parquet")), tmp_path)

    assert [(own.name, own.column) for own in schema.fields] == [("user_id", "user id"), ("on", "on"), ("_2nd", "2nd")]


def test_a_label_with_an_impossible_name_gets_a_task_and_keeps_its_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": [1, 2], "is.click": [0, 1]}), tmp_path / "1.parquet")

    schema = schema_of(inspect(str(tmp_path / "1.parquet")), tmp_path)

    assert [(own.column, own.target) for own in schema.targets] == [("is.click", "is_click")]
    assert Schema.model_validate(schema.model_dump()) == schema


def test_a_file_of_nothing_but_nulls_does_not_say_what_the_others_hold(tmp_path: Path) -> None:
    pq.write_table(pa.table({"click": [0, 1], "tags": pa.nulls(2), "price": pa.nulls(2)}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"click": [0, 1], "tags": [[1, 2], [3]], "price": [0.25, 1.5]}), tmp_path / "2.parquet")

    guesses = inspect(str(tmp_path)).guesses

    assert (guesses["tags"].kind, guesses["price"].kind) == ("ids", "number")


def test_columns_whose_names_become_the_same_get_fields_of_their_own(tmp_path: Path) -> None:
    columns = {
        "user id": ["a", "b"],
        "user_id": ["a", "c"],
        "用户": ["a", "b"],
        "商品": ["a", "c"],
        "seen-商品": [["a", "c"] * 3] * 2,
    }
    pq.write_table(pa.table({**columns, "type": [1, 2], "clicked": [0, 1]}), tmp_path / "1.parquet")

    schema = schema_of(inspect(str(tmp_path / "1.parquet")), tmp_path)

    named = {own.column: own.name for own in schema.fields}
    assert named.keys() == {*columns, "type"}
    assert (named["user_id"], named["user id"], named["type"]) == ("user_id", "user_id_2", "type_2")
    assert schema.fields[4].model_dump()["table"] in (named["user_id"], named["商品"])


def test_no_field_is_called_as_torch_calls_its_own() -> None:
    assert {name for name in dir(nn.ModuleDict()) if name.isalpha() and name.islower()} == TORCH


@pytest.mark.parametrize("values", [[-1, 1, 1], ["no", "yes", "yes"]])
def test_a_label_that_is_not_0_and_1_is_no_feature(values: list[Any], tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": values, "user": [1, 2, 2]}), tmp_path / "1.parquet")

    schema = schema_of(inspect(str(tmp_path / "1.parquet")), tmp_path)

    assert [own.name for own in schema.fields] == ["user"]


@pytest.mark.parametrize(("values", "why"), [([-1, 1, 1], "-1 and 1"), ([0, 3, 1], "a count from 0 to 3")])
def test_a_label_of_other_numbers_is_declared(values: list[int], why: str, tmp_path: Path) -> None:
    label = guess_of(tmp_path, click=values, item=["a", "b", "c"])["click"]

    assert label.entry == {"column": "click", "positive_above": 0}
    assert label.why.startswith(why)


def test_times_with_a_zone_are_not_guessed_to_be_comparable_with_times_without(tmp_path: Path) -> None:
    now = pa.array([1_790_000_000, 1_790_000_001], pa.timestamp("s"))
    times = pa.array([[1_780_000_000], [1_780_000_001]], pa.list_(pa.timestamp("s", "UTC")))

    assert guess_of(tmp_path, time=now, hist=[[1], [2]], hist_ts=times)["hist_ts"].why.endswith("time has a time zone")


def test_the_label_lends_no_table(tmp_path: Path) -> None:
    pq.write_table(pa.table({"target": [0, 1], "user": [1, 2], "hist_flags": [[0, 1] * 4] * 2}), tmp_path / "1.parquet")

    schema = schema_of(inspect(str(tmp_path / "1.parquet")), tmp_path)

    assert [(own.name, own.kind) for own in schema.fields] == [("user", "id"), ("hist_flags", "sequence")]


@pytest.mark.parametrize("times", [[1_790_000_000], [1_790_000_000_000_000]])
def test_times_of_events_in_another_unit_are_not_compared(times: list[int], tmp_path: Path) -> None:
    rows = pa.table(
        {"time_ms": [1_790_000_000_000, 1_790_000_000_007], "item": [1, 2], "hist": [[1], [2]], "hist_ts": [times, times]}
    )
    guesses = guess_of(tmp_path, **dict(zip(rows.column_names, rows.columns, strict=True)))

    assert "time" not in guesses["hist"].entry
    assert guesses["hist_ts"].why == "times of events, but not in the unit of time_ms"


def test_a_time_that_is_never_there_is_no_time(tmp_path: Path) -> None:
    hours = pa.array([1_790_000_000, 1_790_003_600], pa.timestamp("s", "Asia/Shanghai"))
    guesses = guess_of(tmp_path, deleted_at=pa.nulls(2, pa.timestamp("us")), shown_at=hours, click=[0, 1])

    assert guesses["deleted_at"].why == "never more than one value"
    assert guesses["shown_at"].why == "from 2026-09-21 14:13 to 2026-09-21 15:13 UTC"


def test_what_no_field_can_hold_is_said_as_such(tmp_path: Path) -> None:
    guesses = guess_of(
        tmp_path,
        price=pa.array([Decimal("1.50"), Decimal("2.25")]),
        both=pa.array([{"a": 1}, {"a": 2}]),
        half=pa.array([1.0, 2.5], pa.float32()).cast(pa.float16()),
    )

    assert guesses["price"].why == "no kind of field holds decimal128(3, 2)"
    assert guesses["both"].why == "no kind of field holds struct<a: int64>"
    assert guesses["half"].why == "its values could not be counted"


def test_without_a_label_the_schema_is_valid_and_asks_for_one(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": [1, 2]}), tmp_path / "1.parquet")
    report = inspect(str(tmp_path / "1.parquet"))

    assert isinstance(schema_of(report, tmp_path).fields[0], IdField)
    assert "no column was found that looks like one" in report.schema_yaml()


@pytest.mark.skipif(not (SHARED / "kuairand").is_dir(), reason="no shared data: see GENCTR_DATA")
def test_the_guess_for_kuairand_reads_no_feedback(tmp_path: Path) -> None:
    report = inspect(str((SHARED / "kuairand").resolve()))
    schema = schema_of(report, tmp_path)

    assert report.rows == report.rows_read == 228_329
    assert schema.target_names == ("is_click",)
    assert schema.group == "user_id"
    feedback = ("is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view", "play_time_ms", "is_profile_enter")
    assert not {*feedback, "profile_stay_time", "comment_stay_time"} & set(schema.columns())


@pytest.mark.parametrize("name", ["log.orc", "log.jsonl", "log.txt", "log"])
def test_a_file_of_another_format_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")

    with pytest.raises(BadInput, match=r"no format that is known\n.*\n  expected: a name that ends with \.parquet"):
        inspect(str(tmp_path / name))


def test_what_follows_a_click_is_no_feature_and_what_preceded_it_is(tmp_path: Path) -> None:
    flags = [0, 1, 1, 0]
    after = dict.fromkeys(("is_attributed", "conv", "converted", "is_purchased", "downloaded", "paid"), flags)
    after |= {"conversion_id": [7, -1, 8, 9], "attributed_time": ["2026-11-01 10:00:00", "2026-11-01 11:00:00"] * 2}
    before = {"conversion_rate_7d": [0.1, 0.2, 0.3, 0.4], "user_purchase_cnt": [1, 2, 3, 4], "is_on_sale": flags}
    before |= {"conversation_type": [1, 2, 3, 1], "attributes": ["a", "b", "c", "a"]}
    guesses = guess_of(tmp_path, click=flags, **after, **before)

    assert guesses["click"].kind == "label"
    assert {name: guess.kind for name, guess in guesses.items() if name in after} == dict.fromkeys(after, "left out")
    assert {name for name in before if guesses[name].kind == "left out"} == set()


def test_without_a_click_a_conversion_is_the_label(tmp_path: Path) -> None:
    assert guess_of(tmp_path, ip=[1, 2, 3], is_attributed=[0, 1, 0])["is_attributed"].kind == "label"


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 1000)])
@pytest.mark.parametrize("name", ["created", "event_date", "t"])
def test_epochs_are_times_under_other_names_too(name: str, unit: str, scale: int, tmp_path: Path) -> None:
    guesses = guess_of(tmp_path, **{name: [1_790_000_000 * scale, 1_790_003_600 * scale]}, click=[0, 1])

    assert guesses[name].entry == {"column": name, "unit": unit}


def test_milliseconds_are_a_time_under_any_name_and_ids_of_their_size_are_not(tmp_path: Path) -> None:
    times = [1_790_000_000_000, 1_790_003_600_000]
    guesses = guess_of(tmp_path, logged=times, item_id=times, sku=[1_790_000_000, 1_790_003_600], click=[0, 1])

    assert guesses["logged"].kind == "time"
    assert guesses["item_id"].kind == guesses["sku"].kind == "id"


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("hour", [2026010100, 2026010101, 2026123123], "%Y%m%d%H"),
        ("hour", [14102100, 14102101, 14103023], "%y%m%d%H"),
        ("event_time", [20260101000000, 20260101000001, 20261231235959], "%Y%m%d%H%M%S"),
        ("shown", ["2026010100", "2026010101", "2026123123"], "%Y%m%d%H"),
        ("event_time", ["2026-01-01 00:00:00", "2026-01-01 00:00:01", "2026-01-02 00:00:00"], "as text"),
        ("event_time", [1.79e9, 1.79e9 + 0.5, 1.79e9 + 1], "in s as floats"),
    ],
)
def test_a_time_in_another_notation_is_neither_an_id_nor_a_number(
    name: str, values: list[Any], why: str, tmp_path: Path
) -> None:
    guess = guess_of(tmp_path, **{name: values}, click=[0, 1, 1])[name]

    assert guess.kind == "left out"
    assert why in guess.why


def test_hours_of_the_day_stay_an_id(tmp_path: Path) -> None:
    assert guess_of(tmp_path, hour=[0, 13, 23], click=[0, 1, 1])["hour"].kind == "id"


def test_numbers_of_rows_keys_of_rows_and_texts_are_no_ids(tmp_path: Path) -> None:
    rows = range(2000)
    guesses = guess_of(
        tmp_path,
        **{"Unnamed: 0": rows, "__index_level_0__": rows, "": rows},
        log_id=[f"x{n}" for n in rows],
        id=[7 * n for n in rows],
        title=[f"what {n % 900} people say of this" for n in rows],
        item_id=[3 * n for n in rows],
        city=[f"New York {n % 9}" for n in rows],
        click=[n % 2 for n in rows],
    )

    kept = {name for name, guess in guesses.items() if guess.kind == "id"}
    assert kept == {"item_id", "city"}
    assert "key of the row" in guesses["log_id"].why
    assert "texts of 6 words" in guesses["title"].why


def test_counts_and_floats_are_cut_into_as_many_buckets_as_they_have_values(tmp_path: Path) -> None:
    rows = np.arange(4000)
    guesses = guess_of(tmp_path, views_count=(1.008**rows).astype(int), price=rows % 9 + 0.5, click=rows % 2)

    assert guesses["views_count"].entry == {"name": "views_count", "kind": "number", "transform": "buckets", "buckets": 64}
    assert guesses["price"].entry == {"name": "price", "kind": "number", "transform": "buckets", "buckets": 9}


def test_strings_with_separators_are_lists(tmp_path: Path) -> None:
    pq.write_table(
        pa.table(
            {
                "click": [0, 1, 0, 1],
                "genres": ["drama|crime", "crime", "sci-fi, fantasy|drama", None],
                "seen": ["7 8 9", "8", "7 9", "9 9"],
                "place": ["52.5,13.4", "52.6,13.4", "52.5,13.4", "52.6,13.5"],
                "agent": ["Mozilla (X11; Linux)", "Mozilla", "Mozilla (X11; Linux)", "curl"],
            }
        ),
        tmp_path / "1.parquet",
    )

    report = inspect(str(tmp_path / "1.parquet"))

    assert report.reading == {"reader_options": {"lists": {"genres": "|", "seen": " "}}}
    assert {name for name, guess in report.guesses.items() if guess.kind in ("ids", "sequence")} == {"genres", "seen"}
    assert '# In run.yaml: data: {"reader_options": {"lists": {"genres": "|", "seen": " "}}}' in report.schema_yaml()
    assert schema_of(report, tmp_path).fields[0].column == "genres"


@pytest.mark.parametrize(
    ("name", "text", "reading"),
    [
        ("a.csv", "click;price\n1;2,5\n0;3,5\n", {"reader": "csv", "reader_options": {"delimiter": ";"}}),
        ("a.tsv", "click\tprice\n1\t2.5\n0\t3.5\n", {"reader": "csv", "reader_options": {"delimiter": "\t"}}),
        ("a.csv", "click,price\n1,2.5\n0,3.5\n", {"reader": "csv"}),
        ("a.csv", ",0,1\n0,1,2.5\n1,0,3.5\n", {"reader": "csv"}),
        (
            "a.csv",
            "1,2.5,ab\n0,3.5,cd\n1,,ab\n",
            {"reader": "csv", "reader_options": {"names": ["column_0", "column_1", "column_2"]}},
        ),
        (
            "a.csv",
            "click,items\n1,7|8\n0,8\n",
            {"reader": "csv", "reader_options": {"lists": {"items": "|"}, "types": {"items": "int64"}}},
        ),
    ],
)
def test_the_report_says_how_a_text_file_is_read(name: str, text: str, reading: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)

    report = inspect(str(tmp_path / name))

    assert report.reading == reading
    assert report.problems == ()
    assert report.rows == text.count("\n") - ("names" not in reading.get("reader_options", {}))
    assert len(report.columns) > 1
    columns = [facts.name for facts in report.columns]
    assert CsvReader(**reading.get("reader_options", {})).schema(str(tmp_path / name)).names == columns


@pytest.mark.parametrize("day", ["2026-11-01", "20261101"])
def test_folders_in_a_day_are_columns_and_the_day_is_none(day: str, tmp_path: Path) -> None:
    for hour in ("00", "01"):
        write_day(str(tmp_path / f"log/dt={day}/hour={hour}"), [pa.table({"click": [0, 1], "item": [int(hour), 7]})])

    report = inspect(str(tmp_path / "log"))

    assert report.layout == "dt={day}"
    assert report.reading == {"reader_options": {"partitions": ["hour"]}}
    assert [facts.name for facts in report.columns] == ["click", "item", "hour"]
    assert report.guesses["hour"].kind == "id"
    days = Days(str(tmp_path / "log"), reader=ParquetReader(partitions=["hour"]), layout="dt={day}", success=None)
    assert list(days.open(day, ["click", "hour"]).schema.names) == ["click", "hour"]
    assert parse_days(f"{day}..{day}") == [day]
