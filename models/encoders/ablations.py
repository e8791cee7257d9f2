"""The arms of the paper's ablations of SFG: other transforms, sources, fields and targets, which do not win.

B rows, F fields, D width of a vector. Every transform is made with F and D: (B, F, D) -> (B, F, D).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from models.encoders.sfg import ACTIVATIONS, SFG, FeatureGenerator, FieldWise, MakeTransform, SFGOptions, choose
from models.layers import linear
from models.norm import BatchNorm1d


class Others(nn.Linear):
    """flat(emb) @ W^T, where no field reads itself: the F diagonal D x D blocks of W are 0."""

    blocks: Tensor

    def __init__(self, fields: int, width: int) -> None:
        super().__init__(fields * width, fields * width, bias=False)
        nn.init.xavier_normal_(self.weight)
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


TRANSFORMS: Mapping[str, MakeTransform] = MappingProxyType(
    {"field_wise": FieldWise, "deep": Deep, "field_shared": FieldShared, "attention": Attention, "senet": SENet}
)
SOURCES: Mapping[str, MakeTransform] = MappingProxyType({"all": FieldWise, "self": Self, "others": Others})
GENERATED = ("all", "high_cardinality", "low_cardinality")
TARGETS = ("all", "random", "shared_mask", "field_mask", "zero_mask")
ENDS_NON_LINEAR = ("attention", "senet")
"""Transforms that end in a non-linearity of their own and take no other."""


@dataclass(frozen=True)
class Ablation:
    """How an encoder differs from SFG; by default in nothing.

    Args:
        transform: a name in `TRANSFORMS`; attention and senet take no `activation`.
        source: what a field is generated from: all fields, its own vector alone (self, by a D x D matrix) or all but that
            (others; `residual` adds it after all).
        generate_for: all fields, or the `num_fields` of highest or lowest cardinality; the others stay raw.
        num_fields: [fields] that `generate_for` chooses.
        training_target: all; random (fields generated from what is there); shared_mask, field_mask, zero_mask (the chosen
            fields are hidden by one learnt vector, one per field, or zeros).
        num_targets: [fields] of a row that `training_target` chooses.
    """

    transform: str = "field_wise"
    source: str = "all"
    generate_for: str = "all"
    num_fields: int = 10
    training_target: str = "all"
    num_targets: int = 10


NO_ABLATION = Ablation()


class AblatedGenerator(FeatureGenerator):
    """An arm of the paper's ablations.

    A `training_target` other than all chooses `num_targets` fields of every row while training; the others keep their raw
    vectors, and the chosen ones may be hidden from the transform. In evaluation all fields are generated from what is there.
    These targets are our reading of the paper's words: the released code chooses fields once a batch and keeps the products of
    these alone.

    Args:
        fields, width, bias, options: see `FeatureGenerator`.
        ablation: transform, source, generate_for, num_fields, training_target, num_targets.
        cardinalities: [values] of every field, for `generate_for`.

    Shape:
        emb_BFD (B, F, D) -> (B, F, D)

    Raises:
        ValueError: settings that do not exist, or contradict each other.
    """

    generated: Tensor | None

    def __init__(
        self,
        *,
        fields: int,
        width: int,
        bias: bool = False,
        options: SFGOptions = SFG,
        ablation: Ablation,
        cardinalities: Sequence[int] | None = None,
    ) -> None:
        _check(ablation, fields)
        make = TRANSFORMS[ablation.transform] if ablation.source == "all" else SOURCES[ablation.source]
        super().__init__(fields=fields, width=width, bias=bias, options=options, make_transform=make)
        if ablation.transform in ENDS_NON_LINEAR:
            self.activate = ACTIVATIONS["linear"]
        target = ablation.training_target
        self.num_targets = ablation.num_targets if target != "all" else 0
        masks = {"shared_mask": (1, width), "field_mask": (fields, width)}
        self.mask = nn.Parameter(torch.randn(masks[target]) * 0.01) if target in masks else None
        self.hides = target in (*masks, "zero_mask")
        generated = _of_cardinality(ablation.generate_for, ablation.num_fields, fields, cardinalities)
        self.register_buffer("generated", generated, persistent=False)

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return the generated vectors, (B, F, D)."""
        if not self.num_targets or not self.training:
            return self._kept(super().forward(emb_BFD), emb_BFD)
        chosen_BF1 = _random_fields(emb_BFD, self.num_targets).unsqueeze(2)
        read_BFD = emb_BFD
        if self.hides:
            read_BFD = torch.where(chosen_BF1, emb_BFD.new_zeros(()) if self.mask is None else self.mask, emb_BFD)
        return self._kept(torch.where(chosen_BF1, super().forward(read_BFD), emb_BFD), emb_BFD)

    def _kept(self, made_BFD: Tensor, emb_BFD: Tensor) -> Tensor:
        return made_BFD if self.generated is None else torch.where(self.generated.unsqueeze(1), made_BFD, emb_BFD)


def _check(ablation: Ablation, fields: int) -> None:
    choose("transform", ablation.transform, TRANSFORMS)
    choose("source", ablation.source, SOURCES)
    choose("generate_for", ablation.generate_for, GENERATED)
    choose("training_target", ablation.training_target, TARGETS)
    if ablation.source != "all" and ablation.transform != "field_wise":
        raise ValueError(f"encoder: {ablation.transform} reads all the fields: set source to all, or transform to field_wise")
    if ablation.transform == "senet" and ablation.training_target == "zero_mask":
        raise ValueError(
            "encoder: senet scales the own vector, and zeros stay zeros: choose another training_target or transform"
        )
    if ablation.training_target != "all" and ablation.num_targets > fields:
        raise ValueError(f"encoder: num_targets is {ablation.num_targets}, of {fields} fields; choose fewer")


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
