"""Id maps: every id its row, the same one everywhere, and row 0 for what is missing.

Run: pytest tests/data/test_ids.py
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from data.errors import GenctrError
from data.ids import (
    CHUNK,
    ID_MAPS,
    MISSING,
    NO_ID,
    REFUSED,
    UNKNOWN,
    AdmittedIds,
    HashIds,
    IdentityIds,
    RawIds,
    VocabIds,
    check_growth,
    fingerprints,
    id_kind,
    mix,
    rows_before,
    seed_of,
)

MASK = 2**64 - 1


def slow_mix(z: int) -> int:
    """The finaliser of splitmix64, as published, on Python's integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def slow_fnv(text: str) -> int:
    """FNV-1a 64, as published."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def slow_row(word: int, rows: int, seed: int) -> int:
    return 1 + ((slow_mix((word & MASK) ^ seed) >> 32) * (rows - 1) >> 32)


def built(name: str) -> Any:
    """One map of every kind that knows the ids 0 … 9."""
    options = {
        "hash": {"rows": 100, "seed": 7},
        "vocab": {"values": pa.array(range(10))},
        "identity": {"ids": 10},
        "managed": {"rows": 100, "ids": np.arange(9, -1, -1), "places": np.arange(50, 60), "seed": 7},
    }
    return ID_MAPS[name](**options[name])


@pytest.mark.parametrize("name", ID_MAPS)
def test_every_map_gives_row_0_to_nulls_and_only_to_them(name: str) -> None:
    rows = built(name)(pa.array([3, None, 0, None, 9]))

    assert (rows == MISSING).tolist() == [False, True, False, True, False]
    assert rows.dtype == np.int64


@pytest.mark.parametrize("name", ID_MAPS)
def test_every_map_stays_inside_its_table(name: str) -> None:
    rows = built(name)(pa.array(range(10)))

    assert rows.min() > 0
    assert rows.max() < built(name).rows


@pytest.mark.parametrize("name", ID_MAPS)
@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.uint16(), pa.uint64(), pa.dictionary(pa.int8(), pa.int64())])
def test_equal_integers_of_any_type_have_the_same_row(name: str, kind: pa.DataType) -> None:
    ids = [3, None, 0, 9, 3]
    array = pa.array(ids).dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else pa.array(ids, kind)

    assert built(name)(array).tolist() == built(name)(pa.array(ids)).tolist()


@pytest.mark.parametrize("name", ID_MAPS)
def test_every_map_honours_slices_and_writes_where_it_is_told(name: str) -> None:
    ids = pa.array([8, 3, None, 0, 9, 3, 1])
    out = np.full(7, -9)

    built(name)(ids.slice(1, 4), out[2:6])

    assert out[2:6].tolist() == built(name)(ids)[1:5].tolist()
    assert out[[0, 1, 6]].tolist() == [-9, -9, -9]


@pytest.mark.parametrize("name", ID_MAPS)
@pytest.mark.parametrize("kind", [pa.int64(), pa.null()])
def test_every_map_maps_no_ids_to_no_rows(name: str, kind: pa.DataType) -> None:
    assert built(name)(pa.array([], kind)).tolist() == []


@pytest.mark.parametrize("name", ID_MAPS)
def test_a_column_of_nothing_but_nulls_maps_to_row_0(name: str) -> None:
    assert built(name)(pa.nulls(3)).tolist() == [0, 0, 0]
    assert built(name)(pa.nulls(3, pa.int32())).tolist() == [0, 0, 0]


def test_the_mixer_is_the_published_one() -> None:
    # The first two outputs of splitmix64 started at 0: its state is a multiple of the golden gamma.
    gamma = 0x9E3779B97F4A7C15
    out = np.empty(2, dtype=np.uint64)

    mix(np.array([gamma, 2 * gamma & MASK], dtype=np.uint64), np.uint64(0), out, np.empty_like(out))

    assert [hex(word) for word in out.tolist()] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4"]


def test_the_string_hash_is_the_published_one() -> None:
    prints = fingerprints(pa.array(["", "a", "foobar"])).view(np.uint64)

    assert [hex(word) for word in prints.tolist()] == ["0xcbf29ce484222325", "0xaf63dc4c8601ec8c", "0x85944171f73967e8"]


def test_hashed_integers_follow_the_formula() -> None:
    ids = [0, 1, -1, 2**63 - 1, -(2**63), 123456789]
    seed = seed_of("user_id")

    rows = HashIds(rows=1_000_000_000, seed=seed)(pa.array(ids))

    assert rows.tolist() == [slow_row(value, 1_000_000_000, seed) for value in ids]


def test_hashed_strings_follow_the_formula() -> None:
    ids = ["sofa", "", "日本語", "sofa", "a" * 1000, "sof"]

    rows = HashIds(rows=2**32, seed=5)(pa.array(ids))

    assert rows.tolist() == [slow_row(slow_fnv(text), 2**32, 5) for text in ids]


@pytest.mark.parametrize(
    "kind",
    [pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int16(), pa.string())],
)
def test_equal_strings_of_any_type_have_the_same_row(kind: pa.DataType) -> None:
    ids = ["b", None, "a", "b", "never in a vocabulary"]
    array = pa.array(ids).dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else pa.array(ids).cast(kind)

    for own in (HashIds(rows=1000, seed=1), VocabIds(values=pa.array(["a", "b"])), VocabIds(values=pa.array([], pa.int64()))):
        assert own(array).tolist() == own(pa.array(ids)).tolist()
        assert own(array.slice(1, 3)).tolist() == own(pa.array(ids)).tolist()[1:4]


def test_rows_of_hashed_ids_never_change() -> None:
    # Written down once: a model that was trained with these rows must find them again.
    own = HashIds(rows=1_000_000, seed=seed_of("item_id"))

    assert own(pa.array([0, 1, 2, None])).tolist() == [628596, 708526, 561890, 0]
    assert own(pa.array(["0", "sofa", None])).tolist() == [413635, 626976, 0]


def test_more_ids_than_are_mixed_at_a_time_are_all_mixed() -> None:
    ids = np.arange(2 * CHUNK + 5)
    own = HashIds(rows=1000, seed=3)

    assert own(pa.array(ids)).tolist() == [slow_row(int(value), 1000, 3) for value in ids]


def test_hashing_spreads_consecutive_ids_evenly() -> None:
    rows = HashIds(rows=101, seed=seed_of("item_id"))(pa.array(range(100_000)))

    counts = np.bincount(rows, minlength=101)
    assert counts[0] == 0, "row 0 is for missing ids"
    # Chi-square of 100 rows: mean 99, deviation sqrt(2 * 99) = 14.
    assert 99 - 5 * 14 < float(((counts[1:] - 1000) ** 2 / 1000).sum()) < 99 + 5 * 14


def test_two_tables_collide_in_different_ids() -> None:
    ids = pa.array(range(10_000))
    users, items = (HashIds(rows=1000, seed=seed_of(name))(ids) for name in ("user_id", "item_id"))

    pairs_together_in_users = users[:-1] == users[1:]
    assert pairs_together_in_users.any()
    assert not (pairs_together_in_users & (items[:-1] == items[1:])).any()
    assert (users == items).mean() < 0.01


def test_a_number_and_its_digits_are_two_ids() -> None:
    own = HashIds(rows=2**32, seed=1)

    assert own(pa.array([7])).tolist() != own(pa.array(["7"])).tolist()


def test_a_dictionary_longer_than_the_batch_is_not_mapped_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    mapped: list[int] = []
    monkeypatch.setattr("data.ids.fingerprints", lambda ids: mapped.append(len(ids)) or fingerprints(ids))
    ids = pa.DictionaryArray.from_arrays(pa.array([5, 999, None, 5]), pa.array([f"id {n}" for n in range(1000)]))
    own = HashIds(rows=1000, seed=1)

    assert own(ids).tolist() == own(pa.array(["id 5", "id 999", None, "id 5"])).tolist()
    assert max(mapped) <= 4


def test_a_vocabulary_gives_its_ids_rows_2_and_up_and_row_1_to_the_others() -> None:
    own = VocabIds(values=pa.array([30, -10, 20]))

    assert own(pa.array([20, 30, -10, 99, None])).tolist() == [4, 2, 3, UNKNOWN, MISSING]
    assert own.rows == 5


def test_a_vocabulary_of_strings_compares_them_and_not_only_their_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.ids.fingerprints", lambda ids: np.array([len(text) for text in ids.to_pylist()]))
    own = VocabIds(values=pa.array(["red", "blue"]))

    assert own(pa.array(["red", "tan", "pink", "blue"])).tolist() == [2, UNKNOWN, UNKNOWN, 3]


def test_a_vocabulary_whose_hashes_collide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.ids.fingerprints", lambda ids: np.zeros(len(ids), dtype=np.int64))

    with pytest.raises(GenctrError, match="same 64-bit hash"):
        VocabIds(values=pa.array(["red", "tan"]))


def test_what_kind_of_ids_a_type_holds() -> None:
    integers, strings = (pa.int8(), pa.bool_()), (pa.string_view(), pa.binary(), pa.dictionary(pa.int8(), pa.large_string()))
    assert {id_kind(kind) for kind in integers} == {"integers"}
    assert {id_kind(kind) for kind in strings} == {"strings"}
    assert id_kind(pa.null()) is None


def test_an_empty_vocabulary_knows_nothing() -> None:
    assert VocabIds(values=pa.array([], pa.int64()))(pa.array([1, None])).tolist() == [UNKNOWN, MISSING]
    assert VocabIds(values=pa.array([], pa.int64()))(pa.array(["a", None])).tolist() == [UNKNOWN, MISSING]


def test_identity_adds_one_and_refuses_what_is_outside() -> None:
    own = IdentityIds(ids=4)

    assert own(pa.array([0, 3, 4, -1, None])).tolist() == [1, 4, REFUSED, REFUSED, MISSING]
    assert own.rows == 5


def test_booleans_are_the_ids_0_and_1() -> None:
    assert IdentityIds(ids=2)(pa.array([True, False, None])).tolist() == [2, 1, 0]


def test_raw_ids_keep_all_64_bits_and_mark_what_is_missing() -> None:
    raw = RawIds(rows=100)
    assert raw(pa.array([-1, None, 2**63 - 1, 0], pa.int64())).tolist() == [-1, NO_ID, 2**63 - 1, 0]
    texts = pa.array(["a", None, "b", "a"])
    words = raw(texts)
    assert words.view(np.uint64).tolist() == [slow_fnv("a"), 2**63, slow_fnv("b"), slow_fnv("a")]
    assert raw(texts.dictionary_encode()).tolist() == words.tolist()


def test_admitted_ids_have_their_rows_and_all_others_share_one() -> None:
    own = AdmittedIds(rows=100, ids=np.array([7, -3, 10**18]), places=np.array([20, 30, 40]), seed=1)
    assert own(pa.array([10**18, 8, None, -3, 7])).tolist() == [40, UNKNOWN, MISSING, 30, 20]
    assert AdmittedIds(rows=100, ids=np.array([], np.int64), places=np.array([], np.int64), seed=1)(pa.array([8])).tolist() == [
        1
    ]


def test_ids_that_are_not_admitted_may_share_some_rows_by_hash() -> None:
    own = AdmittedIds(rows=100, ids=np.array([7]), places=np.array([20]), seed=99, unseen_rows=8)
    ids = np.arange(1000)
    rows = own(pa.array(ids))
    expected = [2 + ((slow_mix(int(word) ^ 99) & (2**32 - 1)) * 8 >> 32) for word in ids]
    expected[7] = 20
    assert rows.tolist() == expected


# Tables that grow.


def test_the_rows_of_a_larger_table_go_on_from_rows_of_the_smaller_one() -> None:
    rows = np.arange(7)
    assert rows_before("hash", rows, before=4, now=7).tolist() == [0, 1, 1, 2, 2, 3, 3]
    assert rows_before("hash", rows[3:5], before=3, now=7).tolist() == [1, 2]
    assert rows_before("identity", rows, before=4, now=7).tolist() == [0, 1, 2, 3, -1, -1, -1]


@pytest.mark.parametrize(("before", "now"), [(2, 30), (4, 7), (1001, 4001), (32768, 65535)])
def test_no_hashed_id_loses_its_row_when_a_table_grows(before: int, now: int) -> None:
    ids = pa.array(np.random.default_rng(3).integers(-(2**62), 2**62, 5000))
    smaller, larger = HashIds(rows=before, seed=5)(ids), HashIds(rows=now, seed=5)(ids)
    assert rows_before("hash", larger, before=before, now=now).tolist() == smaller.tolist()


def test_a_hashed_table_cannot_grow_to_any_size() -> None:
    check_growth("identity", before=4, now=6)
    with pytest.raises(GenctrError, match=r"4 rows cannot grow to 6: its ids would all move\n  next: choose 7 rows"):
        check_growth("hash", before=4, now=6)
    with pytest.raises(GenctrError, match=r"choose 7 or 10 rows"):
        rows_before("hash", np.arange(9), before=4, now=9)
