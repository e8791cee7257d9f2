"""Collate: rows to tensors, and every wrong row told with its file, row and column.

Run: pytest tests/data/test_collate.py
"""

import math
import re
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
import torch

from data.arrays import segment_sums
from data.batch import Batch, Tally
from data.collate import NO_GROUP, PER_SECOND, Collate
from data.cursor import Cursor
from data.errors import BadInput
from data.features import Features
from data.ids import NO_ID, HashIds, fingerprints, seed_of
from data.row_hash import odd_numbers
from data.schema import Schema
from data.statistics import Moments, Statistics

FILES = ["monday.parquet", "tuesday.parquet"]
CURSOR = Cursor(epoch=0, day="2026-11-20", row=0, lanes=1)


def collate(
    columns: dict[str, Any],
    *fields: dict[str, Any],
    statistics: Statistics | None = None,
    bad_rows: Literal["stop", "skip"] = "stop",
    events: bool = False,
    **schema: Any,
) -> Batch:
    """Collate columns; rows come from Monday's file, from row 100 on, and label `y` is 0 unless the columns say otherwise."""
    arrays = {name: values if isinstance(values, pa.Array) else pa.array(values) for name, values in columns.items()}
    count = len(next(iter(arrays.values())))
    defaults = {"y": pa.array([0] * count, pa.int8()), "_file": pa.array([0] * count, pa.int32())}
    batch = pa.record_batch({**defaults, "_row": pa.array(range(100, 100 + count), pa.int64()), **arrays})
    whole = Schema.model_validate({"name": "log", "label": {"column": "y"}, "fields": fields or [ID], **schema})
    own = Collate(Features(whole, statistics, pools={"past": "events"} if events else {}), bad_rows=bad_rows)
    return own(batch, files=FILES, rows=99, cursor=CURSOR)


ID = {"name": "a", "kind": "id", "ids": "identity", "rows": 100}
LIST = {"name": "past", "kind": "ids", "ids": "identity", "rows": 100}
SEQUENCE = {"name": "past", "kind": "sequence", "ids": "identity", "rows": 100, "length": 2}
EVENTS = {**SEQUENCE, "time": "t", "length": 4}
NUMBER = {"name": "n", "kind": "number"}
VECTOR = {"name": "v", "kind": "vector", "dim": 2}


def past_of(batch: Batch) -> list[list[int]]:
    """The ids of the field `past`, row by row; identity adds 1 to each."""
    return [(part - 1).tolist() for part in batch.bags["past"].to_dense()]


# --- what a batch holds ---


def test_ids_stand_key_after_key_in_one_tensor() -> None:
    other = {"name": "b", "kind": "id", "ids": "hash", "rows": 1000}
    users = pa.array(["x", None, "y"])

    bags = collate({"a": [5, 0, None], "b": users, "past": [[1, 2], [], [9]]}, ID, LIST, other).bags

    assert bags.keys() == ["a", "past", "b"]
    assert bags.stride() == 3
    assert bags.lengths().tolist() == [1, 1, 1, 2, 0, 1, 1, 1, 1]
    assert bags.values().tolist() == [6, 1, 0, 2, 3, 10, *HashIds(rows=1000, seed=seed_of("b"))(users).tolist()]
    assert bags.values().dtype == bags.lengths().dtype == torch.int64


def test_a_field_is_read_from_its_own_column() -> None:
    assert collate({"user": [5]}, {**ID, "column": "user"}).bags["a"].values().tolist() == [6]


def test_the_fields_of_an_attention_table_are_sequences() -> None:
    past = {"name": "past", "kind": "sequence", "table": "a", "length": 3}
    other = {"name": "b", "kind": "id", "ids": "identity", "rows": 9}

    batch = collate({"a": [5, 6], "past": [[1], [2, 3]], "b": [0, 1]}, ID, past, other, events=True)

    assert batch.bags.keys() == ["b"]
    assert batch.sequences is not None
    assert batch.sequences.keys() == ["a", "past"]
    assert batch.sequences["past"].values().tolist() == [2, 3, 4]


def test_without_attention_there_are_no_sequences() -> None:
    assert collate({"a": [1]}).sequences is None


@pytest.mark.parametrize(
    "array",
    [
        pa.array([[1, 2], None, [], [3, None, 4]]),
        pa.array([[1, 2], None, [], [3, None, 4]], pa.large_list(pa.int32())),
        pa.array([[9], [1, 2], None, [], [3, None, 4]], pa.list_(pa.int16())).slice(1),
    ],
)
def test_lists_of_any_type_lose_their_nulls_and_keep_their_order(array: pa.Array) -> None:
    assert past_of(collate({"past": array}, LIST)) == [[1, 2], [], [], [3, 4]]


def test_lists_of_fixed_size_may_be_null() -> None:
    assert past_of(collate({"past": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64(), 2))}, LIST)) == [[1, 2], [], [3, 4]]


def test_lists_of_nothing_but_nulls_are_empty() -> None:
    assert past_of(collate({"past": pa.nulls(2)}, LIST)) == [[], []]
    assert past_of(collate({"past": pa.array([[None], []])}, LIST)) == [[], []]


