"""Look at the checkpoints of a run: list them, show one, verify all of it, compare two. Nothing of the model is built.

Any tensor is treated alike, by its name: tables, their optimizers' states, the network, whatever else a run saves. Tensors are
read block by block (`reader.py`), so one larger than memory is fine.
"""

import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorStorageMetadata

from data.errors import GenctrError
from data.paths import PATHS, file_bytes, list_folder, modified
from pipeline.checkpoint.coverage import gaps
from pipeline.checkpoint.errors import CheckpointError
from pipeline.checkpoint.manager import SHOWN, Checkpoints
from pipeline.checkpoint.markers import FOLDER, MARKER
from pipeline.checkpoint.reader import CheckpointReader, height, shown, size_bytes
from pipeline.config.run import load
from pipeline.run_folder.lease import Lease

CHECKPOINTS = "checkpoints"
LEDGER = "ledger.jsonl"  # of the daily job, a room above: a folder that has one is that job's
NEWEST, ALL = "newest", "all"

FEW = 2**20
"""[numbers] that are compared at a time: their differences, in double precision, take several times their memory."""

Advance = Callable[[int], None]
"""Called with the [bytes] of every block that is done."""


@dataclass(frozen=True)
class Listed:
    """One checkpoint in a list.

    Args:
        mark: its name. step, day, row: where it stands. ranks: how many had saved it.
        bytes: [bytes] of its files. files: how many hold tensors. saved: when, if the store says so. pins: the names it is
            kept under.
    """

    mark: str
    step: int
    day: str
    row: int
    ranks: int
    bytes: int
    files: int
    saved: datetime | None
    pins: tuple[str, ...]


@dataclass
class Verified:
    """What was found in one checkpoint.

    Args:
        tensors, pieces, bytes: how much was read. not_finite: tensor -> how many of its numbers are NaN or infinite.
        problems: what is missing or damaged; empty if it is whole.
    """

    mark: str
    tensors: int = 0
    pieces: int = 0
    bytes: int = 0
    not_finite: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Difference:
    """How a tensor of two checkpoints differs: its rows, how many differ, the largest and the root mean square difference."""

    name: str
    rows: int
    differ: int
    largest: float
    rms: float


