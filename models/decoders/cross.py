"""Decoders that cross the whole row with itself, layer by layer: CrossNet, DCN V2, GDCN, xDeepFM."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.decoders.base import Decoder, Generate
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, NETWORK, Dropout, Flat, MakeMLP, MLPOptions, linear


@dataclass(frozen=True)
class CrossOptions:
    """The layers that cross a row with itself, see `Crossing`.

    Args:
        layers: number of cross layers, each with an encoder of its own.
        cross_dropout: [1] probability of dropping a coordinate after a layer while training.
        regenerate: generate from what the layer before returned.
        bias: whether W_l x also adds a vector b_l, as DCN V2 has it and the released SFG code has not.
    """

    layers: int = 3
    cross_dropout: float = 0.0
    regenerate: bool = False
    bias: bool = False


CROSS = CrossOptions()
GATED_CROSS = CrossOptions(bias=True)


class Crossing(Decoder):
    """The layers that `CrossNet`, `DCNV2` and `GDCN` share: each multiplies the row with a gate, coordinate by coordinate.

    x_0 = flat(emb)        x_{l+1} = dropout(x_l + gate_l * (W_l x_l))

    gate_l = generate_l(emb), or generate_l(x_l) with `regenerate`; the identity encoder gives gate_l = x_0, the classic
    model (with `regenerate` x_l, which is not). W_l (F*D, F*D) has no bias unless `bias`. The paper's formula puts W_l on the
    generated side, gate_l = W_l generate_l(..), and multiplies x_l: `weigh_generated`. The released code, which made the
    published numbers, does not.

    Args:
        cross: layers, cross_dropout, regenerate, bias.
        weigh_generated: the paper's formula instead of the code's.

    Raises:
        ValueError: there is no layer.
    """

    def __init__(
        self, *, fields: Sequence[FieldInfo], width: int, generate: Generate, cross: CrossOptions, weigh_generated: bool = False
    ) -> None:
        super().__init__()
        if cross.layers < 1:
            raise ValueError(f"crossnet: layers is {cross.layers}; expected 1 or more")
        self.encoders = nn.ModuleList(generate() for _ in range(cross.layers))
        flat = len(fields) * width
        self.weights = nn.ModuleList(linear(flat, flat, bias=cross.bias) for _ in range(cross.layers))
        self.drop = Dropout(cross.cross_dropout)
        self.regenerate = cross.regenerate
        self.weigh_generated = weigh_generated

    def operands(self, emb_BFD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two sides of the first layer's product."""
        gate_BX, raw_BX = self._layer(0, emb_BFD, emb_BFD.flatten(1))
        return gate_BX.view_as(emb_BFD), raw_BX.view_as(emb_BFD)

    def crossed(self, emb_BFD: Tensor) -> Tensor:
        """Return what the layers make of the rows, (B, F * D)."""
        x_BX = emb_BFD.flatten(1)  # X = F * D
        for layer in range(len(self.weights)):
            gate_BX, raw_BX = self._layer(layer, emb_BFD, x_BX)
            x_BX = self.drop(x_BX + gate_BX * raw_BX)  # addcmul's backward would multiply four times instead of twice
        return x_BX

    def _layer(self, layer: int, emb_BFD: Tensor, x_BX: Tensor) -> tuple[Tensor, Tensor]:
        source_BFD = x_BX.view_as(emb_BFD) if self.regenerate else emb_BFD
        gate_BX = self.encoders[layer](source_BFD).flatten(1)
        if self.weigh_generated:
            return self.weights[layer](gate_BX), x_BX
        return gate_BX, self.weights[layer](x_BX)


class CrossNet(Crossing):
    """Cross network (version 2): the layers of `Crossing` alone.

    out = crossed(emb), with `deep_head` relu(Linear(m, 2m)) of it

    Args:
        cross, weigh_generated: see `Crossing`.
        deep_head: a hidden layer before the head, relu(Linear(m, 2m)) of the m = F * D numbers, as the released SFG code has
            for both of its paradigms; the usual CrossNet has none.

    Shape:
        emb_BFD (B, F, D) -> (B, m), or (B, 2m) with `deep_head`
    """

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        cross: CrossOptions = CROSS,
        weigh_generated: bool = False,
        deep_head: bool = False,
    ) -> None:
        super().__init__(fields=fields, width=width, generate=generate, cross=cross, weigh_generated=weigh_generated)
        self.last = _before_head(len(fields) * width, make_mlp, deep=deep_head)
        self.out = Flat(self.last.out_features)

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the crossed rows, (B, m) or (B, 2m)."""
        out_BX: Tensor = self.last(self.crossed(x.emb_BFD), x)
        return out_BX


class DCNV2(Crossing):
    """Cross layers and a network side by side; the network reads the raw vectors.

    out = concat(crossed(emb), make_mlp(flat(emb)))        with `deep_head` the hidden layer reads both

    Args:
        cross, weigh_generated: see `Crossing`. network: hidden, dropout, batch_norm.
        deep_head: see `CrossNet`.

    Shape:
        emb_BFD (B, F, D) -> (B, m), or (B, 2m) with `deep_head`; m = F * D + hidden[-1]
    """

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        cross: CrossOptions = CROSS,
        weigh_generated: bool = False,
        network: MLPOptions = NETWORK,
        deep_head: bool = False,
    ) -> None:
        super().__init__(fields=fields, width=width, generate=generate, cross=cross, weigh_generated=weigh_generated)
        flat = len(fields) * width
        mlp = network.build(make_mlp, flat)
        # In this order the parameters are listed, and gradients are summed for their norm: another one changes its last bits.
        self.last = _before_head(flat + mlp.out_features, make_mlp, deep=deep_head)
        self.mlp = mlp
        self.out = Flat(self.last.out_features)

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the crossed row next to the network's last layer, (B, m) or (B, 2m)."""
        both_BX: Tensor = self.last(torch.cat([self.crossed(x.emb_BFD), self.mlp(x.emb_BFD.flatten(1), x)], dim=1), x)
        return both_BX


