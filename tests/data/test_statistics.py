"""Statistics: what one pass over the log finds, and that it is stored whole.

Run: pytest tests/data/test_statistics.py
"""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import BadInput, GenctrError
from data.ids import VocabIds
from data.schema import Schema
from data.seal import sealed
from data.statistics import Statistics, fit, id_columns, id_kinds, unsigned_tables


def schema(*fields: dict[str, Any]) -> Schema:
    return Schema.model_validate({"name": "log", "label": {"column": "y"}, "fields": fields})


ITEM = {"name": "item", "kind": "id", "ids": "vocab"}
PRICE = {"name": "price", "kind": "number", "transform": "standardise"}
AGE = {"name": "age", "kind": "number", "transform": "buckets", "buckets": 4}


def batches(**columns: list[Any]) -> list[pa.RecordBatch]:
    """The columns and a label, in record batches of two rows."""
    whole = labelled(columns)
    return [whole.slice(start, 2) for start in range(0, whole.num_rows, 2)]


def labelled(columns: dict[str, Any]) -> pa.RecordBatch:
    """The columns and a label."""
    rows = len(next(iter(columns.values())))
    return pa.record_batch({"y": pa.array([0] * rows, pa.int8()), **columns})


def test_a_vocabulary_is_ordered_by_count_and_then_by_value() -> None:
    ids = [5, 3, 9, 3, None, 9, 7, -2]

    found = fit(schema(ITEM), batches(item=ids)).vocabularies["item"]

    assert found.to_pylist() == [3, 9, -2, 5, 7]


def test_ids_that_are_too_rare_are_left_out() -> None:
    found = fit(schema({**ITEM, "min_count": 2}), batches(item=["b", "a", "c", "b", "a", "b"]))

    assert found.vocabularies["item"].to_pylist() == ["b", "a"]


def test_integers_on_one_day_and_strings_on_the_next_are_told() -> None:
    days = [*batches(item=[1, 2]), *batches(item=[None, None]), *batches(item=["1", "2"])]

    with pytest.raises(BadInput, match=r"column 'item' holds integers on some of the days") as caught:
        fit(schema(ITEM), days)
    assert caught.value.column == "item"


def test_fields_that_share_a_table_are_counted_together() -> None:
    past = {"name": "past", "kind": "sequence", "table": "item", "length": 1}
    columns = {"item": [1, 2], "past": [[3, 3, None], None]}

    fitted = fit(schema(ITEM, past), batches(**columns))

    assert fitted.vocabularies["item"].to_pylist() == [3, 1, 2]
    assert Statistics.columns(schema(ITEM, past)) == ["item", "past", "y"]


def test_counts_are_the_same_however_the_log_is_cut() -> None:
    ids = labelled({"item": np.random.default_rng(0).integers(0, 300_000, 2_500_000)})

    whole = fit(schema(ITEM), [ids]).vocabularies["item"]
    parts = fit(schema(ITEM), [ids.slice(start, 99_999) for start in range(0, 2_500_000, 99_999)]).vocabularies["item"]

    assert whole.equals(parts)


def test_dictionaries_and_plain_strings_are_counted_alike() -> None:
    plain = pa.array(["a", "b", "b", None])
    mixed = [labelled({"item": plain}), labelled({"item": plain.dictionary_encode()})]

    assert fit(schema(ITEM), mixed).vocabularies["item"].to_pylist() == ["b", "a"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.binary(2), pa.dictionary(pa.int8(), pa.large_binary())])
def test_bytes_need_not_be_utf8_and_are_counted_with_strings(kind: pa.DataType) -> None:
    ids = pa.array([b"\xff\xfe", b"ab", b"ab", None])
    own = ids.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else ids.cast(kind)
    both = [labelled({"item": column}) for column in (own, pa.array(["ab", "cd"]))]

    assert fit(schema(ITEM), both[:1]).vocabularies["item"].to_pylist() == [b"ab", b"\xff\xfe"]
    assert fit(schema(ITEM), both).vocabularies["item"].to_pylist() == [b"ab", b"cd", b"\xff\xfe"]


