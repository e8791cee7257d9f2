"""DIEN: a recurrent cell reads the events, a second one what of them fits the target.

B rows, D width of an event's vector, L slots of a row, N events of a field in the whole batch.
"""

import torch
from torch import Tensor, nn

from models.inputs import Payload
from models.layers import linear
from models.sequences.base import SequenceEncoder, attendable, newest, occupied
from models.sparse import JaggedEvents


class DIEN(SequenceEncoder):
    """The last state of a GRU over the states of another, whose update gates are multiplied by how they fit the target.

    h_n = GRU(k_n, h_{n-1})        a = softmax_n(h_n W q)        u = the last of AUGRU(h_n, a_n)
    AUGRU: z' = a_n z, state = (1 - z') state + z' new

    The paper's loss of the next event is left out: `model.next_action` is one, of the actions.

    Shape:
        query_BD (B, D), events (N, D) -> (B, D)

    Source: Zhou et al., "Deep Interest Evolution Network for Click-Through Rate Prediction", 2019.
    """

    asks = True

    def __init__(self, *, width: int, length: int) -> None:
        super().__init__(width=width, length=length)
        self.interest, self.evolution = Gates(width), Gates(width)
        self.fit = linear(width, width, bias=False)

    def forward(self, query_BD: Tensor | None, events: JaggedEvents, payload: Payload, time_B: Tensor | None) -> Tensor:
        """Return one vector per row, (B, D)."""
        assert query_BD is not None
        there_BL = occupied(events.lengths, self.length)
        interest_BLD = self.interest(newest(events.values, events.lengths, self.length), there_BL)
        fit_BL = torch.einsum("bld,bd->bl", interest_BLD, self.fit(query_BD))
        share_BL = torch.softmax(fit_BL.masked_fill(~attendable(events.lengths, self.length), -torch.inf), dim=1)
        last_BD: Tensor = self.evolution(interest_BLD, there_BL, share_BL)[:, -1]
        return last_BD


class Gates(nn.Module):
    """A GRU whose update gate may be multiplied, step by step; a slot without an event leaves the state as it is.

    [z, r] = sigmoid(W x + U h)        new = tanh(W_n x + r * (U_n h))        h = (1 - a z) h + a z new

    Args:
        width: D of what it reads and of the state.

    Shape:
        events_BLD (B, L, D) oldest first, there_BL (B, L) bool, share_BL a (B, L) or None for ones -> the states, (B, L, D)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read = linear(width, 3 * width)
        self.state = linear(width, 3 * width, bias=False)

    def forward(self, events_BLD: Tensor, there_BL: Tensor, share_BL: Tensor | None = None) -> Tensor:
        """Return the states, (B, L, D)."""
        weight_BL = there_BL.to(events_BLD.dtype) if share_BL is None else share_BL * there_BL
        read_BLX = self.read(events_BLD)  # all but what the state adds is known before the first step
        state_BD, states = torch.zeros_like(events_BLD[:, 0]), []
        for read_BX, weight_B1 in zip(read_BLX.unbind(1), weight_BL.unsqueeze(2).unbind(1), strict=True):
            (z_read, r_read, new_read), (z, r, new) = read_BX.chunk(3, dim=1), self.state(state_BD).chunk(3, dim=1)
            new_BD = torch.tanh(new_read + torch.sigmoid(r_read + r) * new)
            state_BD = torch.lerp(state_BD, new_BD, weight_B1 * torch.sigmoid(z_read + z))
            states.append(state_BD)
        return torch.stack(states, dim=1)