class GDCN(DCNV2):
    """DCN V2 whose cross layers have an information gate.

    x_{l+1} = dropout(x_l + generate_l(emb) * (W_l x_l + b_l) * sigmoid(V_l x_l))

    The identity encoder gives GDCN-P, but for the b_l, which start at 0 here and between 0 and 1 in the released code;
    generating here is our own extension, no result of the SFG paper.

    Args:
        cross: see `Crossing`; `bias` is true unless the user says otherwise. network: hidden, dropout, batch_norm.

    Shape:
        emb_BFD (B, F, D) -> (B, F * D + hidden[-1])
    """

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        cross: CrossOptions = GATED_CROSS,
        network: MLPOptions = NETWORK,
    ) -> None:
        super().__init__(fields=fields, width=width, generate=generate, make_mlp=make_mlp, cross=cross, network=network)
        flat = len(fields) * width
        self.gates = nn.ModuleList(linear(flat, flat, bias=False) for _ in range(cross.layers))

    def _layer(self, layer: int, emb_BFD: Tensor, x_BX: Tensor) -> tuple[Tensor, Tensor]:
        generated_BX, raw_BX = super()._layer(layer, emb_BFD, x_BX)
        return generated_BX, raw_BX * torch.sigmoid(self.gates[layer](x_BX))


def _before_head(features: int, make_mlp: MakeMLP, *, deep: bool) -> MLP:
    """Return what stands between the crossed row and the head: with `deep` a hidden layer twice as wide, else nothing."""
    return make_mlp(features, hidden=[2 * features] if deep else [])


class CIN(nn.Module):
    """Compressed interaction network: maps are weighted sums of products of two vectors, coordinate by coordinate.

    h^0 = emb        h^l_k = sum_{i, j} W^l_kij generate_l(emb)_i * h^{l-1}_j + b^l_k        out = concat of sum_D h^l

    Args:
        units: maps K_l of every layer.

    Shape:
        emb_BFD (B, F, D) -> (B, sum of units)
    """

    def __init__(self, *, fields: int, generate: Generate, units: Sequence[int]) -> None:
        super().__init__()
        if not units or min(units) < 1:
            raise ValueError(f"cin: units are {list(units)}; expected one number or more, each 1 or more")
        self.encoders = nn.ModuleList(generate() for _ in units)
        inputs = [fields * below for below in (fields, *units[:-1])]
        self.weights = nn.ModuleList(linear(below, above) for below, above in zip(inputs, units, strict=True))
        self.out_features = sum(units)

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return the pooled maps of all layers, (B, sum of units)."""
        maps_BKD, pooled = emb_BFD, []
        for encoder, weigh in zip(self.encoders, self.weights, strict=True):
            products_BXD = (encoder(emb_BFD).unsqueeze(2) * maps_BKD.unsqueeze(1)).flatten(1, 2)  # X = F * K
            maps_BKD = weigh(products_BXD.transpose(1, 2)).transpose(1, 2)
            pooled.append(maps_BKD.sum(2))
        return torch.cat(pooled, dim=1)


class XDeepFM(Decoder):
    """Compressed interaction network, first-order terms and a network; the network reads the raw vectors.

    score = sum_f linear_f + w . CIN(emb) + v . make_mlp(flat(emb)) + b

    Args:
        units: maps of every layer of the `CIN`; each layer has an encoder of its own.
        network: hidden, dropout, batch_norm; without hidden layers there is none.

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
        units: Sequence[int] = (64,),
        network: MLPOptions = NETWORK,
    ) -> None:
        super().__init__()
        self.cin = CIN(fields=len(fields), generate=generate, units=units)
        self.score = linear(self.cin.out_features, 1)
        self.mlp = network.build(make_mlp, len(fields) * width) if network.hidden else None
        self.last = linear(self.mlp.out_features, 1) if self.mlp is not None else None
        self.out = Flat(1)

    def operands(self, emb_BFD: Tensor) -> tuple[Tensor, Tensor]:
        """Return (generated, emb) of the first layer."""
        return self.cin.encoders[0](emb_BFD), emb_BFD

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the score, (B, 1)."""
        assert x.linear_BF is not None
        score_B1: Tensor = self.score(self.cin(x.emb_BFD)) + x.linear_BF.sum(1, keepdim=True)
        if self.mlp is not None and self.last is not None:
            score_B1 = score_B1 + self.last(self.mlp(x.emb_BFD.flatten(1), x))
        return score_B1