def test_mean_and_deviation_leave_out_what_is_not_there() -> None:
    # 1, 2, 6: mean 3, squared deviations 4 + 1 + 9 = 14, over 3.
    found = fit(schema(PRICE), batches(price=[1.0, None, 2.0, float("nan"), 6.0, float("inf")])).moments["price"]

    assert found.mean == pytest.approx(3)
    assert found.deviation == pytest.approx((14 / 3) ** 0.5)


def test_deviations_are_exact_beside_a_large_mean() -> None:
    found = fit(schema(PRICE), batches(price=[1e9 + value for value in (1.0, 2.0, 6.0)])).moments["price"]

    assert found.deviation == pytest.approx((14 / 3) ** 0.5, rel=1e-6)


def test_a_constant_and_a_column_of_nulls_have_deviation_1() -> None:
    assert fit(schema(PRICE), batches(price=[4, 4, 4])).moments["price"].deviation == 1
    assert fit(schema(PRICE), [labelled({"price": [0.1] * 3})]).moments["price"].deviation == 1  # their mean is not 0.1
    assert fit(schema(PRICE), [labelled({"price": pa.nulls(3)})]).moments["price"].deviation == 1


def test_bucket_edges_are_quantiles() -> None:
    # Of 8 values in 4 buckets, 2 are in each: the edges are the 2nd, 4th and 6th.
    found = fit(schema(AGE), batches(age=[8, 1, 7, 2, 6, 3, 5, 4])).edges["age"]

    assert found.tolist() == [2, 4, 6]


def test_a_value_that_repeats_makes_fewer_edges() -> None:
    assert fit(schema(AGE), batches(age=[1, 1, 1, 1, 1, 1, 1, 9])).edges["age"].tolist() == [1]


def test_quantiles_of_a_sample_are_near_those_of_all_rows_and_seeded() -> None:
    ages = [labelled({"age": np.arange(start, start + 1000)}) for start in range(0, 100_000, 1000)]

    first, again, other = (fit(schema(AGE), ages, 5000, seed).edges["age"] for seed in (1, 1, 2))

    # The deviation of a quantile of 5,000 sampled of 100,000 rows is at most 100,000 * 0.5 / sqrt(5000) = 707.
    np.testing.assert_allclose(first, [25_000, 50_000, 75_000], atol=5 * 707)
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_only_what_has_to_be_fitted_is_read() -> None:
    plain = {"name": "user", "kind": "id", "ids": "hash", "rows": 10}

    assert Statistics.columns(schema(plain, {"name": "n", "kind": "number"})) == ["y"]
    assert Statistics.columns(schema(plain, ITEM, {**PRICE, "column": "cents"}, AGE)) == ["item", "cents", "age", "y"]


def test_the_kind_of_a_tables_ids_is_that_of_any_column_that_says_it() -> None:
    user = {"name": "user", "kind": "id", "ids": "hash", "rows": 10}
    friends = {"name": "friends", "kind": "ids", "table": "user"}
    types = pa.schema({"user": pa.null(), "friends": pa.list_(pa.string()), "item": pa.int32(), "age": pa.int8()})
    own = schema(user, friends, ITEM, AGE)

    assert id_columns(own) == ["user", "friends", "item"]
    assert id_kinds(own, types) == {"user": "strings", "item": "integers"}
    assert id_kinds(schema(user), types) == {"user": None}


def test_a_vocabulary_says_itself_what_kind_its_ids_are() -> None:
    fitted = Statistics(vocabularies={"a": pa.array(["x"]), "b": pa.array([], pa.int64())}, kinds={"a": None, "b": "strings"})

    assert [fitted.kind(table) for table in ("a", "b", "c")] == ["strings", "strings", None]