def test_what_hides_under_a_null_list_is_not_read() -> None:
    hidden = pa.ListArray.from_arrays(pa.array([0, 2, 4]), pa.array([1, 2, 3, 4]), mask=pa.array([True, False]))

    assert past_of(collate({"past": hidden}, LIST)) == [[], [3, 4]]


@pytest.mark.parametrize(("longer", "kept"), [("keep_last", [[3, 4], [5], []]), ("keep_first", [[2, 3], [5], []])])
def test_a_sequence_that_is_too_long_is_cut(longer: str, kept: list[list[int]]) -> None:
    assert past_of(collate({"past": [[2, 3, 4], [5], []]}, {**SEQUENCE, "on_overflow": longer})) == kept


@pytest.mark.parametrize(
    ("events", "now"),
    [
        (pa.array([[10, 20, 30], [30, None], [5], [30]]), pa.array([30, 31, 5, 30])),
        (
            pa.array([[10, 20, 30], [30, None], [5], [30]], pa.list_(pa.timestamp("us", "UTC"))),
            pa.array([30, 31, 5, 30], pa.int64()),
        ),
    ],
)
def test_events_that_are_not_known_to_be_of_the_past_are_dropped(events: pa.Array, now: pa.Array) -> None:
    ids = [[1, 2, 3], [4, 5], [6], [7]]

    batch = collate({"past": ids, "t": events, "now": now}, {**SEQUENCE, "time": "t"}, time={"column": "now", "unit": "us"})

    assert past_of(batch) == [[1, 2], [4], [], []]


def test_the_future_is_dropped_before_the_past_is_cut() -> None:
    columns = {"past": [[1, 2, 3, 4]], "t": [[10, 20, 30, 40]], "now": [30]}

    assert past_of(collate(columns, {**SEQUENCE, "time": "t"}, time={"column": "now", "unit": "s"})) == [[1, 2]]


@pytest.mark.parametrize(("longer", "kept"), [("keep_last", [[2, 3], [5]]), ("keep_first", [[1, 2], [5]])])
def test_a_history_stored_newest_first_is_cut_at_its_old_end(longer: str, kept: list[list[int]]) -> None:
    field = {**SEQUENCE, "time": "t", "on_overflow": longer}
    columns = {"past": [[4, 3, 2, 1], [5]], "t": [[90, 30, 20, 10], [40]], "now": [50, 50]}

    assert past_of(collate(columns, field, time={"column": "now", "unit": "s"})) == kept


def test_events_at_one_time_stay_in_the_order_they_are_stored_in() -> None:
    columns = {"past": [[4, 3, 2, 1]], "t": [[20, 10, 10, 10]], "now": [50]}

    assert past_of(collate(columns, EVENTS, time={"column": "now", "unit": "s"})) == [[3, 2, 1, 4]]


def test_what_events_carry_follows_them_into_the_order_of_time() -> None:
    log = {"past": [[3, 2, 1]], "past_time": [[3000, 2000, 1000]], "past_action": [[30, 20, 10]], "t": [9000]}
    payload = {"time": "past_time", "action": "past_action"}
    batch = collate(log, {**SEQUENCE, "length": 9, "time": "past_time", "payload": payload}, time={"column": "t", "unit": "ms"})

    assert past_of(batch) == [[1, 2, 3]]
    assert batch.payloads["past"]["action"].tolist() == [10, 20, 30]
    assert batch.payloads["past"]["time"].tolist() == [1.0, 2.0, 3.0]


def test_timestamps_are_compared_in_the_unit_of_the_schema() -> None:
    columns = {
        "past": [[1, 2]],
        "t": pa.array([[1_999, 2_000]], pa.list_(pa.timestamp("ms"))),
        "now": pa.array([2], pa.timestamp("s")),
    }

    assert past_of(collate(columns, {**SEQUENCE, "time": "t"}, time={"column": "now", "unit": "ms"})) == [[1]]


NOW, THEN, NEVER = 1_790_000_000, 1_789_999_999, 253_402_214_400  # [s] 2026, a second before, 9999-12-31


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("stored", ["s", "ms", "us"])
@pytest.mark.parametrize("moment", ["integer", "timestamp"])
def test_the_year_9999_is_in_the_future_in_every_unit(unit: str, stored: str, moment: str) -> None:
    scale = PER_SECOND[stored]
    times = pa.array([[THEN * scale, NEVER * scale, -NEVER * scale, NOW * scale]], pa.list_(pa.timestamp(stored)))
    now = pa.array([NOW * PER_SECOND[unit]], pa.int64() if moment == "integer" else pa.timestamp(unit))

    batch = collate({"past": [[1, 2, 3, 4]], "t": times, "now": now}, EVENTS, time={"column": "now", "unit": unit})

    assert past_of(batch) == [[3, 1]]


def test_a_row_of_the_year_9999_has_a_past() -> None:
    times = pa.array([[THEN, NEVER]], pa.list_(pa.timestamp("s")))
    now = pa.array([NEVER * 1000], pa.timestamp("ms"))

    batch = collate({"past": [[1, 2]], "t": times, "now": now}, EVENTS, time={"column": "now", "unit": "ns"})

    assert past_of(batch) == [[1]]


