"""Arrow arrays to numpy, without copies where the types allow it."""

from dataclasses import dataclass
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
    the words of several batches; in lists too. Of an extension type, such as a UUID, what it is stored as."""
    if isinstance(kind, pa.BaseExtensionType):
        return workable(kind.storage_type)
    if kind in (pa.string_view(), pa.binary_view()):
        return pa.large_string() if kind == pa.string_view() else pa.large_binary()
    if pa.types.is_dictionary(kind):
        return pa.dictionary(pa.int32(), workable(kind.value_type), kind.ordered)
    if not is_list(kind):
        return kind
    return _list_of(kind, workable(kind.value_type))


def alike(one: pa.DataType, other: pa.DataType, ids: bool = False) -> tuple[pa.DataType, pa.DataType]:
    """Two types of a column without what only their writers chose: a dictionary in one of them, bytes of 0 and 1 for booleans,
    and of ids the sign of 64 bits; in lists too. What holds both is Arrow's to say."""
    if is_list(one) and is_list(other):
        elements = alike(one.value_type, other.value_type, ids)
        one, other = (_list_of(own, element) for own, element in zip((one, other), elements, strict=True))
        return one, other
    if pa.types.is_dictionary(one) != pa.types.is_dictionary(other):
        one, other = (own.value_type if pa.types.is_dictionary(own) else own for own in (one, other))
    if pa.types.is_boolean(one) and pa.types.is_integer(other):
        return other, other
    if pa.types.is_integer(one) and pa.types.is_boolean(other):
        return one, one
    if ids and pa.uint64() in (one, other) and (pa.types.is_signed_integer(one) or pa.types.is_signed_integer(other)):
        return pa.uint64(), pa.uint64()
    return one, other


def _list_of(kind: pa.DataType, element: pa.DataType) -> pa.DataType:
    """The list type with other elements."""
    field = kind.value_field.with_type(element)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(field, kind.list_size)
    return pa.large_list(field) if pa.types.is_large_list(kind) else pa.list_(field)


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


@dataclass(frozen=True)
class Lists:
    """The lists of one column.

    Attributes:
        lengths: (B,) of each.
        elements: of all of them, (N,).
        places: (N,) where these stood in the column, if anyone asks.
    """

    lengths: NDArray[np.int64]
    elements: pa.Array
    places: NDArray[np.int64] | None = None

    def keep(self, mask: NDArray[np.bool_]) -> "Lists":
        """The lists without the elements that are not in the mask, (N,)."""
        if mask.all():
            return self
        places = self.places[mask] if self.places is not None else None
        return Lists(segment_sums(mask, self.lengths), self.elements.filter(pa.array(mask)), places)

    def ascending(self, keys: NDArray[np.int64]) -> "Lists":
        """Every list in the order of its elements' keys, (N,); equal ones stay in the order they are in."""
        owners = np.repeat(np.arange(len(self.lengths)), self.lengths)
        if not ((keys[1:] < keys[:-1]) & (owners[1:] == owners[:-1])).any():
            return self
        order = np.lexsort((keys, owners))
        places = self.places[order] if self.places is not None else None
        return Lists(self.lengths, self.elements.take(pa.array(order)), places)


def positions_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where every element stands in its list, from 0.

    Shape:
        lengths (B,) -> (lengths.sum(),)
    """
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def segment_sums(values: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[Any]:
    """The sum over every list; 64-bit sums wrap, and are right all the same.

    Shape:
        values (lengths.sum(),), lengths (B,) -> (B,)
    """
    totals = np.zeros(len(values) + 1, dtype=np.int64 if values.dtype == np.bool_ else values.dtype)
    np.cumsum(values, out=totals[1:])
    ends = np.cumsum(lengths)
    return np.asarray(totals[ends] - totals[ends - lengths])
