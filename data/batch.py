"""Rows to train together, and the cursor to resume from once they are trained."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from data.cursor import Cursor

HOST = ("rows", "cursor", "tally", "origin", "ids_mapped", "learns")
"""The fields of a batch that never leave the host."""

Part: TypeAlias = Tensor | KeyedJaggedTensor


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
        Ids are table rows; those of managed tables raw ids until they are mapped, see `ids_mapped`.
        numbers (B, N) float32, vectors (B, sum of widths) float32, labels (B, T) float32,
        weights (B, T) float32: row weight times the target's `valid_where` mask, groups (B,) int64.
        offsets (B, T) float32, if a log lacks some of a target's rows of label 0: -ln of the share that is left, by which
        logits of the rows as they lie here are above those of the whole log.
        days (B,) int64 [days since 1970] of each row's event, if a managed table has a TTL.
        times (B,) float64 [s since 1970] of each row's event, if events carry times.
        payloads: sequence field -> what its events carry next to their ids, as the schema's `payload` declares it: `time` (N,)
        float64 [s since 1970], `action` (N,) int64 bit masks, `session` (N,) int64, `vector` (N, width) float32, `ids.NAME`
        (N,) int64; N events, those of the field's ids, in their order.
        origin (B, 2) int64, if asked for: the file, by its place in the day, and the row in it.

    Args:
        rows: [rows] of this step over all ranks: what the loss divides by.
        cursor: where reading stands after this batch. The train pipeline reads ahead, so a checkpoint takes the cursor of
            the batch that was trained, never the stream's own.
        ids_mapped: whether all ids are table rows; else those of managed tables are still raw ids.
        learns: whether the step may change which rows the ids of managed tables have. Who trains says so; who scores does not.
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
    offsets: Tensor | None = None
    days: Tensor | None = None
    times: Tensor | None = None
    payloads: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    ids_mapped: bool = True
    learns: bool = False

    @property
    def positive(self) -> Tensor:
        """Whether a row's first target is 1, and counts, (B,) bool."""
        return (self.labels[:, 0] > 0) & (self.weights[:, 0] > 0)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """The same batch on another device; the tally and the origin stay where they are."""
        return self._each(lambda part: part.to(device, non_blocking=non_blocking))

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the memory alive until `stream` is done with it."""

        def record(part: Part) -> Part:
            part.record_stream(stream)
            return part

        self._each(record)

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory."""
        return self._each(lambda part: part.pin_memory())

    def _each(self, move: Callable[[Part], Part]) -> "Batch":
        """The same batch with `move` applied to everything that a device needs: every field but `HOST`."""
        names = [field.name for field in fields(self) if field.name not in HOST]
        return replace(self, **{name: _applied(move, getattr(self, name)) for name in names})


def _applied(move: Callable[[Part], Part], own: Any) -> Any:
    """`move` applied to a tensor, or to every tensor in a dict of them; None stays None."""
    if isinstance(own, dict):
        return {name: _applied(move, part) for name, part in own.items()}
    return move(own) if own is not None else None
