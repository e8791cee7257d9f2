"""Heads: one logit per target, with as little as each decoder needs; what targets share and what they do not."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from models.heads import Head
from models.heads.base import LinearHead
from models.heads.esmm import ESMMHead, both
from models.heads.experts import LayeredExperts, MMoEHead, PLEHead, SharedExperts, mixed
from models.heads.towers import TowersHead
from models.heads.two_logits import TwoLogitsHead
from models.layers import Flat, MLPOptions
from models.losses.base import Targets
from models.losses.cross_entropy import BCE
from models.registries import HEADS

SMALL = MLPOptions(hidden=(3,))
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "mmoe": {"shared": SharedExperts(3, (4,)), "network": SMALL},
    "ple": {"layered": LayeredExperts(2, 1, (4,), layers=2), "network": SMALL},
    "esmm": {"given": {"buy": "click"}, "network": SMALL},
    "towers": {"network": SMALL},
}
SEVERAL = [name for name in HEADS if name != "twin_focus"]  # which reads the sides of one decoder


def make(name: str, features: int = 5) -> Head:
    torch.manual_seed(3)
    return HEADS[name](features=Flat(features), targets=("click", "buy"), **OPTIONS.get(name, {}))


def parameters(head: Head) -> dict[str, Tensor]:
    return dict(head.named_parameters())


def test_a_decoder_that_returns_a_score_gets_only_a_bias_per_task():
    head = LinearHead(features=Flat(1), targets=["click", "buy"])
    with torch.no_grad():
        next(head.parameters()).copy_(torch.tensor([10.0, 20.0]))

    logits = head(torch.tensor([[1.0], [2.0]])).logits
    torch.testing.assert_close(logits, {"click": torch.tensor([11.0, 12.0]), "buy": torch.tensor([21.0, 22.0])})
    assert sum(p.numel() for p in head.parameters()) == 2


def test_any_other_decoder_gets_a_linear_score_per_task():
    head = LinearHead(features=Flat(3), targets=["click", "buy"])

    assert {task: logit.shape for task, logit in head(torch.randn(4, 3)).logits.items()} == {"click": (4,), "buy": (4,)}
    assert sum(p.numel() for p in head.parameters()) == 2 * (3 + 1)


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("features", [1, 5])
def test_a_head_starts_at_the_logits_it_is_given(name: str, features: int) -> None:
    if features == 1 and name != "linear":
        with pytest.raises(ValueError, match=f"{name} reads features, and this decoder returns a score"):
            make(name, 1)
        return
    head = make(name, features)
    head.start_at([-5.0, -7.0])
    logits = head(torch.zeros(3, features)).logits
    torch.testing.assert_close(logits["click"], torch.full((3,), -5.0))
    torch.testing.assert_close(logits["buy"], torch.full((3,), -7.0))


@pytest.mark.parametrize("name", SEVERAL)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    head = make(name)
    sum(logit.sum() for logit in head(torch.randn(64, 5)).logits.values()).backward()
    assert [key for key, own in parameters(head).items() if own.grad is None or not own.grad.any()] == []


@pytest.mark.parametrize("name", [name for name in SEVERAL if name != "esmm"])
def test_a_target_without_rows_has_no_gradient_and_moves_no_other_part(name: str) -> None:
    x_BH, labels_BT = torch.randn(8, 5), torch.randint(0, 2, (8, 2)).float()
    groups_B = torch.zeros(8, dtype=torch.int64)

    def gradients(weights: list[float], names: tuple[str, ...] = ("click", "buy")) -> dict[str, Tensor]:
        head = make(name)
        targets = Targets(("click", "buy"), labels_BT, torch.tensor([weights] * 8), 8, groups_B).only(names)
        sum(BCE()(head(x_BH), targets).values()).backward()
        return {key: torch.zeros_like(own) if own.grad is None else own.grad for key, own in parameters(head).items()}

    torch.testing.assert_close(gradients([1.0, 0.0]), gradients([1.0, 1.0], ("click",)), rtol=0, atol=0)


# --- experts ---


def test_a_mixture_by_hand() -> None:
    gate_BK, found_BKE = torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[[1.0, 2.0], [5.0, 6.0]]])
    torch.testing.assert_close(mixed(gate_BK, found_BKE), torch.tensor([[2.0, 3.0]]))


def test_one_expert_of_all_targets_is_a_shared_network_before_towers() -> None:
    head = MMoEHead(features=Flat(5), targets=("click", "buy"), shared=SharedExperts(1, (4,)), network=MLPOptions(hidden=()))
    x_BH = torch.randn(6, 5)
    shared_BE = head.experts.mlps[0](x_BH)
    for at, target in enumerate(("click", "buy")):
        torch.testing.assert_close(head(x_BH).logits[target], head.towers.scores[at](shared_BE)[:, 0])


def test_one_target_s_own_experts_are_read_by_no_other() -> None:
    head = PLEHead(features=Flat(5), targets=("click", "buy"), layered=LayeredExperts(1, 2, (4,)), network=SMALL)
    head(torch.randn(64, 5)).logits["click"].sum().backward()
    assert not any(own.grad.any() for own in head.layers[0].own[1].parameters())
    assert all(own.grad.any() for own in head.layers[0].own[0].mlps[0].parameters())


@pytest.mark.parametrize("what", ["experts", "expert_hidden"])
def test_no_expert_is_refused(what: str) -> None:
    wrong = {"experts": SharedExperts(0), "expert_hidden": SharedExperts(2, ())}[what]
    with pytest.raises(ValueError, match=f"mmoe: {what}"):
        MMoEHead(features=Flat(5), targets=("click",), shared=wrong)


# --- ESMM ---


def test_the_probability_of_both_keeps_its_digits() -> None:
    a, b = torch.tensor([0.0, 12.0, -40.0, 30.0]), torch.tensor([1.0, 13.0, -50.0, 30.0])
    p, q = (x.double().neg().exp() for x in (a, b))
    exact = 1 / (p + q + p * q)  # the odds of 1 / ((1 + e^-a) (1 + e^-b))
    torch.testing.assert_close(both(a, b).double(), exact.log(), rtol=1e-6, atol=1e-6)


def test_esmm_multiplies_along_chains() -> None:
    chain = {"buy": "cart", "cart": "click"}
    head = ESMMHead(features=Flat(5), targets=("buy", "click", "cart"), given=chain, network=SMALL)
    out = head(torch.randn(6, 5))
    own = {name: out.representations[f"{name}/given"].sigmoid() for name in head.targets}
    torch.testing.assert_close(out.logits["click"].sigmoid(), own["click"])
    torch.testing.assert_close(out.logits["buy"].sigmoid(), own["click"] * own["cart"] * own["buy"])
    assert list(out.logits) == ["buy", "click", "cart"], "in the order of the label columns"


@pytest.mark.parametrize(
    ("given", "says"),
    [({"buy": "like"}, "no target"), ({"buy": "click", "click": "buy"}, "in a circle"), ({"buy": "buy"}, "in a circle")],
)
def test_what_esmm_cannot_be_given(given: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ESMMHead(features=Flat(5), targets=("click", "buy"), given=given)


# --- two logits ---


def test_two_logits_are_a_difference() -> None:
    head = TwoLogitsHead(features=Flat(5), targets=("click", "buy"))
    out = head(torch.randn(6, 5))
    for name in head.targets:
        torch.testing.assert_close(out.logits[name], out.representations[f"{name}/yes"] - out.representations[f"{name}/no"])


def test_towers_of_one_target_leave_those_of_another_alone() -> None:
    head = TowersHead(features=Flat(5), targets=("click", "buy"), network=SMALL)
    head(torch.randn(64, 5)).logits["click"].sum().backward()
    assert not any(own.grad.any() for own in head.towers.mlps[1].parameters())
    assert all(own.grad.any() for own in head.towers.mlps[0].parameters())
