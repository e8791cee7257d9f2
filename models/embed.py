"""Field embedding: whatever a field is, it becomes one vector of the model's width.

B rows, F fields, D the model's width, N events of a field in the whole batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models import layers
from models.sparse import Events, Looked


@dataclass(frozen=True)
class Field:
    """One field, as the model sees it.

    Attributes:
        source: "table" (looked up by SparseArch), "number" (a column of numbers) or "vector" (columns of vectors).
        dim: width of the looked-up or given vector; 1 for a number.
        pool: how a field of an unpooled table becomes one vector. Fields of pooled tables are pooled already.
        query: for attention, the table field whose vector asks; both need the same `dim`.
    """

    name: str
    source: Literal["table", "number", "vector"]
    dim: int = 1
    pool: Literal["sum", "mean", "attention"] = "sum"
    query: str | None = None


class FieldEmbedding(nn.Module):
    """Gather looked-up vectors, numbers and given vectors into one tensor, fields in the order they are listed.

    table:      the looked-up vector e, or W e if its width is not D
    number:     value * v, a learnt vector v per field
    vector:     W x
    attention:  sum_n softmax_n(q . k_n / sqrt(d)) k_n over the events k of the row, of width d; zero without events

    First-order terms, if asked: the looked-up weight, value * w and w . x; those of attention fields are the mean over
    the events. No term has a bias, so what is missing (no events, a zero) gives zero.

    Args:
        fields: in schema order; number fields in the order of the columns of `numbers`, vector fields of `vectors`.
        width: D.
        linear: also return first-order terms; every table then needs its first-order weights.

    Shape:
        looked, numbers_BN (B, number fields), vectors_BX (B, sum of dims of vector fields)
            -> (B, F, D), and (B, F) if `linear` else None
    """

    def __init__(self, fields: Sequence[Field], *, width: int, linear: bool) -> None:
        super().__init__()
        _check(fields)
        self.fields = tuple(fields)
        self.width, self.linear = width, linear
        self._numbers = [field.name for field in fields if field.source == "number"]
        self._vectors = [field.name for field in fields if field.source == "vector"]
        self._vector_dims = [field.dim for field in fields if field.source == "vector"]
        projected = [f for f in fields if f.source == "vector" or (f.source == "table" and f.dim != width)]
        self._projected = [field.name for field in projected]
        self.projections = nn.ModuleList(layers.linear(field.dim, width, bias=False) for field in projected)
        numbers = len(self._numbers)
        self.numbers_ND = nn.Parameter(_xavier(numbers, width)) if numbers else None
        self.linear_numbers_N = nn.Parameter(_xavier(numbers, 1).squeeze(1)) if numbers and linear else None
        self.linear_vectors = nn.ModuleList(layers.linear(dim, 1, bias=False) for dim in self._vector_dims if linear)

    def forward(self, looked: Looked, numbers_BN: Tensor, vectors_BX: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the vectors of all fields and, if asked, their first-order terms."""
        given = dict(zip(self._vectors, torch.split(vectors_BX, self._vector_dims, dim=1), strict=True))
        found = looked.vectors | given | self._pool(looked)
        if self.numbers_ND is not None:
            found.update(zip(self._numbers, (numbers_BN.unsqueeze(2) * self.numbers_ND).unbind(1), strict=True))
        for name, project in zip(self._projected, self.projections, strict=True):
            found[name] = project(found[name])
        emb_BFD = torch.stack([found[field.name] for field in self.fields], dim=1)
        return emb_BFD, self._first_order(looked, numbers_BN, given) if self.linear else None

    def _pool(self, looked: Looked) -> dict[str, Tensor]:
        """Return one vector per row for the fields of unpooled tables; attention last, for it asks with the others."""
        fields = [field for field in self.fields if field.name in looked.events]
        pooled = {
            field.name: pool(looked.events[field.name], mean=field.pool == "mean")
            for field in fields
            if field.pool != "attention"
        }
        for field in fields:
            if field.pool == "attention":
                assert field.query is not None
                query_BD = pooled[field.query] if field.query in pooled else looked.vectors[field.query]
                pooled[field.name] = attend(query_BD, looked.events[field.name])
        return pooled

    def _first_order(self, looked: Looked, numbers_BN: Tensor, given: dict[str, Tensor]) -> Tensor:
        terms = {name: weight_B1.squeeze(1) for name, weight_B1 in looked.linear.items()}
        for field in self.fields:
            if field.name in looked.linear_events:
                terms[field.name] = pool(looked.linear_events[field.name], mean=field.pool != "sum").squeeze(1)
        for (name, vector_BX), score in zip(given.items(), self.linear_vectors, strict=True):
            terms[name] = score(vector_BX).squeeze(1)
        if self.linear_numbers_N is not None:
            terms.update(zip(self._numbers, (numbers_BN * self.linear_numbers_N).unbind(1), strict=True))
        return torch.stack([terms[field.name] for field in self.fields], dim=1)


def pool(events: Events, *, mean: bool) -> Tensor:
    """Return the sum or the mean of every row's events, (B, D); zero for a row without events."""
    values_ND, lengths_B, row_N = events.values, events.lengths, _rows(events)
    sums_BD = values_ND.new_zeros(lengths_B.shape[0], values_ND.shape[1]).index_add(0, row_N, values_ND)
    return sums_BD / lengths_B.clamp(min=1).unsqueeze(1) if mean else sums_BD


def attend(query_BD: Tensor, events: Events) -> Tensor:
    """Return sum_n softmax_n(q . k_n / sqrt(D)) k_n over every row's own events k, (B, D); zero for a row without."""
    keys_ND, lengths_B, row_N = events.values, events.lengths, _rows(events)
    score_N = torch.linalg.vecdot(query_BD.index_select(0, row_N), keys_ND) / math.sqrt(keys_ND.shape[1])
    with torch.no_grad():  # the softmax does not depend on it: it only keeps exp small
        top_B = score_N.new_full(lengths_B.shape, -math.inf).scatter_reduce(0, row_N, score_N, "amax")
    weight_N = (score_N - top_B.index_select(0, row_N)).exp()
    total_B = weight_N.new_zeros(lengths_B.shape).index_add(0, row_N, weight_N)
    share_N = weight_N / total_B.index_select(0, row_N)
    return torch.zeros_like(query_BD).index_add(0, row_N, share_N.unsqueeze(1) * keys_ND)


def _rows(events: Events) -> Tensor:
    """Return the row each event belongs to, (N,)."""
    rows_B = torch.arange(events.lengths.shape[0], device=events.lengths.device)
    return rows_B.repeat_interleave(events.lengths, output_size=events.values.shape[0])


def _xavier(fields: int, width: int) -> Tensor:
    """Return (fields, width): for each field the weights of a Linear(1, width), xavier-normal."""
    return torch.randn(fields, width) * math.sqrt(2 / (1 + width))


def _check(fields: Sequence[Field]) -> None:
    table_dims = {field.name: field.dim for field in fields if field.source == "table" and field.pool != "attention"}
    for field in fields:
        if field.pool != "attention":
            continue
        if field.query not in table_dims:
            raise ValueError(f"field {field.name}: attention asks with {field.query!r}; choose from {sorted(table_dims)}")
        if table_dims[field.query] != field.dim:
            raise ValueError(
                f"field {field.name}: attention over vectors of width {field.dim} asks with {field.query!r}, which has "
                f"width {table_dims[field.query]}; give both the same table or the same dim"
            )
