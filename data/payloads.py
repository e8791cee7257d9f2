"""What events carry besides their ids: times, actions, sessions, vectors and further integers, one value for every event kept.

N events of a field in the batch.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.arrays import integers_of, lists_of, nulls, values_of
from data.schema import Payload
from data.times import seconds

NO_SESSION = -1
"""The session of an event without one; other integers without a value are -1 too, and an action without one is 0."""

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def values_of_events(name: str, payload: Payload, events: pa.Array, unit: str) -> tuple[NDArray[Any], Mask, str]:
    """The values of one of the payloads, which of them are wrong, and what is expected of them.

    Args:
        name: as `Payload.columns` has it. unit: of times.

    Shape:
        events (N,) -> (N,) float64 for time, (N, dim) float32 for vector, (N,) int64 for all others; (N,) bool
    """
    missing = nulls(events)
    if name == "time":
        return seconds(events, unit), missing, "a time for every event"
    if name == "vector":
        assert payload.vector is not None
        dim = payload.vector.dim
        return *_vectors(events, missing, dim), f"{dim} finite numbers for every event, or null"
    return np.where(missing, 0 if name == "action" else NO_SESSION, integers_of(events)), np.zeros_like(missing), ""


def _vectors(events: pa.Array, missing: Mask, dim: int) -> tuple[NDArray[np.float32], Mask]:
    lengths, numbers = lists_of(events)
    vectors = np.zeros((len(events), dim), dtype=np.float32)
    fits = ~missing & (lengths == dim)
    values = values_of(numbers).astype(np.float32)
    values[nulls(numbers)] = np.nan
    vectors[fits] = values[np.repeat(fits, lengths)].reshape(-1, dim)
    return vectors, ~missing & ~(fits & np.isfinite(vectors).all(axis=1))
