"""Noise: how many values are perturbed, which never are, and what a row weighs."""

import pytest
import torch

from models.diffusion.noise import Noise, thinned

B, S = 20_000, 7
LABEL_S = torch.tensor([False] * 6 + [True])
ALL = torch.ones(B, S, dtype=torch.bool)
ONLY_NOISE = {"finetune_share": 0.0}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_the_number_of_perturbed_values_is_uniform_and_never_zero():
    hidden_BS, _ = Noise(**ONLY_NOISE)(ALL, LABEL_S)

    counts = torch.bincount(hidden_BS.sum(1), minlength=S + 1)
    assert counts[0] == 0
    torch.testing.assert_close(counts[1:] / B, torch.full((S,), 1 / S), atol=0.001, rtol=0)  # stratified: hardly any spread


def test_every_value_is_as_likely_to_be_perturbed_as_any_other():
    hidden_BS, _ = Noise(**ONLY_NOISE)(ALL, LABEL_S)

    torch.testing.assert_close(hidden_BS.double().mean(0), torch.full((S,), 4 / 7).double(), atol=0.015, rtol=0)


def test_with_probability_t_the_number_is_uniform_too_but_for_the_rows_where_nothing_was():
    hidden_BS, weight_B = Noise("bernoulli", time_weight="elbo", **ONLY_NOISE)(ALL, LABEL_S)

    counts = torch.bincount(hidden_BS.sum(1), minlength=S + 1) / B
    assert counts[0] == 0
    torch.testing.assert_close(counts[2:], torch.full((S - 1,), 1 / (S + 1)), atol=0.01, rtol=0)
    assert counts[1] == pytest.approx(2 / (S + 1), abs=0.01), "those that were empty have one now"
    assert (weight_B > 0).double().mean().item() == pytest.approx(1 - 1 / (S + 1), abs=0.01), "and weigh nothing"
    assert weight_B[weight_B > 0].min() >= 1
    assert (hidden_BS.sum(1) * weight_B).mean().item() == pytest.approx(S, rel=0.05), "1/t makes a bound of every value's loss"


@pytest.mark.parametrize("sampler", ["count", "bernoulli"])
@pytest.mark.parametrize("time_weight", ["elbo", "count"])
def test_the_bound_counts_every_value_once(sampler, time_weight):
    for n in (1, 2, 5):
        can_BS = torch.arange(S).expand(400_000, S) < n
        hidden_BS, weight_B = Noise(sampler, time_weight=time_weight, finetune_share=0.0)(can_BS, LABEL_S)
        assert (hidden_BS.sum(1) * weight_B).mean().item() == pytest.approx(n, rel=0.02)


WEIGHTS = {"count": lambda k: S / k, "elbo": lambda k: S / k, "mean": lambda k: 1 / k, "one": torch.ones_like}


@pytest.mark.parametrize(("name", "weight"), WEIGHTS.items())
def test_what_a_row_weighs(name, weight):
    hidden_BS, weight_B = Noise(time_weight=name, **ONLY_NOISE)(ALL, LABEL_S)

    torch.testing.assert_close(weight_B, weight(hidden_BS.sum(1).float()))


def test_what_cannot_be_perturbed_never_is_and_something_always_is():
    can_BS = (torch.rand(B, S) < 0.4) | LABEL_S
    for noise in (Noise(), Noise("bernoulli"), Noise(ratio="cosine")):
        hidden_BS, weight_B = noise(can_BS, LABEL_S)
        assert not (hidden_BS & ~can_BS).any()
        assert torch.equal(hidden_BS.any(1), can_BS.any(1))
        assert weight_B.isfinite().all()


def test_some_rows_are_the_task_that_follows_with_weight_1():
    only_label = Noise(finetune_share=1.0)(ALL, LABEL_S)
    torch.testing.assert_close(only_label[0], LABEL_S.expand(B, S))
    torch.testing.assert_close(only_label[1], torch.ones(B))

    hidden_BS, _ = Noise(finetune_share=0.3)(ALL, LABEL_S)
    alone = (hidden_BS == LABEL_S).all(1).double().mean().item()
    assert alone == pytest.approx(0.3 + 0.7 / 7 / 7, abs=0.01)


def test_the_cosine_ratio_perturbs_more():
    hidden_BS, _ = Noise(ratio="cosine", **ONLY_NOISE)(ALL, LABEL_S)

    assert hidden_BS.double().mean().item() == pytest.approx(2 / torch.pi + 0.5 / S, abs=0.02)  # rounded up


def test_no_rows_are_no_rows():
    hidden_BS, weight_B = Noise()(ALL[:0], LABEL_S)

    assert hidden_BS.shape == (0, S)
    assert weight_B.shape == (0,)


def test_of_a_long_list_some_values_are_restored_and_weigh_as_much_as_all():
    hidden_BS, field_S = torch.rand(400, 6) < 0.5, torch.tensor([0, 1, 1, 1, 1, 2])
    kept_BS, weight_F = thinned(hidden_BS, field_S, torch.tensor([400, 100, 400]))

    hidden = int(hidden_BS[:, 1:5].sum())
    assert not (kept_BS & ~hidden_BS).any()
    assert torch.equal(kept_BS[:, [0, 5]], hidden_BS[:, [0, 5]])
    assert int(kept_BS[:, 1:5].sum()) == 100
    assert weight_F.tolist() == pytest.approx([1, hidden / 100, 1])


def test_every_value_is_as_likely_to_be_kept_as_any_other_of_its_field():
    hidden_BS, field_S = torch.ones(2, 4, dtype=torch.bool), torch.tensor([0, 0, 0, 1])
    kept_BS = torch.stack([thinned(hidden_BS, field_S, torch.tensor([3, 1]))[0] for _ in range(4000)]).double().mean(0)

    torch.testing.assert_close(kept_BS[:, :3], torch.full((2, 3), 0.5).double(), atol=0.04, rtol=0)
    torch.testing.assert_close(kept_BS[:, 3], torch.full((2,), 0.5).double(), atol=0.04, rtol=0)
