"""Balance: where the difficulties come to rest, which way the weights point, and that the plain loss stays the plain loss."""

import math

import pytest
import torch

from models.diffusion.balance import KINDS, LEARNT, Balance
from models.diffusion.blocks import Guidance

LOSS = torch.tensor([0.2, 0.8, 2.4])
REFERENCE = torch.tensor([1.0, 2.0, 3.0])  # the third is the hardest, by its loss and by its share: .2, .4, .8
ALL = torch.ones(3, dtype=torch.bool)
HARD_IS_HEAVY = ("progress", "hard_track", "dro")
REST = {
    "literal": torch.log(2 * LOSS),
    "literal_raw": torch.log(2 * LOSS),
    "literal_norm": torch.log(2 * LOSS / REFERENCE),
    "progress": torch.log(2 * (1 - LOSS / REFERENCE)),
    "hard_track": torch.log(LOSS / REFERENCE),
}


def loss_of(balance, losses, references=REFERENCE, present=ALL):
    """What the network and the difficulties descend together."""
    weights, own = balance(losses, references, present)
    return (weights * losses * present).sum() + own


def at_rest(kind, losses=LOSS, references=REFERENCE, present=ALL, *, steps=1000, lr=0.2):
    balance = Balance(kind, fields=3)
    learn = torch.optim.SGD(balance.parameters(), lr=lr)
    for _ in range(steps):
        learn.zero_grad()
        loss_of(balance, losses, references, present).backward()
        learn.step()
    return balance


@pytest.mark.parametrize("kind", LEARNT)
def test_the_difficulties_come_to_rest_where_the_formula_says(kind):
    torch.testing.assert_close(at_rest(kind).s.detach(), REST[kind], atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_which_way_the_weights_point(kind):
    balance = at_rest(kind) if kind in LEARNT else Balance(kind, fields=3)
    weights = balance(LOSS, REFERENCE, ALL)[0].detach()
    if kind == "dro":
        weights = weights * REFERENCE  # it weighs shares of the reference
    easy, middle, hard = weights.tolist()

    if kind == "uniform":
        assert easy == middle == hard == 1
    elif kind in HARD_IS_HEAVY:
        assert easy < middle < hard
    else:
        assert easy > middle > hard


def test_the_published_formula_gives_a_field_with_twice_the_loss_half_the_weight():
    weights = at_rest("literal_raw", torch.tensor([1.0, 2.0, 4.0]))(LOSS, REFERENCE, ALL)[0]

    torch.testing.assert_close(weights.detach(), torch.tensor([1 / 2, 1 / 4, 1 / 8]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", LEARNT)
def test_a_field_without_hidden_values_does_not_move_and_weighs_nothing(kind):
    present = torch.tensor([True, False, True])
    balance = at_rest(kind, present=present, steps=50)

    assert balance.s[1] == 0
    assert balance.s[0] != 0
    weights = balance(LOSS, REFERENCE, present)[0]
    assert weights[1] == 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "literal_raw"])
@pytest.mark.parametrize("present", [ALL, torch.tensor([True, False, True])])
def test_the_weights_average_1_over_the_fields_that_are_there(kind, present):
    balance = Balance(kind, fields=3)
    if balance.s is not None:
        torch.nn.init.normal_(balance.s)
    weights = balance(LOSS, REFERENCE, present)[0]

    expected = 3.0 if kind == "uniform" else float(present.sum())  # uniform has nothing to divide
    assert weights.sum().item() == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["literal_norm", "progress", "hard_track", "dro"])
def test_a_constant_on_all_losses_and_references_changes_no_weight(kind):
    if kind == "dro":
        one, other = (Balance(kind, fields=3)(c * LOSS, c * REFERENCE, ALL)[0] for c in (1, 7))
    else:
        one, other = (at_rest(kind, c * LOSS, c * REFERENCE)(c * LOSS, c * REFERENCE, ALL)[0] for c in (1, 7))

    torch.testing.assert_close(one.detach(), other.detach())


