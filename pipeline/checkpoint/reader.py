"""The tensors of a checkpoint in pieces: any rows of any of them, a block in memory at a time."""

import io
import math
import pickle
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import IO, Any, Protocol, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    MetadataIndex,
    TensorStorageMetadata,
)

from data.paths import PATHS
from pipeline.checkpoint.archive import SMALL, Altered, check_value, crc_of, stored_crc, view
from pipeline.checkpoint.errors import AGAIN, FIX, CheckpointError, Damaged, is_of_store, one_line
from pipeline.checkpoint.manager import Checkpoints

BLOCK = 2**24
"""[bytes] of a tensor that are in memory at a time, about; none of the pieces written is larger."""

OPEN = 32
"""[files] kept open at a time: a store is asked again for a file that is opened again."""


class TensorSource(Protocol):
    """Tensors whose rows can be asked for, as they are written to a checkpoint; plain values next to them.

    Attributes:
        tensors: name -> size and type. values: the names of plain values. paths: name -> where it stands in the nested dicts.
    """

    tensors: dict[str, TensorStorageMetadata]
    values: list[str]
    paths: dict[str, tuple[str | int, ...]]

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """The rows first … last - 1 of a tensor; a number without rows is its one row."""
        ...

    def value(self, name: str) -> bytes:
        """A plain value, as `torch.save` wrote it."""
        ...


class CheckpointReader:
    """One checkpoint, open to be read, as `TensorSource`; used in a `with`.

    Args:
        checkpoints: of the run. mark: which one.

    Attributes:
        mark, folder: its name, and where its files are. meta: what was saved next to the tensors.
        tensors, values, paths: as `TensorSource` has them.

    Raises:
        CheckpointError: on any reading: a file is missing, too short, or not what the metadata says.
    """

    def __init__(self, checkpoints: Checkpoints, mark: str) -> None:
        self.mark, self.folder = mark, f"{checkpoints.root}/{mark}"
        self.meta = checkpoints.read_meta(mark)
        metadata = checkpoints.metadata(mark)
        stored = metadata.state_dict_metadata
        self.tensors = {name: own for name, own in stored.items() if isinstance(own, TensorStorageMetadata)}
        self.values = [name for name, own in stored.items() if isinstance(own, BytesStorageMetadata)]
        self.paths: dict[str, tuple[str | int, ...]] = metadata.planner_data
        self._infos: dict[MetadataIndex, _StorageInfo] = metadata.storage_data
        self._files: dict[str, IO[bytes]] = {}
        self._sorted: dict[str, tuple[list[ChunkStorageMetadata], list[int], int]] = {}
        self._starts: dict[tuple[str, torch.Size], int] = {}
        self._verified: set[tuple[str, torch.Size]] = set()
        self._last: tuple[tuple[str, int], bytes] = ("", 0), b""

    def __enter__(self) -> "CheckpointReader":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """The rows first … last - 1 of a tensor, whatever pieces they lie in."""
        stored = self.tensors[name]
        if not stored.size:
            return self.read(name, stored.chunks[0], 0, 1)
        out = torch.empty((last - first, *stored.size[1:]), dtype=stored.properties.dtype)
        found = 0
        for chunk in self._over(name, first, last):
            begin, end = max(first, chunk.offsets[0]), min(last, chunk.offsets[0] + chunk.sizes[0])
            across = (slice(start, start + size) for start, size in zip(chunk.offsets[1:], chunk.sizes[1:], strict=True))
            piece = self.read(name, chunk, begin - chunk.offsets[0], end - chunk.offsets[0])
            out[(slice(begin - first, end - first), *across)] = piece
            found += piece.numel()
        if found != out.numel():
            raise self._damaged(f"rows {first} … {last - 1} of {name} are not all in it, or some are twice")
        return out

    def read(self, name: str, chunk: ChunkStorageMetadata, first: int, last: int) -> Tensor:
        """The rows first … last - 1 of one piece, counted from its own first row. Before the first of them the whole piece is
        read and verified, a block at a time: its CRC-32 is of all its rows."""
        if (name, chunk.offsets) not in self._verified:
            self.check(name, chunk)
        return self._read(name, chunk, first, last)

    def check(self, name: str, chunk: ChunkStorageMetadata, see: Callable[[Tensor], None] = lambda _: None) -> None:
        """Read a whole piece against the CRC-32 that was stored with it.

        Args:
            see: called with each block of its rows.

        Raises:
            Damaged: it is not what was written.
        """
        info, crc = self.info(name, chunk), 0
        with self._told(name, chunk, info):
            stored = stored_crc(self._archive(info))
        whole = TensorStorageMetadata(self.tensors[name].properties, chunk.sizes, [chunk])
        for first, last in cut(whole, 0, height(whole)):
            block = self._read(name, chunk, first, last)
            crc = crc_of(block, crc) if block.numel() else crc
            see(block)
        with self._told(name, chunk, info):
            if math.prod(chunk.sizes) and crc != stored:
                raise Altered("the numbers are not those that were written")
        self._verified.add((name, chunk.offsets))

    def _read(self, name: str, chunk: ChunkStorageMetadata, first: int, last: int) -> Tensor:
        info = self.info(name, chunk)
        size = (last - first, *chunk.sizes[1:]) if chunk.sizes else ()
        out = torch.empty(size, dtype=self.tensors[name].properties.dtype)
        row = math.prod(chunk.sizes[1:]) * out.element_size()
        with self._told(name, chunk, info):
            archive = self._archive(info)
            archive.seek(self._start(name, chunk, archive) + first * row)
            _fill(archive, out)
        return out

    @property
    def total_bytes(self) -> int:
        """[bytes] of all its tensors."""
        return sum(size_bytes(stored) for stored in self.tensors.values())

    def blocks(self, name: str) -> Iterator[tuple[int, int]]:
        """The rows of a tensor, cut so that a block of them fits into BLOCK bytes: (first, last + 1)."""
        return cut(self.tensors[name], 0, height(self.tensors[name]))

    def value(self, name: str) -> bytes:
        """A plain value, as it was saved."""
        info = self.info(name, None)
        with self._told(name, None, info):
            file = self._file(info.relative_path)
            file.seek(info.offset)
            content = file.read(info.length)
            if len(content) < info.length:
                raise EOFError("the file ends before it should")
            check_value(io.BytesIO(content))
            return content

    def info(self, name: str, chunk: ChunkStorageMetadata | None) -> _StorageInfo:
        """Where a piece lies: file, offset and length."""
        info = self._infos.get(MetadataIndex(name, chunk.offsets if chunk else None))
        if info is None:
            raise self._damaged(f"its metadata names no file for {shown(name, chunk)}")
        return info

    def _over(self, name: str, first: int, last: int) -> list[ChunkStorageMetadata]:
        """The pieces that have some of these rows."""
        if name not in self._sorted:
            chunks = sorted(self.tensors[name].chunks, key=lambda chunk: chunk.offsets[0])
            longest = max((chunk.sizes[0] for chunk in chunks), default=0)
            self._sorted[name] = chunks, [chunk.offsets[0] for chunk in chunks], longest
        chunks, tops, longest = self._sorted[name]
        near = chunks[bisect_right(tops, first - longest) : bisect_left(tops, last)]
        return [chunk for chunk in near if chunk.offsets[0] + chunk.sizes[0] > first and chunk.sizes[0]]

    def _start(self, name: str, chunk: ChunkStorageMetadata, archive: IO[bytes]) -> int:
        """Where in its archive the numbers of a piece begin. Nothing that the archive names is run: weights only."""
        key = name, chunk.offsets
        if key not in self._starts:
            # On the meta device torch reads what a tensor is, not its numbers, and notes where they are.
            archive.seek(0)
            told = torch.load(archive, map_location="meta", weights_only=True)
            kind = self.tensors[name].properties.dtype
            if not isinstance(told, Tensor) or told.size() != chunk.sizes or told.dtype != kind or not told.is_contiguous():
                raise EOFError("it holds another tensor than the metadata says")
            inside = cast(Any, told.untyped_storage())._checkpoint_offset + told.storage_offset() * told.element_size()
            self._starts[key] = inside if told.numel() else 0
        return self._starts[key]

    def _archive(self, info: _StorageInfo) -> IO[bytes]:
        """What `torch.save` wrote of one piece, as a file. A small one is read whole: a store is asked once, not six times."""
        if info.length > SMALL:
            return view(self._file(info.relative_path), info)
        place = info.relative_path, info.offset
        if self._last[0] != place:
            file = self._file(info.relative_path)
            file.seek(info.offset)
            self._last = place, file.read(info.length)
        return io.BytesIO(self._last[1])

    def _file(self, name: str) -> IO[bytes]:
        if name in self._files:
            self._files[name] = self._files.pop(name)  # the one used last goes last
            return self._files[name]
        if len(self._files) >= OPEN:
            self._files.pop(next(iter(self._files))).close()
        self._files[name] = PATHS.open(f"{self.folder}/{name}", "rb")
        return self._files[name]

    @contextmanager
    def _told(self, name: str, chunk: ChunkStorageMetadata | None, info: _StorageInfo) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise self._damaged(f"the file {info.relative_path} is not there; {shown(name, chunk)} are in it") from error
        except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            what = f"{shown(name, chunk)} cannot be read from {info.relative_path}: {one_line(error)}"
            if is_of_store(error):
                raise CheckpointError(f"checkpoint {self.mark}: {what}", self.folder, AGAIN) from error
            raise self._damaged(what) from error

    def _damaged(self, what: str) -> CheckpointError:
        return Damaged(f"checkpoint {self.mark} is damaged: {what}", self.folder, FIX)


