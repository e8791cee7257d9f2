"""Encoders: generate a new vector for every field from the vectors of all the fields.

B rows, F fields, D width of a vector.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from models.ablations import Attention, Deep, FieldShared, Others, Self, SENet
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
    """No generation: the classic models. Has no parameters, whatever `bias` a decoder asks for, and returns its very input.

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

    The other settings are the arms of the paper's ablations. A `training_target` other than all chooses `num_targets` fields
    of every row while training; the others keep their raw vectors, and the chosen ones may be hidden from the transform. In
    evaluation all fields are generated from what is there. These targets are our reading of the paper's words: the released
    code chooses fields once a batch and keeps the products of these alone.

    Args:
        fields: F.
        width: D.
        cardinalities: [values] of every field, for `generate_for`.
        transform: a name in `TRANSFORMS`; attention and senet end in a non-linearity of their own and take no `activation`.
        activation: a name in `ACTIVATIONS`; the paper finds relu and silu best.
        gamma: factor of the generated vectors. learn_gamma: whether it is learnt from there.
        residual: add the raw vectors.
        batch_norm: normalise before the activation, all coordinates as one channel.
        bias: add a learnt number to every coordinate before the activation, at first 0; fwfm asks for it.
        source: what a field is generated from: all fields, its own vector alone (self, by a D x D matrix) or all but that
            (others; `residual` adds it after all).
        generate_for: all fields, or the `num_fields` of highest or lowest cardinality; the others stay raw.
        training_target: all; random (fields generated from what is there); shared_mask, field_mask, zero_mask (the chosen
            fields are hidden by one learnt vector, one per field, or zeros). num_targets: how many of a row.

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
        transform: str = "field_wise",
        activation: str = "relu",
        gamma: float = 1.0,
        learn_gamma: bool = False,
        residual: bool = False,
        batch_norm: bool = False,
        bias: bool = False,
        source: str = "all",
        generate_for: str = "all",
        num_fields: int = 10,
        training_target: str = "all",
        num_targets: int = 10,
    ) -> None:
        super().__init__()
        _choose("activation", activation, ACTIVATIONS)
        _choose("transform", transform, TRANSFORMS)
        _choose("source", source, SOURCES)
        _choose("generate_for", generate_for, ("all", "high_cardinality", "low_cardinality"))
        _choose("training_target", training_target, ("all", "random", "shared_mask", "field_mask", "zero_mask"))
        if source != "all" and transform != "field_wise":
            raise ValueError(f"encoder: {transform} reads all the fields: set source to all, or transform to field_wise")
        if transform == "senet" and training_target == "zero_mask":
            raise ValueError(
                "encoder: senet scales the own vector, and zeros stay zeros: choose another training_target or transform"
            )
        if training_target != "all" and num_targets > fields:
            raise ValueError(f"encoder: num_targets is {num_targets}, of {fields} fields; choose fewer")
        make = TRANSFORMS[transform] if source == "all" else SOURCES[source]
        self.transform = make(fields, width)
        self.bias_FD = nn.Parameter(torch.zeros(fields, width)) if bias else None
        self.norm = BatchNorm1d(1) if batch_norm else None
        self.activate = ACTIVATIONS[activation] if transform not in ("attention", "senet") else ACTIVATIONS["linear"]
        self.gamma = nn.Parameter(torch.tensor(float(gamma))) if learn_gamma else gamma
        self.residual = residual
        self.num_targets = num_targets if training_target != "all" else 0
        masks = {"shared_mask": (1, width), "field_mask": (fields, width)}
        self.mask = nn.Parameter(torch.randn(masks[training_target]) * 0.01) if training_target in masks else None
        self.hides = training_target in (*masks, "zero_mask")
        self.register_buffer("generated", _of_cardinality(generate_for, num_fields, fields, cardinalities), persistent=False)

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return the generated vectors, (B, F, D)."""
        if not self.num_targets or not self.training:
            return self._kept(self._generate(emb_BFD), emb_BFD)
        chosen_BF1 = _random_fields(emb_BFD, self.num_targets).unsqueeze(2)
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


TRANSFORMS: Mapping[str, Callable[[int, int], nn.Module]] = MappingProxyType(
    {"field_wise": FieldWise, "deep": Deep, "field_shared": FieldShared, "attention": Attention, "senet": SENet}
)
SOURCES: Mapping[str, Callable[[int, int], nn.Module]] = MappingProxyType({"all": FieldWise, "self": Self, "others": Others})
"""By kind; every one is made with `fields` and `width`, the number of fields and the width of their vectors."""


def _random_fields(emb_BFD: Tensor, count: int) -> Tensor:
    """Return (B, F): True for `count` random fields of every row."""
    draws_BF = torch.rand(emb_BFD.shape[:2], device=emb_BFD.device)
    chosen_BK = draws_BF.topk(count, dim=1).indices
    return torch.zeros_like(draws_BF, dtype=torch.bool).scatter(1, chosen_BK, True)


def _of_cardinality(generate_for: str, count: int, fields: int, cardinalities: Sequence[int] | None) -> Tensor | None:
    """Return (F,): True for the fields to generate; None for all."""
    if generate_for == "all":
        return None
    if cardinalities is None or count >= fields:
        raise ValueError(f"encoder: generate_for: {generate_for} chooses {count} of {fields} fields; set num_fields to fewer")
    order = torch.tensor(cardinalities).argsort(descending=generate_for == "high_cardinality", stable=True)
    return torch.zeros(fields, dtype=torch.bool).index_fill(0, order[:count], True)


def _choose(what: str, name: str, names: object) -> None:
    known = sorted(names)  # type: ignore[call-overload]
    if name not in known:
        raise ValueError(f"encoder: no {what} {name!r}; choose from {known}")
