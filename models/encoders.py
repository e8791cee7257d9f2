"""Encoders: generate a new vector for every field from the vectors of all the fields.

B rows, F fields, D width of a vector.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from models.layers import linear
from models.norm import BatchNorm1d

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
    """No generation: the plain paradigm. Has no parameters, whatever `bias` a decoder asks for, and returns its very input.

    Shape:
        emb_BFD (B, F, D) -> (B, F, D)
    """

    def __init__(self, *, fields: int, width: int, bias: bool = False) -> None:
        super().__init__()
        self.fields, self.width = fields, width

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return the input."""
        return emb_BFD


class FeatureGenerator(nn.Module):
    """Supervised feature generation (SFG): every field's new vector reads all the fields.

    out = act(transform(emb) + bias) * gamma        (+ emb if residual)

    The transform of `field_wise` is flat(emb) @ W^T: W (F*D, F*D) has no bias, and its rows f*D .. (f+1)*D are the matrix of
    field f. With N(0, 1e-4) tables the activations start tiny, so gamma (or residual) sets how fast the generated side learns:
    tune it per data set, the paper's code uses 0.005 to 36.

    The other settings are the arms of the paper's ablations. A `target` other than all chooses `targets` fields of every row
    while training; the others keep their raw vectors, and the chosen ones may be hidden from the transform. In evaluation all
    fields are generated from what is there. These targets are our reading of the paper's words: the released code chooses
    fields once a batch and keeps the products of these alone.

    Args:
        fields: F.
        width: D.
        cardinalities: [values] of every field, for `only`.
        kind: a name in `TRANSFORMS`; attention and senet end in a non-linearity of their own and take no `activation`.
        activation: a name in `ACTIVATIONS`; the paper finds relu and silu best.
        gamma: factor of the generated vectors. learn_gamma: whether it is learnt from there.
        residual: add the raw vectors.
        batch_norm: normalise before the activation, all coordinates as one channel.
        bias: add a learnt number to every coordinate before the activation, at first 0; fwfm asks for it.
        source: what a field is generated from: all fields, its own vector alone (self, by a D x D matrix) or all but that
            (others; `residual` adds it after all).
        only: generate all fields, or the `count` of highest or lowest cardinality; the others stay raw.
        target: all; random (fields generated from what is there); shared_mask, field_mask, zero_mask (the chosen fields are
            hidden by one learnt vector, one per field, or zeros). targets: how many of a row.

    Shape:
        emb_BFD (B, F, D) -> (B, F, D)

    Source: "From Feature Interaction to Feature Generation" (arXiv 2512.14041), default form of the released code
    (USTC-StarTeam/GE4Rec).

    Example:
        >>> FeatureGenerator(fields=3, width=4)(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 3, 4])
    """

    generated: Tensor | None

    def __init__(
        self,
        *,
        fields: int,
        width: int,
        cardinalities: Sequence[int] | None = None,
        kind: str = "field_wise",
        activation: str = "relu",
        gamma: float = 1.0,
        learn_gamma: bool = False,
        residual: bool = False,
        batch_norm: bool = False,
        bias: bool = False,
        source: str = "all",
        only: str = "all",
        count: int = 10,
        target: str = "all",
        targets: int = 10,
    ) -> None:
        super().__init__()
        _choose("activation", activation, ACTIVATIONS)
        _choose("kind", kind, TRANSFORMS)
        _choose("source", source, SOURCES)
        _choose("only", only, ("all", "high", "low"))
        _choose("target", target, ("all", "random", "shared_mask", "field_mask", "zero_mask"))
        if source != "all" and kind != "field_wise":
            raise ValueError(f"encoder: {kind} reads all the fields: set source to all, or kind to field_wise")
        if kind == "senet" and target == "zero_mask":
            raise ValueError("encoder: senet scales the own vector, and zeros stay zeros: choose another target or kind")
        if target != "all" and targets > fields:
            raise ValueError(f"encoder: targets is {targets}, of {fields} fields; choose fewer")
        make = TRANSFORMS[kind] if source == "all" else SOURCES[source]
        self.transform = make(fields, width)
        self.bias_FD = nn.Parameter(torch.zeros(fields, width)) if bias else None
        self.norm = BatchNorm1d(1) if batch_norm else None
        self.activate = ACTIVATIONS[activation] if kind not in ("attention", "senet") else ACTIVATIONS["linear"]
        self.gamma = nn.Parameter(torch.tensor(float(gamma))) if learn_gamma else gamma
        self.residual = residual
        self.targets = targets if target != "all" else 0
        masks = {"shared_mask": (1, width), "field_mask": (fields, width)}
        self.mask = nn.Parameter(torch.randn(masks[target]) * 0.01) if target in masks else None
        self.hides = target in (*masks, "zero_mask")
        self.register_buffer("generated", _of_cardinality(only, count, fields, cardinalities), persistent=False)

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return the generated vectors, (B, F, D)."""
        if not self.targets or not self.training:
            return self._kept(self._generate(emb_BFD), emb_BFD)
        chosen_BF1 = _random_fields(emb_BFD, self.targets).unsqueeze(2)
        read_BFD = emb_BFD
        if self.hides:
            read_BFD = torch.where(chosen_BF1, emb_BFD.new_zeros(()) if self.mask is None else self.mask, emb_BFD)
        return self._kept(torch.where(chosen_BF1, self._generate(read_BFD), emb_BFD), emb_BFD)

    def _generate(self, emb_BFD: Tensor) -> Tensor:
        made_BFD: Tensor = self.transform(emb_BFD)
        if self.bias_FD is not None:
            made_BFD = made_BFD + self.bias_FD
        if self.norm is not None:
            made_BFD = self.norm(made_BFD.reshape(-1, 1)).view_as(made_BFD)
        made_BFD = self.activate(made_BFD) * self.gamma
        return made_BFD + emb_BFD if self.residual else made_BFD

    def _kept(self, made_BFD: Tensor, emb_BFD: Tensor) -> Tensor:
        return made_BFD if self.generated is None else torch.where(self.generated.unsqueeze(1), made_BFD, emb_BFD)


class FieldWise(nn.Linear):
    """flat(emb) @ W^T: for every field a matrix that reads all the fields."""

    def __init__(self, fields: int, width: int) -> None:
        super().__init__(fields * width, fields * width, bias=False)
        nn.init.xavier_normal_(self.weight)

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return (B, F, D)."""
        return super().forward(emb_BFD.flatten(1)).view_as(emb_BFD)


