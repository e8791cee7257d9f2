"""DCP's storage and planners as checkpoints use them: in pieces, with little memory, and running nothing that a file says."""

import copy
import hashlib
import io
import math
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from typing import IO, Any, cast

import torch
from torch import Tensor
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.metadata import ShardedTensorMetadata
from torch.distributed._shard.sharded_tensor.shard import Shard
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import (
    FileSystemBase,
    FileSystemReader,
    FileSystemWriter,
    _StorageInfo,
    _StoragePrefix,
)
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem, SavePlan
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future as TorchFuture

from data.paths import PATHS, token_of
from pipeline.checkpoint.archive import Altered, check_value, crc_of, stored_crc, view
from pipeline.checkpoint.errors import one_line
from pipeline.checkpoint.markers import metadata_of
from pipeline.checkpoint.store import rename

PIECE_BYTES = 1 << 26
"""[bytes] of a shard that are written and read at a time: DCP copies each of them, and would copy a shard as a whole."""

PAGE_BYTES = 4096
"""[bytes] of memory that the system hands out at a time."""


def saved_sizes(metadata: Metadata, parts: set[str]) -> dict[str, torch.Size | None]:
    """What the checkpoint holds of these parts: name -> size, None for a plain value."""
    return {
        name: stored.size if isinstance(stored, TensorStorageMetadata) else None
        for name, stored in metadata.state_dict_metadata.items()
        if metadata.planner_data[name][0] in parts
    }


def wanted_sizes(tensors: dict[str, Any], metadata: Metadata) -> dict[str, torch.Size | None]:
    """What this rank wants to load, under the names DCP gives it."""
    planner = DefaultLoadPlanner()
    planner.set_up_planner(tensors, metadata)
    return {
        name: value.size() if isinstance(value, (Tensor, ShardedTensor)) else None for name, value in planner.state_dict.items()
    }


def tensor_bytes(value: Any) -> int:
    """[bytes] of all local tensors in nested state dicts."""
    if isinstance(value, dict):
        return sum(tensor_bytes(part) for part in value.values())
    if isinstance(value, ShardedTensor):
        return sum(shard.tensor.nbytes for shard in value.local_shards())
    return value.nbytes if isinstance(value, Tensor) else 0


def in_pieces(value: Any) -> Any:
    """Nested state dicts whose shards are cut by rows into pieces of at most PIECE_BYTES; views, nothing is copied."""
    if isinstance(value, dict):
        return {key: in_pieces(part) for key, part in value.items()}
    return _cut_shards(value) if isinstance(value, ShardedTensor) else value