def test_an_unsigned_time_beyond_63_bits_is_in_the_future() -> None:
    times = pa.array([[THEN, 2**64 - 1, 2**63]], pa.list_(pa.uint64()))

    batch = collate({"past": [[1, 2, 3]], "t": times, "now": [NOW]}, EVENTS, time={"column": "now", "unit": "s"})

    assert past_of(batch) == [[1]]


@pytest.mark.parametrize(("row", "event"), [("ms", "s"), ("s", "ms"), ("us", "ns"), ("ns", "us")])
def test_integers_in_two_units_are_refused(row: str, event: str) -> None:
    columns = {"past": [[1], [2]], "t": [[0], [(NOW + 60) * PER_SECOND[event]]], "now": [NOW * PER_SECOND[row]] * 2}

    with pytest.raises(BadInput, match=rf"integers in {row} as the schema's time says(.|\n)*integers in one unit") as caught:
        collate(columns, EVENTS, time={"column": "now", "unit": row})
    assert (caught.value.row, caught.value.column) == (101, "t")


@pytest.mark.parametrize("zones", [("UTC", None), (None, "Europe/Berlin")])
def test_times_with_and_without_a_zone_are_not_compared(zones: tuple[str | None, str | None]) -> None:
    times = pa.array([[THEN]], pa.list_(pa.timestamp("s", zones[0])))
    now = pa.array([NOW], pa.timestamp("s", zones[1]))

    with pytest.raises(BadInput, match=r"expected: a time zone in both or in neither\n  next: write both") as caught:
        collate({"past": [[1]], "t": times, "now": now}, EVENTS, time={"column": "now", "unit": "s"})
    assert caught.value.column == "t"


def test_two_zones_are_compared_as_moments() -> None:
    times = pa.array([[THEN, NOW]], pa.list_(pa.timestamp("s", "Asia/Tokyo")))
    now = pa.array([NOW], pa.timestamp("s", "Europe/Berlin"))

    assert past_of(collate({"past": [[1, 2]], "t": times, "now": now}, EVENTS, time={"column": "now", "unit": "s"})) == [[1]]


def test_numbers_are_transformed_and_missing_ones_are_0() -> None:
    fields = [{**NUMBER, "name": name, "transform": how} for name, how in zip("nlsb", TRANSFORMS, strict=True)]
    values = pa.array([3, None, -1], pa.int32())
    statistics = Statistics(moments={"s": Moments(mean=1, deviation=4)}, edges={"b": np.array([-1.0, 2.0])})

    batch = collate(dict.fromkeys("nlsb", values), *fields[:3], {**fields[3], "buckets": 3}, statistics=statistics)

    expected = [[3, math.log(4), 0.5], [0, 0, 0], [-1, -math.log(2), -0.5]]
    torch.testing.assert_close(batch.numbers, torch.tensor(expected))
    assert batch.bags["b"].values().tolist() == [3, 0, 2], "-1 begins the second bucket, above 2 is the third"


TRANSFORMS = ["none", "log1p", "standardise", "buckets"]


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64(), pa.uint8(), pa.bool_()])
def test_numbers_of_any_type_are_read(kind: pa.DataType) -> None:
    array = pa.array([1, None, 0]).cast(kind)

    assert collate({"n": array}, NUMBER).numbers.tolist() == [[1], [0], [0]]
    assert collate({"n": array.slice(1)}, NUMBER).numbers.tolist() == [[0], [0]]


@pytest.mark.parametrize("kind", [pa.list_(pa.float32(), 2), pa.list_(pa.float64()), pa.large_list(pa.int8())])
def test_vectors_of_any_type_are_read_and_missing_ones_are_0(kind: pa.DataType) -> None:
    second = {"name": "w", "kind": "vector", "dim": 1}

    batch = collate({"v": pa.array([[1, 2], None, [3, 4]], kind), "w": [[5.0], [6.0], None]}, VECTOR, second)

    assert batch.vectors.tolist() == [[1, 2, 5], [0, 0, 6], [3, 4, 0]]


def test_labels_weights_and_groups_are_read() -> None:
    labels = [{"target": "click", "column": "y"}, {"target": "buy", "column": "z", "valid_where": "y"}]
    columns = {"a": [1, 2, 3], "y": [True, False, True], "z": [1.0, None, 0.0], "w": [0.5, 2, 1], "g": [-7, 9, None]}

    batch = collate(columns, label=None, labels=labels, weight="w", group="g")

    assert batch.labels.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert batch.weights.tolist() == [[0.5, 0.5], [2, 0], [1, 1]]
    assert batch.groups.tolist() == [-7, 9, NO_GROUP]
    assert batch.labels.dtype == batch.weights.dtype == torch.float32


@pytest.mark.parametrize(
    ("values", "above", "labels"),
    [
        (pa.array([-1, 1, -1], pa.int8()), 0, [0, 1, 0]),
        (pa.array([0, 3, 1], pa.uint16()), 0, [0, 1, 1]),
        (pa.array([0.25, 0.5, 0.75], pa.float64()), 0.5, [0, 0, 1]),
        (pa.array([2**24, 2**24 + 1, 0]), 2**24, [0, 1, 0]),
    ],
)
def test_a_label_may_be_what_is_above_a_number(values: pa.Array, above: float, labels: list[int]) -> None:
    batch = collate({"a": [1, 2, 3], "y": values}, label={"column": "y", "positive_above": above})

    assert batch.labels[:, 0].tolist() == labels