def test_the_literal_weights_do_not_change_with_the_scale_of_the_loss_alone():
    one, other = (at_rest("literal", c * LOSS)(c * LOSS, REFERENCE, ALL)[0].detach() for c in (1, 3))

    torch.testing.assert_close(one, other, rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", [kind for kind in LEARNT if kind != "literal_raw"])
def test_network_and_difficulties_do_not_reach_each_other(kind):
    balance = Balance(kind, fields=3)
    torch.nn.init.normal_(balance.s)
    losses = LOSS.clone().requires_grad_()
    weights, own = balance(losses, REFERENCE, ALL)
    assert not weights.requires_grad
    own.backward()
    assert losses.grad is None


def test_the_published_loss_as_it_stands_is_one_function_of_both():
    balance = Balance("literal_raw", fields=3)
    torch.nn.init.normal_(balance.s)
    loss = loss_of(balance, LOSS)

    assert loss.item() == pytest.approx((torch.exp(-balance.s) * LOSS + balance.s / 2).sum().item())
    loss.backward()
    torch.testing.assert_close(balance.s.grad, -torch.exp(-balance.s.detach()) * LOSS + 0.5)


@pytest.mark.parametrize("kind", ["literal", "progress"])
def test_near_its_rest_the_error_shrinks_at_half_the_rate(kind):
    balance, lr = at_rest(kind), 0.01
    with torch.no_grad():
        balance.s += 1e-3
    before = balance.s.detach() - REST[kind]
    learn = torch.optim.SGD(balance.parameters(), lr=lr)
    loss_of(balance, LOSS).backward()
    learn.step()

    torch.testing.assert_close((balance.s.detach() - REST[kind]) / before, torch.full((3,), 1 - lr / 2), atol=1e-3, rtol=0)


def test_difficulties_follow_a_loss_that_decays_slower_than_half_their_rate():
    # c falls as exp(-r t); the lag d = s - ln 2c then obeys exp(-d) = 1 - 2 r / eta.
    balance, lr, rate = Balance("literal", fields=1), 0.01, 0.25
    learn, one = torch.optim.SGD(balance.parameters(), lr=lr), torch.ones(1, dtype=torch.bool)
    for step in range(1200):
        c = torch.tensor([2.0]) * math.exp(-rate * lr * step)
        learn.zero_grad()
        loss_of(balance, c, torch.ones(1), one).backward()
        learn.step()

    lag = balance.s.item() - math.log(2 * c.item())
    assert math.exp(-lag) == pytest.approx(1 - 2 * rate, abs=0.03)


def test_progress_bounds_the_ratio_of_weights():
    balance = at_rest("progress", torch.tensor([0.0, 1.0, 9.0]), torch.ones(3))
    weights = balance(torch.tensor([0.0, 1.0, 9.0]), torch.ones(3), ALL)[0].detach()

    assert (weights.max() / weights.min()).item() == pytest.approx(1 / 0.05, rel=1e-2)


def test_difficulties_stay_within_their_bounds():
    balance = Balance("literal", fields=3)
    torch.nn.init.constant_(balance.s, 40.0)
    balance(LOSS, REFERENCE, ALL)

    assert balance.s.max() == 5


def test_factors_without_difficulty_are_1_and_all_are_clamped_for_the_guidance():
    balance = Balance("progress", fields=3)
    assert torch.equal(balance.factors(), torch.ones(3))
    with torch.no_grad():
        balance.s.copy_(torch.tensor([-5.0, 0.0, 5.0]))
    factors = balance.factors()
    assert not factors.requires_grad
    guidance = Guidance("query", factors)
    torch.testing.assert_close(guidance.query_S1.squeeze(1), torch.tensor([3.0, 1.0, 1 / 3]))
    assert Balance("dro", fields=3).factors() is None


def test_an_unknown_kind_is_told():
    with pytest.raises(ValueError, match="no balance 'fair'; choose from"):
        Balance("fair", fields=3)
