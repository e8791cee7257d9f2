"""The contrastive loss: worked out by hand, what is no candidate, and that ranks change nothing."""

import math

import pytest
import torch

from models.contrast import SUMS, PairLoss, PairModel
from models.diffusion.candidates import TableCounts
from models.sparse import SparseArch, Table
from tests.helpers import on_ranks

ROWS = 8


def loss_of(counts=None, temperature=0.5, logq=True, symmetric=False):
    counts = torch.tensor(counts if counts is not None else [0.0] + [10.0] * (ROWS - 1))
    users, items = (TableCounts(name, ROWS, 1, counts) for name in ("user", "item"))
    return PairLoss(users=users, items=items, temperature=temperature, logq=logq, symmetric=symmetric)


def called(loss, user_BD, item_BD, users, items, pairs=None):
    user_B, item_B = torch.tensor(users, dtype=torch.int64), torch.tensor(items, dtype=torch.int64)
    is_pair_B = torch.tensor(pairs, dtype=torch.bool) if pairs is not None else torch.ones(len(user_B), dtype=torch.bool)
    value, sums = loss(user_BD, item_BD, user_B, item_B, is_pair_B)
    return value, dict(zip(SUMS, sums.tolist(), strict=True))


def vectors(count=4):
    return torch.randn(2, count, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64).unbind(0)


def test_one_pair_costs_nothing():
    value, sums = called(loss_of(), torch.randn(1, 3), torch.randn(1, 3), [1], [2])

    assert value == 0
    assert sums == {"loss": 0.0, "reference": 0.0, "hits": 1.0, "pairs": 1.0}


def test_equal_vectors_of_equally_frequent_items_cost_what_chance_does():
    value, sums = called(loss_of(), torch.ones(5, 3), torch.ones(5, 3), [1, 2, 3, 4, 5], [1, 2, 3, 4, 5])

    assert value.item() == pytest.approx(math.log(5))
    assert sums["reference"] / sums["pairs"] == pytest.approx(math.log(5))


def test_two_pairs_by_hand():
    """Cosines 1 and 0 at temperature .5: s = 2 I. ln(1 + e^-2) = .1269."""
    value, _ = called(loss_of(logq=False), torch.eye(2), 3 * torch.eye(2), [1, 2], [1, 2])

    assert value.item() == pytest.approx(0.1269, abs=1e-4)


def test_frequent_items_are_lowered_by_their_share():
    """q = (3/4, 1/4), from counts so large that smoothing is nothing: .3408 and .0441, mean .1924."""
    counts = [0.0, 3e9, 1e9] + [0.0] * (ROWS - 3)
    value, _ = called(loss_of(counts), torch.eye(2), torch.eye(2), [1, 2], [1, 2])
    assert value.item() == pytest.approx((0.3408 + 0.0441) / 2, abs=1e-4)


def test_it_is_the_frequent_item_that_is_lowered():
    """Equal vectors, q = (1/2, 1/4, 1/4): the softmax of -ln q is (.2, .4, .4)."""
    counts = [0.0, 2e9, 1e9, 1e9] + [0.0] * (ROWS - 4)
    value, _ = called(loss_of(counts), torch.ones(3, 2), torch.ones(3, 2), [1, 2, 3], [1, 2, 3])
    assert value.item() == pytest.approx(-(math.log(0.2) + 2 * math.log(0.4)) / 3, abs=1e-4)


def test_a_constant_factor_of_all_shares_changes_nothing():
    """As often as items outside the step occur, so much smaller is every share in it."""
    user_BD, item_BD = vectors()
    counts = [[0.0, 1e9, 2e9, 3e9, 4e9, 0.0, 0.0, others] for others in (0.0, 9e9)]
    values = [called(loss_of(own), user_BD, item_BD, [1, 2, 3, 4], [1, 2, 3, 4])[0] for own in counts]

    torch.testing.assert_close(values[0], values[1])


def test_the_same_item_and_other_positives_of_the_user_are_no_candidates():
    user_BD, item_BD = vectors()
    loss = loss_of(logq=False)
    #   user 1 took items 1 and 2, user 2 took item 1, user 3 item 3
    value, sums = called(loss, user_BD, item_BD, [1, 1, 2, 3], [1, 2, 1, 3])

    allowed = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1]], dtype=torch.bool)
    cosines = torch.nn.functional.cosine_similarity(user_BD.unsqueeze(1), item_BD.unsqueeze(0), dim=2) / 0.5
    wanted = -cosines.masked_fill(~allowed, -torch.inf).log_softmax(1).diagonal().mean()
    torch.testing.assert_close(value, wanted)
    assert sums["reference"] == pytest.approx(allowed.sum(1).double().log().sum().item())


