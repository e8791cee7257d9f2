"""Save and restore model, optimizers and cursor with DCP: sharded, in the background, whole or not at all.

    root/step-0000123/__0_0.distcp …     one file of tensors per rank
                      .metadata          where each piece of each tensor lies
                      checkpoint.json    written last: a folder without it is not a checkpoint
                      damaged.json       what checkpoint.json is renamed to when the checkpoint is found damaged
    root/best.json                       a pin: the folder named in it is kept

Everything is verified when it is read: checkpoint.json and the pins carry their own SHA-256, checkpoint.json that of
`.metadata`, and each piece of a tensor the CRC-32 that `torch.save` stored with it (`pipeline/checkpoint/archive.py`).

`torch.distributed.checkpoint` (DCP) does the sharding, the resharding and the files. Ours are the order of events that makes
a checkpoint whole or absent, the copy that lets training go on while it is written, the pieces in which tables of any size are
written and read with little memory, and the refusal to run what a file says.
"""

import os
import pickle
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import async_save as dcp_async_save
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from data.errors import GenctrError
from data.paths import write_whole
from pipeline.checkpoint.archive import Altered
from pipeline.checkpoint.dcp import (
    LocalCopies,
    Reader,
    SafeLoadPlanner,
    Writer,
    in_pieces,
    saved_sizes,
    tensor_bytes,
    wanted_sizes,
)
from pipeline.checkpoint.errors import AGAIN, FIX, CheckpointError, Damaged, first_failure, is_full, is_of_store, one_line
from pipeline.checkpoint.markers import MARKER, marker_of
from pipeline.checkpoint.store import CheckpointStore
from pipeline.distributed.hardware import free_memory
from pipeline.distributed.world import PATIENCE, gather

SHOWN = 5
COPY_SHARE = 0.5
"""[1] of the free memory that the copy for a save in the background may take."""

Anything = TypeVar("Anything")