class Others(FieldWise):
    """The same, but no field reads itself: the F diagonal D x D blocks of W are 0."""

    blocks: Tensor

    def __init__(self, fields: int, width: int) -> None:
        super().__init__(fields, width)
        blocks = torch.kron(torch.eye(fields), torch.ones(width, width))
        self.register_buffer("blocks", 1 - blocks, persistent=False)

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return (B, F, D)."""
        return nn.functional.linear(emb_BFD.flatten(1), self.weight * self.blocks).view_as(emb_BFD)


class Self(nn.Module):
    """emb_f @ W_f: a D x D matrix per field, that reads the field itself."""

    def __init__(self, fields: int, width: int) -> None:
        super().__init__()
        self.weight_FDD = nn.Parameter(torch.empty(fields, width, width))
        nn.init.xavier_normal_(self.weight_FDD)

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return (B, F, D)."""
        return torch.bmm(emb_BFD.transpose(0, 1), self.weight_FDD).transpose(0, 1)


class Deep(nn.Sequential):
    """Linear - BatchNorm - ReLU - Linear, each layer as wide as the row."""

    def __init__(self, fields: int, width: int) -> None:
        flat = fields * width
        first, last = (linear(flat, flat, bias=False) for _ in range(2))
        super().__init__(first, BatchNorm1d(flat), nn.ReLU(), last)

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return (B, F, D)."""
        out_BX: Tensor = super().forward(emb_BFD.flatten(1))  # type: ignore[no-untyped-call]
        return out_BX.view_as(emb_BFD)


class FieldShared(nn.Linear):
    """One vector, generated from all the fields, for every field (the released code keeps the matrices it never reads)."""

    def __init__(self, fields: int, width: int) -> None:
        super().__init__(fields * width, width, bias=False)
        nn.init.xavier_normal_(self.weight)

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return (B, F, D)."""
        return super().forward(emb_BFD.flatten(1)).unsqueeze(1).expand_as(emb_BFD)


