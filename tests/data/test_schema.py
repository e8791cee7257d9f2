"""The schema: every key explained, every contradiction refused, every column checked before it is read.

Run: pytest tests/data/test_schema.py
"""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from data.errors import BadDocument, BadInput
from data.schema import Schema, SequenceField
from data.yaml_document import Section, read_document, write_document

FEED = """
name: feed
label: {column: is_click}
time: {column: time_ms, unit: ms}
group: user_id
fields:
  - {name: user_id,  kind: id,       ids: hash, rows: 1_000_000_000, dim: 16}
  - {name: item_id,  kind: id,       ids: identity, rows: 50_000_000}
  - {name: tab,      kind: id,       ids: vocab}
  - {name: price,    kind: number,   transform: log1p}
  - {name: tags,     kind: ids,      pool: mean}
  - {name: history,  kind: sequence, table: item_id, length: 50, time: history_ms}
  - {name: image,    kind: vector,   dim: 64}
"""

COLUMNS = pa.schema(
    {
        "user_id": pa.string(),
        "item_id": pa.int64(),
        "tab": pa.dictionary(pa.int32(), pa.string()),
        "price": pa.float64(),
        "tags": pa.list_(pa.string()),
        "history": pa.list_(pa.int64()),
        "history_ms": pa.list_(pa.int64()),
        "image": pa.list_(pa.float32(), 64),
        "is_click": pa.int8(),
        "time_ms": pa.timestamp("ms"),
    }
)


def keys_of(model: type[Section]) -> dict[str, dict[str, Any]]:
    """Every key of a document, in every section it is made of."""
    whole = model.model_json_schema()
    sections = {model.__name__: whole, **whole.get("$defs", {})}
    return {f"{name}.{key}": own for name, section in sections.items() for key, own in section["properties"].items()}


def is_number(key: dict[str, Any]) -> bool:
    return any(kind.get("type") in {"integer", "number"} for kind in [key, *key.get("anyOf", [])])


def unexplained(model: type[Section]) -> list[str]:
    """The keys without a description, and the numbers whose description does not begin with a unit."""
    texts = {name: (key.get("description", ""), is_number(key)) for name, key in keys_of(model).items()}
    return [name for name, (text, number) in texts.items() if not text or (number and not text.startswith("["))]


def feed(**changes: Any) -> Schema:
    fields = changes.pop("fields", [{"name": "a", "kind": "id"}])
    return Schema.model_validate({"name": "feed", "label": {"column": "y"}, "fields": fields, **changes})


def test_every_key_says_what_it_is_and_every_number_says_its_unit() -> None:
    assert unexplained(Schema) == []
    assert len(keys_of(Schema)) > 30


def test_a_key_without_an_explanation_or_a_unit_is_found() -> None:
    class Bad(Section):
        silent: str
        rows: int | None = None
        """how many rows"""
        good: int = 1
        """[rows] how many"""

    assert unexplained(Bad) == ["Bad.silent", "Bad.rows"]


