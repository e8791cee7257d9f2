"""Sequence encoders: the events of a row become one vector.

B rows, D width of an event's vector, N events of a field in the whole batch.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from models.inputs import Payload
from models.sparse import JaggedEvents


class SequenceEncoder(nn.Module, ABC):
    """What all sequence encoders promise. One is made with `width`, D; what else its constructor takes are options of the user.

    Attributes:
        asks: whether it compares the events with the vector of another field, the query.

    Shape:
        query_BD (B, D) or None, events of values (N, D) and lengths (B,), what they carry, time_B (B,) [s since 1970] or None
            -> (B, D); zeros for a row without events
    """

    asks: bool = False

    @abstractmethod
    def forward(self, query_BD: Tensor | None, events: JaggedEvents, payload: Payload, time_B: Tensor | None) -> Tensor:
        """Return one vector per row, (B, D)."""


class Mean(SequenceEncoder):
    """The mean of the events."""

    def __init__(self, *, width: int) -> None:
        super().__init__()

    def forward(self, query_BD: Tensor | None, events: JaggedEvents, payload: Payload, time_B: Tensor | None) -> Tensor:
        """Return one vector per row, (B, D)."""
        return pool(events, mean=True)


class Sum(SequenceEncoder):
    """The sum of the events."""

    def __init__(self, *, width: int) -> None:
        super().__init__()

    def forward(self, query_BD: Tensor | None, events: JaggedEvents, payload: Payload, time_B: Tensor | None) -> Tensor:
        """Return one vector per row, (B, D)."""
        return pool(events, mean=False)


class TargetAttention(SequenceEncoder):
    """sum_n softmax_n(q . k_n / sqrt(D)) k_n over the events k of the row; it has no weights."""

    asks = True

    def __init__(self, *, width: int) -> None:
        super().__init__()

    def forward(self, query_BD: Tensor | None, events: JaggedEvents, payload: Payload, time_B: Tensor | None) -> Tensor:
        """Return one vector per row, (B, D)."""
        assert query_BD is not None
        return attend(query_BD, events)


def pool(events: JaggedEvents, *, mean: bool) -> Tensor:
    """Return the sum or the mean of every row's events, (B, D); zero for a row without events."""
    values_ND, lengths_B, row_N = events.values, events.lengths, rows_of(events)
    sums_BD = values_ND.new_zeros(lengths_B.shape[0], values_ND.shape[1]).index_add(0, row_N, values_ND)
    return sums_BD / lengths_B.clamp(min=1).unsqueeze(1) if mean else sums_BD


def attend(query_BD: Tensor, events: JaggedEvents) -> Tensor:
    """Return sum_n softmax_n(q . k_n / sqrt(D)) k_n over every row's own events k, (B, D); zero for a row without."""
    keys_ND, lengths_B, row_N = events.values, events.lengths, rows_of(events)
    score_N = torch.linalg.vecdot(query_BD.index_select(0, row_N), keys_ND) / math.sqrt(keys_ND.shape[1])
    with torch.no_grad():  # the softmax does not depend on it: it only keeps exp small
        top_B = score_N.new_full(lengths_B.shape, -math.inf).scatter_reduce(0, row_N, score_N, "amax")
    weight_N = (score_N - top_B.index_select(0, row_N)).exp()
    total_B = weight_N.new_zeros(lengths_B.shape).index_add(0, row_N, weight_N)
    share_N = weight_N / total_B.index_select(0, row_N)
    return torch.zeros_like(query_BD).index_add(0, row_N, share_N.unsqueeze(1) * keys_ND)


def rows_of(events: JaggedEvents) -> Tensor:
    """Return the row each event belongs to, (N,)."""
    rows_B = torch.arange(events.lengths.shape[0], device=events.lengths.device)
    return rows_B.repeat_interleave(events.lengths, output_size=events.values.shape[0])