class Attention(nn.Module):
    """relu(LayerNorm(softmax(Q K^T / sqrt(d)) V)): the fields attend to each other, with 4 heads where D allows."""

    def __init__(self, fields: int, width: int, *, dropout: float = 0.2) -> None:
        super().__init__()
        self.heads = next(heads for heads in (4, 2, 1) if width % heads == 0)
        self.read = linear(width, 3 * width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.dropout = dropout

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return (B, F, D)."""
        q, k, v = (own.unflatten(2, (self.heads, -1)).transpose(1, 2) for own in self.read(emb_BFD).chunk(3, dim=2))
        dropout = self.dropout if self.training else 0.0
        out_BHFX = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return torch.relu(self.norm(out_BHFX.transpose(1, 2).flatten(2)))


class SENet(nn.Module):
    """emb_f * w_f: squeeze every field to its mean, excite: w = relu(U relu(V mean)), V reduces F to F / 3."""

    def __init__(self, fields: int, width: int) -> None:
        super().__init__()
        squeezed = max(fields // 3, 1)
        self.weigh = nn.Sequential(
            linear(fields, squeezed, bias=False), nn.ReLU(), linear(squeezed, fields, bias=False), nn.ReLU()
        )

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return (B, F, D)."""
        out_BFD: Tensor = emb_BFD * self.weigh(emb_BFD.mean(2)).unsqueeze(2)
        return out_BFD


TRANSFORMS: Mapping[str, Callable[[int, int], nn.Module]] = MappingProxyType(
    {"field_wise": FieldWise, "deep": Deep, "field_shared": FieldShared, "attention": Attention, "senet": SENet}
)
SOURCES: Mapping[str, Callable[[int, int], nn.Module]] = MappingProxyType({"all": FieldWise, "self": Self, "others": Others})


ENCODERS: Mapping[str, type[nn.Module]] = MappingProxyType({"plain": Identity, "sfg": FeatureGenerator})
"""By paradigm."""


def _random_fields(emb_BFD: Tensor, count: int) -> Tensor:
    """Return (B, F): True for `count` random fields of every row."""
    draws_BF = torch.rand(emb_BFD.shape[:2], device=emb_BFD.device)
    chosen_BK = draws_BF.topk(count, dim=1).indices
    return torch.zeros_like(draws_BF, dtype=torch.bool).scatter(1, chosen_BK, True)


def _of_cardinality(only: str, count: int, fields: int, cardinalities: Sequence[int] | None) -> Tensor | None:
    """Return (F,): True for the fields to generate; None for all."""
    if only == "all":
        return None
    if cardinalities is None or count >= fields:
        raise ValueError(f"encoder: only: {only} chooses {count} of {fields} fields; set count to fewer")
    order = torch.tensor(cardinalities).argsort(descending=only == "high", stable=True)
    return torch.zeros(fields, dtype=torch.bool).index_fill(0, order[:count], True)


def _choose(what: str, name: str, names: object) -> None:
    known = sorted(names)  # type: ignore[call-overload]
    if name not in known:
        raise ValueError(f"encoder: no {what} {name!r}; choose from {known}")
