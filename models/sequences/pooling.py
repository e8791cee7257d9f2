"""Sequence encoders without weights: mean, sum, attention.

B rows, D width of an event's vector, N events of a field in the whole batch.
"""

import math

import torch
from torch import Tensor

from models.inputs import Payload
from models.sequences.base import SequenceEncoder, rows_of, softmax, summed
from models.sparse import JaggedEvents


class Mean(SequenceEncoder):
    """The mean of the events."""

    def forward(self, query_BD: Tensor | None, events: JaggedEvents, payload: Payload, time_B: Tensor | None) -> Tensor:
        """Return one vector per row, (B, D)."""
        return pool(events, mean=True)


class Sum(SequenceEncoder):
    """The sum of the events."""

    def forward(self, query_BD: Tensor | None, events: JaggedEvents, payload: Payload, time_B: Tensor | None) -> Tensor:
        """Return one vector per row, (B, D)."""
        return pool(events, mean=False)


class TargetAttention(SequenceEncoder):
    """sum_n softmax_n(q . k_n / sqrt(D)) k_n over the events k of the row; it has no weights."""

    asks = True

    def forward(self, query_BD: Tensor | None, events: JaggedEvents, payload: Payload, time_B: Tensor | None) -> Tensor:
        """Return one vector per row, (B, D)."""
        assert query_BD is not None
        return attend(query_BD, events)


def pool(events: JaggedEvents, *, mean: bool) -> Tensor:
    """Return the sum or the mean of every row's events, (B, D); zero for a row without events."""
    sums_BD = summed(events.values, events, rows_of(events))
    return sums_BD / events.lengths.clamp(min=1).unsqueeze(1) if mean else sums_BD


def attend(query_BD: Tensor, events: JaggedEvents) -> Tensor:
    """Return sum_n softmax_n(q . k_n / sqrt(D)) k_n over every row's own events k, (B, D); zero for a row without."""
    keys_ND, row_N = events.values, rows_of(events)
    score_N = torch.linalg.vecdot(query_BD.index_select(0, row_N), keys_ND) / math.sqrt(keys_ND.shape[1])
    return summed(softmax(score_N, events, row_N).unsqueeze(1) * keys_ND, events, row_N)
