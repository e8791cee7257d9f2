"""Decoders that sum weighted products of pairs of fields: FM, DeepFM, FwFM, FmFM, FFM, IPNN."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from models.decoders.base import Decoder, Generate, Pairs, features_of, pair_sum, pairs_of
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, NETWORK, Flat, MakeMLP, MLPOptions, linear


class FM(Decoder):
    """Factorisation machine.

    score = sum_f linear_f + sum_{i<j} <generated_i, emb_j>

    Only the smaller index of a pair is generated: the order of the fields matters, and the last field's generated
    vector is never used.

    Shape:
        emb_BFD (B, F, D), linear_BF (B, F) -> (B, 1)
    """

    needs_linear = True

    def __init__(self, *, fields: Sequence[FieldInfo], width: int, generate: Generate, make_mlp: MakeMLP = MLP) -> None:
        super().__init__()
        self.encoder = generate()
        self.out = Flat(1)

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the score, (B, 1)."""
        assert x.linear_BF is not None
        return pair_sum(*self.operands(x.emb_BFD)) + x.linear_BF.sum(1, keepdim=True)


class DeepFM(FM):
    """Factorisation machine plus a network; the network reads the raw vectors.

    score = FM(emb, linear) + w . make_mlp(flat(emb)) + b

    Args:
        network: hidden, dropout, batch_norm.

    Shape:
        emb_BFD (B, F, D), linear_BF (B, F) -> (B, 1)
    """

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        network: MLPOptions = NETWORK,
    ) -> None:
        super().__init__(fields=fields, width=width, generate=generate)
        self.mlp = network.build(make_mlp, len(fields) * width)
        self.last = linear(self.mlp.out_features, 1)

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the score, (B, 1)."""
        deep_B1: Tensor = self.last(self.mlp(x.emb_BFD.flatten(1), x))
        return super().forward(x) + deep_B1


class FwFM(Decoder):
    """Field-weighted factorisation machine: a learnt weight for every pair of fields.

    score = first + sum_{i<j} r_ij <generated_i, emb_j>

    first = sum_f linear_f (lw), sum_f <emb_f, u_f> with a vector per field (filv), or sum_f <emb_f, second_f> with a second
    vector per value (felv). As in the released SFG code, the encoder of this decoder has a bias.

    Args:
        first_order: lw, filv or felv, as the FwFM paper calls them.

    Shape:
        emb_BFD (B, F, D), linear_BF (B, F) for lw, second_BFE (B, F, D) for felv -> (B, 1)
    """

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        first_order: Literal["lw", "filv", "felv"] = "lw",
    ) -> None:
        super().__init__()
        if first_order not in ("lw", "filv", "felv"):
            raise ValueError(f"fwfm: no first_order {first_order!r}; choose from lw, filv, felv")
        self.encoder = generate(bias=True)
        self.pairs = Pairs(len(fields))
        self.weigh = linear(pairs_of(len(fields)), 1, bias=False)
        self.field_vectors = linear(len(fields) * width, 1, bias=False) if first_order == "filv" else None
        self.needs_linear = first_order == "lw"
        self.second_width = width if first_order == "felv" else 0
        self.out = Flat(1)

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the score, (B, 1)."""
        pairs_B1: Tensor = self.weigh(self.pairs(*self.operands(x.emb_BFD)))
        if self.field_vectors is not None:
            first_B1: Tensor = self.field_vectors(x.emb_BFD.flatten(1))
            return pairs_B1 + first_B1
        if x.second_BFE is not None:
            return pairs_B1 + (x.emb_BFD * x.second_BFE).sum((1, 2)).unsqueeze(1)
        assert x.linear_BF is not None
        return pairs_B1 + x.linear_BF.sum(1, keepdim=True)


