"""Heads: one logit per task, with as little as each decoder needs."""

import torch

from models.heads import LinearHead
from models.layers import Flat


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


def test_a_head_starts_at_the_logits_it_is_given() -> None:
    for features in (1, 5):
        head = LinearHead(features=Flat(features), targets=("click", "buy"))
        head.start_at([-5.0, -7.0])
        logits = head(torch.zeros(3, features)).logits
        assert logits["click"].tolist() == [-5.0] * 3
        assert logits["buy"].tolist() == [-7.0] * 3
