"""HSTU: a causal stack over the events.

B rows, D width of an event's vector, L slots of a row.
"""

import torch
from torch import Tensor, nn

from models.inputs import Payload
from models.layers import Dropout, linear
from models.sequences.base import Actions, SequenceEncoder, newest, occupied
from models.sequences.bst import check_heads
from models.sparse import JaggedEvents


class HSTUEncoder(SequenceEncoder):
    """The newest event after layers in which every event hears those before it.

    X = events + places        X' = LayerNorm(X)        [U, V, Q, K] = silu(X' W)
    A = silu(Q K^T) / L where an event is not younger than the other, else 0        X + dropout(U * LayerNorm(A V)) O + b

    It is divided by the slots and not by the events of the row, so that a longer history weighs more. A place counts events
    back from the newest.

    Args:
        actions: kinds of action that are added to the events as vectors; 0 for none.
        layers: of the stack. heads: of its attention, a divisor of D. dropout: [1] of the gated result, while training.

    Shape:
        events (N, D) -> (B, D)

    Source: HSTU (arXiv 2402.17152), with learnt places instead of its relative biases.
    """

    def __init__(
        self, *, width: int, length: int, actions: int = 0, layers: int = 2, heads: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__(width=width, length=length)
        check_heads("hstu", width, heads)
        self.reads = ("action",) if actions else ()
        self.actions = Actions(count=actions, width=width) if actions else None
        self.places_LD = nn.Parameter(torch.randn(length, width) * 0.02)
        self.blocks = nn.ModuleList(_Layer(width, heads, dropout) for _ in range(layers))

    def forward(self, query_BD: Tensor | None, events: JaggedEvents, payload: Payload, time_B: Tensor | None) -> Tensor:
        """Return one vector per row, (B, D)."""
        event_ND = events.values
        if self.actions is not None:
            assert payload.actions_N is not None
            event_ND = event_ND + self.actions(payload.actions_N)
        there_BL1 = occupied(events.lengths, self.length).unsqueeze(2)
        tokens_BLD = (newest(event_ND, events.lengths, self.length) + self.places_LD) * there_BL1
        for block in self.blocks:
            tokens_BLD = block(tokens_BLD, there_BL1)
        return tokens_BLD[:, -1] * there_BL1[:, -1]


class _Layer(nn.Module):
    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.hidden, self.heads = hidden, heads
        self.read = nn.Linear(hidden, 4 * hidden, bias=False)
        nn.init.normal_(self.read.weight, std=0.02)
        self.write = linear(hidden, hidden)
        self.drop = Dropout(dropout)

    def forward(self, tokens_BLD: Tensor, there_BL1: Tensor) -> Tensor:
        width = (self.hidden,)
        read_BLX = nn.functional.silu(self.read(nn.functional.layer_norm(tokens_BLD, width))) * there_BL1
        gate_BLD, value_BLD, query_BLD, key_BLD = read_BLX.chunk(4, dim=2)
        shape = (*tokens_BLD.shape[:2], self.heads, self.hidden // self.heads)
        v, q, k = (own.reshape(shape).transpose(1, 2) for own in (value_BLD, query_BLD, key_BLD))
        attention_BALL = torch.tril(nn.functional.silu(q @ k.transpose(2, 3))) / tokens_BLD.shape[1]
        heard_BLD = nn.functional.layer_norm((attention_BALL @ v).transpose(1, 2).flatten(2), width)
        out_BLD: Tensor = self.write(self.drop(gate_BLD * heard_BLD)) + tokens_BLD
        return out_BLD