@pytest.mark.parametrize("bad", [None, math.nan])
def test_a_label_above_a_number_has_to_be_one(bad: float | None) -> None:
    with pytest.raises(BadInput, match="expected: a number in every row"):
        collate({"a": [1, 2], "y": pa.array([1.0, bad])}, label={"column": "y", "positive_above": 0})


def test_a_label_of_minus_1_is_refused_with_the_line_for_the_schema() -> None:
    with pytest.raises(BadInput, match=r"is -1(.|\n)*\{column: y, positive_above: 0\}"):
        collate({"a": [1, 2], "y": [1, -1]})


def test_a_label_that_is_missing_is_no_reason_to_speak_of_a_threshold():
    with pytest.raises(BadInput) as refused:
        collate({"a": [1, 2], "y": pa.array([1.0, None])}, label={"column": "y"})
    assert "positive_above" not in str(refused.value)


SECONDS = {"column": "s", "kind": "amount"}


def test_an_amount_is_learnt_as_it_is() -> None:
    labels = [{"column": "y"}, {**SECONDS, "valid_where": "y"}]
    batch = collate({"a": [1, 2], "y": [1, 0], "s": pa.array([12.5, None])}, label=None, labels=labels)
    assert batch.labels.tolist() == [[1, 12.5], [0, 0]]
    assert batch.weights.tolist() == [[1, 1], [1, 0]]
    assert batch.offsets is None


@pytest.mark.parametrize("bad", [-1.0, math.inf, math.nan, None])
def test_what_is_no_amount_is_refused(bad: float | None) -> None:
    with pytest.raises(BadInput, match="expected: a finite number, 0 or more"):
        collate({"a": [1, 2], "y": [1, 0], "s": pa.array([1.0, bad])}, label=None, labels=[{"column": "y"}, SECONDS])


def test_logits_of_a_sampled_log_are_above_those_of_the_whole() -> None:
    labels = [{"column": "y", "sampling_rate": "r"}, {"column": "z", "sampling_rate": 0.5}, {"column": "w"}]
    columns = {"a": [1, 2], "y": [1, 0], "z": [0, 0], "w": [0, 1], "r": [1.0, 0.25]}
    offsets = collate(columns, label=None, labels=labels).offsets
    assert offsets is not None
    torch.testing.assert_close(offsets, torch.tensor([[0.0, math.log(2), 0.0], [math.log(4), math.log(2), 0.0]]))


@pytest.mark.parametrize("bad", [0.0, 1.5, -0.1, math.nan, None])
def test_what_is_no_sampling_rate_is_refused(bad: float | None) -> None:
    with pytest.raises(BadInput, match=r"sampling rate of target 'y'(.|\n)*more than 0, at most 1"):
        collate({"a": [1, 2], "y": [1, 0], "r": pa.array([0.5, bad])}, label={"column": "y", "sampling_rate": "r"})


def test_groups_may_be_strings() -> None:
    groups = collate({"a": [1, 2, 3, 4], "g": ["x", None, "y", "x"]}, group="g").groups

    assert groups.tolist() == [*fingerprints(pa.array(["x"])), NO_GROUP, *fingerprints(pa.array(["y", "x"]))]


def test_without_group_and_weight_there_are_zeros_and_ones() -> None:
    batch = collate({"a": [1, 2]})

    assert batch.groups.tolist() == [0, 0]
    assert batch.weights.tolist() == [[1], [1]]


def test_a_batch_carries_its_step_and_its_cursor() -> None:
    batch = collate({"a": [1]})

    assert (batch.rows, batch.cursor) == (99, CURSOR)


def test_no_rows_make_an_empty_batch() -> None:
    columns = {
        "a": pa.array([], pa.int64()),
        "past": pa.array([], pa.list_(pa.int64())),
        "n": pa.array([], pa.float32()),
        "v": pa.array([], pa.list_(pa.float32(), 2)),
        "g": pa.array([], pa.string()),
    }

    batch = collate(columns, ID, SEQUENCE, NUMBER, VECTOR, group="g")

    assert batch.bags.stride() == 0
    assert batch.bags.lengths().tolist() == batch.bags.values().tolist() == []
    assert (batch.numbers.shape, batch.vectors.shape, batch.labels.shape) == ((0, 1), (0, 2), (0, 1))
    assert batch.tally.rows.tolist() == batch.tally.hashes.tolist() == [0, 0]


def test_a_schema_without_ids_has_no_keys_but_all_rows() -> None:
    batch = collate({"n": [1.0, 2.0]}, NUMBER)

    assert batch.bags.keys() == []
    assert batch.bags.stride() == 2


# --- what is wrong with a row ---


STRAY = pa.array([1, 2, 3])