def test_what_is_new_in_a_schema_is_missing() -> None:
    user = {"name": "user", "kind": "id", "ids": "hash", "rows": 10}
    known = Statistics(vocabularies={"item": pa.array([1])}, kinds={"item": "integers"})

    assert known.are_enough_for(schema(ITEM))
    assert not known.are_enough_for(schema(ITEM, user))
    assert not known.are_enough_for(schema(ITEM, AGE))


def test_what_is_stored_is_what_is_loaded(tmp_path: Path) -> None:
    tag = {"name": "tag", "kind": "ids", "ids": "vocab"}
    columns = {"item": [1, 1, 2], "price": [0.1, 0.2, 0.4], "age": [1, 2, 3], "tag": [["x"], None, ["y", "x"]]}
    fitted = replace(fit(schema(ITEM, PRICE, AGE, tag), batches(**columns)), kinds={"item": "integers", "tag": None})

    fitted.save(f"{tmp_path}/run/statistics")
    loaded = Statistics.load(f"{tmp_path}/run/statistics")

    assert loaded.vocabularies == fitted.vocabularies
    assert loaded.moments == fitted.moments
    assert {name: edges.tolist() for name, edges in loaded.edges.items()} == {"age": fitted.edges["age"].tolist()}
    assert loaded.fitted == {"item", "price", "age", "tag"}
    assert loaded.kinds == fitted.kinds
    assert loaded.labels == fitted.labels == {"y": (0.0, 3.0)}


