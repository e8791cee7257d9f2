"""The serving bundle: `current.json` switched in one step, the newest bundles kept, and the way back."""

import json
from collections.abc import Collection, Mapping, Sequence

from data.errors import GenctrError
from data.paths import PATHS, list_folder, plain, remove_folder, write_whole
from pipeline.serving.bundle import BUNDLE_NAME, CURRENT, MANIFEST, Bundle, BundleError, bundles, read_current


def publish_folder(publish: str | None, run: str) -> str:
    """Where the bundles of a run go: as its config says, or into its folder."""
    return plain(publish or f"{run}/published")


def switch(folder: str, name: str) -> None:
    """Have `current` name this bundle, which must be whole. A reader sees the one before or this one, nothing else.

    Raises:
        BundleError: it is not whole, or one of its files is not what was written.
    """
    assert BUNDLE_NAME.fullmatch(name), f"no reader of {CURRENT} would take the name {name!r}"
    bundle = Bundle(f"{folder}/{name}")
    bundle.verify()
    current = {"bundle": name, "sha256": bundle.sha256}
    if _current(folder) != current:
        write_whole(f"{folder}/{CURRENT}", json.dumps(current))


def prune(folder: str, *, keep: int, needed: Collection[str], known: Sequence[str]) -> None:
    """Let go of all but the newest bundles and those needed. The manifest goes first: from then on it is not a bundle.

    Args:
        known: the names this run has given, the newest last; of these, what a kill has left half removed goes too. What is not
            known is somebody else's, and what `current` names is never let go of.
    """
    whole, current = set(bundles(folder)), _current(folder)
    ours = [name for name in dict.fromkeys(known) if name in whole]
    for name in set(ours[:-keep]) - set(needed) - {current["bundle"] if current else ""}:
        PATHS.rm(f"{folder}/{name}/{MANIFEST}")
        remove_folder(f"{folder}/{name}")
    for name in set(list_folder(folder)) & set(known) - whole:
        remove_folder(f"{folder}/{name}")


def before(folder: str, served: Sequence[str], withdrawn: Collection[str]) -> str:
    """The bundle that was published before the present one, is still there and was not gone back from.

    Args:
        served: all that served, in order; the last is the present one. withdrawn: those that a person went back from.

    Raises:
        GenctrError: there is none to go back to.
    """
    there, order = set(bundles(folder)) - set(withdrawn), list(dict.fromkeys(served))
    for name in reversed(order[: order.index(served[-1])]):
        if name in there:
            return name
    raise GenctrError(f"{folder}: no earlier bundle is left to go back to\n  next: approve another day, or raise daily.keep")


def _current(folder: str) -> Mapping[str, str] | None:
    """What `current.json` says; nothing where it makes no sense: the next switch writes it again."""
    try:
        return read_current(folder)
    except BundleError:
        return None
