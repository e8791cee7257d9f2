"""Heads: one logit per task, with as little as each decoder needs."""

import torch

from models.heads import Head


def test_a_decoder_that_returns_a_score_gets_only_a_bias_per_task():
    head = Head(features=1, tasks=["click", "buy"])
    with torch.no_grad():
        next(head.parameters()).copy_(torch.tensor([10.0, 20.0]))

    logits = head(torch.tensor([[1.0], [2.0]])).logits
    torch.testing.assert_close(logits, {"click": torch.tensor([11.0, 12.0]), "buy": torch.tensor([21.0, 22.0])})
    assert sum(p.numel() for p in head.parameters()) == 2


def test_any_other_decoder_gets_a_linear_score_per_task():
    head = Head(features=3, tasks=["click", "buy"])

    assert {task: logit.shape for task, logit in head(torch.randn(4, 3)).logits.items()} == {"click": (4,), "buy": (4,)}
    assert sum(p.numel() for p in head.parameters()) == 2 * (3 + 1)
