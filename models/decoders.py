"""Interaction decoders: score how well every field's generated vector meets the vectors of the others.

Every decoder is written once. It gets `generate`, which makes one encoder (B, F, D) -> (B, F, D), and puts what it
generates on one side of its products: the identity encoder gives the classic model, the SFG encoder the generative
one. B rows, F fields, D width of a vector.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.layers import MLP, linear

Generate = Callable[[], nn.Module]


class Decoder(nn.Module, ABC):
    """What all decoders promise.

    Attributes:
        needs_linear: whether forward wants the first-order terms of the fields.
        out_features: width of the result; 1 means that it already is a score and the head adds only a bias.

    Shape:
        emb_BFD (B, F, D), linear_BF (B, F) or None -> (B, out_features)
    """

    needs_linear: ClassVar[bool] = False
    out_features: int

    @abstractmethod
    def operands(self, emb_BFD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the generated and the raw side of the first product, two (B, F, D), for diagnostics."""

    @abstractmethod
    def forward(self, emb_BFD: Tensor, linear_BF: Tensor | None = None) -> Tensor:
        """Return what the head turns into logits, (B, out_features)."""


def pair_sum(left_BFD: Tensor, right_BFD: Tensor) -> Tensor:
    """Return sum_{i<j} <left_i, right_j>, (B, 1), in O(F * D) a row.

    Every right vector meets the sum of all left vectors before it. (The classic half of squared sum minus sum of squares
    needs left = right.)
    """
    before_BFD = left_BFD.cumsum(1)[:, :-1]
    return (before_BFD * right_BFD[:, 1:]).sum((1, 2)).unsqueeze(1)


class FM(Decoder):
    """Factorisation machine.

    score = sum_f linear_f + sum_{i<j} <generated_i, emb_j>

    Only the smaller index of a pair is generated: the order of the fields matters, and the last field's generated
    vector is never used.

    Shape:
        emb_BFD (B, F, D), linear_BF (B, F) -> (B, 1)
    """

    needs_linear = True

    def __init__(self, *, fields: int, width: int, generate: Generate) -> None:
        super().__init__()
        self.encoder = generate()
        self.out_features = 1

    def operands(self, emb_BFD: Tensor) -> tuple[Tensor, Tensor]:
        """Return (generated, emb)."""
        return self.encoder(emb_BFD), emb_BFD

    def forward(self, emb_BFD: Tensor, linear_BF: Tensor | None = None) -> Tensor:
        """Return the score, (B, 1)."""
        assert linear_BF is not None
        return pair_sum(*self.operands(emb_BFD)) + linear_BF.sum(1, keepdim=True)


