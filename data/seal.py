"""A JSON text that carries the digest of itself: what was altered since it was written is noticed when it is read."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

KEY = "sha256"
_SEAL = re.compile(rb',\s*"([^"]{6})": "([^"]{64})"\s*}\s*\Z')
"""As long as a seal, whatever it says: one whose own letters were altered must not pass for an older text, which has none."""


def sealed(values: Mapping[str, Any], *, indent: int | None = None, sort_keys: bool = False, allow_nan: bool = True) -> str:
    """A JSON object whose last key, `sha256`, is the SHA-256 of all the text before it; one that is among `values` is replaced.

    Args:
        values: at least one key. indent, sort_keys, allow_nan: as `json.dumps` has them.
    """
    kept = {key: own for key, own in values.items() if key != KEY}
    text = json.dumps(kept, indent=indent, sort_keys=sort_keys, allow_nan=allow_nan)[:-1].rstrip()
    return f'{text}, "{KEY}": "{hashlib.sha256(text.encode()).hexdigest()}"}}'


def is_sealed(content: bytes) -> bool:
    """Whether a JSON text says its digest; older ones do not."""
    return _SEAL.search(content) is not None


def unsealed(content: bytes) -> dict[str, Any]:
    """The values of a JSON object, without its digest, which is checked if it has one.

    Raises:
        ValueError: it was altered, or is not a JSON object.
    """
    seal = _SEAL.search(content)
    if seal is not None and (
        seal[1] != KEY.encode() or seal[2] != hashlib.sha256(content[: seal.start()]).hexdigest().encode()
    ):
        raise ValueError("it is not what was written: its content and its SHA-256 disagree")
    try:
        values = json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    values.pop(KEY, None)
    return values
