"""EDCN: cross layers and dense layers that exchange what they know after every layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.decoders.base import Decoder, Generate
from models.decoders.crosses.dcn import RankOneCross
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, Flat, MakeMLP, linear
from models.norm import BatchNorm1d

BRIDGES = ("none", "product", "sum", "concat", "attention")


@dataclass(frozen=True)
class BridgeOptions:
    """What the two towers of EDCN have in common.

    Args:
        layers: of each tower; every cross layer has an encoder of its own.
        bridge: none, product, sum, concat or attention.
        temperature: [1] tau of the gates of fields; a high one makes them all alike.
    """

    layers: int = 3
    bridge: str = "product"
    temperature: float = 1.0


BRIDGED = BridgeOptions()


class EDCN(Decoder):
    """Enhanced DCN: a bridge joins cross and dense tower after every layer, gates of fields part them again before the next.

    (c_0, d_0) = regulate_0(emb)        regulate(x) = norm(g * x), norm(h * x); g_f = softmax_f(u / tau), h alike of its own
    c = c + generate_l(c_0) * <w_l, c> + b_l        d = dropout(relu(W_l d + a_l))        s = bridge(c, d)
    (c, d) = regulate_l(s) before every further layer                                     out = concat(c, d, s) after the last

    bridge: product c * d; sum c + d; concat relu(W concat(c, d) + a); attention A(c) * c + A'(d) * d with
    A(x) = softmax(V relu(U x + p)); none leaves the towers apart, DCN on gated vectors: out = concat(c, d).
    FuxiCTR's cross layers leave the "c +" out, and its attention has one A for both. Generating here is our own extension, no
    result of the SFG paper.

    Args:
        bridged: layers, bridge, temperature.
        dropout: of the dense tower. batch_norm: whether gates are followed by batch normalisation.

    Shape:
        emb_BFD (B, F, D) -> (B, 3 * F * D), or (B, 2 * F * D) without bridge

    Raises:
        ValueError: no layer, no such bridge, or a temperature that is not positive.

    Source: Chen et al., "Enhancing Explicit and Implicit Feature Interactions via Information Sharing for Parallel Deep CTR
    Models", CIKM 2021.
    """

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        bridged: BridgeOptions = BRIDGED,
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        layers, bridge = bridged.layers, bridged.bridge
        if layers < 1:
            raise ValueError(f"edcn: layers is {layers}; expected 1 or more")
        if bridge not in BRIDGES:
            raise ValueError(f"edcn: no bridge {bridge!r}; choose from {list(BRIDGES)}")
        if bridged.temperature <= 0:
            raise ValueError(f"edcn: temperature is {bridged.temperature}; expected more than 0")
        flat = len(fields) * width
        self.encoders = nn.ModuleList(generate() for _ in range(layers))
        self.crosses = nn.ModuleList(RankOneCross(flat) for _ in range(layers))
        self.denses = nn.ModuleList(make_mlp(flat, hidden=[flat], dropout=dropout) for _ in range(layers))
        gates = 1 if bridge == "none" else layers
        self.gates = nn.ModuleList(_Regulation(len(fields), width, bridged.temperature, batch_norm) for _ in range(gates))
        self.bridges = nn.ModuleList(_Bridge(bridge, flat) for _ in range(layers)) if bridge != "none" else None
        self.out = Flat(2 * flat if bridge == "none" else 3 * flat)

    def operands(self, emb_BFD: Tensor) -> tuple[Tensor, Tensor]:
        """Return (generated, emb) of the vectors as they come: a gate's batch normalisation counts the rows of a step once."""
        return self.encoders[0](emb_BFD), emb_BFD

    def forward(self, x: FieldVectors) -> Tensor:
        """Return both towers and their last bridge side by side."""
        shared_BX = x.emb_BFD.flatten(1)
        cross_BX, dense_BX = self.gates[0](shared_BX)
        start_BFD = cross_BX.view_as(x.emb_BFD)
        for layer, (encoder, cross, dense) in enumerate(zip(self.encoders, self.crosses, self.denses, strict=True)):
            if layer and self.bridges is not None:
                cross_BX, dense_BX = self.gates[layer](shared_BX)
            cross_BX, dense_BX = cross(encoder(start_BFD).flatten(1), cross_BX), dense(dense_BX, x)
            if self.bridges is not None:
                shared_BX = self.bridges[layer](cross_BX, dense_BX)
        towers = [cross_BX, dense_BX]
        return torch.cat(towers if self.bridges is None else [*towers, shared_BX], dim=1)


class _Regulation(nn.Module):
    """A gate per field for the cross tower and one for the dense tower, two (B, F * D)."""

    def __init__(self, fields: int, width: int, temperature: float, batch_norm: bool) -> None:
        super().__init__()
        self.gates_2F = nn.Parameter(torch.ones(2, fields))
        self.width, self.temperature = width, temperature
        self.norms = nn.ModuleList(BatchNorm1d(fields * width) if batch_norm else nn.Identity() for _ in range(2))

    def forward(self, x_BX: Tensor) -> tuple[Tensor, Tensor]:
        gates_2X = (self.gates_2F / self.temperature).softmax(1).repeat_interleave(self.width, dim=1)
        return self.norms[0](x_BX * gates_2X[0]), self.norms[1](x_BX * gates_2X[1])


class _Bridge(nn.Module):
    """What both towers know, (B, F * D) twice -> (B, F * D)."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.join = nn.Sequential(linear(2 * width, width), nn.ReLU()) if kind == "concat" else None
        self.attend = nn.ModuleList(_attention(width) for _ in range(2)) if kind == "attention" else None

    def forward(self, cross_BX: Tensor, dense_BX: Tensor) -> Tensor:
        if self.join is not None:
            joined_BX: Tensor = self.join(torch.cat([cross_BX, dense_BX], dim=1))
            return joined_BX
        if self.attend is not None:
            attended_BX: Tensor = self.attend[0](cross_BX) * cross_BX + self.attend[1](dense_BX) * dense_BX
            return attended_BX
        return cross_BX * dense_BX if self.kind == "product" else cross_BX + dense_BX


def _attention(width: int) -> nn.Module:
    return nn.Sequential(linear(width, width), nn.ReLU(), linear(width, width, bias=False), nn.Softmax(dim=1))
