"""Ids that come and go: which raw id has which row of a table, as tensors; who is admitted, and who has to leave.

A table has some reserved rows, then buckets of P rows. An id hashes to one bucket and can only live there, so every decision is
made inside a bucket: a rank may own any range of buckets, and the same ids in the same steps get the same rows on any number of
ranks. N distinct ids of a step, U buckets they touch, P rows of a bucket.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

UNSEEN = 1
"""The row that ids without one of their own share; row 0 is the missing id's."""

CHUNK = 65_536
"""[ids] looked for at a time: N x P numbers are compared."""

MULTIPLIER_1, MULTIPLIER_2 = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
LOW = 2**32 - 1

FREE, BUSY = -torch.inf, torch.inf
"""The worth of an empty row, and of one that is needed in this very step."""


@dataclass(frozen=True)
class Policy:
    """Who gets a row of a managed table, and who loses it.

    Args:
        rows: [rows] of the table, the reserved ones among them; up to P - 1 at its end belong to no bucket and stay unused.
        seed: 64 bits; two tables of different seeds put an id into unrelated buckets.
        probe: P, the rows an id may live in.
        admit: [sights] after which an id gets a row of its own.
        admit_share: [1] instead: the share of sights that earn one, by a hash of id and step.
        evict: which of the rows in a full bucket is worth least: the one not seen for longest (lru), seen least often (lfu), or
            of the least sights over steps since the last (distance_lfu). A new id takes it if it is itself worth more; none:
            nobody has to leave.
        ttl_days: [days] after its last event that an id is kept; None for ever.
        unseen_rows: [rows] that ids without a row of their own share, by hash; 0: all of them share row 1.
    """

    rows: int
    seed: int = 0
    probe: int = 64
    admit: int = 1
    admit_share: float | None = None
    evict: Literal["lru", "lfu", "distance_lfu", "none"] = "lru"
    ttl_days: int | None = None
    unseen_rows: int = 0

    @property
    def reserved(self) -> int:
        """[rows] at the start of the table that no id owns."""
        return UNSEEN + 1 + self.unseen_rows

    @property
    def buckets(self) -> int:
        """How many buckets there are."""
        return (self.rows - self.reserved) // self.probe

    @property
    def capacity(self) -> int:
        """[ids] the table can hold."""
        return self.buckets * self.probe

    @property
    def remembers(self) -> bool:
        """Whether ids that have no row are counted: to be admitted later, or to outweigh one that has."""
        return self.admit > 1 or self.evict in ("lfu", "distance_lfu")

    def bucket_of(self, ids_N: Tensor) -> Tensor:
        """The bucket of every id; ids in the order of their mixed words are in the order of their buckets."""
        return (_shifted(mixed(ids_N, self.seed), 32) * self.buckets) >> 32

    def moved(self, ids_V: Tensor, is_here_V: Tensor) -> Tensor:
        """Where the ids of a smaller table go in one of this policy: the place of every old place, (V,); -1 for an empty one.

        If this one has a multiple of the buckets, the ids of an old bucket part over some new ones, and each finds room.
        """
        here = is_here_V.nonzero().flatten()
        bucket_N = self.bucket_of(ids_V[here])
        order_N = bucket_N.argsort(stable=True)
        place = torch.full_like(ids_V, -1)
        place[here[order_N]] = bucket_N[order_N] * self.probe + _turns(bucket_N[order_N])
        return place

    def unseen_of(self, ids_N: Tensor) -> Tensor:
        """The row that every id reads while it has none of its own."""
        if not self.unseen_rows:
            return torch.full_like(ids_N, UNSEEN)
        return UNSEEN + 1 + (((mixed(ids_N, self.seed) & LOW) * self.unseen_rows) >> 32)


@dataclass(frozen=True)
class Learnt:
    """What a step's ids made of a table's map.

    Args:
        rows: the row that every id reads.
        is_own: whether it is its own. hits: [sights] of ids that had it before.
        placed, placed_ids: the rows that were given to an id in this step, and the ids.
        displaced: those of them that another id had to leave.
        crowded: [ids] that had earned a row and found none.
    """

    rows: Tensor
    is_own: Tensor
    placed: Tensor
    placed_ids: Tensor
    displaced: Tensor
    hits: int
    crowded: int