def test_the_schema_of_the_design_is_read_and_written_whole(tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(FEED)
    schema = read_document(str(tmp_path / "schema.yaml"), Schema)
    write_document(str(tmp_path / "again.yaml"), schema)

    history = schema.fields[5]
    assert isinstance(history, SequenceField)
    assert (history.column, history.on_overflow, history.ids) == ("history", "keep_last", None)
    assert schema.owner(history).name == "item_id"
    assert schema.target_names == ("is_click",)
    assert read_document(str(tmp_path / "again.yaml"), Schema) == schema


def test_a_run_reads_each_column_once_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(FEED)
    columns = read_document(str(tmp_path / "schema.yaml"), Schema).columns()

    assert sorted(columns) == sorted(COLUMNS.names)


def test_several_labels_name_their_tasks() -> None:
    schema = feed(
        label=None,
        labels=[{"target": "click", "column": "y"}, {"target": "buy", "column": "z", "valid_where": "y"}],
        weight="w",
    )

    assert schema.target_names == ("click", "buy")
    assert schema.columns() == ["a", "y", "z", "w"]


def test_attention_asks_the_first_id_field_of_its_table() -> None:
    past = {"name": "past", "kind": "sequence", "length": 3}
    fields = [{"name": "user", "kind": "id"}, {"name": "item", "kind": "id"}, {**past, "table": "item"}]
    schema = feed(fields=[*fields, {**past, "name": "other", "ids": "vocab"}])

    assert [schema.query(field) for field in schema.fields if isinstance(field, SequenceField)] == ["item", None]


ID = {"name": "a", "kind": "id"}
PAST = {"name": "past", "kind": "sequence", "length": 3}
LIST = {"name": "tags", "kind": "ids"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fields": []}, "at least 1"),
        ({"label": None}, "expected either label or labels"),
        ({"label": None, "labels": []}, "at least 1"),
        ({"label": {"column": "is.click"}}, "target\n  String should match pattern"),
        ({"labels": [{"column": "z"}]}, "expected either label or labels"),
        ({"label": None, "labels": [{"column": "z"}, {"column": "z"}]}, "same target"),
        ({"fields": [ID, ID]}, "two fields are called 'a'"),
        ({"fields": [{**ID, "column": "y"}]}, "'y' is a label"),
        ({"label": {"column": "z", "kind": "amount"}}, "name one of kind binary first"),
        ({"label": None, "labels": [{"column": "z", "kind": "amount", "sampling_rate": 0.5}]}, "leave sampling_rate out"),
        ({"label": {"column": "z", "sampling_rate": 0.0}}, "greater than 0"),
        ({"fields": [{**ID, "name": "a.b"}]}, "match pattern"),
        ({"fields": [{**ID, "ids": "hash"}]}, "ids: hash needs the number of rows"),
        ({"fields": [{**ID, "ids": "identity"}]}, "ids: identity needs the number of rows"),
        ({"fields": [{**ID, "ids": "hash", "rows": 2**32 + 1}]}, "less than or equal to 4294967296"),
        ({"fields": [{**ID, "ids": "hash", "rows": 9, "min_count": 2}]}, "only a vocabulary counts"),
        ({"fields": [{**ID, "rows": 9}]}, "leave rows out"),
        ({"fields": [ID, {**PAST, "table": "b"}]}, "no field 'b' with a table; valid: a"),
        ({"fields": [ID, {**PAST, "table": "a", "dim": 8}]}, "the table belongs to 'a': say dim there"),
        ({"fields": [ID, {**PAST, "table": "a"}, {**PAST, "name": "p", "table": "past"}]}, "no field 'past' with a table"),
        ({"fields": [ID, {**PAST, "time": "t"}]}, "the schema must say time"),
        ({"fields": [ID, {**PAST, "query": "a"}]}, "sequences: {past: {encoder: target_attention, query: a}}"),
        ({"fields": [ID, {**PAST, "pool": "attention"}]}, "the run file says it now: model: {sequences: {past: {encoder: ta"),
        ({"fields": [ID, {**PAST, "pool": "sum"}]}, "sequences: {past: {encoder: sum}}}; without it, mean"),
        ({"fields": [ID, {**LIST, "table": "a"}, {**LIST, "name": "p", "table": "a", "pool": "sum"}]}, "pool alike"),
        ({"fields": [PAST, {**PAST, "name": "p", "events_of": "a"}]}, "no sequence 'a' with events; valid: past"),
        ({"fields": [PAST, {**PAST, "name": "p", "events_of": "past", "length": 4}]}, "give both the same length"),
        (
            {"fields": [PAST, {**PAST, "name": "p", "events_of": "past", "time": "t"}], "time": {"column": "t", "unit": "s"}},
            "there",
        ),
        ({"fields": [{"name": "n", "kind": "number", "transform": "buckets"}]}, "transform: buckets needs their number"),
        ({"fields": [{"name": "n", "kind": "number", "buckets": 3}]}, "no buckets with transform: none"),
    ],
)
def test_a_contradiction_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message.replace("(", r"\(")):
        feed(**changes)


