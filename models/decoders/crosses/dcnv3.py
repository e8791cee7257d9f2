"""DCN V3: a network of crosses whose order doubles with every layer, and one whose order grows by one, each with a mask."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.decoders.base import Decoder, Generate
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, Dropout, Flat, MakeMLP, linear


@dataclass(frozen=True)
class DeepCrossOptions:
    """The two cross networks of DCN V3.

    Args:
        deep_layers, shallow_layers: layers of the exponential and of the linear network, each with an encoder of its own.
        deep_dropout, shallow_dropout: [1] probability of dropping a coordinate after a layer while training.
    """

    deep_layers: int = 4
    shallow_layers: int = 4
    deep_dropout: float = 0.0
    shallow_dropout: float = 0.0


CROSSES = DeepCrossOptions()


class DCNV3(Decoder):
    """Two cross networks and no dense one: exponential (ECN) and linear (LCN) in the order of its crosses.

    c = W_l x_l, half as wide as x_l        m = c * relu(LayerNorm(c)), which leaves what is below the row's average out
    ECN: x_{l+1} = dropout(x_l + generate_l(x_l) * (concat(c, m) + b_l))
    LCN: x_{l+1} = dropout(x_l + generate_l(x_0) * (concat(c, m) + b_l))        x_0 = flat(emb)
    out = concat(LCN, ECN)

    c meets the first half of every field's vector and m the second. Its b_l start between 0 and 1, as in the released code. A
    linear head makes of the two what DCN V3 calls the mean of their logits. Its loss teaches each network by a logit of its own
    too: for that the parts are called easy (LCN) and hard (ECN), which head `twin_focus` scores one by one and loss `tf` reads;
    DCN V3's own weights of the three losses (Tri-BCE) are not among the losses here, nor are the heads of its embeddings.

    Generating here is our own extension, no result of the SFG paper. Nothing here is a network of `make_mlp`.

    Args:
        crosses: deep_layers, shallow_layers, deep_dropout, shallow_dropout.

    Shape:
        emb_BFD (B, F, D), D even -> (B, 2 * F * D)

    Raises:
        ValueError: a network has no layer, or D is odd.

    Source: Li et al., "DCNv3: Towards Next Generation Deep Cross Network for Click-Through Rate Prediction", arXiv 2407.13349.
    """

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        crosses: DeepCrossOptions = CROSSES,
    ) -> None:
        super().__init__()
        for name, layers in (("deep_layers", crosses.deep_layers), ("shallow_layers", crosses.shallow_layers)):
            if layers < 1:
                raise ValueError(f"dcnv3: {name} is {layers}; expected 1 or more")
        if width % 2:
            raise ValueError(
                f"dcnv3: masks are for half of every vector, and the width {width} is odd: choose an even model.dim"
            )
        flat = len(fields) * width
        self.deep = nn.ModuleList(
            _Cross(len(fields), width, generate(), crosses.deep_dropout) for _ in range(crosses.deep_layers)
        )
        self.shallow = nn.ModuleList(
            _Cross(len(fields), width, generate(), crosses.shallow_dropout) for _ in range(crosses.shallow_layers)
        )
        self.out = Flat(2 * flat, {"easy": flat, "hard": flat})

    def operands(self, emb_BFD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two sides of the exponential network's first product."""
        cross = self.deep[0]
        assert isinstance(cross, _Cross)
        return cross.encoder(emb_BFD), cross.masked(emb_BFD)

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the rows of the linear and of the exponential network side by side, (B, 2 * F * D)."""
        deep_BFD = shallow_BFD = x.emb_BFD
        for cross in self.deep:
            deep_BFD = cross(deep_BFD, deep_BFD)
        for cross in self.shallow:
            shallow_BFD = cross(x.emb_BFD, shallow_BFD)
        return torch.cat([shallow_BFD.flatten(1), deep_BFD.flatten(1)], dim=1)


class _Cross(nn.Module):
    """dropout(x + generate(source) * (concat(c, m) + b)), (B, F, D)."""

    def __init__(self, fields: int, width: int, encoder: nn.Module, dropout: float) -> None:
        super().__init__()
        flat = fields * width
        self.encoder = encoder
        self.weigh, self.norm = linear(flat, flat // 2, bias=False), nn.LayerNorm(flat // 2)
        self.bias_FD = nn.Parameter(torch.rand(fields, width))
        self.drop = Dropout(dropout)
        self.fields = fields

    def masked(self, x_BFD: Tensor) -> Tensor:
        """Return concat(c, m) + b."""
        c_BX = self.weigh(x_BFD.flatten(1))
        m_BX = c_BX * torch.relu(self.norm(c_BX))
        both_BFD = torch.cat([half_BX.unflatten(1, (self.fields, -1)) for half_BX in (c_BX, m_BX)], dim=2)
        return both_BFD + self.bias_FD

    def forward(self, source_BFD: Tensor, x_BFD: Tensor) -> Tensor:
        out_BFD: Tensor = self.drop(x_BFD + self.encoder(source_BFD) * self.masked(x_BFD))
        return out_BFD
