"""Networks that targets share, and gates that choose among them: MMoE and PLE.

B rows, H features of the decoder, T targets, K experts, E width of what an expert returns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.heads.base import Head, by_target
from models.heads.towers import TOWER, Towers, several
from models.inputs import FieldVectors
from models.layers import MLP, Flat, MakeMLP, MLPOptions, linear
from models.output import Output


@dataclass(frozen=True)
class SharedExperts:
    """Experts that every target reads.

    Args:
        experts: how many. expert_hidden: hidden widths of each.
    """

    experts: int = 4
    expert_hidden: Sequence[int] = (128,)


@dataclass(frozen=True)
class LayeredExperts:
    """Experts of PLE.

    Args:
        shared_experts: how many all targets read, in every layer. own_experts: how many only one target reads, for each.
        expert_hidden: hidden widths of each. layers: of extraction.
    """

    shared_experts: int = 2
    own_experts: int = 1
    expert_hidden: Sequence[int] = (128,)
    layers: int = 1


SHARED, LAYERED = SharedExperts(), LayeredExperts()


class Experts(nn.Module):
    """K networks over the same features.

    Shape:
        x_BH (B, H), fields -> (B, K, E)
    """

    def __init__(self, count: int, features: int, hidden: Sequence[int], make_mlp: MakeMLP) -> None:
        super().__init__()
        self.mlps = nn.ModuleList(make_mlp(features, hidden=hidden) for _ in range(count))

    def forward(self, x_BH: Tensor, fields: FieldVectors | None) -> Tensor:
        """Return what every expert makes of the rows."""
        return torch.stack([mlp(x_BH, fields) for mlp in self.mlps], dim=1)


class MMoEHead(Head):
    """Multi-gate mixture of experts.

    logit_t = tower_t(sum_k softmax_k(W_t x) expert_k(x))

    Args:
        shared: experts, expert_hidden. network: hidden, dropout, batch_norm of the towers.

    Shape:
        x_BH (B, H) -> Output with logits {target: (B,)}

    Source: Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", 2018.
    """

    def __init__(
        self,
        *,
        features: Flat,
        targets: Sequence[str],
        make_mlp: MakeMLP = MLP,
        shared: SharedExperts = SHARED,
        network: MLPOptions = TOWER,
    ) -> None:
        super().__init__()
        width = several(features, "mmoe")
        out = _checked("mmoe", shared.expert_hidden, {"experts": shared.experts})
        self.targets = tuple(targets)
        self.experts = Experts(shared.experts, width, shared.expert_hidden, make_mlp)
        self.gates = nn.ModuleList(linear(width, shared.experts, bias=False) for _ in targets)
        self.towers = Towers(features=out, targets=len(targets), make_mlp=make_mlp, network=network)

    def start_at(self, logits: Sequence[float]) -> None:
        """Set the bias of every target."""
        self.towers.start_at(logits)

    def forward(self, x_BH: Tensor, fields: FieldVectors | None = None) -> Output:
        """Return the logits by target."""
        found_BKE = self.experts(x_BH, fields)
        own_TBE = [mixed(gate(x_BH), found_BKE) for gate in self.gates]
        return Output(by_target(self.towers(own_TBE, fields), self.targets))


class PLEHead(Head):
    """Progressive layered extraction: every target has experts of its own beside those that all share.

    layer l, target t:  x_t <- sum_k softmax_k(W_lt x_t) e_k     over its own experts of x_t and the shared ones of x_s
    layer l, shared:    x_s <- sum_k softmax_k(W_ls x_s) e_k     over all experts, not in the last layer
    logit_t = tower_t(x_t)                                       at first x_t = x_s = x

    Args:
        layered: shared_experts, own_experts, expert_hidden, layers. network: hidden, dropout, batch_norm of the towers.

    Shape:
        x_BH (B, H) -> Output with logits {target: (B,)}

    Source: Tang et al., "Progressive Layered Extraction", 2020.
    """

    def __init__(
        self,
        *,
        features: Flat,
        targets: Sequence[str],
        make_mlp: MakeMLP = MLP,
        layered: LayeredExperts = LAYERED,
        network: MLPOptions = TOWER,
    ) -> None:
        super().__init__()
        width = several(features, "ple")
        counts = {"layers": layered.layers, "own_experts": layered.own_experts, "shared_experts": layered.shared_experts}
        out = _checked("ple", layered.expert_hidden, counts)
        self.targets = tuple(targets)
        self.layers = nn.ModuleList(
            _Extraction(width if at == 0 else out, len(targets), layered, make_mlp, last=at == layered.layers - 1)
            for at in range(layered.layers)
        )
        self.towers = Towers(features=out, targets=len(targets), make_mlp=make_mlp, network=network)

    def start_at(self, logits: Sequence[float]) -> None:
        """Set the bias of every target."""
        self.towers.start_at(logits)

    def forward(self, x_BH: Tensor, fields: FieldVectors | None = None) -> Output:
        """Return the logits by target."""
        own_TBE, shared_BE = [x_BH] * len(self.targets), x_BH
        for layer in self.layers:
            own_TBE, shared_BE = layer(own_TBE, shared_BE, fields)
        return Output(by_target(self.towers(own_TBE, fields), self.targets))


class _Extraction(nn.Module):
    """One layer of PLE."""

    def __init__(self, features: int, targets: int, options: LayeredExperts, make_mlp: MakeMLP, *, last: bool) -> None:
        super().__init__()
        own, shared = options.own_experts, options.shared_experts
        self.shared = Experts(shared, features, options.expert_hidden, make_mlp)
        self.own = nn.ModuleList(Experts(own, features, options.expert_hidden, make_mlp) for _ in range(targets))
        self.gates = nn.ModuleList(linear(features, own + shared, bias=False) for _ in range(targets))
        self.shared_gate = None if last else linear(features, targets * own + shared, bias=False)

    def forward(self, own_TBH: Sequence[Tensor], shared_BH: Tensor, fields: FieldVectors | None) -> tuple[list[Tensor], Tensor]:
        """Return what every target and all of them have now; in the last layer the shared part as it came."""
        found_BKE = self.shared(shared_BH, fields)
        by_target_TBKE = [experts(x_BH, fields) for experts, x_BH in zip(self.own, own_TBH, strict=True)]
        mixes = zip(self.gates, own_TBH, by_target_TBKE, strict=True)
        own = [mixed(gate(x_BH), torch.cat([own_BKE, found_BKE], dim=1)) for gate, x_BH, own_BKE in mixes]
        if self.shared_gate is None:
            return own, shared_BH
        return own, mixed(self.shared_gate(shared_BH), torch.cat([*by_target_TBKE, found_BKE], dim=1))


def mixed(gate_BK: Tensor, found_BKE: Tensor) -> Tensor:
    """Return sum_k softmax_k(gate) found_k, (B, E)."""
    return torch.einsum("bk,bke->be", gate_BK.softmax(1), found_BKE)


def _checked(head: str, hidden: Sequence[int], counts: Mapping[str, int]) -> int:
    """The width of what an expert returns."""
    if wrong := [name for name, count in counts.items() if count < 1]:
        raise ValueError(f"{head}: {wrong[0]} is {counts[wrong[0]]}; expected 1 or more")
    if not hidden:
        raise ValueError(f"{head}: expert_hidden is empty; expected one width or more")
    return hidden[-1]