def _cut_shards(tensor: ShardedTensor) -> ShardedTensor:
    whole = tensor.metadata()
    bytes_of_row = math.prod(whole.size[1:]) * whole.tensor_properties.dtype.itemsize
    most = max(PIECE_BYTES // bytes_of_row, 1)
    if all(shard.shard_sizes[0] <= most for shard in whole.shards_metadata):
        return tensor

    def cut(shard: ShardMetadata) -> Iterator[tuple[int, ShardMetadata]]:
        (top, *left), (height, *width) = shard.shard_offsets, shard.shard_sizes
        for start in range(0, max(height, 1), most):
            size = [min(most, height - start), *width]
            yield start, ShardMetadata([top + start, *left], size, shard.placement)

    mine = [
        Shard(shard.tensor[start : start + piece.shard_sizes[0]], piece)
        for shard in tensor.local_shards()
        for start, piece in cut(shard.metadata)
    ]
    pieces = [piece for shard in whole.shards_metadata for _, piece in cut(shard)]
    return ShardedTensor._init_from_local_shards_and_global_metadata(
        mine, ShardedTensorMetadata(pieces, whole.size, whole.tensor_properties), process_group=tensor._process_group
    )


class LocalCopies(AsyncStager):
    """Copies the local shards to CPU memory, so that training may go on while they are written.

    Ours because DCP's own stager asks a ShardedTensor for its `data_ptr`, which TorchRec's do not answer.
    """

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The state dict, its local shards copied."""
        return cast(dict[str, Any], _copied(state_dict))

    def synchronize_staging(self) -> None:
        """Nothing to wait for: `stage` returns when the copy is done."""

    def close(self) -> None:
        """Nothing is held."""


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(part) for part in value)
    if isinstance(value, ShardedTensor):
        return _copied_shards(value)
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    return copy.deepcopy(value)


def _copied_shards(tensor: ShardedTensor) -> ShardedTensor:
    def on_cpu(shard: ShardMetadata) -> ShardMetadata:
        assert shard.placement is not None, "TorchRec places every shard"
        return ShardMetadata(shard.shard_offsets, shard.shard_sizes, f"rank:{shard.placement.rank()}/cpu")

    whole = tensor.metadata()
    return ShardedTensor._init_from_local_shards_and_global_metadata(
        [Shard(shard.tensor.detach().to("cpu", copy=True), on_cpu(shard.metadata)) for shard in tensor.local_shards()],
        ShardedTensorMetadata([on_cpu(shard) for shard in whole.shards_metadata], whole.size, whole.tensor_properties),
        process_group=tensor._process_group,
    )


class _Files(FileSystemBase):
    """DCP's file system over PATHS, so that a company's own path handler works."""

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[IO[bytes]]:  # type: ignore[override]
        with PATHS.open(os.fspath(path), mode) as stream:
            try:
                yield stream
            except RuntimeError as error:
                # torch.save says `unexpected pos` when a write failed; what went wrong is the error before it.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str:
        return f"{os.fspath(path)}/{suffix}"

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        rename(os.fspath(path), os.fspath(new_path))

    def init_path(self, path: str | os.PathLike[str]) -> str:
        return os.fspath(path)

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        PATHS.mkdirs(f"{os.fspath(path)}/")

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True

    def exists(self, path: str | os.PathLike[str]) -> bool:
        return bool(PATHS.exists(os.fspath(path)))

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        PATHS.rm(os.fspath(path))


class Writer(FileSystemWriter):
    """Writes through PATHS, and calls `complete` with the digest of `.metadata`, on rank 0, once every rank has written."""

    def __init__(self, folder: str, complete: Callable[[str], None]) -> None:
        super().__init__(folder)
        self.fs = _Files()  # type: ignore[assignment]
        self.path = folder
        # Syncing a stream that is not a file makes DCP sync every disk of the machine instead.
        self.sync_files = "://" not in folder
        self._complete = complete

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Name the files. In a store, which cannot lock, also by who writes: what a job that was taken over had begun to send
        must not take the place of its successor's."""
        folder = os.fspath(self.path)
        token = token_of(folder) if "://" in folder else ""
        own = f"{token}_" if token else ""
        return [replace(plan, storage_data=_StoragePrefix(f"__{own}{rank}_")) for rank, plan in enumerate(plans)]

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the metadata, then complete."""
        super().finish(metadata, results)
        with self.fs.create_stream(f"{self.path}/.metadata", "rb") as stream:
            digest = hashlib.sha256(stream.read()).hexdigest()
        self._complete(digest)


class Reader(FileSystemReader):
    """Reads through PATHS, verifies all it reads, and lets `.metadata`, which is a pickle, build nothing but metadata."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.fs = _Files()  # type: ignore[assignment]
        self.path = folder
        self._known: Metadata | None = None

    def read_metadata(self, *_args: Any, **_: Any) -> Metadata:
        """What the checkpoint holds, read once.

        Raises:
            OSError: it cannot be read. ValueError, UnpicklingError: it is not what was written.
        """
        if self._known is None:
            content = metadata_of(os.fspath(self.path))
            self._known = _read_metadata(content)
            self._known.storage_meta = StorageMeta(load_id=self.load_id)
        return self._known

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> TorchFuture[None]:
        """Read the pieces that `plan` wants, each once, and verify each.

        Ours because DCP's loads a piece again for every part of it, and nowhere looks at what it has loaded. The CRC-32 of
        one piece is computed while the next one is read.

        Raises:
            Altered: a piece is not what was written; what was loaded must not be used.
        """
        wanted: dict[tuple[str, int], list[ReadItem]] = {}
        for item in plan.items:
            info = self.storage_data[item.storage_index]
            wanted.setdefault((info.relative_path, info.offset), []).append(item)
        files: dict[str, list[list[ReadItem]]] = {}
        for (file, _), items in sorted(wanted.items(), key=lambda own: own[0]):
            files.setdefault(file, []).append(items)
        with ThreadPoolExecutor(1) as background:
            for file, pieces in files.items():
                self._read_file(file, pieces, planner, background)
        done: TorchFuture[None] = TorchFuture()
        done.set_result(None)
        return done

    def _read_file(self, file: str, pieces: list[list[ReadItem]], planner: LoadPlanner, background: ThreadPoolExecutor) -> None:
        with self.fs.create_stream(f"{self.path}/{file}", "rb") as stream:
            checked: Future[None] | None = None
            for items in pieces:
                info: _StorageInfo = self.storage_data[items[0].storage_index]
                archive = view(cast(IO[bytes], stream), info)
                try:
                    if items[0].type == LoadItemType.BYTE_IO:
                        check_value(archive)
                        archive.seek(0)
                        planner.load_bytes(items[0], io.BytesIO(archive.read()))
                        continue
                    crc = stored_crc(archive)
                    archive.seek(0)
                    piece = _loaded(archive)
                except Altered as error:
                    raise Altered(f"{_shown(items[0])} in {file}: {error}") from error
                if checked is not None:
                    checked.result()  # one piece in memory besides the one that is read
                checked = background.submit(_check, piece, crc, f"{_shown(items[0])} in {file}")
                for item in items:
                    _commit(piece, item, planner)
            if checked is not None:
                checked.result()


def _loaded(archive: IO[bytes]) -> Tensor:
    try:
        piece = torch.load(archive, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what torch raises of a damaged archive is not listed anywhere
        raise Altered(one_line(error)) from error
    if not isinstance(piece, Tensor):
        raise Altered("it holds no tensor")
    return piece


def _check(piece: Tensor, crc: int, where: str) -> None:
    if piece.numel() and crc_of(piece) != crc:
        raise Altered(f"{where}: the numbers are not those that were written")


def _commit(piece: Tensor, item: ReadItem, planner: LoadPlanner) -> None:
    part = narrow_tensor_by_index(piece, item.storage_offsets, item.lengths)
    target = planner.resolve_tensor(item).detach()
    if target.size() != part.size():
        raise Altered(f"{_shown(item)}: it has the size {list(part.size())}, expected {list(target.size())}")
    target.copy_(part)
    planner.commit_tensor(item, target)


def _shown(item: ReadItem) -> str:
    index = item.storage_index
    return f"{index.fqn} from row {index.offset[0]} on" if index.offset else index.fqn


def _read_metadata(content: bytes) -> Metadata:
    try:
        metadata = _MetadataUnpickler(io.BytesIO(content)).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # what a pickle raises when it is cut or altered is not listed anywhere
        raise pickle.UnpicklingError(f"cut or altered ({one_line(error)})") from error
    if not isinstance(metadata, Metadata):
        raise pickle.UnpicklingError("this is not checkpoint metadata")
    return metadata


class _MetadataUnpickler(pickle.Unpickler):
    """Builds the value classes of DCP's metadata and nothing else: no function that a pickle may name is called."""

    _ALLOWED = frozenset(
        {
            ("torch", "Size"),
            ("torch.serialization", "_get_layout"),
            ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
            *(
                ("torch.distributed.checkpoint.metadata", name)
                for name in (
                    "BytesStorageMetadata",
                    "ChunkStorageMetadata",
                    "Metadata",
                    "MetadataIndex",
                    "StorageMeta",
                    "TensorProperties",
                    "TensorStorageMetadata",
                    "_MEM_FORMAT_ENCODING",
                )
            ),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in self._ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint needs; it is not run")


def _member(kind: Any, name: Any) -> Enum:
    """What stands in for `getattr`, by which some Python releases (3.11.0 to 3.11.3) pickle the members of an enum."""
    if isinstance(kind, type) and issubclass(kind, Enum) and name in kind.__members__:
        return kind[name]
    raise pickle.UnpicklingError(f"it asks {kind!r} for {name!r}, which no checkpoint needs; it is not run")


class SafeLoadPlanner(DefaultLoadPlanner):
    """DCP unpickles plain values freely; this one hands on only what survives torch's weights-only load.

    Large tensors in CPU memory are filled page by page, and a page of zeros that is one already is not written: the memory of
    rows that were never trained stays untouched.
    """

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        """Where a piece is read to."""
        target: Tensor = super().resolve_tensor(read_item)
        return torch.empty_like(target) if _is_paged(target) else target

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """Copy a piece that was read apart, page by page."""
        target: Tensor = super().resolve_tensor(read_item).detach()
        if _is_paged(target):
            _copy_pages(tensor, target)

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Hand on a plain value, if it is one."""
        safe = io.BytesIO()
        try:
            torch.save(torch.load(value, weights_only=True), safe)
        except RuntimeError as error:  # of torch's ZIP reader, where an altered header passed every CRC-32
            raise Altered(f"{read_item.storage_index.fqn}: {one_line(error)}") from error
        safe.seek(0)
        super().load_bytes(read_item, safe)


def _is_paged(target: Tensor) -> bool:
    return target.device.type == "cpu" and target.nbytes >= 256 * PAGE_BYTES and target.is_contiguous()


def _copy_pages(source: Tensor, target: Tensor) -> None:
    given, there = source.view(-1).view(torch.uint8), target.view(-1).view(torch.uint8)
    whole = len(given) // PAGE_BYTES * PAGE_BYTES
    pages, filled = (data[:whole].view(-1, PAGE_BYTES) for data in (given, there))
    written = (pages.any(1) | filled.any(1)).nonzero().flatten()
    if len(written) == len(pages):
        there.copy_(given)
        return
    filled.index_copy_(0, written, pages.index_select(0, written))
    there[whole:] = given[whole:]
