"""A new checkpoint from tensors that are read a block at a time, cut as so many ranks would have cut it."""

import io
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import _StoragePrefix
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import BytesIOWriteData, SavePlan, TensorWriteData, WriteItem, WriteItemType

from pipeline.checkpoint.dcp import Writer
from pipeline.checkpoint.reader import TensorSource, cut, height, row_bytes, size_bytes

LEAST = 2**12
"""[bytes] that a rank's part of a tensor must have, else the tensor is written whole."""


def write(source: TensorSource, writer: Writer, *, ranks: int, advance: Callable[[int], None]) -> None:
    """Write a checkpoint as so many ranks would have, each its own rows of every large tensor, and finish it.

    Args:
        source: what is written. writer: from `Checkpoints.beside`.
        ranks: [files] to write.
        advance: called with the bytes of every block that is written.
    """
    writer.fs.mkdir(writer.path)
    writer.per_thread_copy_ahead = 0  # on a machine with CUDA DCP would fetch several pieces ahead
    planner = _BlockByBlock(source, advance)
    plans, tensors = _plan(source, ranks)
    results = []
    for rank, items in enumerate(plans):
        plan = SavePlan(items, storage_data=_StoragePrefix(f"__{rank}_"))
        results.append(writer.write_data(plan, planner).wait())
    plain = {name: BytesStorageMetadata() for name in source.values}
    writer.finish(Metadata({**tensors, **plain}, planner_data=dict(source.paths)), results)


def _plan(source: TensorSource, ranks: int) -> tuple[list[list[WriteItem]], dict[str, TensorStorageMetadata]]:
    """What goes into each rank's file, and the tensors cut into the pieces that are written.

    A tensor large enough is cut into as many parts of equal height as there are ranks, as TorchRec cuts a row-wise table. The
    rest goes whole to the file that has least in it, as DCP saves what all ranks have.
    """
    plans: list[list[WriteItem]] = [[] for _ in range(ranks)]
    filled, tensors, small = [0] * ranks, {}, []
    for name, stored in source.tensors.items():
        if size_bytes(stored) < ranks * LEAST or height(stored) < ranks:
            small.append(name)
            continue
        step = math.ceil(height(stored) / ranks)
        parts = [(rank, min(rank * step, height(stored)), min((rank + 1) * step, height(stored))) for rank in range(ranks)]
        cuts = [(rank, *rows) for rank, first, last in parts if first < last for rows in cut(stored, first, last)]
        tensors[name] = _cut_at(stored, [(first, last) for _, first, last in cuts])
        for (rank, first, last), item in zip(cuts, _items(name, tensors[name]), strict=True):
            plans[rank].append(item)
            filled[rank] += (last - first) * row_bytes(stored)
    for name in sorted(small, key=lambda name: -size_bytes(source.tensors[name])):
        stored, rank = source.tensors[name], filled.index(min(filled))
        tensors[name] = _cut_at(stored, [*cut(stored, 0, height(stored))])
        plans[rank] += _items(name, tensors[name])
        filled[rank] += size_bytes(stored)
    plans[0] += [
        WriteItem(MetadataIndex(name), WriteItemType.BYTE_IO, bytes_io_data=BytesIOWriteData(len(source.value(name))))
        for name in source.values
    ]
    return plans, {name: tensors[name] for name in source.tensors}


def _cut_at(stored: TensorStorageMetadata, cuts: Sequence[tuple[int, int]]) -> TensorStorageMetadata:
    rest = stored.size[1:]
    chunks = [
        ChunkStorageMetadata(torch.Size([first, *[0] * len(rest)]), torch.Size([last - first, *rest]))
        for first, last in cuts or [(0, 0)]
    ]
    if not stored.size:
        chunks = [ChunkStorageMetadata(torch.Size([]), torch.Size([]))]
    return TensorStorageMetadata(stored.properties, stored.size, chunks)


def _items(name: str, stored: TensorStorageMetadata) -> list[WriteItem]:
    return [
        WriteItem(
            MetadataIndex(name, chunk.offsets, at),
            WriteItemType.SHARD,
            tensor_data=TensorWriteData(chunk, stored.properties, stored.size),
        )
        for at, chunk in enumerate(stored.chunks)
    ]


class _BlockByBlock(DefaultSavePlanner):
    """Hands DCP's writer each piece when it is its turn, and not before."""

    def __init__(self, source: TensorSource, advance: Callable[[int], None]) -> None:
        super().__init__()
        self._source, self._advance = source, advance

    def resolve_data(self, write_item: WriteItem) -> Tensor | io.BytesIO:
        """Read a piece."""
        name, data = write_item.index.fqn, write_item.tensor_data
        if data is None:
            return io.BytesIO(self._source.value(name))
        first = data.chunk.offsets[0] if data.chunk.offsets else 0
        block = self._source.rows(name, first, first + (data.chunk.sizes[0] if data.chunk.sizes else 1))
        self._advance(block.nbytes)
        return block
