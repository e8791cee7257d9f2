"""Ids that come and go: one suite for TorchRec's managed collision and for ours, then what only ours does."""

import numpy as np
import pytest
import torch
from torchrec.modules.mc_modules import (
    DistanceLFU_EvictionPolicy,
    LFU_EvictionPolicy,
    LRU_EvictionPolicy,
    MCHManagedCollisionModule,
)
from torchrec.sparse.jagged_tensor import JaggedTensor

from data.ids import mix
from models.id_table import UNSEEN, IdTable, Policy, first_vectors, mixed

CPU = torch.device("cpu")


class Theirs:
    """TorchRec's MCH with room for so many ids, on one rank; its last row is the one that all others share."""

    def __init__(self, room: int, evict: str) -> None:
        policies = {"lru": LRU_EvictionPolicy, "lfu": LFU_EvictionPolicy, "distance_lfu": DistanceLFU_EvictionPolicy}
        self.map = MCHManagedCollisionModule(room + 1, CPU, policies[evict](), eviction_interval=1)
        self.shared = room

    def learn(self, ids: list[int]) -> None:
        self.map.train()
        self._ask(ids)

    def rows(self, ids: list[int]) -> list[int | None]:
        self.map.eval()
        return [None if row == self.shared else row for row in self._ask(ids)]

    def _ask(self, ids: list[int]) -> list[int]:
        values = JaggedTensor(torch.tensor(ids), lengths=torch.ones(len(ids), dtype=torch.int64))
        return self.map({"f": values})["f"].values().tolist()


class Ours:
    """One bucket with room for so many ids."""

    def __init__(self, room: int, evict: str) -> None:
        self.map = table(Policy(rows=room + 2, probe=room, evict=evict))
        self.step = 0

    def learn(self, ids: list[int]) -> None:
        self.step += 1
        learn(self.map, ids, step=self.step)

    def rows(self, ids: list[int]) -> list[int | None]:
        rows, own = self.map.look(torch.tensor(ids))
        return [row if here else None for row, here in zip(rows.tolist(), own.tolist(), strict=True)]


def table(policy: Policy, begin: int = 0, end: int | None = None) -> IdTable:
    return IdTable(policy, begin=begin, end=policy.buckets if end is None else end, device=CPU)


def learn(own: IdTable, ids: list[int], *, step: int, day: int = 0):
    distinct, counts = torch.tensor(ids, dtype=torch.int64).unique(return_counts=True)
    return own.learn(distinct, counts, torch.full_like(counts, day), step=step)


@pytest.fixture(params=[Theirs, Ours], ids=["torchrec", "ours"])
def make(request: pytest.FixtureRequest):
    return request.param


POLICIES = ["lru", "lfu", "distance_lfu"]


@pytest.mark.parametrize("evict", POLICIES)
def test_every_id_has_a_row_of_its_own_and_keeps_it(make, evict: str) -> None:
    own = make(4, evict)
    own.learn([10**18, -5, 7, 7])
    first = own.rows([10**18, -5, 7])
    assert len({*first} - {None}) == 3
    own.learn([7, 11, -5])
    assert own.rows([10**18, -5, 7]) == first
    assert own.rows([11])[0] not in (None, *first)


@pytest.mark.parametrize("evict", POLICIES)
def test_an_id_never_seen_reads_the_shared_row(make, evict: str) -> None:
    own = make(4, evict)
    own.learn([1, 2])
    assert own.rows([3, 4]) == [None, None]


@pytest.mark.parametrize("evict", POLICIES)
def test_reading_changes_nothing(make, evict: str) -> None:
    own = make(2, evict)
    own.learn([1, 2])
    before = {name: value.clone() for name, value in state(own).items()}
    for _ in range(3):
        own.rows([1, 3, 4, 5])
    assert all(torch.equal(value, before[name]) for name, value in state(own).items())


def state(own: Theirs | Ours) -> dict[str, torch.Tensor]:
    if isinstance(own, Ours):
        return own.map.state
    own.map.train()  # in between it keeps other names for the same
    return {name: value for name, value in own.map.state_dict().items() if torch.is_tensor(value)}


def test_lru_lets_go_of_the_id_not_seen_for_longest(make) -> None:
    own = make(3, "lru")
    for ids in ([1, 2, 3], [1, 3], [1]):
        own.learn(ids)
    (row,) = own.rows([2])
    own.learn([4])
    assert own.rows([2, 4]) == [None, row]
    assert None not in own.rows([1, 3])
    own.learn([5])
    assert own.rows([3]) == [None]