def test_a_disk_that_fills_while_they_are_stored_again_leaves_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = fit(schema(ITEM), batches(item=[1, 2, 2]))
    fitted.save(str(tmp_path))

    def full(table: pa.Table, file: Any) -> None:
        file.write(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data.statistics.pq.write_table", full)
    with pytest.raises(OSError, match="No space left"):
        fit(schema(ITEM), batches(item=[1, 2, 3])).save(str(tmp_path))

    assert Statistics.load(str(tmp_path)).vocabularies == fitted.vocabularies


def test_statistics_that_were_not_stored_whole_are_refused(tmp_path: Path) -> None:
    fitted = fit(schema(ITEM), batches(item=[1, 2]))
    with pytest.raises(GenctrError, match="no usable statistics"):
        Statistics.load(str(tmp_path))

    fitted.save(str(tmp_path))
    document = json.loads((tmp_path / "statistics.json").read_text())
    (tmp_path / "statistics.json").write_text(sealed({**document, "vocabularies": {"item": 3}}))
    with pytest.raises(GenctrError, match="the vocabulary of item"):
        Statistics.load(str(tmp_path))

    fitted.save(str(tmp_path))
    (tmp_path / "vocabulary.item.parquet").write_bytes(b"PAR1")
    with pytest.raises(GenctrError, match=r"vocabulary\.item\.parquet: .* is not what was written"):
        Statistics.load(str(tmp_path))


@pytest.mark.parametrize("name", ["statistics.json", "vocabulary.item.parquet"])
def test_no_flipped_bit_of_stored_statistics_is_loaded(tmp_path: Path, name: str) -> None:
    fitted = fit(schema(ITEM, PRICE), batches(item=[7, 8, 8], price=[0.5, 1.0, 2.0]))
    fitted.save(str(tmp_path))
    whole = (tmp_path / name).read_bytes()
    for at in range(len(whole)):
        altered = bytearray(whole)
        altered[at] ^= 1 << at % 8
        (tmp_path / name).write_bytes(bytes(altered))
        with suppress(GenctrError):
            assert Statistics.load(str(tmp_path)) == fitted, at


def test_statistics_from_before_digests_are_loaded(tmp_path: Path) -> None:
    fitted = fit(schema(ITEM), batches(item=[7, 8, 8]))
    fitted.save(str(tmp_path))
    document = json.loads((tmp_path / "statistics.json").read_text())
    older = {key: own for key, own in document.items() if key not in ("digests", "sha256")}
    (tmp_path / "statistics.json").write_text(json.dumps(older))

    assert not Statistics.has_digests(str(tmp_path))
    assert Statistics.load(str(tmp_path)) == fitted


def test_a_vocabulary_that_is_stored_already_is_left_as_it_is(tmp_path: Path) -> None:
    fitted = fit(schema(ITEM), batches(item=[7, 8, 8]))
    pq.write_table(pa.table({"id": fitted.vocabularies["item"]}), tmp_path / "vocabulary.item.parquet", compression="none")
    before = (tmp_path / "vocabulary.item.parquet").read_bytes()

    fitted.save(str(tmp_path))

    assert (tmp_path / "vocabulary.item.parquet").read_bytes() == before
    assert Statistics.load(str(tmp_path)) == fitted


def test_labels_are_counted_by_weight_where_they_count() -> None:
    labels = [{"column": "click"}, {"column": "buy", "valid_where": "click"}]
    own = Schema.model_validate(
        {"name": "log", "labels": labels, "weight": "w", "fields": [{**ITEM, "ids": "hash", "rows": 9}]}
    )
    rows = {
        "click": [1, 1, 0, 0, None, 7, 1],
        "buy": [1, 0, None, None, None, None, 1],
        "w": [2.0, 1.0, 1.0, 4.0, 9.0, 9.0, float("nan")],
    }
    assert set(Statistics.columns(own)) == rows.keys()

    found = fit(own, batches(**rows))

    assert found.labels == {"click": (3.0, 8.0), "buy": (2.0, 3.0)}
    assert found.log_odds("click") == pytest.approx(np.log(3.5 / 5.5))


def test_labels_above_a_threshold_are_counted_as_training_reads_them() -> None:
    label = {"column": "stars", "positive_above": 3}
    own = Schema.model_validate({"name": "log", "label": label, "fields": [{**ITEM, "ids": "hash", "rows": 9}]})
    assert fit(own, batches(stars=[5, 4, 3, -1, None])).labels == {"stars": (2.0, 4.0)}


@pytest.mark.parametrize(("counted", "logit"), [((0, 0), 0.0), ((0, 199), np.log(0.5 / 199.5)), ((3, 3), np.log(7))])
def test_the_base_rates_logit_is_finite_without_clicks_and_without_rows(counted: tuple[float, float], logit: float) -> None:
    assert Statistics(labels={"y": counted}).log_odds("y") == pytest.approx(logit)
    assert Statistics.nothing().log_odds("y") == 0


def test_columns_of_strings_are_those_whose_tables_began_with_strings() -> None:
    fields = [{"name": name, "kind": "id", "ids": "vocab", "column": f"c_{name}"} for name in ("word", "count", "empty")]
    schema = Schema.model_validate({"name": "log", "label": {"column": "y"}, "fields": fields})
    known = Statistics(vocabularies={"word": pa.array(["0a"]), "count": pa.array([1])}, kinds={"empty": None})

    assert known.string_columns(schema) == {"c_word"}


def test_ids_without_a_sign_leave_as_the_log_has_them(tmp_path: Path) -> None:
    big = 2**63 + 5
    fields = [
        {"name": "u", "kind": "id"},
        {"name": "h", "kind": "sequence", "table": "u", "length": 2},
        {"name": "i", "kind": "id"},
    ]
    schema = Schema.model_validate({"name": "log", "label": {"column": "y"}, "fields": fields})
    unsigned = unsigned_tables(schema, pa.schema({"u": pa.int64(), "h": pa.list_(pa.uint64()), "i": pa.int64()}))
    Statistics(unsigned=unsigned).save(str(tmp_path))
    known = Statistics.load(str(tmp_path))
    stored = pa.array([big - 2**64, None, 7], pa.int64())

    assert known.unsigned == {"u"}
    assert known.as_logged("u", stored).to_pylist() == [big, None, 7]
    assert known.as_logged("i", stored) is stored
    assert VocabIds(values=known.as_logged("u", stored.drop_null()))(pa.array([big], pa.uint64())).tolist() == [2]
