"""What every interaction and every decoder promises, and the sum over pairs of fields that many share.

An interaction turns the vectors of a row into tokens or into one flat vector. A decoder is an interaction whose result a head
reads, tokens side by side.

Every decoder is written once. It gets `generate`, which makes one encoder (B, F, D) -> (B, F, D), and puts what it
generates on one side of its products: the identity encoder gives the classic model, the SFG encoder the generative
one. B rows, F fields, D width of a vector, P pairs i < j of fields, row-major.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from models.inputs import FieldInfo, FieldVectors
from models.layers import Flat, Tokens

Generate = Callable[..., nn.Module]
"""Makes a new encoder of the decoder's shape; `width=` overrides its D, `bias=True` asks for one inside its activation."""


class Interaction(nn.Module, ABC):
    """What all interactions promise.

    Attributes:
        out: what forward returns.
        needs_linear: whether forward wants the first-order terms of the fields.
        second_width: E, the width of the second embedding that forward wants of every field; 0 for none.

    Shape:
        FieldVectors of emb_BFD (B, F, D), linear_BF (B, F) or None, second_BFE (B, F, E) or None
            -> (B, F', D') of `Tokens`, or (B, X) of `Flat`
    """

    needs_linear: bool = False
    second_width: int = 0
    out: Tokens | Flat

    @abstractmethod
    def forward(self, x: FieldVectors) -> Tensor:
        """Return the tokens, (B, F', D'), or the flat vectors, (B, X)."""

    def observed(self) -> dict[str, Tensor]:
        """Return, by name, what it weighs its parts with, detached: "weights/NAME" -> (parts,), for logs."""
        return {}


class Decoder(Interaction):
    """What all decoders promise. A head reads what one returns; `Flat(1)` already is a score, and the head adds only a bias.

    A decoder is made with `fields`, the `FieldInfo` of every field; `width`, the D of their vectors; `generate`; and
    `make_mlp`, which makes its dense layers. What else its constructor takes are the options that a user may set. An argument
    whose default is a dataclass stands for several: its fields are options, by their own names, and its values their defaults.

    Attributes:
        head: the name of the head that reads it unless the user names one.
        encoder: what generates, for decoders with one product; others say their `operands` themselves.

    """

    head: str = "linear"
    encoder: nn.Module

    @classmethod
    def embedding_width(cls, *, fields: int, dim: int) -> int:
        """Return D, for a model whose vectors are `dim` wide."""
        return dim

    def operands(self, emb_BFD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the generated and the raw side of the first product, two (B, F, D)."""
        return self.encoder(emb_BFD), emb_BFD


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


def places_of(what: str, names: Sequence[str], fields: Sequence[FieldInfo]) -> list[int]:
    """Return where the named fields stand among all fields.

    Args:
        what: the option that names them, as an error calls it.

    Raises:
        ValueError: no such field, or a number instead of a name.
    """
    known = [field.name for field in fields]
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"{what}: {name!r} is not the name of a field; fields are named now, not counted: {known}")
        if name not in known:
            raise ValueError(f"{what}: no field {name!r}; choose from {known}")
    return [known.index(name) for name in names]


def pairs_of(fields: int) -> int:
    """Return P, the number of pairs of so many fields."""
    return fields * (fields - 1) // 2


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
