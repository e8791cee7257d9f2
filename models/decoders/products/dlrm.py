"""DLRM: a network that reads the inner products of all pairs of fields."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.decoders.base import Decoder, Generate, Pairs, features_of, pairs_of
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, NETWORK, Flat, MakeMLP, MLPOptions


class DLRM(Decoder):
    """Deep learning recommendation model with the interaction `dot`.

    dense = bottom MLP(flat(emb of the number fields))        t = the vectors of all other fields, and dense as the last
    out = make_mlp(concat(dense, <generated t_i, t_j> for i < j))

    The number fields become one vector, that of the bottom network, whose last layer is as wide as the vectors; as the last
    one it is always on the right of a product and need not be generated. Without number fields there is no dense.

    Args:
        network: hidden, dropout, batch_norm of the upper network.
        bottom_hidden: hidden widths of the bottom network below its last layer; its batch_norm is that of `network`.

    Shape:
        emb_BFD (B, F, D) -> (B, hidden[-1])

    Raises:
        ValueError: there is no pair.

    Source: Naumov et al., "Deep Learning Recommendation Model for Personalization and Recommendation Systems", 2019 (arXiv
    1906.00091).
    """

    numbers: Tensor
    others: Tensor

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        network: MLPOptions = NETWORK,
        bottom_hidden: Sequence[int] = (64,),
    ) -> None:
        super().__init__()
        numbers = [at for at, field in enumerate(fields) if field.kind == "number"]
        others = [at for at, field in enumerate(fields) if field.kind != "number"]
        vectors = len(others) + bool(numbers)
        if vectors < 2:
            raise ValueError(f"dlrm: {vectors} vector has no pair; expected two or more, all number fields being one together")
        self.encoder = generate()
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.int64), persistent=False)
        self.register_buffer("others", torch.tensor(others, dtype=torch.int64), persistent=False)
        bottom = MLPOptions((*bottom_hidden, width), batch_norm=network.batch_norm)
        self.bottom = bottom.build(make_mlp, len(numbers) * width) if numbers else None
        self.pairs = Pairs(vectors)
        self.mlp = network.build(make_mlp, pairs_of(vectors) + (width if numbers else 0))
        self.out = Flat(features_of("dlrm", network.hidden))

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the last hidden layer, (B, hidden[-1])."""
        generated_BFD, raw_BFD = self.operands(x.emb_BFD)
        if self.bottom is None:
            alone_BH: Tensor = self.mlp(self.pairs(generated_BFD, raw_BFD), x)
            return alone_BH
        dense_BD = self.bottom(raw_BFD[:, self.numbers].flatten(1), x)
        left_BTD, right_BTD = (
            torch.cat([side[:, self.others], dense_BD.unsqueeze(1)], dim=1) for side in (generated_BFD, raw_BFD)
        )
        out_BH: Tensor = self.mlp(torch.cat([dense_BD, self.pairs(left_BTD, right_BTD)], dim=1), x)
        return out_BH
