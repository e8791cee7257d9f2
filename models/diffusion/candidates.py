"""The values a softmax chooses from: all of a small table, of a large one those of the batch and some drawn by frequency.

C candidates, V table rows, Q probability of being a candidate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

POWER = 0.75
"""[1] extra candidates are drawn with probability ~ count^POWER."""

SMOOTHED = 0.5
"""[occurrences] that every value is taken to have besides its count."""

TINY = 1e-12


@dataclass(frozen=True)
class TableCounts:
    """What is known of a table before it is trained.

    Args:
        name: of the table. rows: V. reserved: [rows] at its start that stand for no value: never a candidate, never a target.
        counts: (min(V, buckets),) how often its rows occur; row r counts in bucket r modulo the number of buckets.
    """

    name: str
    rows: int
    reserved: int
    counts: Tensor


@dataclass(frozen=True)
class Candidates:
    """The candidates of one table in one step.

    Shape:
        ids (C,) ascending; log_q (C,) ln Q, 0 if every value is a candidate; log_p (C,) ln of how frequent a value is.
    """

    ids: Tensor
    log_q: Tensor
    log_p: Tensor


class CandidateSampler(nn.Module):
    """Chooses candidates.

    A table of at most `full_rows` values offers all of them. A larger one offers the distinct ids of the batch and `extra`
    draws ~ count^(3/4), `most` in all; ids that have to be restored are never left out. With n ids of the table in the batch,
    h of which have to be restored, and a share r of the others left after the cut to `most`,

    Q(v) = R + r * (1 - (1 - p(v))^(n - 1) * (1 - q(v))^extra - R),        R = 1 - (1 - p(v))^(h - 1)

    p is the unigram, q ~ p^(3/4).

    Args:
        tables: in any order.
    """

    def __init__(self, tables: Sequence[TableCounts], *, full_rows: int, extra: int, most: int) -> None:
        super().__init__()
        self.tables = {table.name: table for table in tables}
        self.full_rows, self.extra, self.most = full_rows, extra, most
        self._at = {table.name: at for at, table in enumerate(tables)}
        for at, table in enumerate(tables):
            counts = table.counts.double()
            self.register_buffer(f"counts_{at}", counts, persistent=False)
            powered = counts**POWER * (counts > 0)
            self.register_buffer(f"powered_{at}", powered, persistent=False)
            self.register_buffer(f"bounds_{at}", powered.cumsum(0), persistent=False)
            if self.is_full(table.name):
                ids = torch.arange(table.reserved, table.rows)
                self.register_buffer(f"ids_{at}", ids, persistent=False)
                self.register_buffer(f"log_p_{at}", self.unigram(table.name, ids).log().float(), persistent=False)

    def is_full(self, name: str) -> bool:
        """Whether all values of a table are candidates."""
        table = self.tables[name]
        return table.rows - table.reserved <= self.full_rows

    def forward(self, present: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Candidates]:
        """Return the candidates of every table.

        Args:
            present: table, of those that are not full -> (ids in the batch that stand for a value, those of them that have to
                be restored).
        """
        return {name: self._all(name) if self.is_full(name) else self._some(name, *present[name]) for name in self.tables}

    def draw(self, name: str, count: int) -> Tensor:
        """Return `count` rows of a table, (count,), each drawn with probability ~ how often it occurs."""
        return self._draw(name, count, self._counts(name).cumsum(0))

    def _draw(self, name: str, count: int, bounds: Tensor) -> Tensor:
        """Rows by the cumulated weights of their buckets."""
        table = self.tables[name]
        if not bounds[-1]:
            return torch.randint(table.reserved, table.rows, (count,), device=bounds.device)
        draws = torch.rand(count, device=bounds.device, dtype=bounds.dtype) * bounds[-1]
        buckets = torch.searchsorted(bounds, draws, right=True).clamp(max=len(bounds) - 1)
        first, rows_of = self._rows_of(name, buckets)
        return first + (torch.rand(count, device=bounds.device) * rows_of).long() * len(bounds)

    def unigram(self, name: str, ids: Tensor) -> Tensor:
        """Return how frequent every id is, (C,); SMOOTHED, so that a value of another day is rare and not impossible."""
        table, counts = self.tables[name], self._counts(name)
        buckets = ids % len(counts)
        _, rows_of = self._rows_of(name, buckets)
        share: Tensor = (counts[buckets] / rows_of + SMOOTHED) / (counts.sum() + SMOOTHED * (table.rows - table.reserved))
        return share

    def _or_seen(self, name: str, p: Tensor, ids: Tensor, present: Tensor) -> Tensor:
        """The share of every id, (C,); of one that was never counted, which is of a later day, that of this batch: it may be in
        every batch of that day, and is no surprise there."""
        counts = self._counts(name)
        seen = _occurrences(ids, present)
        return torch.where(counts[ids % len(counts)] == 0, torch.maximum(p, seen / max(len(present), 1)), p)

    def _drawn(self, name: str, ids: Tensor) -> Tensor:
        """Return the probability of every id to be one of the extra draws, (C,)."""
        powered = self._powered(name)
        buckets = ids % len(powered)
        _, rows_of = self._rows_of(name, buckets)
        share: Tensor = powered[buckets] / self._bounds(name)[-1].clamp(min=1) / rows_of
        return share

    def _rows_of(self, name: str, buckets: Tensor) -> tuple[Tensor, Tensor]:
        """The first row that is a value of every bucket, and how many rows share it."""
        table, count = self.tables[name], len(self._counts(name))
        first = torch.where(buckets < table.reserved, buckets + count, buckets)
        return first, ((table.rows - 1 - first) // count + 1).clamp(min=1)

    def _counts(self, name: str) -> Tensor:
        counts: Tensor = getattr(self, f"counts_{self._at[name]}")
        return counts

    def _powered(self, name: str) -> Tensor:
        powered: Tensor = getattr(self, f"powered_{self._at[name]}")
        return powered

    def _bounds(self, name: str) -> Tensor:
        bounds: Tensor = getattr(self, f"bounds_{self._at[name]}")
        return bounds

    def _all(self, name: str) -> Candidates:
        ids, log_p = getattr(self, f"ids_{self._at[name]}"), getattr(self, f"log_p_{self._at[name]}")
        return Candidates(ids, torch.zeros_like(log_p), log_p)

    def _some(self, name: str, present: Tensor, hidden: Tensor) -> Candidates:
        ids, left = torch.unique(torch.cat([present, self._draw(name, self.extra, self._bounds(name))])), 1.0
        if len(ids) > self.most:
            needed = torch.unique(hidden)
            others = ids[~torch.isin(ids, needed)]
            room = max(self.most - len(needed), 0)
            left = room / max(len(others), 1)
            ids = torch.cat([needed, others[torch.randperm(len(others), device=ids.device)[:room]]]).sort().values
        p, q = self._or_seen(name, self.unigram(name, ids), ids, present), self._drawn(name, ids)
        by_others, by_draws = (torch.log1p(-own.clamp(max=1 - TINY)) for own in (p, q))
        among_all = -torch.expm1(max(len(present) - 1, 0) * by_others + self.extra * by_draws)
        needed_too = -torch.expm1(max(len(hidden) - 1, 0) * by_others)
        log_q = torch.log((needed_too + left * (among_all - needed_too)).clamp(min=TINY))
        return Candidates(ids, log_q.float(), p.log().float())


def _occurrences(ids: Tensor, among: Tensor) -> Tensor:
    """How often every one of these distinct, sorted ids is among others, (C,)."""
    ordered = among.sort().values
    return torch.searchsorted(ordered, ids, right=True) - torch.searchsorted(ordered, ids)
