"""What makes a folder a checkpoint: its name and its marker, checkpoint.json, which is written last."""

import hashlib
import re
from typing import Any

from data.paths import PATHS
from data.seal import is_sealed, sealed, unsealed
from pipeline.checkpoint.errors import CheckpointError

MARKER = "checkpoint.json"
SET_ASIDE = "damaged.json"
FORMAT = 2
UNSEALED = 1
"""The format before checkpoint.json carried digests: it is still read, and a line says that it is not verified."""

FOLDER = re.compile(r"step-\d{7,}(-\d+)?")


def marker_of(step: int, meta: dict[str, Any], metadata: str, pin: str | None = None) -> str:
    """The text of a marker; `metadata`: the digest of the checkpoint's `.metadata`."""
    import torch  # who only looks needs none

    values = {"format": FORMAT, "step": step, "torch": torch.__version__, "pin": pin, "metadata": metadata, "meta": meta}
    return sealed(values)


def read_marker(file: str) -> dict[str, Any]:
    """What a checkpoint's marker, or a pin, says.

    Raises:
        OSError: it cannot be read. ValueError: it is damaged. CheckpointError: another version wrote it.
    """
    with PATHS.open(file, "rb") as stream:
        content = bytes(stream.read())
    values = unsealed(content)
    if "mark" in values:
        return values
    if not isinstance(values.get("format"), int):
        raise ValueError("it says no format")
    if values["format"] not in (FORMAT, UNSEALED):
        raise CheckpointError(
            f"checkpoint format {values['format']} is not known, this version reads {FORMAT}",
            file,
            "use the version of genctr that wrote it",
        )
    if is_sealed(content) != (values["format"] == FORMAT):
        raise ValueError("its format and its SHA-256 do not fit together")
    return values


def metadata_of(folder: str) -> bytes:
    """The content of a checkpoint's `.metadata`.

    Raises:
        OSError: it cannot be read. ValueError: it, or the marker, is not what was written.
    """
    digest = read_marker(f"{folder}/{MARKER}").get("metadata")
    with PATHS.open(f"{folder}/.metadata", "rb") as stream:
        content = bytes(stream.read())
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"it is not what was written: its content and its SHA-256 in {MARKER} disagree")
    return content


def order(folder: str) -> tuple[int, int]:
    """The step of a checkpoint, and which save of that step it is."""
    _, step, *again = folder.split("-")
    return int(step), int(again[0]) if again else 1
