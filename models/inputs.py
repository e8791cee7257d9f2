"""What a model may read: one object of tensors, and what its fields are called.

B rows, F fields, D width of a vector, E width of a second vector, N events of a sequence in the whole batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor
from torchrec import KeyedJaggedTensor

Role = Literal["user", "item", "context"]


@dataclass
class Payload:
    """What the events of one sequence carry besides their ids, in the order of the ids; None for what was not declared.

    Attributes:
        times_N: (N,) float64 [s since 1970].
        actions_N: (N,) int64, bit masks; 0 for no action.
        sessions_N: (N,) int64; -1 for no session.
        vectors_NX: (N, X) float32.
        ids: name -> (N,) int64, further integers; -1 for none.
    """

    times_N: Tensor | None = None
    actions_N: Tensor | None = None
    sessions_N: Tensor | None = None
    vectors_NX: Tensor | None = None
    ids: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class Inputs:
    """All that a model may read of a batch; no label is in it.

    Attributes:
        bags, sequences: KeyedJaggedTensors of B rows, the ids of pooled and of unpooled tables; None where there are none.
        numbers_BN: (B, number fields). vectors_BX: (B, sum of the widths of vector fields).
        payloads: sequence field -> what its events carry.
        time_B: (B,) float64 [s since 1970] of the rows, if events carry times.
    """

    bags: KeyedJaggedTensor | None
    sequences: KeyedJaggedTensor | None
    numbers_BN: Tensor
    vectors_BX: Tensor
    payloads: Mapping[str, Payload] = field(default_factory=dict)
    time_B: Tensor | None = None


@dataclass(frozen=True)
class FieldInfo:
    """What a decoder may know of a field.

    Args:
        name: as the user calls it. role: whom it describes.
        kind: id, ids, sequence, number or vector.
        cardinality: [values] it can have; 1 for a number or a vector.
        width: [columns] of its own vector, before the field embedding makes it as wide as all the others; 1 for a number.
    """

    name: str
    role: Role = "context"
    kind: str = "id"
    cardinality: int = 1
    width: int = 1


@dataclass
class FieldVectors:
    """What a decoder reads of a batch.

    Attributes:
        emb_BFD: (B, F, D) a vector for every field.
        linear_BF: (B, F) first-order terms, for decoders that want them.
        second_BFE: (B, F, E) a second vector for every field, for decoders that want it.
    """

    emb_BFD: Tensor
    linear_BF: Tensor | None = None
    second_BFE: Tensor | None = None
