"""Rows to train together, and the cursor to resume from once they are trained."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from data.cursor import Cursor


@dataclass(frozen=True)
class Tally:
    """What was handed out, per file of the day: the evidence for exactly once.

    Shape:
        rows, hashes, skipped: (files,) int64. `hashes` is the sum of the row hashes, modulo 2^64, so it does not depend on
        the order of the rows or on how they were cut into batches.
    """

    rows: Tensor
    hashes: Tensor
    skipped: Tensor

    @classmethod
    def zeros(cls, files: int) -> "Tally":
        """Nothing handed out yet."""
        return cls(*torch.zeros(3, files, dtype=torch.int64))

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.rows + other.rows, self.hashes + other.hashes, self.skipped + other.skipped)

    def stacked(self) -> Tensor:
        """All three as one (3, files) tensor, so that ranks can sum it in one call."""
        return torch.stack([self.rows, self.hashes, self.skipped])


@dataclass
class Batch(Pipelineable):
    """One rank's rows of one step.

    Shape:
        bags: ids of the fields of pooled tables, B bags a key. sequences: ids of the fields of unpooled tables, or None.
        Ids are table rows; those of managed tables raw ones, unless the batch is for serving.
        numbers (B, N) float32, vectors (B, sum of widths) float32, labels (B, T) float32,
        weights (B, T) float32: row weight times the task's `where` mask, groups (B,) int64.
        days (B,) int64 [days since 1970] of each row's event, if a managed table has a TTL.
        origin (B, 2) int64, if asked for: the file, by its place in the day, and the row in it.

    Args:
        rows: [rows] of this step over all ranks: what the loss divides by.
        cursor: where reading stands after this batch. The train pipeline reads ahead, so a checkpoint takes the cursor of
            the batch that was trained, never the stream's own.
    """

    bags: KeyedJaggedTensor
    sequences: KeyedJaggedTensor | None
    numbers: Tensor
    vectors: Tensor
    labels: Tensor
    weights: Tensor
    groups: Tensor
    rows: int
    cursor: Cursor
    tally: Tally
    origin: Tensor | None = None
    days: Tensor | None = None

    def _tensors(self) -> list[Tensor]:
        return [self.numbers, self.vectors, self.labels, self.weights, self.groups]

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """The same batch on another device; the tally and the origin stay where they are."""
        numbers, vectors, labels, weights, groups = (t.to(device, non_blocking=non_blocking) for t in self._tensors())
        sequences = self.sequences.to(device, non_blocking=non_blocking) if self.sequences is not None else None
        bags = self.bags.to(device, non_blocking=non_blocking)
        days = self.days.to(device, non_blocking=non_blocking) if self.days is not None else None
        return replace(
            self,
            days=days,
            bags=bags,
            sequences=sequences,
            numbers=numbers,
            vectors=vectors,
            labels=labels,
            weights=weights,
            groups=groups,
        )

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the memory alive until `stream` is done with it."""
        for part in [self.bags, self.sequences, self.days, *self._tensors()]:
            if part is not None:
                part.record_stream(stream)

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory."""
        numbers, vectors, labels, weights, groups = (t.pin_memory() for t in self._tensors())
        sequences = self.sequences.pin_memory() if self.sequences is not None else None
        bags = self.bags.pin_memory()
        days = self.days.pin_memory() if self.days is not None else None
        return replace(
            self,
            days=days,
            bags=bags,
            sequences=sequences,
            numbers=numbers,
            vectors=vectors,
            labels=labels,
            weights=weights,
            groups=groups,
        )
