"""The click model: look-ups, field embedding, decoder and head, in that order.

B rows, F fields, D width of a vector, N number fields, T targets.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from models.decoders import Decoder
from models.field_embedding import FieldEmbedding
from models.heads import Head
from models.inputs import FieldVectors, Inputs
from models.output import Output
from models.sparse import Lookups, SparseArch

NOTHING: Mapping[str, tuple["Auxiliary", float]] = MappingProxyType({})


class Auxiliary(nn.Module):
    """A further loss of every row over the events of a sequence.

    Args:
        sequence: whose events it reads. loss: of events and what they carry.

    Shape:
        looked, inputs -> (B,)
    """

    def __init__(self, sequence: str, loss: nn.Module) -> None:
        super().__init__()
        self.sequence, self.loss = sequence, loss

    def forward(self, looked: Lookups, inputs: Inputs) -> Tensor:
        """Return the loss of every row."""
        loss_B: Tensor = self.loss(looked.events[self.sequence], inputs.payloads[self.sequence])
        return loss_B


class Ranker(nn.Module):
    """Ids, numbers and vectors in, one logit per row and target out.

    Args:
        sparse: the embedding tables.
        embed: makes one vector per field; its `linear` must be the decoder's `needs_linear`.
        decoder: the interaction, plain or generative.
        head: reads what the decoder returns; tokens come side by side.
        second: makes the second vectors, for a decoder whose `second_width` is not 0.
        restore: weight of a loss that has the encoder restore the raw vectors, mean over F and D of (generated - emb)^2, which
            does not teach these; 0 for none. The paper advises against it; it is an arm of its ablation.
        auxiliary: further losses by name, each with its weight; they are computed while training.
        start: the logit that every task starts at, usually that of its base rate: started at p = 1/2, a model of rare clicks
            overshoots for days. Empty leaves the head's biases at 0. A head
            of another package without `start_at` keeps its own.

    Attributes:
        represents: the names of its representations, without those of the head.
        watch: also report the operands of the decoder's first product as evaluation has them, for diagnostics. Costs the first
            encoder again; no random number is drawn and no running average moves.

    Shape:
        Inputs of B rows -> Output with logits {target: (B,)} representations {"emb": (B, F, D), "features":
        (B, X)} and those of the head, and observed {"emb": (B, F, D)} and what the decoder weighs its parts with; with `watch`
        also "generated" and "raw", both (B, F, D)
    """

    represents = ("emb", "features")

    def __init__(
        self,
        *,
        sparse: SparseArch,
        embed: FieldEmbedding,
        decoder: Decoder,
        head: Head,
        second: FieldEmbedding | None = None,
        restore: float = 0.0,
        auxiliary: Mapping[str, tuple[Auxiliary, float]] = NOTHING,
        start: Sequence[float] = (),
    ) -> None:
        super().__init__()
        assert embed.linear == decoder.needs_linear
        assert (second is not None) == bool(decoder.second_width)
        self.sparse, self.embed, self.second, self.decoder, self.head = sparse, embed, second, decoder, head
        self.restore = restore
        self.auxiliary = nn.ModuleDict({name: loss for name, (loss, _) in auxiliary.items()})
        self.auxiliary_weights = {name: weight for name, (_, weight) in auxiliary.items()}
        if start:
            self.head.start_at(start)
        self.watch = False

    @property
    def width(self) -> int:
        """D, of the fields' vectors."""
        return self.embed.width

    def forward(self, inputs: Inputs) -> Output:
        """Return the logits of every target."""
        looked = self.sparse(inputs.bags, inputs.sequences)
        emb_BFD, linear_BF = self.embed(looked, inputs)
        second_BFE = self.second(looked.second, inputs)[0] if self.second is not None else None
        fields = FieldVectors(emb_BFD, linear_BF, second_BFE)
        features_BX = self.decoder(fields).flatten(1)
        scored = self.head(features_BX, fields)
        aux: dict[str, tuple[Tensor, float]] = {}
        observed = {"emb": emb_BFD.detach(), **self.decoder.observed()}
        if self.restore and self.training:
            generated_BFD, _ = self.decoder.operands(emb_BFD.detach())
            aux["restore"] = (generated_BFD - emb_BFD.detach()).square().mean((1, 2)), self.restore
        if self.training:
            aux |= {name: (loss(looked, inputs), self.auxiliary_weights[name]) for name, loss in self.auxiliary.items()}
        if self.watch:
            observed["generated"], observed["raw"] = self._operands(emb_BFD)
        representations = scored.representations | {"emb": emb_BFD, "features": features_BX}
        return Output(scored.logits, representations, aux, observed)

    @torch.no_grad()
    def _operands(self, emb_BFD: Tensor) -> tuple[Tensor, Tensor]:
        training = self.decoder.training
        self.decoder.eval()
        operands = self.decoder.operands(emb_BFD)
        self.decoder.train(training)
        return operands