def _fill(file: IO[bytes], out: Tensor) -> None:
    """Read a contiguous tensor's bytes."""
    if not out.numel():
        return
    room = memoryview(cast(Any, out.view(-1).view(torch.uint8).numpy()))
    while room:
        count = cast(io.RawIOBase, file).readinto(room)
        if not count:
            raise EOFError("the file ends before it should")
        room = room[count:]


def shown(name: str, chunk: ChunkStorageMetadata | None) -> str:
    """A piece, as messages name it."""
    if chunk is None or not chunk.sizes:
        return name
    rows = f"rows {chunk.offsets[0]} … {chunk.offsets[0] + chunk.sizes[0] - 1} of {name}"
    if len(chunk.sizes) > 1 and chunk.offsets[1]:
        return f"columns {chunk.offsets[1]} … {chunk.offsets[1] + chunk.sizes[1] - 1} of {rows}"
    return rows


def height(stored: TensorStorageMetadata) -> int:
    """[rows] of a tensor; a number without rows is one."""
    return stored.size[0] if stored.size else 1


def row_bytes(stored: TensorStorageMetadata) -> int:
    """[bytes] of one row."""
    return math.prod(stored.size[1:]) * stored.properties.dtype.itemsize


def size_bytes(stored: TensorStorageMetadata) -> int:
    """[bytes] of a tensor."""
    return height(stored) * row_bytes(stored)


def cut(stored: TensorStorageMetadata, first: int, last: int) -> Iterator[tuple[int, int]]:
    """The rows first … last - 1 in blocks of at most BLOCK bytes, at least one row each."""
    step = max(1, BLOCK // max(1, row_bytes(stored)))
    yield from pairwise([*range(first, last, step), last])