class IdTable:
    """The map of one table, or of some of its buckets.

    Args:
        policy: of the whole table.
        begin, end: the buckets that are here.
        device: where the map lives.

    Attributes:
        state: per row of these buckets `id`; `seen` [step] last, -1 for an empty row; `count` [sights]; with a TTL `day` [days
            since 1970] of the last event. If ids without a row are counted, as many places for them: `waiting_id`,
            `waiting_seen`, `waiting_count`.
    """

    def __init__(self, policy: Policy, *, begin: int, end: int, device: torch.device) -> None:
        self.policy, self.begin, self.end = policy, begin, end
        rows = (end - begin) * policy.probe
        self.state: dict[str, Tensor] = {
            "id": torch.zeros(rows, dtype=torch.int64, device=device),
            "seen": torch.full((rows,), -1, dtype=torch.int32, device=device),
            "count": torch.zeros(rows, dtype=torch.int32, device=device),
        }
        if policy.ttl_days is not None:
            self.state["day"] = torch.zeros(rows, dtype=torch.int32, device=device)
        if policy.remembers:
            self.state |= {f"waiting_{name}": self.state[name].clone() for name in ("id", "seen", "count")}

    @property
    def first_row(self) -> int:
        """[rows] of the table before the first one here."""
        return self.policy.reserved + self.begin * self.policy.probe

    def held(self) -> tuple[Tensor, Tensor]:
        """The ids that have a row, and their rows, ascending."""
        at = (self.state["seen"] >= 0).nonzero().flatten()
        return self.state["id"][at], at + self.first_row

    def put(self, ids_N: Tensor, row_N: Tensor) -> None:
        """Let the map be this one, to be read: what of it belongs to these buckets."""
        at = row_N - self.first_row
        here = (at >= 0) & (at < len(self.state["id"]))
        self.state["seen"].fill_(-1)
        self.state["id"][at[here]] = ids_N[here]
        self.state["seen"][at[here]] = 0

    def take(self, place_V: Tensor, values: Mapping[str, Tensor]) -> None:
        """Fill these buckets from the state of a whole map: the `values` of V old places go to new ones, -1 for nowhere."""
        at = place_V - self.begin * self.policy.probe
        here = (place_V >= 0) & (at >= 0) & (at < len(self.state["id"]))
        for name in values.keys() & self.state.keys():
            own = self.state[name]
            own[at[here].to(own.device)] = values[name][here].to(own)

    def look(self, ids_N: Tensor) -> tuple[Tensor, Tensor]:
        """The row of every id, and whether it is its own; nothing is learnt.

        Shape:
            (N,) ids of these buckets -> (N,), (N,) bool
        """
        at_N = self._find(ids_N, self._bucket(ids_N), "")
        return torch.where(at_N >= 0, at_N + self.first_row, self.policy.unseen_of(ids_N)), at_N >= 0

    @torch.no_grad()
    def expire(self, today: int) -> Tensor:
        """Free the rows of ids whose last event is too long ago; return these rows.

        An id whose last event nobody noted, because there was no TTL then, is taken to be of today.

        Args:
            today: [days since 1970] the newest day there was so far.
        """
        assert self.policy.ttl_days is not None
        here, day = self.state["seen"] >= 0, self.state["day"]
        day[here & (day == 0)] = today
        gone = here & (day < today - self.policy.ttl_days)
        at = gone.nonzero().flatten()
        self.state["seen"][at] = -1
        return at + self.first_row

    @torch.no_grad()
    def learn(self, ids_N: Tensor, count_N: Tensor, day_N: Tensor, *, step: int) -> Learnt:
        """One step: what was seen, and what comes of it.

        Args:
            ids_N: distinct ids of these buckets, ascending. count_N: [sights] in the step. day_N: [days since 1970] of the last
                event. step: [steps] the table has learnt, this one included.
        """
        state, bucket_N = self.state, self._bucket(ids_N)
        at_N = self._find(ids_N, bucket_N, "")
        known = at_N >= 0
        self._note(at_N[known], count_N[known], day_N[known], step)

        waiting_N = self._find(ids_N, bucket_N, "waiting_") if self.policy.remembers else torch.full_like(at_N, -1)
        total_N = count_N.clone()
        if self.policy.remembers:
            total_N += torch.where(waiting_N >= 0, state["waiting_count"][waiting_N.clamp(min=0)], 0)
        earned_N = ~known & self._earned(ids_N, count_N, total_N, step)
        new = earned_N.nonzero().flatten()
        seat, order = self._seats(bucket_N[new], self._worth(total_N[new], step, step), partial(self._values, step=step))
        new = new[order][seat >= 0]
        seat = seat[seat >= 0]
        displaced = seat[state["seen"][seat] >= 0]
        state["id"][seat], state["count"][seat], state["seen"][seat] = ids_N[new], 0, -1
        if "day" in state:
            state["day"][seat] = 0
        self._note(seat, total_N[new], day_N[new], step)
        at_N[new] = seat

        if self.policy.remembers:
            self._wait(ids_N, bucket_N, count_N, waiting_N, at_N >= 0, step)
        is_own_N = at_N >= 0
        return Learnt(
            torch.where(is_own_N, at_N + self.first_row, self.policy.unseen_of(ids_N)),
            is_own_N,
            seat + self.first_row,
            ids_N[new],
            displaced + self.first_row,
            int(count_N[known].sum()),
            int(earned_N.sum()) - len(seat),
        )

    def _bucket(self, ids_N: Tensor) -> Tensor:
        return self.policy.bucket_of(ids_N) - self.begin

    def _find(self, ids_N: Tensor, bucket_N: Tensor, kind: str) -> Tensor:
        """Where each id is in its bucket, or -1."""
        probe = self.policy.probe
        ids_VP, seen = self.state[f"{kind}id"].view(-1, probe), self.state[f"{kind}seen"]
        at_N = torch.full_like(ids_N, -1)
        for start in range(0, len(ids_N), CHUNK):
            bucket_M = bucket_N[start : start + CHUNK]
            row, place = (ids_VP.index_select(0, bucket_M) == ids_N[start : start + CHUNK, None]).nonzero(as_tuple=True)
            at = bucket_M[row] * probe + place
            here = seen[at] >= 0  # an empty place keeps the id that has left it
            at_N[start + row[here]] = at[here]
        return at_N

    def _note(self, at: Tensor, count: Tensor, day: Tensor, step: int) -> None:
        """Ids at these places were seen."""
        state = self.state
        state["seen"][at] = step
        state["count"][at] = (state["count"][at].long() + count).clamp(max=2**31 - 1).int()
        if "day" in state:
            state["day"][at] = torch.maximum(state["day"][at], day.int())

    def _earned(self, ids_N: Tensor, count_N: Tensor, total_N: Tensor, step: int) -> Tensor:
        """Whether an id may have a row, by what was seen of it."""
        share = self.policy.admit_share
        if share is None:
            return total_N >= self.policy.admit
        drawn_N = _shifted(mixed(mixed(ids_N, self.policy.seed), step), 11).double() / 2**53
        return drawn_N < 1 - (1 - share) ** count_N.double()

    def _worth(self, count: Tensor, seen: Tensor | int, step: int) -> Tensor:
        """What a row with these sights is worth: the least goes first."""
        if self.policy.evict == "lfu":
            return count.double()
        if self.policy.evict == "distance_lfu":
            return count.double() / (step - seen + 1)
        return seen.double() if isinstance(seen, Tensor) else torch.full_like(count, seen, dtype=torch.float64)

    def _values(self, bucket_U: Tensor, *, step: int) -> Tensor:
        """What every row of these buckets is worth, (U, P): FREE and BUSY ones too; a row that nobody may take is BUSY."""
        probe = self.policy.probe
        seen_UP, count_UP = (self.state[name].view(-1, probe).index_select(0, bucket_U) for name in ("seen", "count"))
        worth_UP = self._worth(count_UP, seen_UP, step)
        busy_UP = (seen_UP == step) if self.policy.evict != "none" else (seen_UP >= 0)
        return worth_UP.masked_fill_(busy_UP, BUSY).masked_fill_(seen_UP < 0, FREE)

    def _waiting_values(self, bucket_U: Tensor) -> Tensor:
        """The same of the places of ids without a row: the step they were last seen."""
        seen_UP = self.state["waiting_seen"].view(-1, self.policy.probe).index_select(0, bucket_U)
        return torch.where(seen_UP < 0, FREE, seen_UP.double())

    def _seats(self, bucket_M: Tensor, worth_M: Tensor, values: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Give newcomers the places that are worth least, the worthiest newcomer first.

        Args:
            values: what every place of these buckets is worth, (U,) -> (U, P).

        Returns:
            the place, or -1, of the newcomers in the order that is returned next to it.

        Equally worthy newcomers are served as they come, equally worthless places from the first.
        """
        if not len(bucket_M):
            return bucket_M, bucket_M
        order_M = worth_M.argsort(stable=True, descending=True)
        order_M = order_M[bucket_M[order_M].argsort(stable=True)]
        bucket_M, worth_M = bucket_M[order_M], worth_M[order_M]
        bucket_U, back_M = torch.unique_consecutive(bucket_M, return_inverse=True)
        turn_M, worth_UP = _turns(bucket_M), values(bucket_U)
        seat_M = torch.full_like(bucket_M, -1)
        for turn in range(min(int(turn_M.max()) + 1, self.policy.probe)):  # mostly one or two
            now = (turn_M == turn).nonzero().flatten()
            place = worth_UP.index_select(0, back_M[now]).argmin(1)  # of equal ones the first
            wins = worth_UP[back_M[now], place] < worth_M[now]
            now, place = now[wins], place[wins]
            if not len(now):
                break  # who comes later in a bucket is worth no more
            seat_M[now] = bucket_M[now] * self.policy.probe + place
            worth_UP[back_M[now], place] = BUSY
        return seat_M, order_M

    def _wait(self, ids_N: Tensor, bucket_N: Tensor, count_N: Tensor, waiting_N: Tensor, is_own_N: Tensor, step: int) -> None:
        """Count the ids that have no row; those not seen for longest make room for others."""
        state = self.state
        state["waiting_seen"][waiting_N[is_own_N & (waiting_N >= 0)]] = -1
        again = ~is_own_N & (waiting_N >= 0)
        at = waiting_N[again]
        state["waiting_count"][at] = (state["waiting_count"][at].long() + count_N[again]).clamp(max=2**31 - 1).int()
        state["waiting_seen"][at] = step
        new = (~is_own_N & (waiting_N < 0)).nonzero().flatten()
        seat, order = self._seats(bucket_N[new], torch.full_like(new, step, dtype=torch.float64), self._waiting_values)
        new = new[order][seat >= 0]
        seat = seat[seat >= 0]
        state["waiting_id"][seat], state["waiting_seen"][seat] = ids_N[new], step
        state["waiting_count"][seat] = count_N[new].clamp(max=2**31 - 1).int()


def mixed(words_N: Tensor, seed: int) -> Tensor:
    """The finaliser of splitmix64 of (words ^ seed), as `data.ids.mix` has it: a bijection of 64 bits.

    Source: Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    words_N = words_N ^ seed
    words_N = (words_N ^ _shifted(words_N, 30)) * MULTIPLIER_1
    words_N = (words_N ^ _shifted(words_N, 27)) * MULTIPLIER_2
    return words_N ^ _shifted(words_N, 31)


def first_vectors(
    ids_N: Tensor, seed: int, *, width: int, kind: Literal["normal", "uniform"] = "uniform", scale: float
) -> Tensor:
    """What the rows of these ids begin with, (N, D): the same whichever row an id gets, and when.

    Args:
        seed: 64 bits, of the run and the table. width: D. kind: normal is N(0, scale^2), uniform lies between -scale and scale.
    """
    columns_D = torch.arange(1, width + 1, device=ids_N.device)
    words_ND = mixed(mixed(ids_N, seed)[:, None] + columns_D * GOLDEN, 0)
    if kind == "uniform":
        return ((_shifted(words_ND, 40).double() / 2**23 - 1) * scale).float()
    radius_ND = (-2 * ((_shifted(words_ND, 32).double() + 0.5) / 2**32).log()).sqrt()
    return (radius_ND * ((words_ND & LOW).double() * (2 * torch.pi / 2**32)).cos() * scale).float()


def _turns(sorted_N: Tensor) -> Tensor:
    """How many of the same number stand before each."""
    _, back_N, many_U = torch.unique_consecutive(sorted_N, return_inverse=True, return_counts=True)
    before_U: Tensor = many_U.cumsum(0) - many_U
    return torch.arange(len(sorted_N), device=sorted_N.device) - before_U[back_N]


def _shifted(words_N: Tensor, by: int) -> Tensor:
    """The words without their sign, shifted to the right."""
    return (words_N >> by) & ((1 << (64 - by)) - 1)