def test_a_step_of_one_item_has_no_other_candidate():
    user_BD, item_BD = vectors()
    value, sums = called(loss_of(), user_BD, item_BD[:1].expand(4, 3), [1, 2, 3, 4], [5, 5, 5, 5])

    assert value == 0
    assert sums["hits"] == 4


def test_only_pairs_count():
    """No click, and an id that is missing, are as if the row were not there."""
    user_BD, item_BD = vectors()
    some, _ = called(loss_of(), user_BD, item_BD, [1, 2, 0, 4], [1, 2, 3, 0], [True, True, True, True])
    two, _ = called(loss_of(), user_BD, item_BD, [1, 2, 3, 4], [1, 2, 3, 4], [True, True, False, False])
    alone, _ = called(loss_of(), user_BD[:2], item_BD[:2], [1, 2], [1, 2])

    assert some == two == alone


def test_symmetric_is_the_mean_of_both_directions():
    user_BD, item_BD = vectors()
    users, items = [1, 1, 2, 3], [4, 5, 4, 6]
    there, _ = called(loss_of(), user_BD, item_BD, users, items)
    back, _ = called(loss_of(), item_BD, user_BD, items, users)
    both, _ = called(loss_of(symmetric=True), user_BD, item_BD, users, items)

    assert there != back
    torch.testing.assert_close(both, (there + back) / 2)


@pytest.mark.parametrize(("cosine", "hits"), [(1.0, 12), (-1.0, 0)])
def test_a_hit_is_an_item_among_the_ten_best_and_a_tie_is_none(cosine, hits):
    both_BD = torch.eye(12)
    _, sums = called(loss_of([0.0] * ROWS, logq=False), both_BD, cosine * both_BD, list(range(1, 13)), list(range(1, 13)))
    assert sums["hits"] == hits
    _, sums = called(
        loss_of([0.0] * ROWS, logq=False), torch.ones(12, 2), torch.ones(12, 2), list(range(1, 13)), list(range(1, 13))
    )
    assert sums["hits"] == 0


def test_no_pair_costs_nothing_and_gives_gradients_of_zero():
    user_BD, item_BD = (own.clone().requires_grad_() for own in vectors())
    value, sums = called(loss_of(symmetric=True), user_BD, item_BD, [1, 2, 3, 4], [1, 2, 3, 4], [False] * 4)
    value.backward()

    assert value == 0
    assert sums["pairs"] == 0
    assert not user_BD.grad.any()
    assert not item_BD.grad.any()


USERS, ITEMS = [1, 1, 2, 3, 4, 2, 5], [4, 5, 4, 6, 7, 1, 2]
PAIRS = [True, True, True, True, False, True, True]


def share(rank, parts, symmetric):
    """What a rank with some of seven rows computes, and the gradients of its rows."""
    user_BD, item_BD = vectors(7)
    here = slice(*parts[rank])
    own = [side[here].clone().requires_grad_() for side in (user_BD, item_BD)]
    value, sums = called(loss_of(symmetric=symmetric), *own, USERS[here], ITEMS[here], PAIRS[here])
    value.backward()
    return value.item(), sums, torch.cat([side.grad for side in own], dim=1)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("parts", [[(0, 3), (3, 7)], [(0, 7), (7, 7)], [(4, 5), (0, 4)]], ids=["uneven", "no row", "no pair"])
def test_two_ranks_are_one(parts, symmetric):
    """A rank without rows, or with rows of which none is a pair, takes part; nobody hangs."""
    whole = [min(begin for begin, _ in parts), max(end for _, end in parts)]
    [(alone, sums, gradients)] = on_ranks(1, share, [whole], symmetric)
    both = on_ranks(2, share, parts, symmetric)

    assert sum(value for value, _, _ in both) == pytest.approx(alone, rel=1e-9)
    for name in SUMS:
        assert sum(own[name] for _, own, _ in both) == pytest.approx(sums[name], rel=1e-9)
    in_order = [own for _, own in sorted(zip(parts, (own for _, _, own in both), strict=True), key=lambda part: part[0])]
    torch.testing.assert_close(torch.cat(in_order), gradients)


def nothing(rank, symmetric):
    user_BD = torch.zeros(0, 3, requires_grad=True)
    value, _ = called(loss_of(symmetric=symmetric), user_BD, torch.zeros(0, 3, requires_grad=True), [], [])
    value.backward()
    return value.item()


def test_a_step_without_rows_on_any_rank_ends():
    assert on_ranks(2, nothing, True) == [0.0, 0.0]


def test_vectors_of_two_widths_are_refused():
    sparse = SparseArch([Table("user", 4, 4, ("user",)), Table("item", 4, 8, ("item",))], device=torch.device("cpu"))
    with pytest.raises(ValueError, match=r"vectors of user and item are \[4, 8\] wide; expected one width for both"):
        PairModel(sparse=sparse, user="user", item="item", project=False)