class DeepFM(FM):
    """Factorisation machine plus a network; the network reads the raw vectors.

    score = FM(emb, linear) + w . MLP(flat(emb)) + b

    Args:
        hidden, dropout, batch_norm: the network, see `MLP`.

    Shape:
        emb_BFD (B, F, D), linear_BF (B, F) -> (B, 1)
    """

    def __init__(
        self,
        *,
        fields: int,
        width: int,
        generate: Generate,
        hidden: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(fields=fields, width=width, generate=generate)
        self.mlp = MLP(fields * width, hidden=hidden, dropout=dropout, batch_norm=batch_norm)
        self.last = linear(self.mlp.out_features, 1)

    def forward(self, emb_BFD: Tensor, linear_BF: Tensor | None = None) -> Tensor:
        """Return the score, (B, 1)."""
        deep_B1: Tensor = self.last(self.mlp(emb_BFD.flatten(1)))
        return super().forward(emb_BFD, linear_BF) + deep_B1


class CrossNet(Decoder):
    """Cross network (version 2): every layer multiplies the row with a gate, coordinate by coordinate.

    x_0 = flat(emb)        x_{l+1} = dropout(x_l + gate_l * (W_l x_l))

    gate_l = generate_l(emb), or generate_l(x_l) with `regenerate`; the identity encoder gives gate_l = x_0, the classic
    model (with `regenerate` x_l, which is not). W_l (F*D, F*D) has no bias. The paper's formula puts W_l on the generated
    side, gate_l = W_l generate_l(..), and multiplies x_l: `weigh_generated`. The released code, which made the published
    numbers, does not.

    Args:
        layers: number of cross layers, each with an encoder of its own.
        cross_dropout: probability of dropping a coordinate after a layer while training.
        regenerate: generate from what the layer before returned.
        weigh_generated: the paper's formula instead of the code's.
        bias: whether W_l x also adds a vector b_l, as DCN V2 has it and the released SFG code has not.

    Shape:
        emb_BFD (B, F, D) -> (B, F * D)
    """

    def __init__(
        self,
        *,
        fields: int,
        width: int,
        generate: Generate,
        layers: int = 3,
        cross_dropout: float = 0.0,
        regenerate: bool = False,
        weigh_generated: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"crossnet: layers is {layers}; expected 1 or more")
        self.out_features = fields * width
        self.encoders = nn.ModuleList(generate() for _ in range(layers))
        self.weights = nn.ModuleList(linear(fields * width, fields * width, bias=bias) for _ in range(layers))
        self.drop = nn.Dropout(cross_dropout)
        self.regenerate = regenerate
        self.weigh_generated = weigh_generated

    def operands(self, emb_BFD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two sides of the first layer's product."""
        gate_BX, raw_BX = self._layer(0, emb_BFD, emb_BFD.flatten(1))
        return gate_BX.view_as(emb_BFD), raw_BX.view_as(emb_BFD)

    def forward(self, emb_BFD: Tensor, linear_BF: Tensor | None = None) -> Tensor:
        """Return the crossed rows, (B, F * D)."""
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


class DCNV2(CrossNet):
    """Cross network and a network side by side; the network reads the raw vectors.

    out = concat(CrossNet(emb), MLP(flat(emb)))        then, with `deep_head`, relu(Linear(m, 2m)) of the m numbers

    Args:
        layers, cross_dropout, regenerate, weigh_generated, bias: the cross part, see `CrossNet`.
        hidden, dropout, batch_norm: the network, see `MLP`.
        deep_head: a hidden layer before the head, as the released SFG code has for both of its paradigms; the usual
            DCN V2 has none.

    Shape:
        emb_BFD (B, F, D) -> (B, m), or (B, 2m) with `deep_head`; m = F * D + hidden[-1]
    """

    def __init__(
        self,
        *,
        fields: int,
        width: int,
        generate: Generate,
        layers: int = 3,
        cross_dropout: float = 0.0,
        regenerate: bool = False,
        weigh_generated: bool = False,
        bias: bool = False,
        hidden: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        deep_head: bool = False,
    ) -> None:
        super().__init__(
            fields=fields,
            width=width,
            generate=generate,
            layers=layers,
            cross_dropout=cross_dropout,
            regenerate=regenerate,
            weigh_generated=weigh_generated,
            bias=bias,
        )
        self.mlp = MLP(fields * width, hidden=hidden, dropout=dropout, batch_norm=batch_norm)
        both = fields * width + self.mlp.out_features
        self.last = MLP(both, hidden=[2 * both] if deep_head else [])
        self.out_features = self.last.out_features

    def forward(self, emb_BFD: Tensor, linear_BF: Tensor | None = None) -> Tensor:
        """Return the crossed row beside the network's last layer, (B, out_features)."""
        both_BX: Tensor = self.last(torch.cat([super().forward(emb_BFD), self.mlp(emb_BFD.flatten(1))], dim=1))
        return both_BX


class MLPDecoder(Decoder):
    """A network without explicit products.

    out = MLP(flat(generated))

    Generating here is our own extension, no result of the SFG paper: a network has no product to reformulate.

    Args:
        hidden, dropout, batch_norm: the network, see `MLP`.

    Shape:
        emb_BFD (B, F, D) -> (B, hidden[-1])
    """

    def __init__(
        self,
        *,
        fields: int,
        width: int,
        generate: Generate,
        hidden: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = generate()
        self.mlp = MLP(fields * width, hidden=hidden, dropout=dropout, batch_norm=batch_norm)
        self.out_features = self.mlp.out_features
        if self.out_features == 1:
            raise ValueError("mlp: the last hidden layer has 1 unit, which its ReLU would cut at 0; expected 2 or more")

    def operands(self, emb_BFD: Tensor) -> tuple[Tensor, Tensor]:
        """Return (generated, emb)."""
        return self.encoder(emb_BFD), emb_BFD

    def forward(self, emb_BFD: Tensor, linear_BF: Tensor | None = None) -> Tensor:
        """Return the last hidden layer, (B, hidden[-1])."""
        out_BH: Tensor = self.mlp(self.encoder(emb_BFD).flatten(1))
        return out_BH


DECODERS: Mapping[str, type[Decoder]] = MappingProxyType(
    {"fm": FM, "deepfm": DeepFM, "crossnet": CrossNet, "dcnv2": DCNV2, "mlp": MLPDecoder}
)