class FmFM(Decoder):
    """Field-matrixed factorisation machine: a learnt matrix for every pair of fields.

    score = sum_f linear_f + sum_{i<j} <emb_i M_ij, generated_j>

    The generated vector is on the right, as in the released SFG code; `weigh_generated` is the paper's formula,
    <generated_i M_ij, emb_j>. As matrices are learnt, the two are the same family. Its first release gave this decoder's
    encoder a bias, the later ones none; here there is none.

    Args:
        matrix: a D x D matrix per pair; otherwise its diagonal only, as the BARS benchmark has it.
        weigh_generated: generate the side that the matrix multiplies.

    Shape:
        emb_BFD (B, F, D), linear_BF (B, F) -> (B, 1)
    """

    needs_linear = True

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        matrix: bool = True,
        weigh_generated: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = generate()
        self.pairs = Pairs(len(fields))
        shape = (pairs_of(len(fields)), width, width) if matrix else (pairs_of(len(fields)), width)
        self.weights = nn.Parameter(torch.empty(shape))
        nn.init.xavier_normal_(self.weights)  # of all matrices as one tensor, as the released code has it: its gammas fit this
        self.weigh_generated = weigh_generated
        self.out = Flat(1)

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the score, (B, 1)."""
        assert x.linear_BF is not None
        generated_BFD, raw_BFD = self.operands(x.emb_BFD)
        weighed_BFD, met_BFD = (generated_BFD, raw_BFD) if self.weigh_generated else (raw_BFD, generated_BFD)
        # Field j meets sum_{i<j} emb_i M_ij: one product with all matrices, zeros for i >= j, and no (B, P, D) in between.
        fields, width = x.emb_BFD.shape[1:]
        first, second = self.pairs.first, self.pairs.second
        if self.weights.dim() == 3:
            all_FFDD = self.weights.new_zeros(fields, fields, width, width).index_put((first, second), self.weights)
            sums_BFD = (weighed_BFD.flatten(1) @ all_FFDD.transpose(1, 2).reshape(fields * width, -1)).view_as(met_BFD)
        else:
            all_FFD = self.weights.new_zeros(fields, fields, width).index_put((first, second), self.weights)
            sums_BFD = torch.einsum("bid,ijd->bjd", weighed_BFD, all_FFD)
        return (sums_BFD * met_BFD).sum((1, 2)).unsqueeze(1) + x.linear_BF.sum(1, keepdim=True)


class FFM(Decoder):
    """Field-aware factorisation machine: every value has a vector for each other field.

    score = sum_f linear_f + sum_{i<j} <generated_{i,j}, v_{j,i}>

    v_{i,j} (of width d = D / F) is field i's vector for field j; generated_{., j} = encoder of v_{., j} over all fields, one
    encoder for all j. Generating here is our own extension, no result of the SFG paper.

    Shape:
        emb_BFD (B, F, F * d), linear_BF (B, F) -> (B, 1)
    """

    needs_linear = True

    def __init__(self, *, fields: Sequence[FieldInfo], width: int, generate: Generate, make_mlp: MakeMLP = MLP) -> None:
        super().__init__()
        if width % len(fields):
            raise ValueError(f"ffm: vectors of {width} cannot hold one for each of {len(fields)} fields: use embedding_width")
        self.encoder = generate(width=width // len(fields))
        self.pairs = Pairs(len(fields))
        self.out = Flat(1)

    @classmethod
    def embedding_width(cls, *, fields: int, dim: int) -> int:
        """Return F * dim: a vector for every other field, and one for itself that is never used."""
        return fields * dim

    def operands(self, emb_BFD: Tensor) -> tuple[Tensor, Tensor]:
        """Return (generated, emb), for the same pair at the same place."""
        rows, fields, width = emb_BFD.shape
        vectors_BFTd = emb_BFD.view(rows, fields, fields, width // fields)
        for_target_NFd = vectors_BFTd.transpose(1, 2).flatten(0, 1)  # N = B * T targets
        generated_BTFd = self.encoder(for_target_NFd).view_as(vectors_BFTd)
        return generated_BTFd.transpose(1, 2).reshape(emb_BFD.shape), emb_BFD

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the score, (B, 1)."""
        assert x.linear_BF is not None
        rows, fields, width = x.emb_BFD.shape
        generated_BFTd, raw_BFTd = (side.view(rows, fields, fields, width // fields) for side in self.operands(x.emb_BFD))
        first, second = self.pairs.first, self.pairs.second
        pairs_B = (generated_BFTd[:, first, second] * raw_BFTd[:, second, first]).sum((1, 2))
        return pairs_B.unsqueeze(1) + x.linear_BF.sum(1, keepdim=True)


class IPNN(Decoder):
    """Inner-product network: a network over the raw vectors and all inner products.

    out = MLP(concat(flat(emb), <generated_i, emb_j> for i < j))

    Args:
        network: hidden, dropout, batch_norm.

    Shape:
        emb_BFD (B, F, D) -> (B, hidden[-1])
    """

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        network: MLPOptions = NETWORK,
    ) -> None:
        super().__init__()
        self.encoder = generate()
        self.pairs = Pairs(len(fields))
        self.mlp = network.build(make_mlp, len(fields) * width + pairs_of(len(fields)))
        self.out = Flat(features_of("ipnn", network.hidden))

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the last hidden layer, (B, hidden[-1])."""
        out_BH: Tensor = self.mlp(torch.cat([x.emb_BFD.flatten(1), self.pairs(*self.operands(x.emb_BFD))], dim=1), x)
        return out_BH
