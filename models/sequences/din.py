"""DIN: a network weighs every event by how it fits the target.

B rows, D width of an event's vector, N events of a field in the whole batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.inputs import Payload
from models.layers import MLP, linear
from models.sequences.base import SequenceEncoder, rows_of, softmax, summed
from models.sparse import JaggedEvents


class DIN(SequenceEncoder):
    """u = sum_n a_n k_n        a_n = w . MLP([q, k_n, q - k_n, q * k_n]) + b, or its softmax over the events

    Without the softmax many events make a long vector, as the paper wants it. Its activation Dice normalises over the batch, so
    that a row's vector would depend on the rows beside it: here it is ReLU.

    Args:
        hidden: widths of the network's hidden layers. softmax: whether the weights of a row add up to 1.

    Shape:
        query_BD (B, D), events (N, D) -> (B, D)

    Source: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", 2018.
    """

    asks = True

    def __init__(self, *, width: int, length: int, hidden: Sequence[int] = (64,), softmax: bool = False) -> None:
        super().__init__(width=width, length=length)
        self.mlp = MLP(4 * width, hidden=hidden)
        self.weigh = linear(self.mlp.out_features, 1)
        self.normalised = softmax

    def forward(self, query_BD: Tensor | None, events: JaggedEvents, payload: Payload, time_B: Tensor | None) -> Tensor:
        """Return one vector per row, (B, D)."""
        assert query_BD is not None
        row_N, keys_ND = rows_of(events), events.values
        query_ND = query_BD.index_select(0, row_N)
        both_NX = torch.cat([query_ND, keys_ND, query_ND - keys_ND, query_ND * keys_ND], dim=1)
        weight_N = self.weigh(self.mlp(both_NX)).squeeze(1)
        if self.normalised:
            weight_N = softmax(weight_N, events, row_N)
        return summed(weight_N.unsqueeze(1) * keys_ND, events, row_N)
