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

    Q(v) = 1 - (1 - p(v))^(n - 1) * (1 - q(v))^extra,        p the unigram, q ~ p^(3/4)

    Args:
        tables: in any order.
    """

    def __init__(self, tables: Sequence[TableCounts], *, full_rows: int, extra: int, most: int) -> None:
        super().__init__()
        self.tables = {table.name: table for table in tables}
        self.full_rows, self.extra, self.most = full_rows, extra, most
        self._at = {table.name: at for at, table in enumerate(tables)}
        for at, table in enumerate(tables):
            self.register_buffer(f"counts_{at}", table.counts.double(), persistent=False)
            if self.is_full(table.name):
                ids = torch.arange(table.reserved, table.rows)
                self.register_buffer(f"ids_{at}", ids, persistent=False)
                self.register_buffer(f"log_p_{at}", self._unigram(table.name, ids).log().float(), persistent=False)

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

    def draw(self, name: str, count: int, power: float = 1.0) -> Tensor:
        """Return `count` rows of a table, (count,), each drawn with probability ~ its count^power."""
        table, counts = self.tables[name], self._counts(name)
        known = counts**power * (counts > 0)
        if not known.any():
            return torch.randint(table.reserved, table.rows, (count,), device=counts.device)
        bounds = known.cumsum(0)
        draws = torch.rand(count, device=counts.device, dtype=bounds.dtype) * bounds[-1]
        buckets = torch.searchsorted(bounds, draws, right=True).clamp(max=len(counts) - 1)
        first, rows_of = self._rows_of(name, buckets)
        return first + (torch.rand(count, device=counts.device) * rows_of).long() * len(counts)

    def _unigram(self, name: str, ids: Tensor) -> Tensor:
        """Return how frequent every id is, (C,); SMOOTHED, so that a value of another day is rare and not impossible."""
        table, counts = self.tables[name], self._counts(name)
        buckets = ids % len(counts)
        _, rows_of = self._rows_of(name, buckets)
        share: Tensor = (counts[buckets] / rows_of + SMOOTHED) / (counts.sum() + SMOOTHED * (table.rows - table.reserved))
        return share

    def _drawn(self, name: str, ids: Tensor) -> Tensor:
        """Return the probability of every id to be one of the extra draws, (C,)."""
        counts = self._counts(name)
        known = counts**POWER * (counts > 0)
        buckets = ids % len(counts)
        _, rows_of = self._rows_of(name, buckets)
        share: Tensor = known[buckets] / known.sum().clamp(min=1) / rows_of
        return share

    def _rows_of(self, name: str, buckets: Tensor) -> tuple[Tensor, Tensor]:
        """The first row that is a value of every bucket, and how many rows share it."""
        table, count = self.tables[name], len(self._counts(name))
        first = torch.where(buckets < table.reserved, buckets + count, buckets)
        return first, ((table.rows - 1 - first) // count + 1).clamp(min=1)

    def _counts(self, name: str) -> Tensor:
        counts: Tensor = getattr(self, f"counts_{self._at[name]}")
        return counts

    def _all(self, name: str) -> Candidates:
        ids, log_p = getattr(self, f"ids_{self._at[name]}"), getattr(self, f"log_p_{self._at[name]}")
        return Candidates(ids, torch.zeros_like(log_p), log_p)

    def _some(self, name: str, present: Tensor, hidden: Tensor) -> Candidates:
        ids = torch.unique(torch.cat([present, self.draw(name, self.extra, POWER)]))
        if len(ids) > self.most:
            needed = torch.unique(hidden)
            others = ids[~torch.isin(ids, needed)]
            room = max(self.most - len(needed), 0)
            ids = torch.cat([needed, others[torch.randperm(len(others), device=ids.device)[:room]]]).sort().values
        p, q = self._unigram(name, ids), self._drawn(name, ids)
        by_others, by_draws = (torch.log1p(-own.clamp(max=1 - TINY)) for own in (p, q))
        absent = max(len(present) - 1, 0) * by_others + self.extra * by_draws
        log_q = torch.log(-torch.expm1(absent).clamp(max=-TINY))
        return Candidates(ids, log_q.float(), p.log().float())
