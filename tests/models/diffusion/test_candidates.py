"""Candidates: who is one, how likely, and that what has to be restored always is."""

import pytest
import torch

from models.diffusion.candidates import CandidateSampler, TableCounts

SMALL = TableCounts("small", 6, 2, torch.tensor([0, 0, 10, 30, 60, 0]))
LARGE = TableCounts("large", 5000, 1, torch.cat([torch.zeros(1), 1e6 / torch.arange(1, 5000)]).long())


@pytest.fixture
def sampler():
    torch.manual_seed(0)
    return CandidateSampler([SMALL, LARGE], full_rows=100, extra=64, most=4096)


def test_a_small_table_offers_all_of_its_values_and_no_reserved_row(sampler):
    nothing = torch.empty(0, dtype=torch.int64)
    own = sampler({"large": (nothing, nothing)})["small"]

    assert sampler.is_full("small")
    assert own.ids.tolist() == [2, 3, 4, 5]
    assert own.log_q.tolist() == [0] * 4
    assert own.log_p.exp().tolist() == pytest.approx([10.5 / 102, 30.5 / 102, 60.5 / 102, 0.5 / 102])


def test_a_large_table_offers_those_of_the_batch_and_some_more_each_once(sampler):
    present = torch.tensor([17, 17, 4000, 3])
    own = sampler({"large": (present, present[:1])})["large"]

    assert not sampler.is_full("large")
    assert torch.isin(present, own.ids).all()
    assert own.ids.tolist() == sorted(set(own.ids.tolist()))
    assert 3 < len(own.ids) <= 3 + 64
    assert own.ids.min() >= 1


def test_q_is_how_often_a_value_is_a_candidate_through_others(sampler):
    rounds, n, hits = 3000, 40, torch.zeros(5000)
    for _ in range(rounds):
        present = sampler.draw("large", n - 1)
        hits[sampler({"large": (present, present[:0])})["large"].ids] += 1
    present = torch.cat([sampler.draw("large", n - 4), torch.tensor([1, 2, 10, 300])])
    own = sampler({"large": (present, present[:0])})["large"]

    for value in (1, 2, 10, 300):
        q = own.log_q.exp()[own.ids == value].item()
        assert hits[value].item() / rounds == pytest.approx(q, abs=0.03)


def test_a_value_that_was_never_counted_is_as_likely_as_it_is_in_the_batch():
    torch.manual_seed(0)
    counts = torch.full((5000,), 10)
    counts[[0, 4999]] = 0
    new = CandidateSampler([TableCounts("large", 5000, 1, counts)], full_rows=100, extra=0, most=4096)
    present = torch.cat([torch.full((20,), 4999), torch.arange(1, 21)])  # half of a later day is one new value
    own = new({"large": (present, present[:0])})["large"]

    assert own.ids[-1] == 4999
    assert own.log_q[-1].item() == pytest.approx(0, abs=1e-6), "it is sure to be a candidate"
    assert own.log_q[0].item() < -4, "the others are as rare as they were"


def test_draws_follow_the_counts(sampler):
    drawn = torch.bincount(sampler.draw("small", 200_000), minlength=6) / 200_000

    torch.testing.assert_close(drawn[2:5], torch.tensor([0.1, 0.3, 0.6]), atol=0.01, rtol=0)
    assert drawn[[0, 1, 5]].sum() == 0


def test_extra_candidates_are_drawn_by_the_counts_to_the_power_of_three_quarters():
    torch.manual_seed(0)
    sampler = CandidateSampler([SMALL], full_rows=0, extra=1, most=4096)
    nothing = torch.empty(0, dtype=torch.int64)
    drawn = torch.bincount(torch.cat([sampler({"small": (nothing, nothing)})["small"].ids for _ in range(4000)]), minlength=6)
    expected = torch.tensor([10.0, 30.0, 60.0]) ** 0.75

    torch.testing.assert_close(drawn[2:5] / 4000, expected / expected.sum(), atol=0.03, rtol=0)
    assert drawn[[0, 1, 5]].sum() == 0


def test_q_knows_how_many_were_left_out():
    torch.manual_seed(0)
    sampler = CandidateSampler([LARGE], full_rows=100, extra=64, most=200)
    rounds, n, hidden, hits = 1500, 600, 60, torch.zeros(5000)
    for _ in range(rounds):
        present = sampler.draw("large", n - 1)
        hits[sampler({"large": (present, present[: hidden - 1])})["large"].ids] += 1
    present = torch.cat([torch.tensor([1, 2, 10, 300]), sampler.draw("large", n - 4)])
    own = sampler({"large": (present, present[:hidden])})["large"]

    assert len(own.ids) == 200
    for value in (1, 2, 10, 300):
        q = own.log_q.exp()[own.ids == value].item()
        assert hits[value].item() / rounds == pytest.approx(q, abs=0.05)


def test_what_has_to_be_restored_is_kept_when_there_are_too_many():
    torch.manual_seed(0)
    sampler = CandidateSampler([LARGE], full_rows=100, extra=64, most=20)
    present = torch.arange(1, 400)
    own = sampler({"large": (present, torch.arange(300, 315))})["large"]

    assert len(own.ids) == 20
    assert torch.isin(torch.arange(300, 315), own.ids).all()


def test_rows_that_share_a_bucket_share_its_count():
    shared = TableCounts("shared", 10, 1, torch.tensor([4, 8, 0, 0]))  # rows 0 4 8, 1 5 9, 2 6, 3 7
    sampler = CandidateSampler([shared], full_rows=0, extra=0, most=99)
    own = sampler({"shared": (torch.arange(1, 10), torch.arange(1, 10))})["shared"]
    drawn = torch.bincount(sampler.draw("shared", 60_000), minlength=10) / 60_000

    rows_1_and_4 = [(8 / 3 + 0.5) / 16.5, (4 / 2 + 0.5) / 16.5]  # row 0 is not a value
    assert own.log_p.exp()[[0, 3]].tolist() == pytest.approx(rows_1_and_4)
    torch.testing.assert_close(drawn[[1, 5, 9]], torch.full((3,), 8 / 12 / 3), atol=0.02, rtol=0)
    assert drawn[[2, 3, 6, 7]].sum() == 0


def test_without_any_counts_every_value_is_as_likely():
    sampler = CandidateSampler([TableCounts("new", 50, 2, torch.zeros(50))], full_rows=0, extra=10, most=99)

    drawn = sampler.draw("new", 1000)
    assert (drawn.min().item(), drawn.max().item()) == (2, 49)