@dataclass
class Compared:
    """Two checkpoints, compared.

    Args:
        left, right: what only one of them has. sizes: tensors of other sizes or types, a line each.
        differences: tensors whose numbers differ. same: how many tensors and values do not differ. values: plain values that
            do. facts: what else was saved with them and differs, a line each.
    """

    left: list[str] = field(default_factory=list)
    right: list[str] = field(default_factory=list)
    sizes: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    same: int = 0
    values: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether every tensor and every plain value is the same; facts such as the number of ranks may differ."""
        return not (self.left or self.right or self.sizes or self.differences or self.values)


def checkpoints_of(run: str) -> Checkpoints:
    """The checkpoints of a run folder.

    Raises:
        GenctrError: it has none.
    """
    checkpoints = Checkpoints(f"{run.rstrip('/')}/{CHECKPOINTS}", keep=1, asynchronous=False)
    if not checkpoints.marks():
        raise GenctrError(
            f"{run}: no whole checkpoint in {checkpoints.root}\n  next: give the --out of a run that has saved one"
        )
    return checkpoints


def find(checkpoints: Checkpoints, name: str) -> str:
    """The checkpoint of this name: its own, that of a pin, or `newest`.

    Raises:
        GenctrError: there is none; names those there are.
    """
    marks, pins = checkpoints.marks(), checkpoints.pins()
    mark = marks[-1] if name == NEWEST else pins.get(name.removesuffix(".json"), name)
    if mark not in marks:
        pinned = "" if mark == name else f" (pinned as {name})"
        raise GenctrError(
            f"{checkpoints.root}: there is no whole checkpoint {mark}{pinned}\n  there are: {', '.join([*pins, *marks])}"
        )
    return mark


def drop(run: str, name: str) -> tuple[list[str], str]:
    """Remove a checkpoint and every later one, so that `genctr train` resumes from the one before. No job may be at work.

    Returns:
        the names of those removed, and of the newest one left.

    Raises:
        GenctrError: the run is trained daily, whose ledger would not go back with it; or no checkpoint would be left.
    """
    run = run.rstrip("/")
    config, _ = load(f"{run}/config.yaml")
    if PATHS.exists(f"{run}/{LEDGER}"):
        raise GenctrError(
            f"{run} is trained daily: its ledger has to go back with its model\n"
            "  next: `genctr daily RUN.yaml --backfill A..B --from CHECKPOINT` trains the days A to B again"
        )
    with Lease(run, seconds=config.daily.lease_seconds):
        checkpoints = checkpoints_of(run)
        marks = checkpoints.marks()
        gone = marks[marks.index(find(checkpoints, name)) :]
        if len(gone) == len(marks):
            raise GenctrError(
                f"{run}: no checkpoint would be left before {gone[0]}\n"
                f"  there are: {', '.join(marks)}\n  next: to begin with the first day, give a new --out"
            )
        checkpoints.drop(reversed(gone))  # the newest first: killed in between, the rest is still in order
    return gone, marks[-len(gone) - 1]


def open_named(path: str) -> CheckpointReader:
    """Open a checkpoint to be read: RUN/checkpoints/MARK, or a run folder, whose newest one is meant."""
    above, _, name = path.rstrip("/").rpartition("/")
    if above.endswith(f"/{CHECKPOINTS}") or above == CHECKPOINTS:
        checkpoints = checkpoints_of(above.removesuffix(CHECKPOINTS).rstrip("/") or ".")
        return CheckpointReader(checkpoints, find(checkpoints, name))
    checkpoints = checkpoints_of(path)
    return CheckpointReader(checkpoints, find(checkpoints, NEWEST))


def listed(checkpoints: Checkpoints) -> list[Listed]:
    """All whole checkpoints, oldest first."""
    pins = checkpoints.pins()
    return [
        _listed(checkpoints, mark, tuple(name for name, own in pins.items() if own == mark)) for mark in checkpoints.marks()
    ]


def _listed(checkpoints: Checkpoints, mark: str, pins: tuple[str, ...]) -> Listed:
    folder, meta = f"{checkpoints.root}/{mark}", checkpoints.read_meta(mark)
    cursor = meta["state"]["cursor"]
    files = list_folder(folder)
    return Listed(
        mark=mark,
        step=meta["step"],
        day=cursor["day"],
        row=cursor["row"] * cursor["lanes"],
        ranks=meta["ranks"],
        bytes=sum(file_bytes(f"{folder}/{file}") for file in files),
        files=sum(file.endswith(".distcp") for file in files),
        saved=modified(f"{folder}/{MARKER}"),
        pins=pins,
    )


def unfinished(checkpoints: Checkpoints) -> list[str]:
    """Folders that a save has begun and not finished: no checkpoints, gone after the next save."""
    marks = [*checkpoints.marks(), *checkpoints.damaged()]
    return [name for name in list_folder(checkpoints.root) if FOLDER.fullmatch(name) and name not in marks]


# Verify.


def verify_pins(checkpoints: Checkpoints) -> list[str]:
    """What is wrong with the pins: each must name a whole checkpoint."""
    try:
        pins, marks = checkpoints.pins(), checkpoints.marks()
    except (CheckpointError, KeyError, TypeError) as error:
        return [f"a pin cannot be read: {error}"]
    return [f"pin {name} names {mark}, which is not a whole checkpoint" for name, mark in pins.items() if mark not in marks]


def verify(checkpoints: Checkpoints, mark: str, *, advance: Advance) -> Verified:
    """Read every byte of a checkpoint: is each number of each tensor there once, and as it was written?

    The metadata says where the pieces of a tensor lie. Together they must cover it, each number once; each must be in its
    file, an archive of that size and type, with the CRC-32 that was stored when it was written. NaN and infinite numbers are
    counted; they are not damage.
    """
    found = Verified(mark)
    try:
        checkpoints.read_meta(mark)
        pieces = CheckpointReader(checkpoints, mark)
    except CheckpointError as error:
        found.problems.append(f"{error.what} ({error.where})")
        return found
    with pieces:
        lost = _lost_files(pieces, found)
        for name, stored in pieces.tensors.items():
            found.tensors += 1
            found.problems += [f"{name}: {gap}" for gap in gaps(stored)]
            if name not in pieces.paths:
                found.problems.append(f"{name}: the metadata does not say where it belongs")
            for chunk in stored.chunks:
                _verify_piece(pieces, name, chunk, lost, found, advance)
        for name in pieces.values:
            _verify_value(pieces, name, lost, found)
    return found


def stored_bytes(checkpoints: Checkpoints, mark: str) -> int:
    """[bytes] that `verify` will read of a checkpoint, if it can."""
    try:
        return CheckpointReader(checkpoints, mark).total_bytes
    except CheckpointError:
        return 0


def _lost_files(pieces: CheckpointReader, found: Verified) -> set[str]:
    """The files that are not there or too short, each reported once with what was in it."""
    held: dict[str, list[str]] = {}
    ends: dict[str, int] = {}
    for name, chunk in _everything(pieces):
        try:
            info = pieces.info(name, chunk)
        except CheckpointError:
            continue  # told when its turn comes
        held.setdefault(info.relative_path, []).append(shown(name, chunk))
        ends[info.relative_path] = max(ends.get(info.relative_path, 0), info.offset + info.length)
    lost = set()
    for file, end in ends.items():
        more = len(held[file]) - SHOWN
        inside = "; ".join(held[file][:SHOWN]) + (f"; and {more} more" if more > 0 else "")
        try:
            size = file_bytes(f"{pieces.folder}/{file}")
        except OSError:
            lost.add(file)
            found.problems.append(f"the file {file} is not there: it holds {inside}")
            continue
        if size < end:
            found.problems.append(f"the file {file} has {size:,} bytes, and should have {end:,}")
    return lost


def _everything(pieces: CheckpointReader) -> Iterator[tuple[str, ChunkStorageMetadata | None]]:
    for name, stored in pieces.tensors.items():
        for chunk in stored.chunks:
            yield name, chunk
    for name in pieces.values:
        yield name, None


def _verify_piece(
    pieces: CheckpointReader, name: str, chunk: ChunkStorageMetadata, lost: set[str], found: Verified, advance: Advance
) -> None:
    def see(block: Tensor) -> None:
        if block.is_floating_point() and (bad := int(block.numel() - block.isfinite().sum())):
            found.not_finite[name] = found.not_finite.get(name, 0) + bad
        advance(block.nbytes)

    try:
        if pieces.info(name, chunk).relative_path in lost:
            return
        pieces.check(name, chunk, see)
    except CheckpointError as error:
        found.problems.append(_inner(error))
    found.pieces += 1
    found.bytes += size_bytes(TensorStorageMetadata(pieces.tensors[name].properties, chunk.sizes, [chunk]))


def _verify_value(pieces: CheckpointReader, name: str, lost: set[str], found: Verified) -> None:
    try:
        if pieces.info(name, None).relative_path not in lost:
            torch.load(io.BytesIO(pieces.value(name)), weights_only=True)
            found.pieces += 1
    except CheckpointError as error:
        found.problems.append(_inner(error))
    except Exception as error:  # noqa: BLE001 - what a pickle raises when it is cut or altered is not listed anywhere
        found.problems.append(f"{name}: a plain value that cannot be read ({type(error).__name__})")


def _inner(error: CheckpointError) -> str:
    """What is wrong, without the name of the checkpoint."""
    return error.what.partition(" is damaged: ")[2]


# Compare.


def compare(left: CheckpointReader, right: CheckpointReader, *, advance: Advance) -> Compared:
    """Compare two open checkpoints, number by number; NaN is like NaN.

    Args:
        advance: called with the bytes of the left one.
    """
    names = {name: None for own in (left, right) for name in (*own.tensors, *own.values)}
    told = Compared()
    for name in names:
        here, there = ((name in own.tensors or name in own.values) for own in (left, right))
        if not there:
            told.left.append(name)
            advance(size_bytes(left.tensors[name]) if name in left.tensors else 0)
        elif not here:
            told.right.append(name)
        elif name in left.tensors and name in right.tensors:
            _compare_tensors(name, left, right, told, advance)
        elif name in left.tensors or name in right.tensors:
            told.sizes.append(f"{name}: a tensor in one, a plain value in the other")
        elif left.value(name) != right.value(name):
            told.values.append(name)
        else:
            told.same += 1
    flat = [_flat(own.meta) for own in (left, right)]
    for key in sorted(flat[0].keys() | flat[1].keys()):
        values = [own.get(key) for own in flat]
        if values[0] != values[1]:
            told.facts.append(f"{key}: {_short(values[0])}, {_short(values[1])}")
    return told


def _compare_tensors(name: str, left: CheckpointReader, right: CheckpointReader, told: Compared, advance: Advance) -> None:
    one, other = left.tensors[name], right.tensors[name]
    if one.size != other.size or one.properties.dtype != other.properties.dtype:
        kinds = [f"{list(own.size)} {str(own.properties.dtype).removeprefix('torch.')}" for own in (one, other)]
        told.sizes.append(f"{name}: {kinds[0]}, {kinds[1]}")
        advance(size_bytes(one))
        return
    differ, largest, squares = 0, 0.0, 0.0
    for first, last in left.blocks(name):
        a, b = left.rows(name, first, last), right.rows(name, first, last)
        if not torch.equal(a, b):
            few = max(1, FEW // max(1, math.prod(one.size[1:])))
            for part in zip(torch.split(_rows_of(a), few), torch.split(_rows_of(b), few), strict=True):
                rows, top, sum_ = _difference(*part)
                differ, largest, squares = differ + rows, max(largest, top), squares + sum_
        advance(a.nbytes)
    if differ:
        count = math.prod(one.size)
        told.differences.append(Difference(name, height(one), differ, largest, math.sqrt(squares / count)))
    else:
        told.same += 1


def _rows_of(block: Tensor) -> Tensor:
    return block.reshape(len(block) if block.dim() else 1, -1)


def _difference(a: Tensor, b: Tensor) -> tuple[int, float, float]:
    """How many rows differ, the largest difference, and the sum of its squares; of numbers that are finite in both."""
    other = a != b
    if a.is_floating_point():
        other &= ~(a.isnan() & b.isnan())
    gap = (a.double() - b.double()).masked_fill_(~other, 0.0)
    gap = gap[gap.isfinite()]
    return int(other.any(1).sum()), float(gap.abs().max()) if gap.numel() else 0.0, float(gap.square().sum())


def _flat(tree: object, prefix: str = "") -> dict[str, object]:
    """The leaves of what was saved next to the tensors; lists and meters are leaves."""
    if isinstance(tree, Mapping) and prefix != "meters":
        return {k: v for name, own in tree.items() for k, v in _flat(own, f"{prefix}.{name}" if prefix else str(name)).items()}
    return {prefix: tree}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else "…"