def test_a_file_with_the_right_columns_passes(tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(FEED)

    read_document(str(tmp_path / "schema.yaml"), Schema).check(COLUMNS, "monday.parquet")


@pytest.mark.parametrize(
    ("column", "kind", "message"),
    [
        ("user_id", pa.float64(), "floats lose ids above"),
        ("user_id", pa.list_(pa.int64()), "say kind: ids, sequence or vector"),
        ("user_id", pa.date32(), "a time is neither an id nor a number"),
        ("price", pa.string(), "say kind: id for strings"),
        ("price", pa.timestamp("us"), "a time is neither an id nor a number"),
        ("price", pa.decimal128(10, 2), "write the column as int64 or float64"),
        ("tags", pa.string(), "expected: lists of integers or strings"),
        ("history", pa.list_(pa.float32()), "expected: lists of integers or strings"),
        ("history", pa.list_(pa.string()), "share the table 'item_id', but only one holds strings"),
        ("item_id", pa.string(), "the table says ids: identity"),
        ("history_ms", pa.int64(), "expected: lists of integers or timestamps"),
        ("history_ms", pa.list_(pa.date32()), "write times as timestamps, or as integers"),
        ("time_ms", pa.float64(), "expected: integers or timestamps"),
        ("time_ms", pa.date32(), "write times as timestamps, or as integers"),
        ("image", pa.list_(pa.string()), "expected: lists of floats or integers"),
        ("is_click", pa.string(), "expected: 0 and 1"),
    ],
)
def test_a_column_of_the_wrong_type_is_told_with_file_and_expectation(
    tmp_path: Path, column: str, kind: pa.DataType, message: str
) -> None:
    (tmp_path / "schema.yaml").write_text(FEED)
    columns = COLUMNS.set(COLUMNS.get_field_index(column), pa.field(column, kind))

    with pytest.raises(BadInput, match=r"monday\.parquet") as caught:
        read_document(str(tmp_path / "schema.yaml"), Schema).check(columns, "monday.parquet")
    assert message in str(caught.value)
    assert str(kind) in str(caught.value) or "share" in message


def test_a_missing_column_is_told_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(FEED)
    columns = COLUMNS.set(COLUMNS.get_field_index("history_ms"), pa.field("history_msec", pa.list_(pa.int64())))

    with pytest.raises(BadInput, match="column 'history_ms' is missing") as caught:
        read_document(str(tmp_path / "schema.yaml"), Schema).check(columns, "monday.parquet")
    assert "did you mean 'history_msec'?" in str(caught.value)
    assert "file monday.parquet" in str(caught.value)


def test_a_column_that_is_there_twice_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(FEED)

    with pytest.raises(BadInput, match="column 'tab' is there twice"):
        read_document(str(tmp_path / "schema.yaml"), Schema).check(COLUMNS.append(COLUMNS.field("tab")), "monday.parquet")


def test_a_column_that_two_fields_read_must_fit_both() -> None:
    schema = feed(fields=[{**ID, "column": "x"}, {"name": "n", "kind": "number", "column": "x"}])

    schema.check(pa.schema({"x": pa.int64(), "y": pa.int8()}), "f")
    for kind in (pa.string(), pa.float32()):
        with pytest.raises(BadInput, match="column 'x' holds"):
            schema.check(pa.schema({"x": kind, "y": pa.int8()}), "f")


def test_a_column_of_nothing_but_nulls_fits_every_kind(tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(FEED)

    read_document(str(tmp_path / "schema.yaml"), Schema).check(pa.schema({name: pa.null() for name in COLUMNS.names}), "f")


MANAGED = FEED.replace(
    "ids: identity, rows: 50_000_000}",
    "ids: managed, rows: 50_000_000, managed: {admit_after: 3, evict: lru, ttl_days: 30}}",
)


def test_a_managed_table_as_the_design_has_it(tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(MANAGED)
    schema = read_document(str(tmp_path / "schema.yaml"), Schema)
    (field,) = schema.managed
    assert field.managed is not None
    assert (field.name, field.managed.admit_after, field.managed.evict, field.managed.ttl_days) == ("item_id", 3, "lru", 30)
    assert (field.reserved, field.bucket_rows) == (2, 64)
    assert "time_ms" in schema.columns()


@pytest.mark.parametrize(
    ("field", "managed", "told"),
    [
        ({}, "ttl_days: -1", "managed.ttl_days: Input should be greater than or equal to 1, got -1"),
        ({}, "ttl_days: 0.5", "managed.ttl_days: Input should be a valid integer"),
        ({}, "ttl_days: 30, evict: fifo", "managed.evict: no 'fifo'"),
        ({}, "ttl_day: 30", "managed.ttl_day: unknown key\n  did you mean 'ttl_days'?"),
        ({}, "admit_after: 3, admit_probability: 0.5", "managed.admit_probability: an id is admitted after so many sights, or"),
        ({}, "on_unseen: hashed", "managed.unseen_rows: on_unseen: hashed and unseen_rows belong together"),
        ({}, "unseen_rows: 8", "managed.unseen_rows: on_unseen: hashed and unseen_rows belong together"),
        ({"rows": "65"}, "bucket_size: 64", "rows: 65 rows are too few: 2 are reserved and a bucket has 64"),
        ({"rows": "2"}, "", "rows: 2 rows are too few: 2 are reserved and a bucket has 1"),
        ({"ids": "hash"}, "admit_after: 3", "managed: only a managed table has it: say ids: managed"),
    ],
)
def test_what_a_managed_table_cannot_have_is_told_with_its_line(
    tmp_path: Path, field: dict[str, str], managed: str, told: str
) -> None:
    own = {"ids": "managed", "rows": "1000"} | field | {"managed": f"{{{managed}}}"}
    line = ", ".join(f"{key}: {value}" for key, value in own.items())
    (tmp_path / "schema.yaml").write_text(FEED.replace("ids: identity, rows: 50_000_000", line))
    with pytest.raises(BadDocument, match=re.escape(f"line 8: fields.1.{told}")):
        read_document(str(tmp_path / "schema.yaml"), Schema)


@pytest.mark.parametrize(
    ("old", "told"),
    [
        ("admit: 3", "admit is now managed: {admit_after: …} of the field"),
        ("admit_share: 0.5", "admit_share is now managed: {admit_probability: …} of the field"),
        ("evict: lru", "evict is now managed: {evict: …} of the field"),
        ("ttl_days: 3", "ttl_days is now managed: {ttl_days: …} of the field"),
        ("probe: 64", "probe is now managed: {bucket_size: …} of the field"),
        ("unseen: zero", "unseen is now managed: {on_unseen: …} of the field"),
        ("unseen_rows: 8", "unseen_rows is now managed: {unseen_rows: …} of the field"),
        ("longer: refuse", "longer is now on_overflow of the field (refuse is error)"),
    ],
)
def test_an_old_key_of_a_field_is_refused_with_its_new_place(tmp_path: Path, old: str, told: str) -> None:
    (tmp_path / "schema.yaml").write_text(FEED.replace("rows: 50_000_000", f"rows: 50_000_000, {old}"))
    with pytest.raises(BadDocument, match=re.escape(f"schema.yaml, line 8: fields.1.{told}")):
        read_document(str(tmp_path / "schema.yaml"), Schema)


@pytest.mark.parametrize("label", ["label: {column: is_click, where: seen}", "labels: [{column: is_click, where: seen}]"])
def test_the_old_condition_of_a_label_is_refused(tmp_path: Path, label: str) -> None:
    (tmp_path / "schema.yaml").write_text(FEED.replace("label: {column: is_click}", label))
    with pytest.raises(BadDocument, match=r"schema.yaml, line 3: labels?[.0]*where is now labels?[.0]*valid_where"):
        read_document(str(tmp_path / "schema.yaml"), Schema)


def test_a_field_that_shares_a_managed_table_says_nothing_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(MANAGED.replace("item_id, length", "item_id, managed: {ttl_days: 3}, length"))
    with pytest.raises(BadDocument, match=re.escape("line 12: fields.5.managed: the table belongs to 'item_id'")):
        read_document(str(tmp_path / "schema.yaml"), Schema)


def test_a_managed_column_of_floats_is_refused() -> None:
    managed = feed(fields=[{"name": "a", "kind": "id", "ids": "managed", "rows": 100}])
    columns = pa.schema({"a": pa.float64(), "y": pa.int8()})
    with pytest.raises(BadInput, match=r"column 'a' holds double[\s\S]*floats lose ids above 2\^53"):
        managed.check(columns, "day=1/x.parquet")
