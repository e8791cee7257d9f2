"""DCN v1: cross layers of one weight vector each, next to a network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.decoders.base import Decoder, Generate, features_of
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, NETWORK, Flat, MakeMLP, MLPOptions, linear


class RankOneCross(nn.Module):
    """x + gate * <w, x> + b

    Of DCN V2's W x + b, W has rank one here, all its rows being w, and the bias is not multiplied.

    Shape:
        gate_BX (B, X), x_BX (B, X) -> (B, X)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weigh = linear(width, 1, bias=False)
        self.bias_X = nn.Parameter(torch.zeros(width))

    def forward(self, gate_BX: Tensor, x_BX: Tensor) -> Tensor:
        """Return what the layer makes of x, (B, X)."""
        crossed_BX: Tensor = x_BX + gate_BX * self.weigh(x_BX) + self.bias_X
        return crossed_BX


class DCN(Decoder):
    """Deep & Cross: cross layers and a network side by side; the network reads the raw vectors.

    x_0 = flat(emb)        x_{l+1} = x_l + generate_l(emb) * <w_l, x_l> + b_l        out = concat(x_L, make_mlp(x_0))

    The identity encoder gives the gate x_0 of every layer, and that is DCN; generating here is our own extension, in the way of
    SFG's form of DCN V2.

    Args:
        layers: number of cross layers, each with an encoder of its own.
        network: hidden, dropout, batch_norm; without hidden layers there is none, and this is the first CrossNet.

    Shape:
        emb_BFD (B, F, D) -> (B, F * D + hidden[-1])

    Raises:
        ValueError: there is no cross layer.

    Source: Wang et al., "Deep & Cross Network for Ad Click Predictions", ADKDD 2017.
    """

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        layers: int = 3,
        network: MLPOptions = NETWORK,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"dcn: layers is {layers}; expected 1 or more")
        flat = len(fields) * width
        self.encoders = nn.ModuleList(generate() for _ in range(layers))
        self.crosses = nn.ModuleList(RankOneCross(flat) for _ in range(layers))
        self.mlp = network.build(make_mlp, flat) if network.hidden else None
        self.out = Flat(flat + (features_of("dcn", network.hidden) if network.hidden else 0))

    def operands(self, emb_BFD: Tensor) -> tuple[Tensor, Tensor]:
        """Return (generated, emb) of the first layer, before its weights."""
        return self.encoders[0](emb_BFD), emb_BFD

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the crossed row next to the network's last layer, (B, F * D + hidden[-1])."""
        x_BX = row_BX = x.emb_BFD.flatten(1)
        for encoder, cross in zip(self.encoders, self.crosses, strict=True):
            x_BX = cross(encoder(x.emb_BFD).flatten(1), x_BX)
        return x_BX if self.mlp is None else torch.cat([x_BX, self.mlp(row_BX, x)], dim=1)
