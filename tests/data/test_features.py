"""Features: the tables of a schema, and the order of everything in a batch.

Run: pytest tests/data/test_features.py
"""

from typing import Any

import pyarrow as pa
import pytest

from data.errors import GenctrError
from data.features import Features, TableSpec
from data.ids import HashIds, IdentityIds, VocabIds
from data.schema import Schema
from data.statistics import Statistics


def schema(*fields: dict[str, Any]) -> Schema:
    return Schema.model_validate({"name": "log", "label": {"column": "y"}, "fields": fields})


USER = {"name": "user", "kind": "id", "ids": "hash", "rows": 100, "dim": 4}
ITEM = {"name": "item", "kind": "id", "ids": "identity", "rows": 50}
TAB = {"name": "tab", "kind": "id", "ids": "vocab"}
TAGS = {"name": "tags", "kind": "ids", "ids": "hash", "rows": 9, "pool": "sum"}
PAST = {"name": "past", "kind": "sequence", "table": "item", "length": 5}
PRICE = {"name": "price", "kind": "number"}
AGE = {"name": "age", "kind": "number", "transform": "buckets", "buckets": 4}
IMAGE = {"name": "image", "kind": "vector", "dim": 3}


def test_every_field_is_a_part_of_the_batch() -> None:
    statistics = Statistics(vocabularies={"tab": pa.array(["a", "b"])}, edges={"age": [1.0]})  # type: ignore[dict-item]
    features = Features(schema(PRICE, USER, PAST, AGE, ITEM, IMAGE, TAB, TAGS), statistics)

    assert features.fields == ("price", "user", "past", "age", "item", "image", "tab", "tags")
    assert features.tables == [
        TableSpec("user", 100, 4, ("user",), pooled=True, pool="sum", reserved=1),
        TableSpec("age", 5, None, ("age",), pooled=True, pool="sum", reserved=1),  # 4 buckets and the missing one
        TableSpec("item", 51, None, ("past", "item"), pooled=True, pool="mean", reserved=1),  # 50 ids and the missing one
        TableSpec("tab", 4, None, ("tab",), pooled=True, pool="sum", reserved=2),  # 2 ids, the unknown and the missing one
        TableSpec("tags", 9, None, ("tags",), pooled=True, pool="sum", reserved=1),
    ]
    assert features.bag_keys == ["user", "age", "past", "item", "tab", "tags"]
    assert features.sequence_keys == []
    assert features.number_fields == ["price"]
    assert features.vector_fields == {"image": 3}


def test_attention_moves_all_fields_of_its_table_to_the_sequences() -> None:
    features = Features(schema(USER, ITEM, PAST), pools={"past": "events"})

    assert features.bag_keys == ["user"]
    assert features.sequence_keys == ["item", "past"]
    assert [table.pooled for table in features.tables] == [True, False]
    assert features.queries == {"past": "item"}


def test_every_field_with_ids_has_the_map_of_its_table() -> None:
    features = Features(schema(USER, ITEM, PAST, TAB), Statistics(vocabularies={"tab": pa.array([7])}))

    assert features.maps["past"] is features.maps["item"]
    assert [type(features.maps[name]) for name in ("user", "item", "tab")] == [HashIds, IdentityIds, VocabIds]


def test_statistics_that_are_missing_are_named() -> None:
    with pytest.raises(GenctrError, match="age, tab: nothing fitted"):
        Features(schema(TAB, AGE, USER))


def test_every_field_says_whom_it_describes() -> None:
    fields = [{**USER, "column": "uid"}, {**ITEM, "role": "item"}, PRICE]
    log = {"name": "log", "label": {"column": "y"}, "group": "uid", "fields": fields}
    features = Features(Schema.model_validate(log))

    assert dict(features.roles) == {USER["name"]: "user", ITEM["name"]: "item", PRICE["name"]: "context"}


def test_the_run_may_say_how_a_sequence_becomes_one_vector() -> None:
    log = schema(USER, ITEM, PAST, TAGS)
    assert [table.pooled for table in Features(log).tables] == [True, True, True]

    features = Features(log, pools={"past": "events"})

    assert {table.name: table.pooled for table in features.tables} == {"user": True, "item": False, "tags": True}
    assert dict(features.pools) == {"past": "events", "tags": "sum"}
    assert dict(features.queries) == {"past": "item"}
    assert features.sequence_keys == ["item", "past"]


def test_a_pooled_table_pools_in_one_way() -> None:
    log = schema(USER, {**TAGS, "pool": "mean"}, {**PAST, "table": "tags"})
    with pytest.raises(GenctrError, match="the fields of table 'tags' pool by mean and by sum"):
        Features(log, pools={"past": "sum"})
