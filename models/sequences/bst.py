"""BST: a Transformer over the events and the target.

B rows, D width of an event's vector, L slots of a row.
"""

import torch
from torch import Tensor, nn

from models.diffusion.blocks import Transformer
from models.inputs import Payload
from models.sequences.base import SequenceEncoder, newest, occupied
from models.sparse import JaggedEvents


class BST(SequenceEncoder):
    """What the target has heard of the events: its place in the last of some Transformer layers over [events + places, target].

    A place counts events back from the newest. The blocks are the project's own pre-norm ones; the paper normalises after them
    and reads all slots side by side.

    Args:
        layers: of the Transformer. heads: of its attention, a divisor of D. dropout: [1] while training.

    Shape:
        query_BD (B, D), events (N, D) -> (B, D)

    Source: Chen et al., "Behavior Sequence Transformer for E-commerce Recommendation in Alibaba", 2019.
    """

    asks = True

    def __init__(self, *, width: int, length: int, layers: int = 1, heads: int = 2, dropout: float = 0.1) -> None:
        super().__init__(width=width, length=length)
        check_heads("bst", width, heads)
        self.places_LD = nn.Parameter(torch.randn(length, width) * 0.02)
        self.blocks = nn.ModuleList(Transformer(hidden=width, heads=heads, dropout=dropout) for _ in range(layers))

    def forward(self, query_BD: Tensor | None, events: JaggedEvents, payload: Payload, time_B: Tensor | None) -> Tensor:
        """Return one vector per row, (B, D)."""
        assert query_BD is not None
        there_BL = occupied(events.lengths, self.length)
        tokens_BLD = newest(events.values, events.lengths, self.length) + self.places_LD
        tokens_BSD = torch.cat([tokens_BLD, query_BD.unsqueeze(1)], dim=1)
        valid_BS = torch.cat([there_BL, torch.ones_like(there_BL[:, :1])], dim=1)
        for block in self.blocks:
            tokens_BSD = block(tokens_BSD, valid_BS)
        return tokens_BSD[:, -1] * there_BL[:, -1:]


def check_heads(encoder: str, width: int, heads: int) -> None:
    """Refuse heads that do not share the width.

    Raises:
        ValueError: they do not.
    """
    if heads < 1 or width % heads:
        raise ValueError(f"{encoder}: {heads} heads do not divide the width of its vectors, {width}")
