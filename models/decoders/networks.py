"""Decoders that are networks: MLP, FinalMLP, AutoInt. That they can generate is our own extension of SFG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.decoders.base import Decoder, Generate, features_of, places_of
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, NETWORK, Flat, MakeMLP, MLPOptions, linear


class MLPDecoder(Decoder):
    """A network without explicit products.

    out = make_mlp(flat(generated))

    Generating here is our own extension, no result of the SFG paper: a network has no product to reformulate.

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
        self.mlp = network.build(make_mlp, len(fields) * width)
        self.out = Flat(features_of("mlp", network.hidden))

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the last hidden layer, (B, hidden[-1])."""
        out_BH: Tensor = self.mlp(self.encoder(x.emb_BFD).flatten(1), x)
        return out_BH


@dataclass(frozen=True)
class GateOptions:
    """The feature gates of FinalMLP.

    Args:
        gates: whether there are any.
        gate_hidden: hidden widths of their networks.
        contexts: for each of the two gates the names of the fields that it reads.
    """

    gates: bool = True
    gate_hidden: Sequence[int] = (400,)
    contexts: Sequence[Sequence[str]] = ((), ())


GATES = GateOptions()


class FinalMLP(Decoder):
    """Two networks, each behind a feature gate, and a bilinear fusion of what they return.

    x = MLP_1(gate_1 * flat(generated))        y = MLP_2(gate_2 * flat(emb))        gate = 2 sigmoid(MLP(context))
    score = w . x + v . y + b + sum_h x_h W_h y_h

    The context of a gate is the raw vectors of some fields, or a learnt vector if there are none. With the identity encoder
    this is FinalMLP, but for the gates' own embedding tables in the released code. x_h is the h-th part of x.

    Args:
        network: hidden of MLP_1; dropout, batch_norm of both. second_hidden: hidden widths of MLP_2.
        gate: the feature gates.
        heads: parts of x and y in the fusion; a divisor of both last widths.

    Shape:
        emb_BFD (B, F, D) -> (B, 1)
    """

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        network: MLPOptions = NETWORK,
        second_hidden: Sequence[int] = (400,),
        gate: GateOptions = GATES,
        heads: int = 1,
    ) -> None:
        super().__init__()
        flat = len(fields) * width
        if len(gate.contexts) != 2:
            raise ValueError(f"finalmlp: contexts are {gate.contexts}; expected two lists of field names, one for each gate")
        contexts = [places_of("finalmlp: contexts", context, fields) for context in gate.contexts]
        self.encoder = generate()
        gates = (_Gate(context, flat, width, gate.gate_hidden, make_mlp) for context in contexts)
        self.gates = nn.ModuleList(gates) if gate.gates else None
        self.first = network.build(make_mlp, flat)
        self.second = replace(network, hidden=second_hidden).build(make_mlp, flat)
        left, right = self.first.out_features, self.second.out_features
        if heads < 1 or left % heads or right % heads:
            raise ValueError(f"finalmlp: heads is {heads}; expected a divisor of the last widths {left} and {right}")
        self.score = linear(left + right, 1)
        self.heads_HXY = nn.Parameter(torch.empty(heads, left // heads, right // heads))
        nn.init.xavier_normal_(self.heads_HXY.view(-1, 1))  # as one column, as the released code has it
        self.out = Flat(1)

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the score, (B, 1)."""
        left_BX, right_BX = (side.flatten(1) for side in self.operands(x.emb_BFD))
        if self.gates is not None:
            left_BX, right_BX = left_BX * self.gates[0](x), right_BX * self.gates[1](x)
        x_BX, y_BY = self.first(left_BX, x), self.second(right_BX, x)
        heads = self.heads_HXY.shape[0]
        crossed_HBY = torch.bmm(x_BX.unflatten(1, (heads, -1)).transpose(0, 1), self.heads_HXY)
        bilinear_B1 = (crossed_HBY * y_BY.unflatten(1, (heads, -1)).transpose(0, 1)).sum((0, 2)).unsqueeze(1)
        score_B1: Tensor = self.score(torch.cat([x_BX, y_BY], dim=1)) + bilinear_B1
        return score_B1


