"""Arrow arrays to numpy, without copies where the types allow it."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_STRINGS = {kind.id for kind in (pa.string(), pa.large_string(), pa.string_view())}
_BYTES = {kind.id for kind in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(1))}


def is_text(kind: pa.DataType) -> bool:
    """Strings or bytes, dictionary-encoded or not."""
    return (kind.value_type if pa.types.is_dictionary(kind) else kind).id in _STRINGS | _BYTES


def is_bytes(kind: pa.DataType) -> bool:
    """Bytes, which need not be UTF-8."""
    return kind.id in _BYTES


def is_list(kind: pa.DataType) -> bool:
    """A list with offsets of either width, or of a fixed size."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def element_type(kind: pa.DataType) -> pa.DataType:
    """The type inside a list; the type itself if it is none."""
    return kind.value_type if is_list(kind) else kind


def workable(kind: pa.DataType) -> pa.DataType:
    """The type that Arrow can take from, filter and join: large_string or large_binary for a view, and in a dictionary room for
    the words of several batches; in lists too."""
    if kind in (pa.string_view(), pa.binary_view()):
        return pa.large_string() if kind == pa.string_view() else pa.large_binary()
    if pa.types.is_dictionary(kind):
        return pa.dictionary(pa.int32(), workable(kind.value_type), kind.ordered)
    if not is_list(kind):
        return kind
    element = kind.value_field.with_type(workable(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(element, kind.list_size)
    return pa.large_list(element) if pa.types.is_large_list(kind) else pa.list_(element)


def nulls(array: pa.Array) -> NDArray[np.bool_]:
    """True where there is no value."""
    return np.asarray(array.is_null().to_numpy(zero_copy_only=False))


def values_of(array: pa.Array) -> NDArray[Any]:
    """The values of an array of integers, floats, booleans or timestamps, in their own type; where there is a null they mean
    nothing.

    Arrow's own `to_numpy` turns integers into floats when one of them is null.

    Shape:
        array (N,) -> (N,), a view of Arrow's buffer unless it holds booleans or nothing
    """
    kind = array.type
    if pa.types.is_null(kind) or len(array) == array.null_count:
        return np.zeros(len(array), dtype=np.int64)
    if pa.types.is_boolean(kind):
        array = array.cast(pa.uint8())
        kind = array.type
    dtype = np.dtype(np.int64) if pa.types.is_timestamp(kind) else np.dtype(kind.to_pandas_dtype())
    return np.frombuffer(array.buffers()[1], dtype=dtype, count=len(array), offset=array.offset * dtype.itemsize)


def integers_of(array: pa.Array) -> NDArray[np.int64]:
    """`values_of` as int64; unsigned ones of 64 bits keep their bits."""
    values = values_of(array)
    return values.view(np.int64) if values.itemsize == 8 else values.astype(np.int64)


def lists_of(array: pa.Array) -> tuple[NDArray[np.int64], pa.Array]:
    """The length of every list, 0 for a null, and the elements of all of them.

    Shape:
        array (B,) -> lengths (B,) int64, elements (lengths.sum(),)
    """
    if pa.types.is_null(array.type):
        return np.zeros(len(array), dtype=np.int64), pa.array([], pa.int64())
    return integers_of(pc.list_value_length(array).fill_null(0)), array.flatten()
