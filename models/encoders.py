"""Encoders: generate a new vector for every field from the vectors of all the fields.

B rows, F fields, D width of a vector.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from models.layers import linear

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "relu": torch.relu,
        "silu": nn.functional.silu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "linear": torch.positive,  # the identity, as a function that pickles
    }
)


class Identity(nn.Module):
    """No generation: the plain paradigm. Has no parameters and returns its very input.

    Shape:
        emb_BFD (B, F, D) -> (B, F, D)
    """

    def __init__(self, *, fields: int, width: int) -> None:
        super().__init__()
        self.fields, self.width = fields, width

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return the input."""
        return emb_BFD


class FeatureGenerator(nn.Module):
    """Supervised feature generation (SFG): every field's new vector reads all the fields.

    out = reshape(act(flat(emb) @ W^T)) * gamma        (+ emb if residual)

    W (F*D, F*D) has no bias; its rows f*D .. (f+1)*D are the matrix of field f. With N(0, 1e-4) tables the activations
    start tiny, so gamma (or residual) sets how fast the generated side learns: tune it per data set, the paper's code
    uses 0.005 to 36.

    Args:
        fields: F.
        width: D.
        activation: a name in `ACTIVATIONS`; the paper finds relu and silu best.
        gamma: a fixed factor, not learned.
        residual: add the raw vectors.

    Shape:
        emb_BFD (B, F, D) -> (B, F, D)

    Source: "From Feature Interaction to Feature Generation" (arXiv 2512.14041), default form of the released code
    (USTC-StarTeam/GE4Rec).

    Example:
        >>> FeatureGenerator(fields=3, width=4)(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 3, 4])
    """

    def __init__(
        self, *, fields: int, width: int, activation: str = "relu", gamma: float = 1.0, residual: bool = False
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"encoder: no activation {activation!r}; choose from {sorted(ACTIVATIONS)}")
        self.linear = linear(fields * width, fields * width, bias=False)
        self.activate = ACTIVATIONS[activation]
        self.gamma = gamma
        self.residual = residual

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return the generated vectors, (B, F, D)."""
        generated_BFD = self.activate(self.linear(emb_BFD.flatten(1))).view_as(emb_BFD) * self.gamma
        return generated_BFD + emb_BFD if self.residual else generated_BFD


ENCODERS: Mapping[str, type[nn.Module]] = MappingProxyType({"identity": Identity, "sfg": FeatureGenerator})
