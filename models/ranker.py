"""The click model: look-ups, field embedding, decoder and head, in that order.

B rows, F fields, D width of a vector, N number fields, T tasks.
"""

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from models.decoders import Decoder
from models.embed import FieldEmbedding
from models.heads import Head
from models.output import Output
from models.sparse import SparseArch


class Ranker(nn.Module):
    """Ids, numbers and vectors in, one logit per row and task out.

    Args:
        sparse: the embedding tables.
        embed: makes one vector per field; its `linear` must be the decoder's `needs_linear`.
        decoder: the interaction, plain or generative.
        head: decoder output to logits.

    Attributes:
        watch: also report the operands of the decoder's first product, for diagnostics. Costs the first encoder again.

    Shape:
        bags, sequences: KeyedJaggedTensors of B rows (None where SparseArch has no such tables),
        numbers_BN (B, N), vectors_BX (B, sum of the widths of vector fields) -> Output with logits {task: (B,)} and
        seen {"emb": (B, F, D)}, with `watch` also "generated" and "raw", both (B, F, D)
    """

    def __init__(self, *, sparse: SparseArch, embed: FieldEmbedding, decoder: Decoder, head: Head) -> None:
        super().__init__()
        assert embed.linear == decoder.needs_linear
        self.sparse, self.embed, self.decoder, self.head = sparse, embed, decoder, head
        self.watch = False

    def forward(
        self,
        bags: KeyedJaggedTensor | None,
        sequences: KeyedJaggedTensor | None,
        numbers_BN: Tensor,
        vectors_BX: Tensor,
    ) -> Output:
        """Return the logits of every task."""
        emb_BFD, linear_BF = self.embed(self.sparse(bags, sequences), numbers_BN, vectors_BX)
        logits_BT = self.head(self.decoder(emb_BFD, linear_BF))
        seen = {"emb": emb_BFD.detach()}
        if self.watch:
            with torch.no_grad():
                seen["generated"], seen["raw"] = self.decoder.operands(emb_BFD)
        # By index and not by unbind: training pipelines trace this method symbolically, where tensors have no length.
        return Output(logits={task: logits_BT[:, i] for i, task in enumerate(self.head.tasks)}, seen=seen)