def test_lfu_lets_go_of_the_id_seen_least_often(make) -> None:
    own = make(3, "lfu")
    own.learn([1, 1, 1, 2, 2, 3])
    (row,) = own.rows([3])
    own.learn([4, 4])
    assert own.rows([3, 4]) == [None, row]
    assert None not in own.rows([1, 2])


def test_lfu_keeps_an_id_that_was_seen_as_often_as_the_new_one(make) -> None:
    own = make(2, "lfu")
    own.learn([1, 1, 2])
    own.learn([3])
    assert None not in own.rows([1, 2])
    assert own.rows([3]) == [None]


def test_distance_lfu_weighs_how_often_against_how_long_ago(make) -> None:
    own = make(2, "distance_lfu")
    own.learn([1, 1, 1])  # three sights, but nine steps ago when 3 comes
    for _ in range(8):
        own.learn([2, 2])
    own.learn([3])
    assert own.rows([1]) == [None]
    assert None not in own.rows([2, 3])


# --- ours alone ---


def test_the_mixed_words_are_those_of_the_id_maps() -> None:
    ids = np.array([0, 1, -1, 2**63 - 1, -(2**63), 12345], dtype=np.int64)
    out, scratch = np.empty(6, dtype=np.uint64), np.empty(6, dtype=np.uint64)
    mix(ids.view(np.uint64), np.uint64(99), out, scratch)
    assert mixed(torch.from_numpy(ids), 99).tolist() == out.view(np.int64).tolist()


def test_an_id_is_admitted_at_its_third_sight() -> None:
    own = table(Policy(rows=10, probe=8, admit=3))
    assert learn(own, [5], step=1).rows.tolist() == [UNSEEN]
    assert learn(own, [5, 6, 6, 6], step=2).is_own.tolist() == [False, True]
    learnt = learn(own, [5], step=3)
    assert learnt.is_own.tolist() == [True]
    assert (learnt.placed.tolist(), learnt.placed_ids.tolist()) == (learnt.rows.tolist(), [5])


def test_an_id_that_waits_is_forgotten_for_those_seen_after_it() -> None:
    own = table(Policy(rows=4, probe=2, admit=2))
    learn(own, [1], step=1)
    learn(own, [2], step=2)
    learn(own, [3], step=3)  # two places to wait: 1 is forgotten
    assert learn(own, [2], step=4).is_own.tolist() == [True]
    assert learn(own, [1], step=5).is_own.tolist() == [False]


def test_a_share_of_the_sights_earns_a_row_by_id_and_step_alone() -> None:
    policy = Policy(rows=2 + 64 * 200, admit_share=0.1)
    ids = list(range(5000))
    first, again = (learn(table(policy), ids, step=1) for _ in range(2))
    assert torch.equal(first.is_own, again.is_own)
    assert not torch.equal(first.is_own, learn(table(policy), ids, step=2).is_own)
    assert first.is_own.sum().item() == pytest.approx(500, abs=4 * (5000 * 0.1 * 0.9) ** 0.5)
    twice = learn(table(policy), ids + ids, step=1)  # 1 - 0.9^2
    assert twice.is_own.sum().item() == pytest.approx(950, abs=4 * (5000 * 0.19 * 0.81) ** 0.5)


def test_nobody_has_to_leave_where_nothing_is_evicted() -> None:
    own = table(Policy(rows=4, probe=2, evict="none"))
    learn(own, [1, 2], step=1)
    learnt = learn(own, [3], step=2)
    assert (learnt.rows.tolist(), learnt.crowded) == ([UNSEEN], 1)
    assert own.look(torch.tensor([1, 2]))[1].all()


def test_ids_of_one_step_do_not_displace_each_other() -> None:
    own = table(Policy(rows=4, probe=2))
    learnt = learn(own, [1, 2, 3], step=1)
    assert learnt.is_own.tolist() == [True, True, False]
    assert learnt.crowded == 1
    learnt = learn(own, [2, 3, 4], step=2)  # 2 stays, 3 takes the place of 1, 4 finds none
    assert learnt.is_own.tolist() == [True, True, False]
    assert learnt.displaced.tolist() == own.look(torch.tensor([3]))[0].tolist()


@pytest.mark.parametrize("evict", ["lfu", "distance_lfu"])
def test_an_id_that_a_step_needs_is_not_let_go_in_it_for_one_worth_more(evict: str) -> None:
    own = table(Policy(rows=3, probe=1, evict=evict))
    learn(own, [1], step=1)
    learnt = learn(own, [1, 9, 9, 9, 9, 9], step=2)
    assert learnt.is_own.tolist() == [True, False]
    assert learn(own, [9], step=3).is_own.tolist() == [True]