MISTAKES = [
    ("y", [0, None, 1], [ID], {}, "the label of target 'y' is None"),
    ("y", [0, 2, 1], [ID], {}, "the label of target 'y' is 2"),
    ("y", [0, float("nan"), 1], [ID], {}, "the label of target 'y' is nan"),
    ("y", [0, 1e300, 1], [ID], {}, "the label of target 'y' is 1e[+]300"),
    (
        "where",
        [0, 3, 1],
        [ID],
        {"label": {"column": "y", "valid_where": "where"}},
        "whether the row counts for target 'y' is 3",
    ),
    ("w", [0.0, -1.0, 1.0], [ID], {"weight": "w"}, "the weight of the row is -1"),
    ("w", [0.0, None, 1.0], [ID], {"weight": "w"}, "the weight of the row is None"),
    ("w", [0.0, float("inf"), 1.0], [ID], {"weight": "w"}, "the weight of the row is inf"),
    ("a", [0, 100, 1], [ID], {}, "the id is 100"),
    ("a", [0, -1, 1], [ID], {}, "the id is -1"),
    ("past", [[0], [5, -3], []], [LIST], {}, r"the id is \[5, -3\]"),
    ("past", [[0], [5, NO_ID], []], [{**LIST, "ids": "managed"}], {}, rf"the id is \[5, {NO_ID}\]"),
    ("past", [[0], [1, 2, 3], []], [{**SEQUENCE, "on_overflow": "error"}], {}, "the list has 3 ids"),
    ("past", [[0], [1, 2, 3], []], [{**LIST, "length": 2}], {}, "the list has 3 ids"),
    ("v", [[0, 1], [2, 3, 4], None], [VECTOR], {}, "the vector has 3 numbers"),
    ("v", [[0, 1], [], None], [VECTOR], {}, "the vector has 0 numbers"),
    ("v", [[0.0, 1.0], [2.0, None], None], [VECTOR], {}, r"the vector is \[2.0, None\]"),
    ("v", [[0.0, 1.0], [2.0, float("inf")], None], [VECTOR], {}, r"the vector is \[2.0, inf\]"),
    ("n", [0.0, float("inf"), None], [NUMBER], {}, "the number is inf"),
    ("n", [0.0, float("nan"), None], [{**NUMBER, "transform": "log1p"}], {}, "the number is nan"),
    ("n", [0.0, 1e39, None], [NUMBER], {}, r"the number is 1e\+39"),
    ("t", [[1], [2, 3], None], [{**SEQUENCE, "time": "t"}], {"time": {"column": "now", "unit": "s"}}, r"times is \[2, 3\]"),
    ("now", [1, None, 3], [{**SEQUENCE, "time": "t"}], {"time": {"column": "now", "unit": "s"}}, "time of the row is None"),
]


@pytest.mark.parametrize(("column", "values", "fields", "schema", "message"), MISTAKES)
def test_a_wrong_row_is_told_with_its_file_row_and_column(
    column: str, values: list[Any], fields: list[dict[str, Any]], schema: dict[str, Any], message: str
) -> None:
    others = {"a": STRAY, "past": [[1], [2], []], "t": [[1], [2], []], "now": STRAY, "_file": pa.array([0, 1, 1], pa.int32())}

    with pytest.raises(BadInput, match=message) as caught:
        collate({**others, column: pa.array(values)}, *fields, **schema)

    assert (caught.value.file, caught.value.row, caught.value.column) == ("tuesday.parquet", 101, column)
    assert caught.value.expected
    assert "bad_rows: skip" in str(caught.value)


@pytest.mark.parametrize(("column", "values", "fields", "schema", "message"), MISTAKES)
def test_a_wrong_row_can_be_left_out_and_is_counted(
    column: str, values: list[Any], fields: list[dict[str, Any]], schema: dict[str, Any], message: str
) -> None:
    others = {"a": STRAY, "past": [[1], [2], []], "t": [[1], [2], []], "now": STRAY, "_file": pa.array([0, 1, 1], pa.int32())}
    columns = {**others, column: pa.array(values)}

    batch = collate(columns, *fields, bad_rows="skip", **schema)
    good = pa.record_batch({name: pa.array(values) for name, values in columns.items()}).take(pa.array([0, 2]))
    clean = collate({"_row": [100, 102], **dict(zip(good.schema.names, good.columns, strict=True))}, *fields, **schema)

    assert batch.tally.skipped.tolist() == [0, 1]
    assert batch.tally.rows.tolist() == [1, 1]
    assert batch.tally.hashes.tolist() == clean.tally.hashes.tolist()
    assert batch.labels.tolist() == clean.labels.tolist()
    assert batch.bags.values().tolist() == clean.bags.values().tolist()
    assert batch.rows == 99, "the step divides its loss by the rows that were read"


def test_rows_that_are_wrong_in_different_columns_are_all_left_out() -> None:
    batch = collate({"a": [0, 500, 2, 3], "n": [1.0, 2.0, float("inf"), 4.0], "y": [0, 1, 0, 7]}, ID, NUMBER, bad_rows="skip")

    assert batch.numbers.tolist() == [[1]]
    assert batch.tally.skipped.tolist() == [3, 0]


def test_times_too_fine_for_python_are_told_by_their_number() -> None:
    now = pa.array([1_790_000_000_000_000_009], pa.timestamp("ns"))
    times = pa.array([[1_790_000_000_000_000_001]], pa.list_(pa.timestamp("ns")))

    with pytest.raises(BadInput, match=r"the list of times has 1 values(.|\n)*expected: one time for every event of 'past'"):
        collate(
            {"past": [[1, 2]], "when": times, "now": now}, {**SEQUENCE, "time": "when"}, time={"column": "now", "unit": "ns"}
        )


