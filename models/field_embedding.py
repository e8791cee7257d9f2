"""Field embedding: whatever a field is, it becomes one vector of the model's width.

B rows, F fields, D the model's width, N events of a field in the whole batch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn

from models import layers
from models.inputs import Inputs, Payload
from models.sequences import SequenceEncoder
from models.sequences.pooling import pool
from models.sparse import JaggedEvents, Lookups

NOTHING = Payload()


@dataclass(frozen=True)
class Field:
    """One field, as the model sees it.

    Attributes:
        source: "table" (looked up by SparseArch), "number" (a column of numbers) or "vector" (columns of vectors).
        dim: width of the looked-up or given vector; 1 for a number.
        pool: how the ids of a field of an unpooled table become one vector, unless it has a sequence encoder. Fields of pooled
            tables are pooled already.
        encoder: the name of its sequence encoder, if it has one.
        query: the table field whose vector a sequence encoder compares the events with; both need the same `dim`.
        joined: further fields that its encoder reads event by event, beside this one's own vectors.
    """

    name: str
    source: Literal["table", "number", "vector"]
    dim: int = 1
    pool: Literal["sum", "mean"] = "sum"
    encoder: str | None = None
    query: str | None = None
    joined: tuple[str, ...] = ()


class FieldEmbedding(nn.Module):
    """Gather looked-up vectors, numbers and given vectors into one tensor, fields in the order they are listed.

    table:      the looked-up vector e, or W e if its width is not D
    number:     value * v, a learnt vector v per field
    vector:     W x
    sequence:   what its sequence encoder makes of the events of the row, or W of that if it has another width; where fields are
                joined, it is cut into their vectors

    First-order terms, if asked: the looked-up weight, value * w and w . x; those of fields with a sequence encoder are the mean
    over the events. No term has a bias, so what is missing (no events, a zero) gives zero.

    Args:
        fields: in schema order; number fields in the order of the columns of `numbers`, vector fields of `vectors`.
        width: D.
        linear: also return first-order terms; every table then needs its first-order weights.
        sequences: the sequence encoders, by field; only of fields of unpooled tables. Fields that are joined to one have none.

    Shape:
        looked, inputs with numbers_BN (B, number fields) and vectors_BX (B, sum of dims of vector fields)
            -> (B, F, D), and (B, F) if `linear` else None
    """

    def __init__(
        self,
        fields: Sequence[Field],
        *,
        width: int,
        linear: bool,
        sequences: Mapping[str, SequenceEncoder] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        _check(fields, sequences)
        self.fields = tuple(fields)
        self.width, self.linear = width, linear
        self._numbers = [field.name for field in fields if field.source == "number"]
        self._vectors = [field.name for field in fields if field.source == "vector"]
        self._vector_dims = [field.dim for field in fields if field.source == "vector"]
        projected = [f for f in fields if f.source == "vector" or (f.source == "table" and f.dim != width)]
        self._projected = [field.name for field in projected]
        self.projections = nn.ModuleList(layers.linear(field.dim, width, bias=False) for field in projected)
        self._encoded = tuple(sequences)
        self.sequences = nn.ModuleList(sequences.values())
        by_name = {field.name: field for field in fields}
        self._groups = {name: (name, *by_name[name].joined) for name in sequences}
        self._dims = {name: [by_name[own].dim for own in group] for name, group in self._groups.items()}
        self._queries = {name: [by_name[own].query for own in group] for name, group in self._groups.items()}
        self._read = {own for group in self._groups.values() for own in group}
        self.narrowed = nn.ModuleDict(
            {
                name: layers.linear(encode.out, sum(self._dims[name]), bias=False)
                for name, encode in sequences.items()
                if encode.out != sum(self._dims[name])
            }
        )
        numbers = len(self._numbers)
        self.numbers_ND = nn.Parameter(_xavier(numbers, width)) if numbers else None
        self.linear_numbers_N = nn.Parameter(_xavier(numbers, 1).squeeze(1)) if numbers and linear else None
        self.linear_vectors = nn.ModuleList(layers.linear(dim, 1, bias=False) for dim in self._vector_dims if linear)

    def forward(self, looked: Lookups, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        """Return the vectors of all fields and, if asked, their first-order terms."""
        numbers_BN, vectors_BX = inputs.numbers_BN, inputs.vectors_BX
        given = dict(zip(self._vectors, torch.split(vectors_BX, self._vector_dims, dim=1), strict=True))
        found = looked.vectors | given | self._pool(looked, inputs)
        if self.numbers_ND is not None:
            found.update(zip(self._numbers, (numbers_BN.unsqueeze(2) * self.numbers_ND).unbind(1), strict=True))
        for name, project in zip(self._projected, self.projections, strict=True):
            found[name] = project(found[name])
        emb_BFD = torch.stack([found[field.name] for field in self.fields], dim=1)
        return emb_BFD, self._first_order(looked, numbers_BN, given) if self.linear else None

    def _pool(self, looked: Lookups, inputs: Inputs) -> dict[str, Tensor]:
        """Return one vector per row for the fields of unpooled tables; sequence encoders last, for they ask with the others."""
        events = {field.name: field for field in self.fields if field.name in looked.events}
        pooled = {
            name: pool(looked.events[name], mean=field.pool == "mean")
            for name, field in events.items()
            if name not in self._read
        }
        encoded: dict[str, Tensor] = {}
        for name, encode in zip(self._encoded, self.sequences, strict=True):
            group = self._groups[name]
            own = [looked.events[other] for other in group]
            beside = own[0] if len(own) == 1 else JaggedEvents(torch.cat([o.values for o in own], dim=1), own[0].lengths)
            asked = [pooled[query] if query in pooled else looked.vectors[query] for query in self._queries[name] if query]
            query_BD = torch.cat(asked, dim=1) if len(asked) > 1 else asked[0] if asked else None
            vector_BX = encode(query_BD, beside, inputs.payloads.get(name, NOTHING), inputs.time_B)
            if name in self.narrowed:
                vector_BX = self.narrowed[name](vector_BX)
            encoded |= (
                zip(group, torch.split(vector_BX, self._dims[name], dim=1), strict=True) if len(own) > 1 else {name: vector_BX}
            )
        return pooled | encoded

    def _first_order(self, looked: Lookups, numbers_BN: Tensor, given: dict[str, Tensor]) -> Tensor:
        terms = {name: weight_B1.squeeze(1) for name, weight_B1 in looked.linear.items()}
        for field in self.fields:
            if field.name in looked.linear_events:
                mean = field.pool == "mean" or field.name in self._read
                terms[field.name] = pool(looked.linear_events[field.name], mean=mean).squeeze(1)
        for (name, vector_BX), score in zip(given.items(), self.linear_vectors, strict=True):
            terms[name] = score(vector_BX).squeeze(1)
        if self.linear_numbers_N is not None:
            terms.update(zip(self._numbers, (numbers_BN * self.linear_numbers_N).unbind(1), strict=True))
        return torch.stack([terms[field.name] for field in self.fields], dim=1)


def _xavier(fields: int, width: int) -> Tensor:
    """Return (fields, width): for each field the weights of a Linear(1, width), xavier-normal."""
    return torch.randn(fields, width) * math.sqrt(2 / (1 + width))


def _check(fields: Sequence[Field], sequences: Mapping[str, SequenceEncoder]) -> None:
    by_name = {field.name: field for field in fields}
    read = {own for name in sequences for own in (name, *by_name[name].joined)}
    table_dims = {field.name: field.dim for field in fields if field.source == "table" and field.name not in read}
    for name, encode in sequences.items():
        for field in (by_name[own] for own in (name, *by_name[name].joined) if encode.asks):
            if field.query not in table_dims:
                raise ValueError(f"field {field.name}: attention asks with {field.query!r}; choose from {sorted(table_dims)}")
            if table_dims[field.query] != field.dim:
                raise ValueError(
                    f"field {field.name}: attention over vectors of width {field.dim} asks with {field.query!r}, which has "
                    f"width {table_dims[field.query]}; give both the same table or the same dim"
                )
