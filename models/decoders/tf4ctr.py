"""Twin focus (TF4CTR): an encoder for easy rows and one for hard ones, on inputs of their own, and the fusion of the two.

B rows, F fields, D width of a vector, E width of the easy encoder's vectors, m = F * D.
Source: TF4CTR (salmon1802/TF4CTR), the released code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.decoders.base import Decoder, Generate, features_of, pair_sum
from models.decoders.cross import CIN
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, NETWORK, Flat, MakeMLP, MLPOptions, linear

BASES = ("mlp", "widedeep", "deepfm", "xdeepfm")
SELECTIONS = ("none", "ser", "gm", "moe")


@dataclass(frozen=True)
class TwinOptions:
    """What the two encoders of `TwinFocus` are, and what they read.

    Args:
        base: mlp, widedeep, deepfm or xdeepfm: the two encoders.
        ssem: none, ser, gm or moe: the selection.
        easy_hidden: hidden widths of the easy network; only base mlp has one.
        units: maps of every layer of the CIN; only base xdeepfm has one.
    """

    base: str = "mlp"
    ssem: str = "ser"
    easy_hidden: Sequence[int] = (400,)
    units: Sequence[int] = (64,)


TWINS = TwinOptions()


class TwinFocus(Decoder):
    """Selection, two encoders, and (in its head) fusion; every part can be used alone.

    Selection (`ssem`): what each encoder reads.
        none: both the same e                       ser: easy a second embedding of every value, E = D / 2; hard e
        gm: easy g e, hard (1 - g) e, with g = sigmoid(MLP(e)) a number per row
        moe: two experts MLP(e), mixed for each encoder by a softmax gate of its own
    Encoders (`base`): mlp: two networks. widedeep: easy is the first-order sum. deepfm: easy is the factorisation machine with
        first-order terms. xdeepfm: easy is a CIN; the first-order sum joins the fused logit. Hard is always a network.
    Fusion: see `models.heads.twin_focus.TwinFocusHead`.

    The released deepfm hands its factorisation machine the vectors of a row as one, which leaves it the first-order terms and a
    number of the whole batch: its published score is of that, no score of this base. Its one number is a logit here; there a
    learnt factor scales it first.

    Easy and hard are of rows; the balance of a denoiser is about fields. A generating encoder sits in front of each network and
    at the left of the products, as in the decoders these parts come from.

    Args:
        twins: base, ssem, easy_hidden, units.
        network: hidden of the hard network; dropout, batch_norm of it, of the easy one and of the networks that select.

    Shape:
        emb_BFD (B, F, D), linear_BF (B, F) unless base is mlp, second_BFE (B, F, D / 2) for ser -> (B, easy + hard + rest)
    """

    head = "twin_focus"

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        twins: TwinOptions = TWINS,
        network: MLPOptions = NETWORK,
    ) -> None:
        super().__init__()
        base, ssem = twins.base, twins.ssem
        for what, name, names in (("base", base, BASES), ("ssem", ssem, SELECTIONS)):
            if name not in names:
                raise ValueError(f"tf: no {what} {name!r}; choose from {list(names)}")
        if base == "widedeep" and ssem != "none":
            raise ValueError("tf: the easy side of widedeep reads no embeddings to select from: set ssem to none")
        if ssem == "ser" and width % 2:
            raise ValueError(f"tf: ssem ser halves the width, and {width} is odd: choose an even model.dim")
        self.base = base
        self.needs_linear = base != "mlp"
        self.second_width = width // 2 if ssem == "ser" else 0
        easy_width, flat = self.second_width or width, len(fields) * width
        self.select = {"gm": _Gate, "moe": _Experts}[ssem](flat, make_mlp, network) if ssem in ("gm", "moe") else None
        self.hard_encoder = generate()
        self.hard = network.build(make_mlp, flat)
        self.easy_encoder = generate(width=easy_width) if base in ("mlp", "deepfm") else None
        self.easy: nn.Module | None = None
        hard = features_of("tf", network.hidden)
        easy = 1
        if base == "mlp":
            self.easy = replace(network, hidden=twins.easy_hidden).build(make_mlp, len(fields) * easy_width)
            easy = features_of("tf", twins.easy_hidden)
        elif base == "xdeepfm":
            cin = CIN(fields=len(fields), generate=lambda: generate(width=easy_width), units=twins.units)
            easy = hard
            self.easy = nn.Sequential(cin, linear(cin.out_features, easy))
        parts = {"easy": easy, "hard": hard, "rest": 1 if base == "xdeepfm" else 0}
        self.out = Flat(sum(parts.values()), parts)

    def operands(self, emb_BFD: Tensor) -> tuple[Tensor, Tensor]:
        """Return (generated, emb) of the hard encoder."""
        return self.hard_encoder(emb_BFD), emb_BFD

    def forward(self, x: FieldVectors) -> Tensor:
        """Return what the two encoders make of the rows, side by side, and the first-order sum that joins the logit."""
        emb_BFD = x.emb_BFD
        easy_BFE, hard_BFD = (emb_BFD if x.second_BFE is None else x.second_BFE), emb_BFD
        if self.select is not None:
            easy_BFE, hard_BFD = (own.view_as(emb_BFD) for own in self.select(emb_BFD.flatten(1), x))
        hard_BH = self.hard(self.hard_encoder(hard_BFD).flatten(1), x)
        first_B1 = x.linear_BF.sum(1, keepdim=True) if x.linear_BF is not None else emb_BFD.new_zeros(len(emb_BFD), 0)
        if self.base == "widedeep":
            return torch.cat([first_B1, hard_BH], dim=1)
        if self.base == "xdeepfm":
            assert self.easy is not None
            return torch.cat([self.easy(easy_BFE), hard_BH, first_B1], dim=1)
        assert self.easy_encoder is not None
        generated_BFE = self.easy_encoder(easy_BFE)
        if self.easy is None:
            return torch.cat([pair_sum(generated_BFE, easy_BFE) + first_B1, hard_BH], dim=1)
        return torch.cat([self.easy(generated_BFE.flatten(1), x), hard_BH], dim=1)


class _Gate(nn.Module):
    """(g e, (1 - g) e), two (B, m): g looks at the very e it scales."""

    def __init__(self, flat: int, make_mlp: MakeMLP, network: MLPOptions) -> None:
        super().__init__()
        self.mlp = replace(network, hidden=[max(flat // 4, 1)]).build(make_mlp, flat)
        self.last = linear(self.mlp.out_features, 1)

    def forward(self, emb_BX: Tensor, fields: FieldVectors | None = None) -> tuple[Tensor, Tensor]:
        gate_B1 = torch.sigmoid(self.last(self.mlp(emb_BX, fields)))
        return gate_B1 * emb_BX, (1 - gate_B1) * emb_BX


class _Experts(nn.Module):
    """Two mixtures of two experts of e, two (B, m)."""

    def __init__(self, flat: int, make_mlp: MakeMLP, network: MLPOptions) -> None:
        super().__init__()
        half, quarter = max(flat // 2, 1), max(flat // 4, 1)
        expert, gate = replace(network, hidden=[half, flat]), replace(network, hidden=[quarter])
        self.experts = nn.ModuleList(expert.build(make_mlp, flat) for _ in range(2))
        self.gates = nn.ModuleList(_Share(gate.build(make_mlp, flat), linear(quarter, 2)) for _ in "eh")

    def forward(self, emb_BX: Tensor, fields: FieldVectors | None = None) -> tuple[Tensor, ...]:
        made_BX2 = torch.stack([expert(emb_BX, fields) for expert in self.experts], dim=2)
        return tuple((made_BX2 * gate(emb_BX, fields).unsqueeze(1)).sum(2) for gate in self.gates)


class _Share(nn.ModuleList):
    """softmax(W MLP(e)), (B, 2)."""

    def __init__(self, mlp: nn.Module, last: nn.Module) -> None:
        super().__init__([mlp, last])

    def forward(self, emb_BX: Tensor, fields: FieldVectors | None = None) -> Tensor:
        share_B2: Tensor = self[1](self[0](emb_BX, fields)).softmax(1)
        return share_B2