def test_a_missing_column_is_told_with_the_nearest_one() -> None:
    with pytest.raises(BadInput, match="column 'a' is missing") as caught:
        collate({"aa": [1]})
    assert "did you mean" in str(caught.value) or "valid:" in str(caught.value)
    assert caught.value.file == "monday.parquet"


def test_strings_where_numbers_are_expected_are_told() -> None:
    with pytest.raises(BadInput, match="column 'n' holds string"):
        collate({"n": ["1.5"]}, NUMBER)


@pytest.mark.parametrize("statistics", [Statistics(vocabularies={"a": pa.array([1])}), Statistics(kinds={"a": "integers"})])
def test_ids_of_another_kind_than_the_run_began_with_are_told(statistics: Statistics) -> None:
    field = {"name": "a", "kind": "id", **({} if statistics.vocabularies else {"ids": "hash", "rows": 9})}
    with pytest.raises(BadInput, match="column 'a' holds string") as caught:
        collate({"a": ["1"]}, field, statistics=statistics)
    assert "expected: integers, as when the run began" in str(caught.value)
    assert collate({"a": [1]}, field, statistics=statistics).bags.values()[0] > 0
    assert collate({"a": [None]}, field, statistics=statistics).bags.values().tolist() == [0]


def test_ids_whose_kind_is_not_known_may_be_of_any() -> None:
    field = {"name": "a", "kind": "id", "ids": "hash", "rows": 9}
    for values in ([1], ["1"]):
        collate({"a": values}, field, statistics=Statistics(kinds={"a": None}))


# --- the tally ---

EVERYTHING = [ID, LIST, NUMBER, VECTOR]
ROWS = {
    "a": [1, 2, 3, 4, 5, 6],
    "past": [[1, 2], [2, 1], [], None, [5], [5, 5]],
    "n": [1.0, 0.0, None, 3.0, -1.0, 2.0],
    "v": [[1.0, 2.0], None, [0.0, 1.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]],
    "y": [0, 1, 0, 1, 0, 1],
    "g": ["x", "y", None, "x", "z", "x"],
    "_file": pa.array([0, 1, 0, 1, 1, 0], pa.int32()),
    "_row": [10, 20, 11, 21, 22, 12],
}


def tally(rows: list[int], **changes: Any) -> Tally:
    whole = pa.record_batch({**{name: pa.array(values) for name, values in ROWS.items()}, **changes})
    taken = whole.take(pa.array(rows, pa.int64()))
    return collate(dict(zip(taken.schema.names, taken.columns, strict=True)), *EVERYTHING, group="g").tally


def test_the_tally_counts_rows_and_hashes_for_every_file() -> None:
    found = tally([0, 1, 2, 3, 4])

    assert found.rows.tolist() == [2, 3]
    assert found.hashes[0] != found.hashes[1]
    assert found.hashes.dtype == found.rows.dtype == torch.int64


def test_the_tally_does_not_depend_on_order_or_cuts() -> None:
    whole = tally([0, 1, 2, 3, 4, 5])
    cut = tally([4, 2]) + tally([5]) + tally([]) + tally([0, 3, 1])

    assert whole.stacked().tolist() == cut.stacked().tolist()


def test_a_row_read_twice_or_not_at_all_changes_the_hash() -> None:
    exact = tally([0, 1, 2, 3, 4, 5]).hashes

    assert (tally([0, 1, 2, 3, 4, 4]).hashes[1] != exact[1]).all()
    assert (tally([0, 1, 3, 4, 5]).hashes[0] != exact[0]).all()


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("a", [9, 2, 3, 4, 5, 6]),
        ("past", [[2, 1], [2, 1], [], None, [5], [5, 5]]),
        ("past", [[1, 2], [2, 1], [], None, [5], [5]]),
        ("n", [1.5, 0.0, None, 3.0, -1.0, 2.0]),
        ("v", [[2.0, 1.0], None, [0.0, 1.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]),
        ("y", [1, 1, 0, 1, 0, 1]),
        ("g", ["q", "y", None, "x", "z", "x"]),
        ("_row", [13, 20, 11, 21, 22, 12]),
    ],
)
def test_any_other_content_has_another_hash(column: str, values: list[Any]) -> None:
    changed = tally([0, 1, 2, 3, 4, 5], **{column: pa.array(values)})

    assert changed.hashes[0] != tally([0, 1, 2, 3, 4, 5]).hashes[0]


def test_swapping_a_cell_between_two_rows_changes_the_hash() -> None:
    swapped = [3, 2, 1, 4, 5, 6]  # rows 0 and 2 are both of the first file

    assert tally([0, 1, 2, 3, 4, 5], a=pa.array(swapped)).hashes[0] != tally([0, 1, 2, 3, 4, 5]).hashes[0]


def test_the_hash_of_a_row_follows_the_formula() -> None:
    def mixed(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)

    # The words of a row: label and weight as bits of a float, the mapped id, the row in its file.
    one = 0x3F800000
    words = [(one, one, 1, 100), (0, one, 6, 101), (one, one, 3, 102)]
    factors = odd_numbers(4).tolist()
    hashes = [mixed(sum(w * f for w, f in zip(row, factors, strict=True)) % 2**64) for row in words]

    found = collate({"a": [0, 5, 2], "y": [1, 0, 1]}).tally.hashes[0].item()

    assert found % 2**64 == sum(hashes) % 2**64


