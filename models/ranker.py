"""The click model: look-ups, field embedding, decoder and head, in that order.

B rows, F fields, D width of a vector, N number fields, T tasks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from models.decoders import Decoder
from models.embed import FieldEmbedding
from models.output import Output
from models.sparse import SparseArch


class Ranker(nn.Module):
    """Ids, numbers and vectors in, one logit per row and task out.

    Args:
        sparse: the embedding tables.
        embed: makes one vector per field; its `linear` must be the decoder's `needs_linear`.
        decoder: the interaction, plain or generative.
        tasks: names, in the order of the label columns.
        second: makes the second vectors, for a decoder whose `second_width` is not 0.
        restore: weight of a loss that has the encoder restore the raw vectors, mean over F and D of (generated - emb)^2, which
            does not teach these; 0 for none. The paper advises against it; it is an arm of its ablation.
        start: the logit that every task starts at, usually that of its base rate: started at p = 1/2, a model of rare clicks
            overshoots for days. Empty leaves the head's biases at 0. A head
            of another package without `start_at` keeps its own.

    Attributes:
        watch: also report the operands of the decoder's first product as evaluation has them, for diagnostics. Costs the first
            encoder again; no random number is drawn and no running average moves.

    Shape:
        bags, sequences: KeyedJaggedTensors of B rows (None where SparseArch has no such tables),
        numbers_BN (B, N), vectors_BX (B, sum of the widths of vector fields) -> Output with logits {task: (B,)} and
        seen {"emb": (B, F, D)}, with `watch` also "generated" and "raw", both (B, F, D)
    """

    def __init__(
        self,
        *,
        sparse: SparseArch,
        embed: FieldEmbedding,
        decoder: Decoder,
        tasks: tuple[str, ...],
        second: FieldEmbedding | None = None,
        restore: float = 0.0,
        start: Sequence[float] = (),
    ) -> None:
        super().__init__()
        assert embed.linear == decoder.needs_linear
        assert (second is not None) == bool(decoder.second_width)
        self.sparse, self.embed, self.second, self.decoder = sparse, embed, second, decoder
        self.head = decoder.make_head(tasks)
        start_at = getattr(self.head, "start_at", None)
        if start and start_at is not None:
            start_at(start)
        self.tasks, self.restore = tasks, restore
        self.watch = False

    def forward(
        self,
        bags: KeyedJaggedTensor | None,
        sequences: KeyedJaggedTensor | None,
        numbers_BN: Tensor,
        vectors_BX: Tensor,
    ) -> Output:
        """Return the logits of every task."""
        looked = self.sparse(bags, sequences)
        emb_BFD, linear_BF = self.embed(looked, numbers_BN, vectors_BX)
        second_BFE = self.second(looked.second, numbers_BN, vectors_BX)[0] if self.second is not None else None
        scored = self.head(self.decoder(emb_BFD, linear_BF, second_BFE))
        aux, seen = {}, {"emb": emb_BFD.detach()}
        if self.restore and self.training:
            generated_BFD, _ = self.decoder.operands(emb_BFD.detach())
            aux["restore"] = (generated_BFD - emb_BFD.detach()).square().mean((1, 2)), self.restore
        if self.watch:
            seen["generated"], seen["raw"] = self._operands(emb_BFD)
        return Output(scored.logits, scored.branches, aux, seen)

    @torch.no_grad()
    def _operands(self, emb_BFD: Tensor) -> tuple[Tensor, Tensor]:
        training = self.decoder.training
        self.decoder.eval()
        operands = self.decoder.operands(emb_BFD)
        self.decoder.train(training)
        return operands