class Checkpoints:
    """The checkpoints of one run. Every method is collective: all ranks call it, with the same arguments but for `tensors`.

    At any instant, SIGKILL included, a checkpoint is either whole or not there, and the former one is only removed after the
    new one is whole. A step that was saved before is saved next to it (`step-0000123-2`), for the same reason.

    A save in the background first copies the local shards (memory: one more copy of them until it is written), then writes
    from another thread over a process group of its own. If it fails, the next call raises. Where the copy does not fit into
    memory, that is reported and training waits. Reading and writing take PIECE_BYTES in addition to the shards, and what was
    zero and is zero in the file stays untouched memory.

    Attributes:
        store: the folder, for one process alone.

    Args:
        root: folder or URI, through `data.paths.PATHS`. A store behind a scheme (`s3://`) must put an object whole when it is
            closed, as object stores do.
        keep: [checkpoints] the newest ones to keep, besides the pinned ones. At least 1.
        asynchronous: write in the background.

    Errors:
        CheckpointError: disk full, unreadable folder, missing or damaged file, checkpoint of another model.
    """

    def __init__(self, root: str, *, keep: int, asynchronous: bool) -> None:
        assert keep >= 1, f"a run needs its newest checkpoint, keep={keep}"
        self.store = CheckpointStore(root, keep=keep)
        self.root, self._asynchronous = self.store.root, asynchronous
        # A save in the background talks to the other ranks at times of its own: on the group of the training its messages
        # would mix with the batches. DCP needs a CPU group anyway. It is as patient as that one: who has written waits for the
        # slowest rank, and all of them for the first to remove the oldest checkpoint.
        self._group = dist.new_group(backend="gloo", timeout=PATIENCE) if dist.is_initialized() else None
        self._rank = dist.get_rank() if dist.is_initialized() else 0
        self._running: tuple[str, Future[Any]] | None = None
        self._told_to_wait = False

    def save(self, step: int, *, tensors: dict[str, Any], meta: dict[str, Any], pin: str | None = None) -> str:
        """Save, or begin to save, and return the name of the new checkpoint.

        Args:
            step: [steps] trained so far.
            tensors: nested state dicts; ShardedTensor, DTensor, Tensor and plain values as leaves.
            meta: JSON values: cursor, tally, versions.
            pin: also keep this checkpoint under this name (`best`), until another one takes the name.
        """
        assert self._group is not None, "saving needs a process group"
        self.wait()
        mark = self._on_rank_0(lambda: self.store.new_folder(step), str)
        writer = Writer(
            f"{self.root}/{mark}", lambda digest: self.store.complete(mark, marker_of(step, meta, digest, pin), pin)
        )
        tensors = in_pieces(tensors)
        with self._told(mark):
            if self._asynchronous and self._has_room(tensors):
                future = dcp_async_save(tensors, storage_writer=writer, process_group=self._group, async_stager=LocalCopies())
                self._running = mark, cast(Future[Any], future)
            else:
                dcp_save(tensors, storage_writer=writer, process_group=self._group)
        return mark

    def beside(self, step: int, *, meta: dict[str, Any]) -> tuple[str, "Writer"]:
        """A free name for one more checkpoint of a step, and what writes it: a checkpoint once it is finished.

        Nothing else is touched, no leftover and no older checkpoint. Not collective: one process, without the others.
        """
        mark = self.store.free_name(step)
        file = f"{self.root}/{mark}/{MARKER}"
        return mark, Writer(f"{self.root}/{mark}", lambda digest: write_whole(file, marker_of(step, meta, digest)))

    def pin(self, name: str, mark: str) -> None:
        """Keep a checkpoint under this name, until another one takes it. Not collective."""
        self.store.pin(name, mark)

    def wait(self) -> None:
        """Return when nothing is being saved any more; raise if the save in the background failed."""
        if self._running is not None:
            (mark, future), self._running = self._running, None
            with self._told(mark):
                future.result()

    def marks(self) -> list[str]:
        """The names of all complete checkpoints, oldest first."""
        self.wait()
        return self._on_rank_0(self.store.marks, list[str])

    def latest(self) -> str | None:
        """The newest complete checkpoint, or None."""
        return next(iter(self.marks()[::-1]), None)

    def pinned(self, name: str) -> str | None:
        """The checkpoint pinned under `name`, or None."""
        self.wait()
        return self._on_rank_0(lambda: self.store.pins().get(name), str)

    def pins(self) -> dict[str, str]:
        """The pinned checkpoints by the names they are pinned under."""
        self.wait()
        return self._on_rank_0(self.store.pins, dict[str, str])

    def unpin(self, names: Iterable[str]) -> None:
        """Let go of pins, but for the newest checkpoint's; the checkpoints go with the next save, unless they are among the
        newest."""
        self.wait()
        self._on_rank_0(lambda: self.store.unpin(names), None)

    def drop(self, marks: Iterable[str]) -> None:
        """Remove checkpoints, and the pins on them."""
        self.wait()
        self._on_rank_0(lambda: self.store.drop(list(marks)), None)

    def sift(self) -> list[str]:
        """Set aside every checkpoint whose checkpoint.json or .metadata is damaged, and every pin that is; return a message
        for each. The pieces of tensors are verified when they are read."""
        self.wait()
        return self._on_rank_0(lambda: self.store.sift(self.metadata), list[str])

    def set_aside(self, mark: str) -> None:
        """Make a damaged checkpoint none, without removing it: its marker is renamed, its pins go."""
        self.wait()
        self._on_rank_0(lambda: self.store.set_aside(mark), None)

    def damaged(self) -> list[str]:
        """The checkpoints that were set aside, oldest first."""
        self.wait()
        return self._on_rank_0(self.store.damaged, list[str])

    def read_meta(self, mark: str) -> dict[str, Any]:
        """The `meta` that was saved with a checkpoint, and its `step`."""
        self.wait()
        return self._on_rank_0(lambda: self.store.read_meta(mark), dict[str, Any])

    def sizes(self, mark: str, part: str) -> dict[str, torch.Size]:
        """The tensors in one part (top-level key) of a checkpoint, and their sizes."""
        self.wait()
        found = saved_sizes(self.metadata(mark), {part})
        return {name.removeprefix(f"{part}."): size for name, size in found.items() if size is not None}

    def metadata(self, mark: str) -> Metadata:
        """What a checkpoint holds and where each piece of it lies. Not collective."""
        return self._metadata(Reader(f"{self.root}/{mark}"))

    def restore(self, mark: str, tensors: dict[str, Any], *, some: bool = False) -> dict[str, Any]:
        """Load a checkpoint into `tensors`, in place, whatever ranks and plan it was saved from; return its meta.

        The caller then hands `tensors` to `load_state_dict`. Only the parts (top-level keys) of `tensors` are read; of these,
        names and sizes must be those of the checkpoint, which may hold more of them if only `some` are wanted. After a
        CheckpointError about a damaged file, `tensors` may be partly loaded: do not use them.
        """
        meta = self.read_meta(mark)
        with warnings.catch_warnings():
            # TorchRec's state dicts are ShardedTensors, and one process without a group is how export reads a checkpoint.
            warnings.filterwarnings("ignore", "Please use DTensor instead", FutureWarning)
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            self._load(mark, tensors, some=some)
        return meta

    def _load(self, mark: str, tensors: dict[str, Any], *, some: bool) -> None:
        reader = Reader(f"{self.root}/{mark}")
        wanted: dict[str, torch.Size | None] = {}
        for sizes in self._on_all_ranks(lambda: wanted_sizes(tensors, self._metadata(reader)), dict[str, list[int] | None]):
            # An optimizer's state dict holds the tables of its own rank only.
            wanted.update({name: size if size is None else torch.Size(size) for name, size in sizes.items()})
        saved = saved_sizes(self._metadata(reader), set(tensors))
        self._compare(mark, wanted, {name: saved[name] for name in saved.keys() & wanted.keys()} if some else saved)
        try:
            dcp_load(tensors, storage_reader=reader, planner=SafeLoadPlanner(), process_group=self._group)
        except CheckpointException as error:
            rank, failure = first_failure(error)
            what, hint = ("could not be read", AGAIN) if is_of_store(failure) else ("is damaged", FIX)
            # Anything else may be a mistake of the reader's, for which no checkpoint is set aside.
            certain = isinstance(failure, (Altered, FileNotFoundError, pickle.UnpicklingError))
            kind = Damaged if certain else CheckpointError
            raise kind(
                f"checkpoint {mark} {what}: {one_line(failure)}", f"{self.root}/{mark}, read by rank {rank}", hint
            ) from failure

    def _has_room(self, tensors: dict[str, Any]) -> bool:
        """Whether every machine's memory holds a copy of its ranks' shards; if not, it is reported once."""
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size(self._group)))
        rooms = self._on_all_ranks(lambda: (tensor_bytes(tensors) * ranks, free_memory()), tuple[float, float])
        need, free = max(rooms, key=lambda room: room[0] - room[1])
        fits = need <= free * COPY_SHARE
        if not fits and not self._told_to_wait and self._rank == 0:
            sys.stderr.write(
                f"genctr: training waits for every save: to go on it would copy {need / 2**30:.1f} GiB on a machine, and "
                f"{free / 2**30:.1f} GiB are free\n"
            )
        self._told_to_wait |= not fits
        return fits

    # All ranks, together.

    def _on_rank_0(self, work: Callable[[], Anything], kind: Any) -> Anything:
        absent = None if kind is None else kind | None
        answers: Sequence[Any] = self._on_all_ranks(lambda: work() if self._rank == 0 else None, absent)
        return cast(Anything, answers[0])

    def _on_all_ranks(self, work: Callable[[], Anything], kind: Any) -> Sequence[Anything]:
        """What every rank's `work` returned, as a `kind`. If one raises, all do, so that none is left waiting."""
        return gather(work, kind, group=self._group)

    def _metadata(self, reader: "Reader") -> Metadata:
        try:
            return reader.read_metadata()
        except (OSError, ValueError, pickle.UnpicklingError) as error:
            raise (CheckpointError if is_of_store(error) else Damaged)(
                f"the checkpoint cannot be read: {one_line(error)}",
                f"{reader.path}/.metadata",
                AGAIN if is_of_store(error) else FIX,
            ) from error

    def _compare(self, mark: str, wanted: dict[str, torch.Size | None], saved: dict[str, torch.Size | None]) -> None:
        def shown(title: str, lines: list[str]) -> list[str]:
            more = [f"    … and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
            return [f"  {title}: {len(lines)}", *(f"    {line}" for line in lines[:SHOWN]), *more] if lines else []

        def size(value: torch.Size | None) -> str:
            return "a plain value" if value is None else str(list(value))

        both = sorted(wanted.keys() & saved.keys())
        differences = [
            *shown("the model has, the checkpoint does not", sorted(wanted.keys() - saved.keys())),
            *shown("the checkpoint has, the model does not", sorted(saved.keys() - wanted.keys())),
            *shown(
                "another size",
                [f"{k}: model {size(wanted[k])}, checkpoint {size(saved[k])}" for k in both if wanted[k] != saved[k]],
            ),
        ]
        if differences:
            raise CheckpointError(
                "\n".join([f"checkpoint {mark} is of another model", *differences]),
                f"{self.root}/{mark}",
                "train with the schema, model and tables this run began with, or name a new run folder",
            )

    @contextmanager
    def _told(self, mark: str) -> Iterator[None]:
        """Say what a failed save means, and free the space it took."""
        try:
            yield
        except CheckpointException as error:
            rank, failure = first_failure(error)
            if self._rank == 0:
                with suppress(OSError, GenctrError):
                    self.store.remove_leftovers()
            if not isinstance(failure, OSError):
                raise failure from error
            full = is_full(failure)
            raise CheckpointError(
                f"checkpoint {mark} could not be saved: {'the disk is full' if full else one_line(failure)}",
                f"{self.root}/{mark}, written by rank {rank}",
                f"{'make room' if full else 'make the folder writable'} and start the run again: "
                "it resumes from the newest whole checkpoint, which is untouched",
            ) from failure