def test_hashes_are_summed_exactly_beyond_64_bits() -> None:
    parts = [tally([row]).hashes[0].item() for row in (0, 2, 5)]

    assert (sum(parts) - tally([0, 2, 5]).hashes[0].item()) % 2**64 == 0


def test_list_sums_wrap_and_are_right_all_the_same() -> None:
    big = np.array([2**64 - 1, 5, 2**63, 2**63 + 3, 2**60 + 7], dtype=np.uint64)

    assert segment_sums(big, np.array([2, 0, 2, 1])).tolist() == [4, 0, 3, 2**60 + 7]


def test_the_factors_are_odd_different_and_do_not_depend_on_how_many_are_asked_for() -> None:
    assert (odd_numbers(5000)[:7] == odd_numbers(7)).all()
    assert len(set(odd_numbers(5000).tolist())) == 5000
    assert (odd_numbers(5000) % np.uint64(2) == 1).all()


# --- managed tables ---

MANAGED = {"name": "a", "kind": "id", "ids": "managed", "rows": 100, "managed": {"ttl_days": 3}}
TIME = {"column": "t", "unit": "s"}
NOON = 20_412 * 86_400 + 43_200  # 2025-11-20; the cursor's day is 2026-11-20, that is 20_777


def test_the_ids_of_a_managed_table_stay_as_they_are() -> None:
    batch = collate({"a": [5, None, -(2**62)]}, {**MANAGED, "managed": {}})
    assert batch.bags.values().tolist() == [5, NO_ID, -(2**62)]
    assert batch.days is None


def test_a_row_is_of_the_day_of_its_time_and_never_of_the_far_future() -> None:
    times = pa.array([NOON, 20_777 * 86_400, 20_778 * 86_400 + 5, 99_999 * 86_400, None])
    batch = collate({"a": [1, 2, 3, 4, 5], "t": times}, MANAGED, time=TIME)
    assert batch.days is not None
    assert batch.days.tolist() == [20_412, 20_777, 20_778, 20_778, 20_777]


def test_a_time_in_another_unit_than_the_schema_says_ages_nothing() -> None:
    with pytest.raises(BadInput, match="expected: a time in s, as the schema says"):
        collate({"a": [1], "t": [NOON * 1000]}, MANAGED, time=TIME)


def test_without_a_time_a_row_is_of_the_day_it_lies_in() -> None:
    batch = collate({"a": [1, 2]}, MANAGED)
    assert batch.days is not None
    assert batch.days.tolist() == [20_777, 20_777]


def test_without_a_time_and_a_date_nothing_says_how_old_an_id_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.data.test_collate.CURSOR", Cursor(0, "monday", 0, 1))
    with pytest.raises(BadInput, match=r"nothing says when a row of day 'monday' happened[\s\S]*add `time` to the schema"):
        collate({"a": [1]}, MANAGED)


def test_the_number_that_stands_for_a_missing_id_is_no_id() -> None:
    with pytest.raises(BadInput, match=rf"the id is {NO_ID}[\s\S]*expected: any integer but {NO_ID}"):
        collate({"a": pa.array([5, None, NO_ID])}, {**MANAGED, "managed": {}})


# --- what events carry ---

CARRYING = {
    **SEQUENCE,
    "time": "past_time",
    "payload": {
        "time": "past_time",
        "action": "past_action",
        "session": "past_session",
        "vector": {"column": "past_vector", "dim": 2},
        "ids": {"surface": "past_surface"},
    },
}
CLOCK = {"column": "t", "unit": "ms"}


def carried(ids: list[list[int | None] | None]) -> dict[str, Any]:
    """A log in which everything an event carries follows from its place p in the log: p seconds, action p, session 10 p, …"""
    places = [[100 * row + at for at in range(len(own or []))] for row, own in enumerate(ids)]
    return {
        "past": ids,
        "past_time": [[1000 * p for p in own] for own in places],
        "past_action": places,
        "past_session": [[10 * p for p in own] for own in places],
        "past_vector": pa.array([[[p, -p] for p in own] for own in places], pa.list_(pa.list_(pa.float32()))),
        "past_surface": [[p + 7 for p in own] for own in places],
    }


