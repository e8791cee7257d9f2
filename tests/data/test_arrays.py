"""Arrow arrays to numpy: the values as they are, without copies where the type allows.

Run: pytest tests/data/test_arrays.py
"""

import numpy as np
import pyarrow as pa
import pytest

from data.arrays import alike, integers_of, is_text, lists_of, nulls, values_of


def test_integers_stay_integers_beside_a_null() -> None:
    values = values_of(pa.array([2**62 + 1, None, 3]))

    assert values.dtype == np.int64
    assert values[[0, 2]].tolist() == [2**62 + 1, 3]


def test_values_of_64_bits_are_not_copied() -> None:
    array = pa.array(range(10)).slice(3, 4)

    assert values_of(array).__array_interface__["data"][0] == array.buffers()[1].address + 3 * 8
    assert integers_of(array).tolist() == [3, 4, 5, 6]


def test_unsigned_integers_of_64_bits_keep_their_bits() -> None:
    assert integers_of(pa.array([2**64 - 1], pa.uint64())).tolist() == [-1]


@pytest.mark.parametrize("array", [pa.nulls(2), pa.nulls(2, pa.float32()), pa.array([], pa.bool_())])
def test_nothing_has_no_values_but_its_length(array: pa.Array) -> None:
    assert len(values_of(array)) == len(array)
    assert nulls(array).all()


def test_lists_come_apart_into_lengths_and_elements() -> None:
    lengths, elements = lists_of(pa.array([[9], [1, 2], None, [], [3]]).slice(1))

    assert lengths.tolist() == [2, 0, 0, 1]
    assert elements.to_pylist() == [1, 2, 3]


@pytest.mark.parametrize("kind", [pa.string(), pa.binary(4), pa.string_view(), pa.dictionary(pa.int8(), pa.large_string())])
def test_text_is_text_in_every_encoding(kind: pa.DataType) -> None:
    assert is_text(kind)


def test_a_dictionary_of_integers_is_not_text() -> None:
    assert not is_text(pa.dictionary(pa.int8(), pa.int64()))


WORDS = pa.dictionary(pa.int32(), pa.string())


@pytest.mark.parametrize(
    ("one", "other", "ids", "same"),
    [
        (WORDS, pa.string(), False, pa.string()),
        (pa.list_(WORDS), pa.list_(pa.string()), False, pa.list_(pa.string())),
        (pa.bool_(), pa.int8(), False, pa.int8()),
        (pa.uint64(), pa.int64(), True, pa.uint64()),
        (pa.list_(pa.int32()), pa.list_(pa.uint64()), True, pa.list_(pa.uint64())),
        (WORDS, WORDS, False, WORDS),
    ],
)
def test_types_that_only_writers_chose_become_one(one: pa.DataType, other: pa.DataType, ids: bool, same: pa.DataType) -> None:
    assert alike(one, other, ids) == alike(other, one, ids) == (same, same)


@pytest.mark.parametrize(("one", "other"), [(pa.int64(), pa.string()), (pa.uint64(), pa.int64()), (pa.int32(), pa.float64())])
def test_types_that_mean_something_stay(one: pa.DataType, other: pa.DataType) -> None:
    assert alike(one, other) == (one, other)
