"""Dense layers whose weights are generated row by row from a condition (APG).

B rows, N inputs and M outputs of a layer, Z width of a condition, K rank, P columns between the factors of a matrix.
Source: APG (arXiv 2203.16218); the form without generated biases is FuxiCTR's default, the identity in the core is ours.
"""

from collections.abc import Sequence
from functools import partial, reduce

import torch
from torch import Tensor, nn

from models.decoders.base import places_of
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, MakeMLP, linear


class APGLinear(nn.Module):
    """A linear layer of low rank, whose core is a matrix of every row's own.

    out = ((h U) S) V + bias        S = I + reshape(G z)        U = U_1 U_2 (N P, P K)        V = V_1 V_2 (K P, P M)

    With G = 0, or without a condition, it is the static layer of the same rank. The identity in S is there so that the layer
    starts as that one: embeddings start small, and products of three small factors would learn nothing for a while.

    Args:
        condition: Z, the width of z; 0: the layer is static.
        rank: K. factors: P.

    Raises:
        ValueError: the rank is larger than the layer or than its factors.

    Shape:
        h_BN (B, N), z_BZ (B, Z) unless it is static -> (B, M)
    """

    def __init__(self, inputs: int, outputs: int, *, condition: int, rank: int = 4, factors: int = 32) -> None:
        super().__init__()
        if not 1 <= rank <= min(inputs, outputs):
            raise ValueError(f"rank is {rank}; expected 1 to {min(inputs, outputs)} for a layer of {inputs} to {outputs}")
        if factors < rank:
            raise ValueError(f"factors is {factors}; expected the rank, {rank}, or more")
        self.rank = rank
        self.down = _factors(inputs, factors, rank)
        self.up = _factors(rank, factors, outputs)
        self.generate = linear(condition, rank * rank, bias=False) if condition else None
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, h_BN: Tensor, z_BZ: Tensor | None = None) -> Tensor:
        """Return what the rows' own layers make of them, (B, M)."""
        low_BK = h_BN @ reduce(torch.matmul, self.down)
        if self.generate is not None:
            core_BKK = self.generate(z_BZ).unflatten(1, (self.rank, self.rank))
            low_BK = low_BK + (low_BK.unsqueeze(1) @ core_BKK).squeeze(1)
        out_BM: Tensor = low_BK @ reduce(torch.matmul, self.up) + self.bias
        return out_BM

    @torch.no_grad()
    def fold(self) -> None:
        """Multiply U and V out, once for all batches; what is folded is for scoring."""
        self.down, self.up = (nn.ParameterList([reduce(torch.matmul, own)]) for own in (self.down, self.up))


def _factors(rows: int, between: int, columns: int) -> nn.ParameterList:
    shapes = ((rows, between), (between, columns))
    return nn.ParameterList(nn.init.xavier_normal_(torch.empty(shape)) for shape in shapes)


class APGMLP(MLP):
    """An `MLP` of `APGLinear` layers.

    Args:
        inputs, hidden, dropout, batch_norm: see `MLP`.
        condition: what generates the layers: `self`, of each its own input; `none`, nothing; or the numbers of the fields
            whose vectors it is made of, side by side.
        width: D, of a field's vector. rank, factors: see `APGLinear`.

    Shape:
        (B, inputs), and the fields of the rows -> (B, out_features)
    """

    def __init__(
        self,
        inputs: int,
        *,
        hidden: Sequence[int],
        dropout: float = 0.0,
        batch_norm: bool = False,
        condition: str | Sequence[int] = "self",
        width: int = 0,
        rank: int = 4,
        factors: int = 32,
    ) -> None:
        def layer(inputs: int, outputs: int) -> APGLinear:
            own = {"self": inputs, "none": 0}[condition] if isinstance(condition, str) else len(condition) * width
            return APGLinear(inputs, outputs, condition=own, rank=rank, factors=factors)

        super().__init__(inputs, hidden=hidden, dropout=dropout, batch_norm=batch_norm, layer=layer)
        self.condition = condition

    def forward(self, row_BX: Tensor, fields: FieldVectors | None = None) -> Tensor:
        """Return the last hidden layer, (B, out_features)."""
        z_BZ = None
        if not isinstance(self.condition, str):
            assert fields is not None, "every network is given the fields"
            z_BZ = fields.emb_BFD[:, list(self.condition)].flatten(1)
        for layer in self:
            row_BX = layer(row_BX, row_BX if z_BZ is None else z_BZ) if isinstance(layer, APGLinear) else layer(row_BX)
        return row_BX


def make_apg(
    *, fields: Sequence[FieldInfo], width: int, condition: str | Sequence[str] = "self", rank: int = 4, factors: int = 32
) -> MakeMLP:
    """What makes the dense layers of a decoder and of a head.

    Args:
        fields, width: what the decoder reads.
        condition: self, none, or the names of fields. rank, factors: see `APGLinear`.

    Raises:
        ValueError: there is no such condition.
    """
    if isinstance(condition, str):
        if condition not in ("self", "none"):
            raise ValueError(f"condition is {condition!r}; expected self, none or a list of fields such as [{condition}]")
        return partial(APGMLP, condition=condition, rank=rank, factors=factors)
    if not condition:
        raise ValueError("condition is an empty list; expected fields, or none for layers without a condition")
    places = places_of("condition", condition, fields)
    return partial(APGMLP, condition=places, width=width, rank=rank, factors=factors)