@pytest.mark.parametrize("events", [False, True])
@pytest.mark.parametrize(
    ("longer", "kept", "places"),
    [
        ("keep_last", [[13, 14], [], [21], []], [2, 3, 200]),
        ("keep_first", [[11, 13], [], [21], []], [0, 2, 200]),
    ],
)
def test_what_an_event_carries_stays_with_its_id_through_every_cut(
    events: bool, longer: str, kept: list[list[int]], places: list[int]
) -> None:
    #   row 0: a null id at place 1, and the event at place 4 is not of the past; row 1 is empty, row 3 null
    log = carried([[11, None, 13, 14, 15], [], [21], None])
    log["t"] = pa.array([4000, 5000, 999_000, 1], pa.int64())
    item = {**ID, "name": "i", "table": "past", "ids": None, "rows": None, "column": "i"}
    batch = collate({**log, "i": [1] * 4}, {**CARRYING, "on_overflow": longer}, item, time=CLOCK, events=events)

    keyed = batch.sequences if events else batch.bags
    assert keyed is not None
    assert [(part - 1).tolist() for part in keyed["past"].to_dense()] == kept
    carries = batch.payloads["past"]
    assert carries["time"].tolist() == [float(p) for p in places]
    assert carries["action"].tolist() == places
    assert carries["session"].tolist() == [10 * p for p in places]
    assert carries["vector"].tolist() == [[p, -p] for p in places]
    assert carries["ids.surface"].tolist() == [p + 7 for p in places]
    assert batch.times is not None
    assert batch.times.tolist() == [4.0, 5.0, 999.0, 0.001], "seconds"
    assert {name: own.dtype for name, own in carries.items()} == {
        "time": torch.float64,
        "action": torch.int64,
        "session": torch.int64,
        "vector": torch.float32,
        "ids.surface": torch.int64,
    }


@pytest.mark.parametrize("events", [True, False], ids=["read event by event", "pooled"])
@pytest.mark.parametrize(("longer", "kept"), [("keep_last", [3, 0]), ("keep_first", [1, 3])])
def test_further_ids_stay_with_their_events_and_a_null_is_a_missing_one(events: bool, longer: str, kept: list[int]) -> None:
    #   the second event has a null id, the last is not of the past
    log = {"past": [[11, None, 13, 14, 15], []], "past_time": [[0, 1, 2, 3, 4], []], "past_author": [[0, 1, 2, None, 4], None]}
    leader = {**SEQUENCE, "time": "past_time", "on_overflow": longer}
    author = {"name": "past_author", "kind": "sequence", "ids": "identity", "rows": 9, "length": 2, "events_of": "past"}
    columns = {**log, "t": [4, 5]}
    batch = collate(columns, {**author, "on_overflow": longer}, leader, time=CLOCK, events=events)

    assert batch.bags["past_author"].lengths().tolist() == [2, 0]
    assert batch.bags["past_author"].values().tolist() == kept


def test_further_ids_that_are_more_than_the_events_are_refused() -> None:
    author = {"name": "past_author", "kind": "sequence", "ids": "identity", "rows": 9, "length": 2, "events_of": "past"}
    with pytest.raises(BadInput, match=r"the list has 2 values(.|\n)*past_author(.|\n)*one value for every event of 'past'"):
        collate({"past": [[1]], "past_author": [[1, 2]]}, SEQUENCE, author)


def test_an_event_that_carries_nothing_says_so() -> None:
    field = {**SEQUENCE, "payload": {name: own for name, own in CARRYING["payload"].items() if name != "time"}}
    nothing = pa.array([[None, None]], pa.list_(pa.int64()))
    vectors = pa.array([[None, [1.0, 2.0]]], pa.list_(pa.list_(pa.float32())))
    columns = {"past": [[1, 2]], "past_action": nothing, "past_session": nothing, "past_surface": nothing}
    batch = collate({**columns, "past_vector": vectors}, field)

    assert {name: own.tolist() for name, own in batch.payloads["past"].items()} == {
        "action": [0, 0],
        "session": [-1, -1],
        "vector": [[0, 0], [1, 2]],
        "ids.surface": [-1, -1],
    }
    assert batch.times is None


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("past_action", [[1]], r"the list has 1 values.*row 100.*past_action.*one value for every event of 'past'"),
        ("past_vector", [[[1.0], [1.0, 2.0]]], r"row 100.*past_vector.*2 finite numbers for every event, or null"),
        ("past_vector", [[[1.0, math.nan], [1.0, 2.0]]], r"past_vector.*2 finite numbers"),
    ],
)
def test_a_payload_that_fits_no_event_is_refused_with_its_row(column: str, values: list[Any], message: str) -> None:
    log = carried([[1, 2]])
    with pytest.raises(BadInput) as error:
        collate({**log, column: values, "t": [5000]}, CARRYING, time=CLOCK)
    assert re.search(message, str(error.value), re.DOTALL), error.value


def test_the_row_hash_has_what_events_carry_and_is_what_it_was_without() -> None:
    log = {**carried([[1, 2]]), "t": [5000]}
    plain = {name: own for name, own in CARRYING.items() if name != "payload"}
    hashes = [collate(log, plain, time=CLOCK).tally.hashes[0]]
    hashes.append(collate({**log, "past_session": [[5, 5]]}, plain, time=CLOCK).tally.hashes[0])
    hashes.append(collate(log, CARRYING, time=CLOCK).tally.hashes[0])
    hashes.append(collate({**log, "past_session": [[5, 5]]}, CARRYING, time=CLOCK).tally.hashes[0])

    assert hashes[0] == hashes[1]
    assert len({int(own) for own in hashes}) == 3


def test_a_batch_takes_what_events_carry_along_to_a_device() -> None:
    log = {**carried([[1, 2]]), "t": [5000]}
    batch = collate(log, CARRYING, time=CLOCK).to(torch.device("meta"))

    assert batch.times is not None
    assert {own.device.type for own in [batch.times, batch.labels, *batch.payloads["past"].values()]} == {"meta"}
    assert batch.tally.rows.device.type == "cpu"
