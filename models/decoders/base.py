"""What every decoder promises, and the sum over pairs of fields that many share.

Every decoder is written once. It gets `generate`, which makes one encoder (B, F, D) -> (B, F, D), and puts what it
generates on one side of its products: the identity encoder gives the classic model, the SFG encoder the generative
one. B rows, F fields, D width of a vector, P pairs i < j of fields, row-major.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from models.heads import Head

Generate = Callable[..., nn.Module]
"""Makes a new encoder of the decoder's shape; `width=` overrides its D, `bias=True` asks for one inside its activation."""


class Decoder(nn.Module, ABC):
    """What all decoders promise.

    Attributes:
        needs_linear: whether forward wants the first-order terms of the fields.
        branches: whether its head also says what two encoders say on their own, which some losses read.
        second_width: E, the width of the second embedding that forward wants of every field; 0 for none.
        out_features: width of the result; 1 means that it already is a score and the head adds only a bias.
        encoder: what generates, for decoders with one product; others say their `operands` themselves.

    Shape:
        emb_BFD (B, F, D), linear_BF (B, F) or None, second_BFE (B, F, E) or None -> (B, out_features)
    """

    needs_linear: bool = False
    branches: bool = False
    second_width: int = 0
    out_features: int
    encoder: nn.Module

    @classmethod
    def embedding_width(cls, *, fields: int, dim: int) -> int:
        """Return D, for a model whose vectors are `dim` wide."""
        return dim

    def make_head(self, tasks: Sequence[str]) -> nn.Module:
        """Return what turns the result into logits of `tasks`."""
        return Head(features=self.out_features, tasks=tasks)

    def operands(self, emb_BFD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the generated and the raw side of the first product, two (B, F, D)."""
        return self.encoder(emb_BFD), emb_BFD

    @abstractmethod
    def forward(self, emb_BFD: Tensor, linear_BF: Tensor | None = None, second_BFE: Tensor | None = None) -> Tensor:
        """Return what the head turns into logits, (B, out_features)."""


def features_of(decoder: str, hidden: Sequence[int]) -> int:
    """Return the width of a network's last hidden layer, which is what the decoder returns.

    Raises:
        ValueError: there is none, or it is 1, and the head would take for a score what a ReLU has cut at 0.
    """
    if not hidden:
        raise ValueError(f"{decoder}: there is no hidden layer; expected one or more")
    if hidden[-1] < 2:
        raise ValueError(f"{decoder}: the last hidden layer has 1 unit, which its ReLU would cut at 0; expected 2 or more")
    return hidden[-1]


def pair_sum(left_BFD: Tensor, right_BFD: Tensor) -> Tensor:
    """Return sum_{i<j} <left_i, right_j>, (B, 1), in O(F * D) a row.

    Every right vector meets the sum of all left vectors before it. (The classic half of squared sum minus sum of squares
    needs left = right.)
    """
    before_BFD = left_BFD.cumsum(1)[:, :-1]
    return (before_BFD * right_BFD[:, 1:]).sum((1, 2)).unsqueeze(1)


class Pairs(nn.Module):
    """The pairs i < j of F fields, row-major, kept on the model's device.

    Attributes:
        first, second: (P,) the fields i and j of every pair.
    """

    first: Tensor
    second: Tensor

    def __init__(self, fields: int) -> None:
        super().__init__()
        first, second = torch.triu_indices(fields, fields, 1)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)

    def forward(self, left_BFD: Tensor, right_BFD: Tensor) -> Tensor:
        """Return <left_i, right_j> of every pair, (B, P)."""
        products_BFF = left_BFD @ right_BFD.transpose(1, 2)
        return products_BFF[:, self.first, self.second]
