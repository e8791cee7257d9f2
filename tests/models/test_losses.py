"""Losses: the cross-entropy by hand, and that shares of ranks add up."""

import math

import pytest
import torch

from models.losses import LOSSES, bce


def test_the_cross_entropy_by_hand():
    logits_B = torch.tensor([0.0, math.log(3.0)])  # probabilities 1/2 and 3/4
    labels_B, weights_B = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 10.0])

    #   (1 * ln 2 + 10 * ln 4) / 4
    assert bce(logits_B, labels_B, weights_B, 4).item() == pytest.approx((math.log(2) + 10 * math.log(4)) / 4)


@pytest.mark.parametrize("name", LOSSES)
def test_the_losses_of_uneven_ranks_add_up_to_the_loss_of_one_batch(name):
    torch.manual_seed(0)
    logits_B, labels_B, weights_B = torch.randn(7), torch.randint(0, 2, (7,)).float(), torch.rand(7)
    loss = LOSSES[name]

    shares = [loss(logits_B[part], labels_B[part], weights_B[part], 7) for part in (slice(0, 2), slice(2, 7), slice(7, 7))]

    torch.testing.assert_close(sum(shares), loss(logits_B, labels_B, weights_B, 7))
    assert shares[2].item() == 0


def test_huge_logits_give_a_finite_loss():
    loss = bce(torch.tensor([1e4, -1e4]), torch.tensor([0.0, 1.0]), torch.ones(2), 2)

    assert loss.item() == pytest.approx(1e4)
