"""Whether the pieces of a stored tensor cover it: every number once."""

import math
from collections.abc import Iterator
from itertools import pairwise

from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorStorageMetadata

from pipeline.checkpoint.reader import shown


def gaps(stored: TensorStorageMetadata) -> list[str]:
    """What pieces of a tensor are missing, twice, or outside of it, as rows."""
    if not stored.size:
        return [] if len(stored.chunks) == 1 else [f"{len(stored.chunks)} pieces for one number"]
    outside = [chunk for chunk in stored.chunks if not _fits(stored, chunk)]
    lines = [f"{shown('it', chunk)} lie outside of {list(stored.size)}" for chunk in outside]
    wrong: list[tuple[int, int, str]] = []
    for first, last, chunks in _levels(stored, [chunk for chunk in stored.chunks if _fits(stored, chunk)]):
        kind = _cover(stored, chunks)
        if kind and wrong and wrong[-1][1] == first and wrong[-1][2] == kind:
            wrong[-1] = (wrong[-1][0], last, kind)
        elif kind:
            wrong.append((first, last, kind))
    return lines + [f"rows {first} … {last - 1} are {kind}" for first, last, kind in wrong]


def _fits(stored: TensorStorageMetadata, chunk: ChunkStorageMetadata) -> bool:
    sides = zip(chunk.offsets, chunk.sizes, stored.size, strict=True)
    return len(chunk.sizes) == len(stored.size) and all(start + size <= whole for start, size, whole in sides)


def _levels(
    stored: TensorStorageMetadata, chunks: list[ChunkStorageMetadata]
) -> Iterator[tuple[int, int, list[ChunkStorageMetadata]]]:
    """The rows of a tensor where no piece begins or ends in between, and the pieces that have them."""
    waiting = sorted((chunk for chunk in chunks if chunk.sizes[0]), key=lambda chunk: -chunk.offsets[0])
    edges = {0, stored.size[0], *(edge for c in waiting for edge in (c.offsets[0], c.offsets[0] + c.sizes[0]))}
    here: list[ChunkStorageMetadata] = []
    for first, last in pairwise(sorted(edges)):
        here = [chunk for chunk in here if chunk.offsets[0] + chunk.sizes[0] > first]
        while waiting and waiting[-1].offsets[0] == first:
            here.append(waiting.pop())
        yield first, last, here


def _cover(stored: TensorStorageMetadata, chunks: list[ChunkStorageMetadata]) -> str:
    """What is wrong with the pieces of some rows, side by side; empty if nothing is."""
    width = math.prod(stored.size[1:])
    sizes = [math.prod(chunk.sizes[1:]) for chunk in chunks]
    sides = sorted((*chunk.offsets[1:2], *chunk.sizes[1:2]) for chunk in chunks)
    twice = len(stored.size) == 1 and len(chunks) > 1
    if len(stored.size) == 2:
        twice = any(left[0] + left[1] > right[0] for left, right in pairwise(sides))
    if twice or sum(sizes) > width:
        return "there twice"
    return "missing" if not chunks and width else "there in part" if sum(sizes) < width else ""
