"""Twin focus (TF4CTR): an encoder for easy rows and one for hard ones, on inputs of their own, and the fusion of the two.

B rows, F fields, D width of a vector, E width of the easy encoder's vectors, m = F * D.
Source: TF4CTR (salmon1802/TF4CTR), the released code.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.decoders.base import Decoder, Generate, features_of, pair_sum
from models.decoders.cross import CIN
from models.heads import Scores, by_task
from models.layers import MLP, linear
from models.output import Output

BASES = ("mlp", "widedeep", "deepfm", "xdeepfm")
SELECTIONS = ("none", "ser", "gm", "moe")
FUSIONS = ("none", "wsf", "vf", "cf", "moef")
TAU = 0.8
"""[1] temperature of the voting fusion."""


class TwinFocus(Decoder):
    """Selection, two encoders, and (in its head) fusion; every part can be used alone.

    Selection (`ssem`): what each encoder reads.
        none: both the same e                       ser: easy a second embedding of every value, E = D / 2; hard e
        gm: easy g e, hard (1 - g) e, with g = sigmoid(MLP(e)) a number per row
        moe: two experts MLP(e), mixed for each encoder by a softmax gate of its own
    Encoders (`base`): mlp: two networks. widedeep: easy is the first-order sum. deepfm: easy is the factorisation machine with
        first-order terms. xdeepfm: easy is a CIN; the first-order sum joins the fused logit. Hard is always a network.
    Fusion (`dfm`): see `TwinHead`.

    The released deepfm hands its factorisation machine the vectors of a row as one, which leaves it the first-order terms and a
    number of the whole batch: its published score is of that, no score of this base. Its one number is a logit here; there a
    learnt factor scales it first.

    Easy and hard are of rows; the balance of a denoiser is about fields. A generating encoder sits in front of each network and
    at the left of the products, as in the decoders these parts come from.

    Args:
        easy_hidden, hidden: the networks; easy_hidden is read by base mlp only. units: of the CIN.
        dropout, batch_norm: of both and of the networks that select, see `MLP`.

    Shape:
        emb_BFD (B, F, D), linear_BF (B, F) unless base is mlp, second_BFE (B, F, D / 2) for ser -> (B, easy + hard + rest)
    """

    branches = True

    def __init__(
        self,
        *,
        fields: int,
        width: int,
        generate: Generate,
        base: str = "mlp",
        ssem: str = "ser",
        dfm: str = "wsf",
        easy_hidden: Sequence[int] = (400,),
        hidden: Sequence[int] = (400, 400, 400),
        units: Sequence[int] = (64,),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        for what, name, names in (("base", base, BASES), ("ssem", ssem, SELECTIONS), ("dfm", dfm, FUSIONS)):
            if name not in names:
                raise ValueError(f"tf: no {what} {name!r}; choose from {list(names)}")
        if base == "widedeep" and ssem != "none":
            raise ValueError("tf: the easy side of widedeep reads no embeddings to select from: set ssem to none")
        if ssem == "ser" and width % 2:
            raise ValueError(f"tf: ssem ser halves the width, and {width} is odd: choose an even model.dim")
        self.base, self.dfm = base, dfm
        self.needs_linear = base != "mlp"
        self.second_width = width // 2 if ssem == "ser" else 0
        easy_width = self.second_width or width
        network: dict[str, Any] = {"dropout": dropout, "batch_norm": batch_norm}
        self.select = {"gm": _Gate, "moe": _Experts}[ssem](fields * width, **network) if ssem in ("gm", "moe") else None
        self.hard_encoder = generate()
        self.hard = MLP(fields * width, hidden=hidden, **network)
        self.easy_encoder = generate(width=easy_width) if base in ("mlp", "deepfm") else None
        self.easy: nn.Module | None = None
        hard = features_of("tf", hidden)
        easy = 1
        if base == "mlp":
            self.easy = MLP(fields * easy_width, hidden=easy_hidden, **network)
            easy = features_of("tf", easy_hidden)
        elif base == "xdeepfm":
            cin = CIN(fields=fields, generate=lambda: generate(width=easy_width), units=units)
            easy = hard
            self.easy = nn.Sequential(cin, linear(cin.out_features, easy))
        self.widths = (easy, hard, 1 if base == "xdeepfm" else 0)
        self.out_features = sum(self.widths)

    def make_head(self, tasks: Sequence[str]) -> nn.Module:
        """Return the fusion."""
        return TwinHead(self.widths, fusion=self.dfm, tasks=tasks)

    def operands(self, emb_BFD: Tensor) -> tuple[Tensor, Tensor]:
        """Return (generated, emb) of the hard encoder."""
        return self.hard_encoder(emb_BFD), emb_BFD

    def forward(self, emb_BFD: Tensor, linear_BF: Tensor | None = None, second_BFE: Tensor | None = None) -> Tensor:
        """Return what the two encoders make of the rows, side by side, and the first-order sum that joins the logit."""
        easy_BFE, hard_BFD = (emb_BFD if second_BFE is None else second_BFE), emb_BFD
        if self.select is not None:
            easy_BFE, hard_BFD = (own.view_as(emb_BFD) for own in self.select(emb_BFD.flatten(1)))
        hard_BH = self.hard(self.hard_encoder(hard_BFD).flatten(1))
        first_B1 = linear_BF.sum(1, keepdim=True) if linear_BF is not None else emb_BFD.new_zeros(len(emb_BFD), 0)
        if self.base == "widedeep":
            return torch.cat([first_B1, hard_BH], dim=1)
        if self.base == "xdeepfm":
            assert self.easy is not None
            return torch.cat([self.easy(easy_BFE), hard_BH, first_B1], dim=1)
        assert self.easy_encoder is not None
        generated_BFE = self.easy_encoder(easy_BFE)
        if self.easy is None:
            return torch.cat([pair_sum(generated_BFE, easy_BFE) + first_B1, hard_BH], dim=1)
        return torch.cat([self.easy(generated_BFE.flatten(1)), hard_BH], dim=1)


class TwinHead(nn.Module):
    """The logits of both encoders, and the model's own made of them.

    none: easy + hard                 wsf: w_1 easy + w_2 hard, w learnt, .5 at first
    vf:   v_1 easy + v_2 hard, v = softmax([pi(h_easy), pi(h_hard)] / .8), with Gumbel noise while training (the released code
          has it in evaluation too, where it makes scores random)
    cf:   Linear(h)                   moef: sum of softmax(Linear(h)) * Linear(h), two of each; h = concat(h_easy, h_hard)

    Args:
        widths: of h_easy, of h_hard, and of a rest that is added to the model's logit. Width 1 is a logit already.
        fusion: none, wsf, vf, cf or moef.
        tasks: names, in the order of the label columns.

    Shape:
        x_BH (B, sum of widths) -> Output with logits {task: (B,)} and branches {task: (easy, hard)}
    """

    def __init__(self, widths: tuple[int, int, int], *, fusion: str, tasks: Sequence[str]) -> None:
        super().__init__()
        self.widths, self.fusion, self.tasks = widths, fusion, tuple(tasks)
        easy, hard, _ = widths
        count = len(self.tasks)
        self.easy, self.hard = Scores(features=easy, tasks=count), Scores(features=hard, tasks=count)
        self.weights_T2 = nn.Parameter(torch.full((count, 2), 0.5)) if fusion == "wsf" else None
        self.votes = nn.ModuleList([linear(easy, count), linear(hard, count)]) if fusion == "vf" else None
        self.joint = linear(easy + hard, count) if fusion == "cf" else None
        self.mixed = nn.ModuleList(linear(easy + hard, 2 * count) for _ in range(2)) if fusion == "moef" else None

    @torch.no_grad()
    def start_at(self, logits: Sequence[float]) -> None:
        """Set the biases, so that the first fused logits scatter around these, one per target: both branches and what
        mixes them start there, but where the branches are added each starts at half."""
        logits_T = torch.tensor(logits)
        branch_T = logits_T / 2 if self.fusion == "none" else logits_T
        for scores in (self.easy, self.hard):
            scores.start_at(branch_T.tolist())
        if self.joint is not None:
            self.joint.bias.copy_(logits_T)
        if self.mixed is not None:
            self.mixed.get_parameter("1.bias").copy_(logits_T.repeat_interleave(2))

    def forward(self, x_BH: Tensor) -> Output:
        """Return the logits and those of the branches."""
        easy_BX, hard_BX, rest_BX = torch.split(x_BH, list(self.widths), dim=1)
        easy_BT, hard_BT = self.easy(easy_BX), self.hard(hard_BX)
        logits_BT = self._fuse(easy_BX, hard_BX, torch.stack([easy_BT, hard_BT], dim=2)) + rest_BX.sum(1, keepdim=True)
        easy, hard = by_task(easy_BT, self.tasks), by_task(hard_BT, self.tasks)
        return Output(by_task(logits_BT, self.tasks), branches={task: (easy[task], hard[task]) for task in self.tasks})

    def _fuse(self, easy_BX: Tensor, hard_BX: Tensor, both_BT2: Tensor) -> Tensor:
        if self.weights_T2 is not None:
            weighed_BT: Tensor = (both_BT2 * self.weights_T2).sum(2)
            return weighed_BT
        if self.votes is not None:
            pi_BT2 = torch.stack([self.votes[0](easy_BX), self.votes[1](hard_BX)], dim=2)
            draw = nn.functional.gumbel_softmax(pi_BT2, tau=TAU, dim=2) if self.training else (pi_BT2 / TAU).softmax(2)
            return (both_BT2 * draw).sum(2)
        joint_BX = torch.cat([easy_BX, hard_BX], dim=1)
        if self.joint is not None:
            logits_BT: Tensor = self.joint(joint_BX)
            return logits_BT
        if self.mixed is not None:
            gate_BT2, score_BT2 = (mix(joint_BX).unflatten(1, (-1, 2)) for mix in self.mixed)
            both_BT2 = gate_BT2.softmax(2) * score_BT2
        return both_BT2.sum(2)


class _Gate(nn.Module):
    """(g e, (1 - g) e), two (B, m): g looks at the very e it scales."""

    def __init__(self, flat: int, *, dropout: float, batch_norm: bool) -> None:
        super().__init__()
        self.mlp = MLP(flat, hidden=[max(flat // 4, 1)], dropout=dropout, batch_norm=batch_norm)
        self.last = linear(self.mlp.out_features, 1)

    def forward(self, emb_BX: Tensor) -> tuple[Tensor, Tensor]:
        gate_B1 = torch.sigmoid(self.last(self.mlp(emb_BX)))
        return gate_B1 * emb_BX, (1 - gate_B1) * emb_BX


class _Experts(nn.Module):
    """Two mixtures of two experts of e, two (B, m)."""

    def __init__(self, flat: int, *, dropout: float, batch_norm: bool) -> None:
        super().__init__()
        network: dict[str, Any] = {"dropout": dropout, "batch_norm": batch_norm}
        half, quarter = max(flat // 2, 1), max(flat // 4, 1)
        self.experts = nn.ModuleList(MLP(flat, hidden=[half, flat], **network) for _ in range(2))
        self.gates = nn.ModuleList(nn.Sequential(MLP(flat, hidden=[quarter], **network), linear(quarter, 2)) for _ in "eh")

    def forward(self, emb_BX: Tensor) -> tuple[Tensor, ...]:
        made_BX2 = torch.stack([expert(emb_BX) for expert in self.experts], dim=2)
        return tuple((made_BX2 * gate(emb_BX).softmax(1).unsqueeze(1)).sum(2) for gate in self.gates)
