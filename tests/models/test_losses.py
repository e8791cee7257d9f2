"""Losses: the formulas worked out, what TF4CTR's gets wrong if one is careless, and that shares of ranks add up."""

import math
from dataclasses import replace

import pytest
import torch

from models.losses.base import LossTerm, Targets, losses_of
from models.losses.cross_entropy import BCE, Focal
from models.losses.twin_focus import TwinFocus
from models.losses.within_groups import BPR, JRC, NO_GROUP
from models.output import Output
from models.registries import LOSSES
from tests.helpers import on_ranks


def answer(logits_B, easy_B=None, hard_B=None):
    """A model's answer; both encoders say the same unless told otherwise."""
    both = (logits_B if easy_B is None else easy_B, logits_B if hard_B is None else hard_B)
    sides = {"click/easy": both[0], "click/hard": both[1], "click/yes": logits_B / 2, "click/no": -logits_B / 2}
    return Output({"click": logits_B}, sides)


def click(labels_B, weights_B, rows):
    """The one target `click`."""
    return Targets(("click",), labels_B[:, None], weights_B[:, None], rows, torch.zeros(len(labels_B), dtype=torch.int64))


def of(probability):
    return torch.tensor(probability).logit()


def test_the_cross_entropy_by_hand():
    logits_B = torch.tensor([0.0, math.log(3.0)])  # probabilities 1/2 and 3/4
    labels_B, weights_B = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 10.0])

    #   (1 * ln 2 + 10 * ln 4) / 4
    loss = BCE()(answer(logits_B), click(labels_B, weights_B, 4))
    assert loss["click"].item() == pytest.approx((math.log(2) + 10 * math.log(4)) / 4)


@pytest.mark.parametrize("name", [name for name in LOSSES if not LOSSES[name].within_groups])
def test_the_losses_of_uneven_ranks_add_up_to_the_loss_of_one_batch(name):
    torch.manual_seed(0)
    logits_B, labels_B, weights_B = torch.randn(7), torch.randint(0, 2, (7,)).float(), torch.rand(7)
    loss = LOSSES[name]()

    def share(part):
        return sum(loss(answer(logits_B[part]), click(labels_B[part], weights_B[part], 7)).values())

    shares = [share(part) for part in (slice(0, 2), slice(2, 7), slice(7, 7))]
    torch.testing.assert_close(sum(shares), share(slice(None)))
    assert shares[2].item() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_huge_logits_give_a_finite_loss_and_gradient(name):
    logits_B = torch.tensor([1e4, -1e4], requires_grad=True)
    loss = sum(LOSSES[name]()(answer(logits_B), click(torch.tensor([0.0, 1.0]), torch.ones(2), 2)).values())
    loss.backward()

    assert loss.isfinite()
    assert logits_B.grad.isfinite().all()


def test_a_target_counts_as_much_as_it_is_important() -> None:
    labels_BT, weights_BT = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    output = Output({"click": torch.tensor([0.2]), "buy": torch.tensor([0.3])})
    targets = Targets(("click", "buy"), labels_BT, weights_BT, 1, torch.zeros(1, dtype=torch.int64), {"buy": 3.0})
    plain = losses_of([LossTerm("bce", BCE())], output, replace(targets, importance={}))
    found = losses_of([LossTerm("bce", BCE())], output, targets)

    assert found == {"click": plain["click"], "buy": 3 * plain["buy"]}


# --- cross-entropy and what was made of it ---


def test_smoothing_draws_labels_towards_one_half() -> None:
    loss = BCE(smoothing=0.2)(answer(of(0.6)[None]), click(torch.ones(1), torch.ones(1), 1))
    assert loss["click"].item() == pytest.approx(-0.9 * math.log(0.6) - 0.1 * math.log(0.4), rel=1e-5)


def test_focal_by_hand_and_without_focus_half_of_the_cross_entropy() -> None:
    rows = click(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0]), 2)
    output = answer(torch.tensor([0.9, 0.4]).logit())
    loss = Focal(gamma=2, alpha=0.25)(output, rows)["click"].item()
    assert loss == pytest.approx((0.25 * 0.1**2 * -math.log(0.9) + 2 * 0.75 * 0.4**2 * -math.log(0.6)) / 2, rel=1e-5)
    torch.testing.assert_close(Focal(gamma=0, alpha=0.5)(output, rows)["click"], BCE()(output, rows)["click"] / 2)


# --- within groups ---

SCORES, LABELS = [0.3, -0.2, 1.5, 0.1, -0.7, 0.4, 0.9], [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0]
WEIGHTS, GROUPS = [1.0, 2.0, 1.0, 1.0, 0.0, 3.0, 0.5], [7, 7, 7, 8, 8, NO_GROUP, NO_GROUP]
"""Two groups and two rows without one; the only negative of group 8 has no weight."""


def grouped(part: slice = slice(None)) -> Targets:
    labels_B1, weights_B1 = torch.tensor(LABELS)[part, None], torch.tensor(WEIGHTS)[part, None]
    return Targets(("click",), labels_B1, weights_B1, 7, torch.tensor(GROUPS)[part])


def test_bpr_by_hand() -> None:
    loss = BPR()(answer(torch.tensor(SCORES)), grouped())["click"].item()
    behind = [-math.log(1 / (1 + math.exp(-(0.3 - other)))) for other in (-0.2, 1.5)]
    assert loss == pytest.approx((2 * behind[0] + 1 * behind[1]) / 3 / 7, rel=1e-5)


