"""What all sequence encoders promise, and the events of a row in equal rows of slots.

B rows, D width of an event's vector, N events of a field in the whole batch, L slots of a row.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from models.inputs import Payload
from models.sparse import JaggedEvents


class SequenceEncoder(nn.Module, ABC):
    """What all sequence encoders promise.

    One is made with `width`, the D of an event's vector, and `length`, the most events that a row has; what else its
    constructor takes are options of the user. Padding and the lengths of other rows change nothing of what it returns.

    Attributes:
        asks: whether it compares the events with the vector of another field, the query.
        reads: what events have to carry besides their ids: time, action, session, vector.
        out: [columns] of what it returns.

    Shape:
        query_BD (B, D) or None, events of values (N, D) and lengths (B,), oldest first, what they carry, time_B (B,)
        [s since 1970] or None -> (B, out); zeros for a row without events
    """

    asks: bool = False
    reads: tuple[str, ...] = ()
    out: int

    def __init__(self, *, width: int, length: int) -> None:
        super().__init__()
        self.length, self.out = length, width

    @abstractmethod
    def forward(self, query_BD: Tensor | None, events: JaggedEvents, payload: Payload, time_B: Tensor | None) -> Tensor:
        """Return one vector per row, (B, out)."""


class Actions(nn.Module):
    """The sum of the vectors of what was done: sum of v_a over the bits a that are set.

    Args:
        count: [bits] that are read, from the lowest. width: D.

    Shape:
        actions_N (N,) int64 -> (N, D)
    """

    def __init__(self, *, count: int, width: int) -> None:
        super().__init__()
        self.vectors_AD = nn.Parameter(torch.randn(count, width) * width**-0.5)

    def forward(self, actions_N: Tensor) -> Tensor:
        """Return one vector per event."""
        return bits(actions_N, self.vectors_AD.shape[0]).to(self.vectors_AD.dtype) @ self.vectors_AD


def bits(actions_N: Tensor, count: int) -> Tensor:
    """Return the lowest bits as numbers, (N, count) float32.

    >>> bits(torch.tensor([5, 0]), 3).tolist()
    [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    places_A = torch.arange(count, device=actions_N.device)
    return (actions_N.unsqueeze(1) >> places_A).bitwise_and(1).float()


def newest(values_NX: Tensor, lengths_B: Tensor, slots: int, skipped_B: Tensor | None = None) -> Tensor:
    """Return the newest events of every row, (B, L, X): the newest in the last slot, zeros where there are no more.

    Args:
        skipped_B: (B,) how many of the newest events of every row are passed over; None: none.

    >>> newest(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([2, 0, 1]), 2).squeeze(2).tolist()
    [[1.0, 2.0], [0.0, 0.0], [0.0, 3.0]]
    """
    back_L = torch.arange(-slots, 0, device=values_NX.device)
    left_B = lengths_B if skipped_B is None else lengths_B - skipped_B
    ends_B = lengths_B.cumsum(0) - lengths_B + left_B
    nothing = values_NX.shape[0]
    place_BL = torch.where(back_L >= -left_B.unsqueeze(1), ends_B.unsqueeze(1) + back_L, nothing)
    with_zeros_MX = torch.cat([values_NX, values_NX.new_zeros(1, values_NX.shape[1])])
    return with_zeros_MX.index_select(0, place_BL.flatten()).view(*place_BL.shape, values_NX.shape[1])


def occupied(lengths_B: Tensor, slots: int) -> Tensor:
    """Return which slots of `newest` have an event, (B, L) bool."""
    return torch.arange(-slots, 0, device=lengths_B.device) >= -lengths_B.unsqueeze(1)


def attendable(lengths_B: Tensor, slots: int) -> Tensor:
    """Return `occupied`, and the last slot of every row: attention to nothing is not a number."""
    return torch.arange(-slots, 0, device=lengths_B.device) >= -lengths_B.clamp(min=1).unsqueeze(1)


def rows_of(events: JaggedEvents) -> Tensor:
    """Return the row each event belongs to, (N,)."""
    rows_B = torch.arange(events.lengths.shape[0], device=events.lengths.device)
    return rows_B.repeat_interleave(events.lengths, output_size=events.values.shape[0])


def softmax(score_N: Tensor, events: JaggedEvents, row_N: Tensor) -> Tensor:
    """Return the softmax of the scores over every row's own events, (N,)."""
    with torch.no_grad():  # the softmax does not depend on it: it only keeps exp small
        top_B = score_N.new_full(events.lengths.shape, -torch.inf).scatter_reduce(0, row_N, score_N, "amax")
    weight_N = (score_N - top_B.index_select(0, row_N)).exp()
    total_B = weight_N.new_zeros(events.lengths.shape).index_add(0, row_N, weight_N)
    return weight_N / total_B.index_select(0, row_N)


def summed(values_ND: Tensor, events: JaggedEvents, row_N: Tensor) -> Tensor:
    """Return the sum over every row's own events, (B, D)."""
    return values_ND.new_zeros(events.lengths.shape[0], values_ND.shape[1]).index_add(0, row_N, values_ND)
