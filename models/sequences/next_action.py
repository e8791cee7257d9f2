"""A loss of its own over a history: which actions come next.

B rows, D width of an event's vector, A kinds of action, L slots of a row.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from models.diffusion.blocks import Transformer
from models.inputs import Payload
from models.sequences.base import Actions, bits, newest, occupied
from models.sequences.bst import check_heads
from models.sparse import JaggedEvents


class NextAction(nn.Module):
    """A causal Transformer over the events predicts, for every kind of action, whether the next event has it.

    s_p of (item_j + action_j), j <= p        logit_pa = <W_a s_p, item_{p+1}> + b_a, or w_a . s_p + b_a without items
    loss of a row = mean over p = 1 .. L - 1 and a of BCE(bit a of event p + 1, logit_pa); 0 with fewer than two events

    Args:
        width: D. length: L. actions: A, the bits that are predicted, from the lowest.
        items: whether the next item is known. layers, heads, dropout: of the Transformer.

    Shape:
        events (N, D) with actions -> (B,)

    Source: the abstract of DHEN-CVR (arXiv 2504.08169) for the task; the formulas are ours.
    """

    def __init__(
        self,
        *,
        width: int,
        length: int,
        actions: int,
        items: bool = True,
        layers: int = 1,
        heads: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_heads("next_action", width, heads)
        self.length = length
        self.actions = Actions(count=actions, width=width)
        self.blocks = nn.ModuleList(Transformer(hidden=width, heads=heads, dropout=dropout) for _ in range(layers))
        self.reads_ADD = nn.Parameter(torch.randn(actions, width, width) / width) if items else None
        self.reads_AD = None if items else nn.Parameter(torch.randn(actions, width) * width**-0.5)
        self.bias_A = nn.Parameter(torch.zeros(actions))

    def forward(self, events: JaggedEvents, payload: Payload) -> Tensor:
        """Return the loss of every row, (B,)."""
        assert payload.actions_N is not None
        items_BLD = newest(events.values, events.lengths, self.length)
        done_BLA = newest(bits(payload.actions_N, self.bias_A.shape[0]), events.lengths, self.length)
        there_BL = occupied(events.lengths, self.length)
        states_BLD = items_BLD + done_BLA @ self.actions.vectors_AD
        for block in self.blocks:
            states_BLD = block(states_BLD, there_BL, causal=True)
        if self.reads_ADD is not None:
            logits_BPA = torch.einsum("bpd,ade,bpe->bpa", states_BLD[:, :-1], self.reads_ADD, items_BLD[:, 1:])
        else:
            assert self.reads_AD is not None
            logits_BPA = states_BLD[:, :-1] @ self.reads_AD.T
        nats_BPA = binary_cross_entropy_with_logits(logits_BPA + self.bias_A, done_BLA[:, 1:], reduction="none")
        pairs_BP = there_BL[:, :-1]  # events are in the last slots: one in a slot has one after it
        return (nats_BPA.mean(2) * pairs_BP).sum(1) / pairs_BP.sum(1).clamp(min=1)
