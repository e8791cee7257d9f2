"""The head of TF4CTR's two encoders.

B rows, T targets.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.heads.base import Head, Scores, by_target
from models.inputs import FieldVectors
from models.layers import MLP, Flat, MakeMLP, linear
from models.output import Output

TAU = 0.8
"""[1] temperature of the voting fusion."""

FUSIONS = ("none", "wsf", "vf", "cf", "moef")


class TwinFocusHead(Head):
    """The logits of an easy and of a hard encoder, and the model's own made of them (TF4CTR).

    none: easy + hard                 wsf: w_1 easy + w_2 hard, w learnt, .5 at first
    vf:   v_1 easy + v_2 hard, v = softmax([pi(h_easy), pi(h_hard)] / .8), with Gumbel noise while training (the released code
          has it in evaluation too, where it makes scores random)
    cf:   Linear(h)                   moef: sum of softmax(Linear(h)) * Linear(h), two of each; h = concat(h_easy, h_hard)

    Args:
        features: with the parts easy and hard, h_easy and h_hard, and perhaps rest, which is added to the model's logit. A part
            of width 1 is a logit already.
        fusion: none, wsf, vf, cf or moef.

    Shape:
        x_BH (B, sum of widths) -> Output with logits {target: (B,)}, representations {"TARGET/easy": (B,), "TARGET/hard": (B,)}

    Source: TF4CTR (salmon1802/TF4CTR), the released code.
    """

    represents = ("{target}/easy", "{target}/hard")

    def __init__(self, *, features: Flat, targets: Sequence[str], make_mlp: MakeMLP = MLP, fusion: str = "wsf") -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"no fusion {fusion!r}; choose from {list(FUSIONS)}")
        if not {"easy", "hard"} <= features.parts.keys() <= {"easy", "hard", "rest"}:
            raise ValueError("it reads the easy and the hard side of a decoder such as tf, and this one has none")
        easy, hard = features.parts["easy"], features.parts["hard"]
        self.widths = [easy, hard, features.width - easy - hard]
        self.fusion, self.targets = fusion, tuple(targets)
        count = len(self.targets)
        self.easy, self.hard = Scores(features=easy, targets=count), Scores(features=hard, targets=count)
        self.weights_T2 = nn.Parameter(torch.full((count, 2), 0.5)) if fusion == "wsf" else None
        self.votes = nn.ModuleList([linear(easy, count), linear(hard, count)]) if fusion == "vf" else None
        self.joint = linear(easy + hard, count) if fusion == "cf" else None
        self.mixed = nn.ModuleList(linear(easy + hard, 2 * count) for _ in range(2)) if fusion == "moef" else None

    @torch.no_grad()
    def start_at(self, logits: Sequence[float]) -> None:
        """Set the biases, so that the first fused logits scatter around these, one per target: both branches and what mixes
        them start there, but where the branches are added each starts at half."""
        logits_T = torch.tensor(logits)
        branch_T = logits_T / 2 if self.fusion == "none" else logits_T
        for scores in (self.easy, self.hard):
            scores.start_at(branch_T.tolist())
        if self.joint is not None:
            self.joint.bias.copy_(logits_T)
        if self.mixed is not None:
            self.mixed.get_parameter("1.bias").copy_(logits_T.repeat_interleave(2))

    def forward(self, x_BH: Tensor, fields: FieldVectors | None = None) -> Output:
        """Return the logits and those of both sides."""
        easy_BX, hard_BX, rest_BX = torch.split(x_BH, self.widths, dim=1)
        easy_BT, hard_BT = self.easy(easy_BX), self.hard(hard_BX)
        logits_BT = self._fuse(easy_BX, hard_BX, torch.stack([easy_BT, hard_BT], dim=2)) + rest_BX.sum(1, keepdim=True)
        easy, hard = by_target(easy_BT, self.targets), by_target(hard_BT, self.targets)
        sides = {f"{name}/{side}": logits[name] for name in self.targets for side, logits in (("easy", easy), ("hard", hard))}
        return Output(by_target(logits_BT, self.targets), sides)

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
