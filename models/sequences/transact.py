"""TransAct: a Transformer over events with actions, each beside the target.

B rows, D width of an event's vector, A kinds of action, L slots of a row.
"""

import torch
from torch import Tensor

from models.diffusion.blocks import Transformer
from models.inputs import Payload
from models.layers import linear
from models.sequences.base import Actions, SequenceEncoder, attendable, newest, occupied, rows_of
from models.sequences.bst import check_heads
from models.sparse import JaggedEvents


class TransAct(SequenceEncoder):
    """x_j = [item_j; action_j; target] of the L events through Transformer layers; u = [x of the newest event; W max_j x_j]

    action_j is the sum of a vector for every kind of action whose bit is set. There are no places: what is newest is read by
    itself. While training, events younger than a random part of a window may be hidden, so that the model does not lean on
    what happened a moment ago.

    Args:
        actions: A, the bits that are read; 0: events have none, and x_j = [item_j; target].
        layers, heads, dropout: of the Transformer; heads is a divisor of 3 D, or of 2 D.
        hide_hours: [h] the window; 0 hides nothing.

    Shape:
        query_BD (B, D), events (N, D) -> (B, 6 D), or (B, 4 D) without actions

    Source: Xia et al., "TransAct: Transformer-based Realtime User Action Model for Recommendation at Pinterest", 2023, and
        FuxiCTR's form of it. The sum over bits is ours.
    """

    asks = True

    def __init__(
        self,
        *,
        width: int,
        length: int,
        actions: int = 0,
        layers: int = 1,
        heads: int = 1,
        dropout: float = 0.1,
        hide_hours: float = 0.0,
    ) -> None:
        super().__init__(width=width, length=length)
        token = (3 if actions else 2) * width
        check_heads("transact", token, heads)
        self.reads = (*(("action",) if actions else ()), *(("time",) if hide_hours else ()))
        self.hide_s = hide_hours * 3600
        self.actions = Actions(count=actions, width=width) if actions else None
        self.blocks = torch.nn.ModuleList(Transformer(hidden=token, heads=heads, dropout=dropout) for _ in range(layers))
        self.top = linear(token, token)
        self.out = 2 * token

    def forward(self, query_BD: Tensor | None, events: JaggedEvents, payload: Payload, time_B: Tensor | None) -> Tensor:
        """Return one vector per row, (B, out)."""
        assert query_BD is not None
        event_NX = events.values
        if self.actions is not None:
            assert payload.actions_N is not None
            event_NX = torch.cat([event_NX, self.actions(payload.actions_N)], dim=1)
        skipped_B = self._hidden(events, payload, time_B) if self.hide_s and self.training else None
        left_B = events.lengths if skipped_B is None else events.lengths - skipped_B
        tokens_BLX = newest(event_NX, events.lengths, self.length, skipped_B)
        tokens_BLX = torch.cat([tokens_BLX, query_BD.unsqueeze(1).expand(-1, self.length, -1)], dim=2)
        valid_BL = attendable(left_B, self.length)
        for block in self.blocks:
            tokens_BLX = block(tokens_BLX, valid_BL)
        top_BX = tokens_BLX.masked_fill(~valid_BL.unsqueeze(2), -torch.inf).amax(1)
        out_BX = torch.cat([tokens_BLX[:, -1], self.top(top_BX)], dim=1)
        return out_BX * occupied(left_B, self.length)[:, -1:]

    def _hidden(self, events: JaggedEvents, payload: Payload, time_B: Tensor | None) -> Tensor:
        """How many of the newest events of every row are hidden this time, (B,)."""
        assert payload.times_N is not None
        assert time_B is not None
        row_N = rows_of(events)
        since_B = time_B - torch.rand_like(time_B) * self.hide_s
        young_N = payload.times_N > since_B.index_select(0, row_N)
        return torch.zeros_like(events.lengths).index_add(0, row_N, young_N.to(events.lengths.dtype))
