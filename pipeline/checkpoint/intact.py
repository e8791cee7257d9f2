"""Whether a checkpoint is what was written, byte by byte. Needs no torch, and builds nothing of what the checkpoint holds."""

import io
import pickle
from typing import Any

from data.paths import PATHS
from pipeline.checkpoint.archive import check_value, view
from pipeline.checkpoint.markers import FORMAT, MARKER, metadata_of, read_marker
from pipeline.checkpoint.store import CheckpointStore


def verify_marker(store: CheckpointStore, mark: str) -> bool:
    """Whether a checkpoint carries digests; those of its marker and its `.metadata` are checked.

    Raises:
        OSError, ValueError: one is not what was written, or cannot be read.
    """
    folder = f"{store.root}/{mark}"
    metadata_of(folder)
    return bool(read_marker(f"{folder}/{MARKER}")["format"] == FORMAT)


def verify_records(store: CheckpointStore, mark: str) -> None:
    """Check every record of every piece against the CRC-32 that was stored with it, as loading the checkpoint does.

    Raises:
        OSError, ValueError: a file is not what was written, or cannot be read.
    """
    folder = f"{store.root}/{mark}"
    files: dict[str, list[_Piece]] = {}
    for piece in _pieces(metadata_of(folder)):
        files.setdefault(piece.relative_path, []).append(piece)
    for file, pieces in sorted(files.items()):
        with PATHS.open(f"{folder}/{file}", "rb") as stream:
            for piece in sorted(pieces, key=lambda own: own.offset):
                check_value(view(stream, piece))


class _Piece:
    """Stands for DCP's `_StorageInfo`: where a piece lies."""

    relative_path: str
    offset: int
    length: int


class _Other:
    """Stands for everything else that a pickle may name: it is called, filled, and never looked at."""

    def __new__(cls, *_: Any) -> "_Other":
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Builds stand-ins alone: nothing that a pickle names is imported."""

    def find_class(self, module: str, name: str) -> Any:
        return _Piece if (module, name) == ("torch.distributed.checkpoint.filesystem", "_StorageInfo") else _Other


def _pieces(metadata: bytes) -> list[_Piece]:
    try:
        return list(_Unpickler(io.BytesIO(metadata)).load().state["storage_data"].values())
    except Exception as error:  # what a pickle raises when it is cut or altered is not listed anywhere
        raise ValueError(f"this is not checkpoint metadata: {error}") from error