def test_an_id_goes_when_its_last_event_is_longer_ago_than_the_ttl() -> None:
    own = table(Policy(rows=10, probe=8, ttl_days=2))
    learn(own, [1, 2], step=1, day=100)
    learn(own, [2], step=2, day=101)
    assert own.expire(102).tolist() == []
    row = own.look(torch.tensor([1]))[0].tolist()
    assert own.expire(103).tolist() == row
    assert own.look(torch.tensor([1, 2]))[1].tolist() == [False, True]


def test_an_event_that_comes_late_does_not_make_an_id_younger() -> None:
    own = table(Policy(rows=10, probe=8, ttl_days=2))
    learn(own, [1], step=1, day=100)
    learn(own, [1], step=2, day=97)
    assert own.state["day"].max() == 100
    assert own.expire(102).tolist() == []


def test_ids_from_before_there_was_a_ttl_are_as_young_as_the_day_it_begins() -> None:
    own = table(Policy(rows=10, probe=8, ttl_days=2))
    learn(own, [1], step=1, day=0)  # nobody noted the day
    assert own.expire(100).tolist() == []
    assert own.expire(102).tolist() == []
    assert len(own.expire(103)) == 1


def test_ids_without_a_row_share_some_by_hash() -> None:
    policy = Policy(rows=10 + 64, admit=2, unseen_rows=8)
    learnt = learn(table(policy), list(range(1000)), step=1)
    assert set(learnt.rows.tolist()) == set(range(2, 10))
    assert policy.reserved == 10


def test_a_map_cut_into_ranges_of_buckets_decides_as_a_whole_one() -> None:
    policy = Policy(rows=2 + 16 * 20, probe=16, admit=2, evict="distance_lfu", ttl_days=3)
    whole, parts = table(policy), [table(policy, *own) for own in ((0, 7), (7, 7), (7, 20))]
    rng = torch.Generator().manual_seed(3)
    for step in range(1, 60):
        ids = (torch.rand(300, generator=rng) ** 4 * 2000).long() * 2**40
        distinct, counts = ids.unique(return_counts=True)
        days = torch.full_like(counts, step // 5)
        freed = whole.expire(step // 5)
        learnt = whole.learn(distinct, counts, days, step=step)
        bucket, found, gone = policy.bucket_of(distinct), torch.empty_like(distinct), []
        for part in parts:
            gone.append(part.expire(step // 5))
            mine = (bucket >= part.begin) & (bucket < part.end)
            found[mine] = part.learn(distinct[mine], counts[mine], days[mine], step=step).rows
        assert torch.equal(found, learnt.rows)
        assert torch.equal(torch.cat(gone), freed)
    for name, value in whole.state.items():
        assert torch.equal(torch.cat([part.state[name] for part in parts]), value), name
    assert len(whole.held()[0]) > 200


def test_every_row_belongs_to_one_id_and_every_id_to_one_row() -> None:
    policy = Policy(rows=2 + 8 * 10, probe=8)
    own = table(policy)
    rng = torch.Generator().manual_seed(4)
    for step in range(1, 40):
        ids = torch.randint(-500, 500, (60,), generator=rng)
        learnt = learn(own, ids.tolist(), step=step)
        mine = learnt.rows[learnt.is_own]
        assert len(mine.unique()) == len(mine)
        assert mine.min() >= policy.reserved
        assert mine.max() < policy.rows
        held, rows = own.held()
        assert len(held.unique()) == len(held)
        assert torch.equal(own.look(held)[0], rows)


def test_first_vectors_depend_on_the_id_and_not_on_its_neighbours() -> None:
    ids = torch.tensor([3, 10**17, -8])
    for kind in ("uniform", "normal"):
        drawn = first_vectors(ids, 7, width=8, kind=kind, scale=0.5)
        assert torch.equal(drawn[1:2], first_vectors(ids[1:2], 7, width=8, kind=kind, scale=0.5))
        assert not torch.equal(drawn, first_vectors(ids, 8, width=8, kind=kind, scale=0.5))
    many = torch.arange(100_000)
    uniform = first_vectors(many, 1, width=4, scale=0.5)
    assert uniform.abs().max() <= 0.5
    assert uniform.mean().item() == pytest.approx(0, abs=2e-3)
    assert uniform.std().item() == pytest.approx(0.5 / 3**0.5, abs=2e-3)
    normal = first_vectors(many, 1, width=4, kind="normal", scale=0.5)
    assert normal.isfinite().all()
    assert normal.std().item() == pytest.approx(0.5, abs=3e-3)
    assert torch.corrcoef(normal.T)[0, 1:].abs().max() < 0.02
