"""The folder of a run's checkpoints: their names, markers and pins. One process, without the others and without torch."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from data.paths import PATHS, list_folder, plain, remove_folder, replace, write_whole
from data.seal import sealed
from pipeline.checkpoint.errors import AGAIN, FIX, CheckpointError, Damaged, is_full, is_of_store, one_line
from pipeline.checkpoint.markers import FOLDER, MARKER, SET_ASIDE, UNSEALED, order, read_marker


class CheckpointStore:
    """The checkpoints of one run, as a folder has them. What they hold is `pipeline.checkpoint.manager`'s to read.

    Args:
        root: folder or URI, through `data.paths.PATHS`. keep: [checkpoints] the newest ones to keep, besides the pinned ones.

    Errors:
        CheckpointError: the folder cannot be read or written. Damaged: a marker or a pin is not what was written.
    """

    def __init__(self, root: str, *, keep: int = 1) -> None:
        self.root, self._keep = plain(root), keep

    def marks(self) -> list[str]:
        """The names of all complete checkpoints, oldest first."""
        return [mark for mark in self.folders() if PATHS.exists(f"{self.root}/{mark}/{MARKER}")]

    def latest(self) -> str | None:
        """The newest complete checkpoint, or None."""
        return next(iter(self.marks()[::-1]), None)

    def folders(self) -> list[str]:
        """The names of all folders that are checkpoints, were, or may become one; oldest first."""
        return sorted(filter(FOLDER.fullmatch, self._names()), key=order)

    def is_set_aside(self, mark: str) -> bool:
        """Whether a folder was a checkpoint, and was found damaged."""
        return bool(PATHS.exists(f"{self.root}/{mark}/{SET_ASIDE}"))

    def damaged(self) -> list[str]:
        """The checkpoints that were set aside, oldest first."""
        return [mark for mark in self.folders() if self.is_set_aside(mark)]

    def read_meta(self, mark: str) -> dict[str, Any]:
        """The `meta` that was saved with a checkpoint, and its `step`."""
        file = f"{self.root}/{mark}/{MARKER}"
        values = self._read_json(file)
        try:
            return {**values["meta"], "step": values["step"]}
        except (KeyError, TypeError) as error:
            raise Damaged(f"checkpoint {mark} is damaged: {MARKER} lacks {error}", file, FIX) from error

    def pins(self) -> dict[str, str]:
        """The pinned checkpoints by the names they are pinned under."""
        return {name: str(self._read_pin(name)) for name in self._pin_names()} | self._last_pin()

    def pin(self, name: str, mark: str) -> None:
        """Keep a checkpoint under this name, until another one takes it."""
        write_whole(f"{self.root}/{name}.json", sealed({"mark": mark}))

    def unpin(self, names: Iterable[str]) -> None:
        """Let go of pins."""
        for name in names:
            if PATHS.exists(f"{self.root}/{name}.json"):
                PATHS.rm(f"{self.root}/{name}.json")

    def drop(self, marks: Sequence[str]) -> None:
        """Remove checkpoints, and the pins on them."""
        self.unpin([name for name, mark in self.pins().items() if mark in marks])
        for mark in marks:
            PATHS.rm(f"{self.root}/{mark}/{MARKER}")  # first of all: from here on it is not a checkpoint
            remove_folder(f"{self.root}/{mark}")

    def set_aside(self, mark: str) -> None:
        """Make a damaged checkpoint none, without removing it: its marker is renamed, its pins go."""
        named = {name for name in self._pin_names() if self._read_pin(name, strict=False) == mark}
        rename(f"{self.root}/{mark}/{MARKER}", f"{self.root}/{mark}/{SET_ASIDE}")
        self.unpin(named)

    def sift(self, read: Callable[[str], Any]) -> list[str]:
        """Set aside every checkpoint and every pin that is damaged; return a message for each.

        Args:
            read: raises `Damaged` for a checkpoint whose .metadata is.
        """
        messages, unsealed = [], []
        for mark in self.marks():
            try:
                self.read_meta(mark)
                read(mark)
                unsealed += [mark] if self._read_json(f"{self.root}/{mark}/{MARKER}")["format"] == UNSEALED else []
            except Damaged as error:
                messages.append(f"{error.what}\n  where: {error.where}\n  it is set aside: {SET_ASIDE} is its marker now")
                self.set_aside(mark)
        for name in self._pin_names():
            try:
                self._read_pin(name)
            except Damaged as error:
                file = f"{self.root}/{name}.json"
                rename(file, f"{file}.damaged")
                messages.append(f"the pin {name} is damaged, and set aside: {error.what}\n  where: {file}.damaged")
                for mark in self.marks():  # the newest one that was saved under this name has it again
                    if self._read_json(f"{self.root}/{mark}/{MARKER}").get("pin") == name:
                        self.pin(name, mark)
        if unsealed:
            messages.append(
                f"{', '.join(unsealed)} {'was' if len(unsealed) == 1 else 'were'} saved before checkpoints carried digests: "
                f"{MARKER} and .metadata are read unverified"
            )
        return messages

    def new_folder(self, step: int) -> str:
        """Finish or clear away what a killed save left behind and choose a folder that is not there."""
        try:
            PATHS.mkdirs(f"{self.root}/")
            self.remove_leftovers()
            for name, mark in self._last_pin().items():
                self.pin(name, mark)
        except OSError as error:
            full = is_full(error)
            raise CheckpointError(
                f"the checkpoint folder cannot be written: {'the disk is full' if full else one_line(error)}",
                self.root,
                "make room and start the run again" if full else "give the run a folder that this user may read and write",
            ) from error
        return self.free_name(step)

    def free_name(self, step: int) -> str:
        """A name for one more checkpoint of a step."""
        taken = [time for name in self.folders() for at, time in [order(name)] if at == step]
        return f"step-{step:07d}-{taken[-1] + 1}" if taken else f"step-{step:07d}"

    def remove_leftovers(self) -> None:
        """Remove what killed saves left behind."""
        for name in set(self.folders()) - set(self.marks()):
            if not self.is_set_aside(name):
                remove_folder(f"{self.root}/{name}")

    def complete(self, mark: str, marker: str, pin: str | None) -> None:
        """Make the folder a checkpoint, then let go of the ones too many. All ranks have written by now."""
        write_whole(f"{self.root}/{mark}/{MARKER}", marker)
        if pin is not None:
            self.pin(pin, mark)
        for old in set(self.marks()[: -self._keep]) - set(self.pins().values()):
            PATHS.rm(f"{self.root}/{old}/{MARKER}")  # first of all: from here on it is not a checkpoint
            remove_folder(f"{self.root}/{old}")

    def _names(self) -> list[str]:
        try:
            return list_folder(self.root)
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint folder cannot be read: {one_line(error)}",
                self.root,
                "give the run a folder that this user may read and write",
            ) from error

    def _pin_names(self) -> list[str]:
        return [name.removesuffix(".json") for name in self._names() if name.endswith(".json")]

    def _read_pin(self, name: str, *, strict: bool = True) -> str | None:
        file = f"{self.root}/{name}.json"
        try:
            mark = self._read_json(file).get("mark")
            if not isinstance(mark, str):
                raise Damaged("the pin names no checkpoint", file, "remove it: what it kept goes with the next save")
        except Damaged:
            if strict:
                raise
            return None
        return mark

    def _last_pin(self) -> dict[str, str]:
        """What the newest checkpoint says it is pinned as: a kill may have come before the pin."""
        for mark in self.marks()[-1:]:
            with suppress(CheckpointError):  # whoever reads the checkpoint gets an error
                pin = self._read_json(f"{self.root}/{mark}/{MARKER}").get("pin")
                return {pin: mark} if pin is not None else {}
        return {}

    def _read_json(self, file: str) -> dict[str, Any]:
        try:
            return read_marker(file)
        except CheckpointError:  # another version's: it is not damage, and nothing is to be set aside
            raise
        except (OSError, ValueError) as error:
            raise (CheckpointError if is_of_store(error) else Damaged)(
                f"not a whole checkpoint: {one_line(error)}", file, AGAIN if is_of_store(error) else FIX
            ) from error


def rename(old: str, new: str) -> None:
    """Give a file another name, through `data.paths.PATHS`."""
    if "://" not in old:
        replace(old, new)
        return
    if not PATHS.copy(old, new, overwrite=True):  # object stores have no rename
        raise OSError(f"could not copy {old} to {new}")
    PATHS.rm(old)
