"""FiBiNET: a network that reads bilinear products of all pairs, of raw and of reweighed vectors."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.decoders.base import Decoder, Generate, Pairs, pairs_of
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, NETWORK, Flat, MakeMLP, MLPOptions, linear

BILINEAR = ("all", "each", "interaction")


class FiBiNET(Decoder):
    """Bilinear products of the raw vectors and of vectors that are reweighed field by field (SENET).

    v_f = a_f emb_f        a = relu(U relu(V mean_D(emb)))
    p_ij = (generate_1(emb)_i W_ij) * emb_j        q_ij = (generate_2(v)_i W'_ij) * v_j        for i < j
    score = sum_f linear_f + w . make_mlp(concat(p, q)) + b

    W_ij is one matrix for all pairs, one for each left field i, or one for every pair. Generating here is our own extension, no
    result of the SFG paper.

    Args:
        bilinear: all, each or interaction: how many matrices W and W' have.
        reduction: U and V meet in F / reduction numbers, one at least.
        network: hidden, dropout, batch_norm; without hidden layers the products are scored as they are.

    Shape:
        emb_BFD (B, F, D), linear_BF (B, F) -> (B, 1)

    Raises:
        ValueError: no such kind of product, no number left by the reduction, or no pair.

    Source: Huang et al., "FiBiNET: Combining Feature Importance and Bilinear Feature Interaction for Click-Through Rate
    Prediction", RecSys 2019.
    """

    needs_linear = True

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        bilinear: str = "interaction",
        reduction: float = 3.0,
        network: MLPOptions = NETWORK,
    ) -> None:
        super().__init__()
        if bilinear not in BILINEAR:
            raise ValueError(f"fibinet: no bilinear {bilinear!r}; choose from {list(BILINEAR)}")
        if reduction <= 0:
            raise ValueError(f"fibinet: reduction is {reduction}; expected more than 0")
        if len(fields) < 2:
            raise ValueError("fibinet: one field has no pair; expected two or more")
        reduced = max(int(len(fields) / reduction), 1)
        self.encoders = nn.ModuleList(generate() for _ in range(2))
        self.squeeze, self.excite = linear(len(fields), reduced, bias=False), linear(reduced, len(fields), bias=False)
        self.products = nn.ModuleList(_Bilinear(len(fields), width, bilinear) for _ in range(2))
        self.mlp = network.build(make_mlp, 2 * pairs_of(len(fields)) * width)
        self.last = linear(self.mlp.out_features, 1)
        self.out = Flat(1)

    def operands(self, emb_BFD: Tensor) -> tuple[Tensor, Tensor]:
        """Return (generated, emb) of the raw vectors' products."""
        return self.encoders[0](emb_BFD), emb_BFD

    def reweighed(self, emb_BFD: Tensor) -> Tensor:
        """Return every vector times the importance of its field, (B, F, D)."""
        importance_BF = torch.relu(self.excite(torch.relu(self.squeeze(emb_BFD.mean(2)))))
        return emb_BFD * importance_BF.unsqueeze(2)

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the score, (B, 1)."""
        assert x.linear_BF is not None
        raw_BFD, weighed_BFD = x.emb_BFD, self.reweighed(x.emb_BFD)
        p_BX = self.products[0](self.encoders[0](raw_BFD), raw_BFD)
        q_BX = self.products[1](self.encoders[1](weighed_BFD), weighed_BFD)
        deep_B1: Tensor = self.last(self.mlp(torch.cat([p_BX, q_BX], dim=1), x))
        return deep_B1 + x.linear_BF.sum(1, keepdim=True)


class _Bilinear(nn.Module):
    """(left_i W_ij) * right_j of every pair, side by side, (B, P * D)."""

    def __init__(self, fields: int, width: int, bilinear: str) -> None:
        super().__init__()
        self.pairs, self.bilinear = Pairs(fields), bilinear
        matrices = {"all": 1, "each": fields - 1, "interaction": pairs_of(fields)}  # the last field is on no pair's left
        self.weight_MDD = nn.Parameter(torch.empty(matrices[bilinear], width, width))
        for weight_DD in self.weight_MDD:
            nn.init.xavier_normal_(weight_DD)

    def forward(self, left_BFD: Tensor, right_BFD: Tensor) -> Tensor:
        first, second = self.pairs.first, self.pairs.second
        if self.bilinear == "interaction":
            turned_BPD = torch.einsum("bpd,pde->bpe", left_BFD[:, first], self.weight_MDD)
        else:
            turned_BPD = (left_BFD[:, :-1].transpose(0, 1) @ self.weight_MDD).transpose(0, 1)[:, first]
        return (turned_BPD * right_BFD[:, second]).flatten(1)
