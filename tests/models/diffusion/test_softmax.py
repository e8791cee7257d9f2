"""Grouped softmaxes: each table's is the plain one, and sampling is corrected so that it comes near the full one."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from models.diffusion import softmax
from models.diffusion.candidates import Candidates, CandidateSampler, TableCounts
from models.diffusion.softmax import Choice, losses

B, D = 9, 4


def full(rows, slots, seed, bias=False):
    """A table of which all rows are candidates."""
    generator = torch.Generator().manual_seed(seed)
    ids, p = torch.arange(1, rows), torch.rand(rows - 1, generator=generator)
    own = Candidates(ids, torch.zeros(rows - 1), (p / p.sum()).log())
    vectors = torch.randn(rows - 1, D, generator=generator).requires_grad_()
    return Choice(torch.tensor(slots), own, vectors, torch.randn(rows - 1, generator=generator) if bias else None)


def batch(choices, slots):
    torch.manual_seed(4)
    made, ids = torch.randn(B, slots, D).requires_grad_(), torch.zeros(B, slots, dtype=torch.int64)
    for choice in choices:
        for slot in choice.slots:
            ids[:, slot] = choice.candidates.ids[torch.randint(len(choice.candidates.ids), (B,))]
    return made, ids, torch.rand(B, slots) < 0.6


@pytest.mark.parametrize("most", [2**25, 1], ids=["together", "apart"])
@pytest.mark.parametrize("temperature", [0.1, None], ids=["cosine", "dot"])
def test_each_tables_loss_is_the_plain_cross_entropy(temperature, most, monkeypatch):
    monkeypatch.setattr(softmax, "MOST_LOGITS", most)
    choices = [full(5, [0], 0), full(40, [3, 1], 1), full(6, [4], 2, bias=temperature is None), full(33, [2], 3)]
    made, ids, hidden = batch(choices, 5)
    found, reference = losses(made, ids, hidden, choices, temperature=temperature, logq="negatives")

    for choice in choices:
        for slot in choice.slots.tolist():
            z, values = made[:, slot], choice.vectors
            if temperature is not None:
                z, values = normalize(z, dim=1) / temperature, normalize(values, dim=1)
            logits = z @ values.T + (0 if choice.bias is None else choice.bias)
            expected = cross_entropy(logits, ids[:, slot] - 1, reduction="none") * hidden[:, slot]
            torch.testing.assert_close(found[:, slot], expected)
            by_chance = -choice.candidates.log_p[ids[:, slot] - 1] * hidden[:, slot]
            torch.testing.assert_close(reference[:, slot], by_chance, atol=1e-5, rtol=1e-5)
    assert not reference.requires_grad


def test_gradients_reach_vectors_and_candidates_and_are_those_of_the_plain_loss():
    choices = [full(5, [0], 0), full(7, [1], 1)]
    made, ids, hidden = batch(choices, 2)
    losses(made, ids, hidden, choices, temperature=None, logq="none")[0].sum().backward()

    for choice in choices:
        slot = choice.slots.item()
        z, values = made.detach()[:, slot].requires_grad_(), choice.vectors.detach().requires_grad_()
        (cross_entropy(z @ values.T, ids[:, slot] - 1, reduction="none") * hidden[:, slot]).sum().backward()
        torch.testing.assert_close(choice.vectors.grad, values.grad)
        torch.testing.assert_close(made.grad[:, slot], z.grad)


@pytest.mark.parametrize("logq", ["none", "negatives", "all"])
def test_the_corrections_by_hand(logq):
    own = Candidates(torch.tensor([3, 8, 9]), torch.tensor([0.5, 0.25, 0.1]).log(), torch.tensor([0.6, 0.3, 0.1]).log())
    made = torch.tensor([[[1.0, 2.0]]])
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # dot products 1, 2, 3
    choice = Choice(torch.tensor([0]), own, vectors)
    found, reference = losses(made, torch.tensor([[8]]), torch.tensor([[True]]), [choice], temperature=None, logq=logq)
    a, q, p = torch.tensor([1.0, 2.0, 3.0]).exp(), own.log_q.exp(), own.log_p.exp()
    if logq == "negatives":
        q = torch.tensor([q[0], 1.0, q[2]])
    elif logq == "none":
        q = torch.ones(3)

    assert found.item() == pytest.approx(-torch.log((a / q)[1] / (a / q).sum()).item(), rel=1e-5)
    assert reference.item() == pytest.approx(-torch.log((p / q)[1] / (p / q).sum()).item(), rel=1e-5)


def test_nothing_hidden_and_no_rows_cost_nothing():
    choices = [full(5, [0], 0)]
    made, ids, hidden = batch(choices, 1)
    for rows, mask in ((B, hidden & False), (0, hidden[:0])):
        found, reference = losses(made[:rows], ids[:rows], mask, choices, temperature=0.1, logq="negatives")
        assert found.shape == (rows, 1)
        assert found.sum() == reference.sum() == 0


def test_a_rank_without_rows_takes_part_in_the_backward_pass():
    own = replace(full(5, [0], 0), vectors=torch.zeros(0, 4, requires_grad=True), bias=torch.zeros(5, requires_grad=True))
    made = torch.zeros(0, 1, 4, requires_grad=True)
    nothing = torch.zeros(0, 1, dtype=torch.int64)
    found, _ = losses(made, nothing, nothing.bool(), [own], temperature=0.1, logq="negatives")
    found.sum().backward()

    assert found.shape == (0, 1)
    assert own.bias.grad.tolist() == [0] * 5
    assert own.vectors.grad.shape == (0, 4)


def test_correcting_the_negatives_alone_comes_nearest_to_the_full_softmax():
    torch.manual_seed(0)
    rows, n = 2001, 128
    counts = torch.cat([torch.zeros(1), 1e6 / torch.arange(1, rows)])
    sampler = CandidateSampler([TableCounts("t", rows, 1, counts)], full_rows=0, extra=0, most=4096)
    table, everything = torch.randn(rows, 8), torch.arange(1, rows)
    means = dict.fromkeys(("full", "none", "negatives", "all"), 0.0)
    for _ in range(40):
        ids = sampler.draw("t", n).unsqueeze(1)
        made, hidden = torch.randn(n, 1, 8) * 0.35, torch.ones(n, 1, dtype=torch.bool)
        own = sampler({"t": (ids.squeeze(1), ids.squeeze(1))})["t"]
        whole = Choice(
            torch.tensor([0]), Candidates(everything, torch.zeros(rows - 1), own.log_p.new_zeros(rows - 1)), table[1:]
        )
        means["full"] += losses(made, ids, hidden, [whole], temperature=None, logq="none")[0].mean().item() / 40
        for logq in ("none", "negatives", "all"):
            choice = Choice(torch.tensor([0]), own, table[own.ids])
            means[logq] += losses(made, ids, hidden, [choice], temperature=None, logq=logq)[0].mean().item() / 40

    off = {logq: abs(means[logq] - means["full"]) for logq in ("none", "negatives", "all")}
    assert off["negatives"] < 0.3 < off["all"] < off["none"], means