def test_jrc_by_hand() -> None:
    scores = torch.tensor(SCORES)
    output = Output({"click": scores}, {"click/yes": scores, "click/no": torch.zeros(7)})
    loss = JRC(alpha=0.25)(output, grouped())
    torch.testing.assert_close(loss["click"], 0.25 * BCE()(output, grouped())["click"])

    yes_7 = math.log(1 * math.exp(0.3) + 2 * math.exp(-0.2) + 1 * math.exp(1.5))
    no_7, yes_8 = math.log(1 + 2 + 1), 0.1  # of group 8 one row has weight
    nats = 1 * (yes_7 - 0.3) + 2 * no_7 + 1 * no_7 + 1 * (yes_8 - 0.1)
    assert loss["click/within_groups"].item() == pytest.approx(0.75 * nats / 7, rel=1e-5)


@pytest.mark.parametrize("name", ["bpr", "jrc"])
def test_groups_without_weight_or_of_one_label_have_finite_gradients(name: str) -> None:
    scores = torch.tensor(SCORES[3:6], requires_grad=True)
    sum(LOSSES[name]()(answer(scores), grouped(slice(3, 6))).values()).backward()
    assert scores.grad.isfinite().all()


def shared(rank: int, name: str, parts: list[slice]) -> tuple[float, list[float]]:
    scores = torch.tensor(SCORES)[parts[rank]].requires_grad_()
    loss = sum(LOSSES[name]()(answer(scores), grouped(parts[rank])).values())
    loss.backward()
    return loss.item(), scores.grad.tolist()


@pytest.mark.parametrize("name", ["bpr", "jrc"])
@pytest.mark.parametrize("cut", [4, 0], ids=["through a group", "a rank without rows"])
def test_on_two_ranks_the_losses_and_gradients_within_groups_are_those_of_one(name: str, cut: int) -> None:
    alone, gradient = shared(0, name, [slice(None)])
    (first, left), (second, right) = on_ranks(2, shared, name, [slice(0, cut), slice(cut, 7)])

    assert first + second == pytest.approx(alone, rel=1e-6)
    assert left + right == pytest.approx(gradient, rel=1e-5, abs=1e-7)


# --- twin focus ---


def test_a_row_that_the_hard_encoder_is_sure_of_has_a_finite_gradient_for_every_gamma():
    logit_B = torch.tensor([20.0], requires_grad=True)  # its probability is 1 in 32 bits
    loss = TwinFocus(gamma=0.5, c=1.0)(answer(logit_B), click(torch.ones(1), torch.ones(1), 1))
    sum(loss.values()).backward()

    assert logit_B.grad.isfinite().all()


def test_twin_focus_by_hand():
    # The true label is 1, then 0: the easy encoder gives it .9 and .6, the hard one .5 and .3.
    output = answer(torch.zeros(2), torch.tensor([0.9, 0.4]).logit(), torch.tensor([0.5, 0.7]).logit())
    loss = TwinFocus(gamma=2, c=0.7, alpha=0.2)(output, click(torch.tensor([1.0, 0.0]), torch.ones(2), 2))

    easy = (1.6**2 * -math.log(0.9) + 1.3**2 * -math.log(0.6)) / 2
    hard = (0.8**2 * -math.log(0.5) + 1.0**2 * -math.log(0.3)) / 2
    assert loss["click"].item() == pytest.approx(math.log(2))
    assert loss["click/easy"].item() == pytest.approx(0.2 * easy, rel=1e-5)
    assert loss["click/hard"].item() == pytest.approx(0.8 * hard, rel=1e-5)


def test_gamma_0_is_plain_cross_entropy_on_each_encoder():
    torch.manual_seed(1)
    easy_B, hard_B, labels_B, weights_B = torch.randn(9), torch.randn(9), torch.randint(0, 2, (9,)).float(), torch.rand(9)
    loss = TwinFocus(gamma=0, alpha=0.25)(answer(torch.zeros(9), easy_B, hard_B), click(labels_B, weights_B, 9))

    for part, logits_B, share in (("click/easy", easy_B, 0.25), ("click/hard", hard_B, 0.75)):
        plain = BCE()(answer(logits_B), click(labels_B, weights_B, 9))["click"]
        torch.testing.assert_close(loss[part], share * plain)


def test_with_c_above_1_a_well_known_row_is_never_paid_for():
    sure = TwinFocus(gamma=1, c=1.2, alpha=0)(answer(of(0.95)[None]), click(torch.ones(1), torch.ones(1), 1))

    assert sure["click/hard"].item() == 0, "2 - c - .95 is negative"


def test_gradients_flow_through_the_factors():
    logit_B = torch.tensor([0.3], requires_grad=True)
    TwinFocus(gamma=2, c=0.7, alpha=1)(answer(logit_B), click(torch.ones(1), torch.ones(1), 1))["click/easy"].backward()

    e = 1 / (1 + math.exp(-0.3))
    of_the_product = (2 * (0.7 + e) * -math.log(e) - (0.7 + e) ** 2 / e) * e * (1 - e)
    assert logit_B.grad.item() == pytest.approx(of_the_product, rel=1e-5)


@pytest.mark.parametrize(("gamma", "least"), [(1, 0.135), (2, 0.446), (3, 0.791)])
def test_below_the_least_c_there_are_rows_that_push_the_easy_encoder_away_from_the_label(gamma, least):
    def rises(c):
        logits = torch.linspace(-12, 12, 4001, requires_grad=True)
        loss = TwinFocus(gamma=gamma, c=c, alpha=1)(answer(logits), click(torch.ones(4001), torch.ones(4001), 1))
        (gradient,) = torch.autograd.grad(loss["click/easy"], logits)
        return bool((gradient > 0).any())

    assert rises(least - 0.01)
    assert not rises(least + 0.01)


def test_settings_without_sense_are_told():
    with pytest.raises(ValueError, match="alpha between 0 and 1"):
        TwinFocus(alpha=1.5)