class _Gate(nn.Module):
    """2 sigmoid(MLP(context)), (B, F * D)."""

    def __init__(self, fields: Sequence[int], outputs: int, width: int, hidden: Sequence[int], make_mlp: MakeMLP) -> None:
        super().__init__()
        self.fields = list(fields)
        self.constant_1D = None if self.fields else nn.Parameter(torch.randn(1, width))
        self.mlp = make_mlp(max(len(self.fields), 1) * width, hidden=hidden)
        self.last = linear(self.mlp.out_features, outputs)

    def forward(self, x: FieldVectors) -> Tensor:
        context_BC = x.emb_BFD[:, self.fields].flatten(1) if self.constant_1D is None else self.constant_1D
        return 2 * torch.sigmoid(self.last(self.mlp(context_BC, x)))


@dataclass(frozen=True)
class AttentionOptions:
    """The attention of AutoInt.

    Args:
        layers, heads: of the attention.
        attention_width: [columns] of a head, d.
        scale: whether scores are divided by sqrt(d).
    """

    layers: int = 3
    heads: int = 2
    attention_width: int = 32
    scale: bool = False


ATTENTION = AttentionOptions()
NO_NETWORK = MLPOptions(hidden=())


class AutoInt(Decoder):
    """Self-attention over the fields, layer by layer; with hidden layers also a network, which is AutoInt+.

    out_f = relu(concat_h sum_g softmax_g(<Q_h x_f, K_h x_g> / sqrt(d)) V_h generated_g  +  R x_f)        x^0 = emb

    The values of the first layer are those of the generated vectors; with the identity encoder this is AutoInt.
    FuxiCTR's has R only where the width changes, drops attention weights, and leaves the first-order sum to choice.

    Args:
        attention: layers, heads, attention_width, scale.
        network: hidden, dropout, batch_norm of the network over the raw vectors; without hidden layers there is none.

    Shape:
        emb_BFD (B, F, D), linear_BF (B, F) -> (B, F * heads * d + hidden[-1] + 1)
    """

    needs_linear = True

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        attention: AttentionOptions = ATTENTION,
        network: MLPOptions = NO_NETWORK,
    ) -> None:
        super().__init__()
        layers, heads, attention_width = attention.layers, attention.heads, attention.attention_width
        if min(layers, heads, attention_width) < 1:
            told = f"layers is {layers}, heads {heads}, attention_width {attention_width}"
            raise ValueError(f"autoint: {told}; expected each 1 or more")
        out = heads * attention_width
        self.encoder = generate()
        self.heads, self.scale = heads, 1 / math.sqrt(attention_width) if attention.scale else 1.0
        inputs = [width] + [out] * (layers - 1)
        self.queries, self.keys, self.values, self.rests = (
            nn.ModuleList(linear(own, out, bias=False) for own in inputs) for _ in range(4)
        )
        self.mlp = network.build(make_mlp, len(fields) * width) if network.hidden else None
        self.out = Flat(len(fields) * out + (self.mlp.out_features if self.mlp is not None else 0) + 1)

    def forward(self, x: FieldVectors) -> Tensor:
        """Return attended vectors, network and first-order sum side by side."""
        assert x.linear_BF is not None
        value_BFX, x_BFX = self.operands(x.emb_BFD)
        for query, key, value, rest in zip(self.queries, self.keys, self.values, self.rests, strict=True):
            looks = (query(x_BFX), key(x_BFX), value(value_BFX))
            q, k, v = (look.unflatten(2, (self.heads, -1)).transpose(1, 2) for look in looks)
            attended_BHFX = nn.functional.scaled_dot_product_attention(q, k, v, scale=self.scale)
            value_BFX = x_BFX = torch.relu(attended_BHFX.transpose(1, 2).flatten(2) + rest(x_BFX))
        parts = [x_BFX.flatten(1), x.linear_BF.sum(1, keepdim=True)]
        if self.mlp is not None:
            parts.append(self.mlp(x.emb_BFD.flatten(1), x))
        return torch.cat(parts, dim=1)
