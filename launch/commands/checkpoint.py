"""The words of `genctr ckpt`: what it is asked, and how it shows what it found."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from data.errors import GenctrError
from launch.arguments import add_quiet

if TYPE_CHECKING:
    from pipeline.checkpoint.inspect import Compared
    from pipeline.checkpoint.manager import Checkpoints

MIB = 2**20
SHOWN = 20
"""[lines] of differences that are shown without --all."""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `ckpt` and its words to the commands."""
    words = commands.add_parser("ckpt", help="look at the checkpoints of a run, verify, compare and move them").add_subparsers(
        required=True, metavar="WORD"
    )

    ls = words.add_parser("ls", help="the checkpoints of a run: step, day, ranks, size, pins")
    ls.add_argument("run", metavar="RUN_DIR")
    ls.set_defaults(command=_ls)

    show = words.add_parser("show", help="what one checkpoint holds: its tensors, and what was saved next to them")
    _add_checkpoint(show)
    show.set_defaults(command=_show)

    verify = words.add_parser("verify", help="read every byte: is it all there, once, and as it was written?")
    _add_checkpoint(verify, several="or all", default="all")
    add_quiet(verify)
    verify.set_defaults(command=_verify)

    diff = words.add_parser("diff", help="compare two checkpoints, number by number; exit code 1 if they differ")
    for side in ("left", "right"):
        diff.add_argument(side, metavar="CHECKPOINT", help="RUN_DIR/checkpoints/MARK, or RUN_DIR for its newest")
    diff.add_argument("--all", action="store_true", help=f"every line, not the first {SHOWN}")
    add_quiet(diff)
    diff.set_defaults(command=_diff)

    drop = words.add_parser("drop", help="remove a checkpoint and all later ones: `genctr train` resumes from the one before")
    drop.add_argument("run", metavar="RUN_DIR")
    drop.add_argument("mark", metavar="MARK", help="the first checkpoint to remove: its name or a pin's")
    drop.set_defaults(command=_drop)

    reshard = words.add_parser("reshard", help="write a checkpoint again, as another number of ranks would have")
    _add_checkpoint(reshard, several="or all (with --out)")
    reshard.add_argument("--ranks", type=_count, required=True, metavar="N", help="[files] it shall have, one a rank")
    _add_out(reshard)
    reshard.set_defaults(command=_reshard)

    grow = words.add_parser("grow", help="write a checkpoint again with a larger table")
    _add_checkpoint(grow)
    grow.add_argument("--table", required=True, metavar="T")
    grow.add_argument("--rows", type=_count, required=True, metavar="V", help="[rows] as the schema will say")
    _add_out(grow)
    grow.set_defaults(command=_grow)

    export = words.add_parser("export-table", help="one table as Parquet: row, raw id where it is known, vector")
    _add_checkpoint(export)
    export.add_argument("--table", required=True, metavar="T")
    export.add_argument("--out", required=True, metavar="FILE.parquet")
    add_quiet(export)
    export.set_defaults(command=_export)


def _add_out(parser: argparse.ArgumentParser) -> None:
    text = "a new run folder, with everything else of the run too; default: next to the others, as the newest of its step"
    parser.add_argument("--out", metavar="DIR", help=text)
    add_quiet(parser)


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number from 1 on")
    return int(word)


def _add_checkpoint(parser: argparse.ArgumentParser, *, several: str = "", default: str = "newest") -> None:
    parser.add_argument("run", metavar="RUN_DIR")
    text = f"a checkpoint's name, a pin's, newest {several}".rstrip() + f"; default {default}"
    parser.add_argument("mark", metavar="MARK", nargs="?", default=default, help=text)


def _ls(arguments: argparse.Namespace) -> int:
    from launch.tables import print_table
    from pipeline.checkpoint.inspect import checkpoints_of, listed, unfinished

    checkpoints = checkpoints_of(arguments.run)
    lines = [
        [
            own.mark,
            f"{own.step:,}",
            own.day,
            f"{own.row:,}",
            str(own.ranks),
            str(own.files),
            f"{own.bytes / MIB:,.1f}",
            own.saved.astimezone().strftime("%Y-%m-%d %H:%M") if own.saved else "",
            ", ".join(own.pins),
        ]
        for own in listed(checkpoints)
    ]
    print_table(["mark", "step>", "day", "row>", "ranks>", "files>", "MiB>", "saved", "pins"], lines)
    for name in unfinished(checkpoints):
        print(f"{name}: not finished, no checkpoint; it goes with the next save")
    for name in checkpoints.damaged():
        print(f"{name}: found damaged and set aside; remove the folder when nobody wants to look at it any more")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from launch.tables import print_table
    from pipeline.checkpoint.inspect import checkpoints_of, find
    from pipeline.checkpoint.reader import CheckpointReader, size_bytes

    checkpoints = checkpoints_of(arguments.run)
    mark = find(checkpoints, arguments.mark)
    meta = checkpoints.read_meta(mark)
    with CheckpointReader(checkpoints, mark) as pieces:
        print_table(
            ["tensor", "size>", "type", "pieces>", "MiB>"],
            [
                [
                    name,
                    " × ".join(f"{side:,}" for side in stored.size) or "1",
                    str(stored.properties.dtype).removeprefix("torch."),
                    str(len(stored.chunks)),
                    f"{size_bytes(stored) / MIB:,.2f}",
                ]
                for name, stored in pieces.tensors.items()
            ]
            + [[name, "", "a plain value", "1", ""] for name in pieces.values],
        )
    state = meta["state"]
    cursor = state["cursor"]
    print(f"{mark}: step {meta['step']:,}, {state['rows']:,} rows trained; ranks: {meta['ranks']}")
    print(f"cursor: epoch {cursor['epoch']}, day {cursor['day']}, row {cursor['row'] * cursor['lanes']:,}")
    rows, _, skipped = meta["tally"]
    day = "this day" if cursor["row"] else "the day that had just ended"  # the cursor is at the beginning of the next
    print(f"of {day}: {sum(rows):,} rows of {len(rows)} files trained, {sum(skipped):,} skipped")
    others = {key: value for key, value in state.items() if key not in ("step", "rows", "cursor") and value not in ({}, None)}
    print(f"state: {_pairs(others)}")
    print(f"versions: {_pairs(meta['versions'])}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from pipeline.checkpoint.inspect import ALL, checkpoints_of, find, stored_bytes, verify, verify_pins

    checkpoints = checkpoints_of(arguments.run)
    every = arguments.mark == ALL
    marks = checkpoints.marks() if every else [find(checkpoints, arguments.mark)]
    problems = verify_pins(checkpoints) if every else []
    for line in problems:
        print(line)
    for mark in marks:
        with _moving(stored_bytes(checkpoints, mark), f"verify {mark}", quiet=arguments.quiet) as advance:
            found = verify(checkpoints, mark, advance=advance)
        problems += found.problems
        told = "whole" if not found.problems else "DAMAGED"
        print(f"{mark}: {told}, {found.tensors} tensors in {found.pieces} pieces, {found.bytes / MIB:,.1f} MiB read")
        for line in found.problems:
            print(f"  {line}")
        for name, count in found.not_finite.items():
            print(f"  {name}: {count:,} numbers are not finite")
    return 1 if problems else 0


def _drop(arguments: argparse.Namespace) -> int:
    from pipeline.checkpoint.inspect import drop

    dropped, newest = drop(arguments.run, arguments.mark)
    print(f"removed: {', '.join(dropped)}; the run resumes from {newest}")
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    from pipeline.checkpoint.inspect import compare, open_named

    with open_named(arguments.left) as left, open_named(arguments.right) as right:
        with _moving(left.total_bytes, "diff", quiet=arguments.quiet) as advance:
            told = compare(left, right, advance=advance)
        _print_difference(told, left.folder, right.folder, limit=10**9 if arguments.all else SHOWN)
    return 0 if told.equal else 1


def _reshard(arguments: argparse.Namespace) -> int:
    from pipeline.checkpoint.inspect import ALL, checkpoints_of, find
    from pipeline.checkpoint.reader import CheckpointReader
    from pipeline.checkpoint.rewrite import RunFolder, destination, rewrite

    source = checkpoints_of(arguments.run)
    if arguments.mark == ALL and arguments.out is None:
        raise GenctrError("all checkpoints can be written again in a new run folder only\n  next: name it with --out")
    marks = source.marks() if arguments.mark == ALL else [find(source, arguments.mark)]
    moved = {}
    with destination(RunFolder.open(arguments.run), source, arguments.out) as target:
        for mark in marks:
            with (
                CheckpointReader(source, mark) as pieces,
                _moving(pieces.total_bytes, f"reshard {mark}", quiet=arguments.quiet) as advance,
            ):
                moved[mark] = rewrite(pieces, target, pieces.meta, ranks=arguments.ranks, advance=advance)
        if arguments.out is not None:
            _move_pins(source, target, moved)
    for mark, new in moved.items():
        print(f"{mark} is {target.root}/{new}, in {arguments.ranks} files")
    return 0


def _move_pins(source: "Checkpoints", target: "Checkpoints", moved: Mapping[str, str]) -> None:
    for name, mark in source.pins().items():
        if mark in moved:
            target.pin(name, moved[mark])
        else:
            print(f"pin {name} stays behind: {mark} was not moved")


def _grow(arguments: argparse.Namespace) -> int:
    from pipeline.checkpoint.inspect import checkpoints_of, find
    from pipeline.checkpoint.reader import CheckpointReader
    from pipeline.checkpoint.rewrite import RunFolder, destination, grow, rewrite

    source, run, table = checkpoints_of(arguments.run), RunFolder.open(arguments.run), arguments.table
    mark = find(source, arguments.mark)
    with CheckpointReader(source, mark) as pieces:
        grown = grow(run, pieces, table, arguments.rows)
        with (
            destination(run, source, arguments.out, rows={table: arguments.rows}) as target,
            _moving(grown.total_bytes, f"grow {table}", quiet=arguments.quiet) as advance,
        ):
            new = rewrite(grown, target, pieces.meta, ranks=pieces.meta["ranks"], advance=advance)
            if arguments.out is not None:
                _move_pins(source, target, {mark: new})
        print(f"{mark} is {target.root}/{new}, {len(grown.grown)} tensors with {grown.now:,} rows")
    if arguments.out is None:
        print(
            f"next: say `rows: {arguments.rows}` for {table} in the schema, and put the line that is refused into "
            "daily.accept_changes"
        )
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from pipeline.checkpoint.inspect import checkpoints_of, find
    from pipeline.checkpoint.reader import CheckpointReader, size_bytes
    from pipeline.checkpoint.rewrite import RunFolder, export_table, table_named

    checkpoints, run = checkpoints_of(arguments.run), RunFolder.open(arguments.run)
    with CheckpointReader(checkpoints, find(checkpoints, arguments.mark)) as pieces:
        name = table_named(pieces, arguments.table)
        with _moving(size_bytes(pieces.tensors[name]), f"export {arguments.table}", quiet=arguments.quiet) as advance:
            rows = export_table(run, pieces, name, arguments.out, advance=advance)
    print(f"{rows:,} rows of {arguments.table} in {arguments.out}")
    return 0


def _print_difference(told: "Compared", left: str, right: str, *, limit: int) -> None:
    from launch.tables import print_table

    def lines(title: str, own: list[str]) -> None:
        for line in own[:limit]:
            print(f"{title}: {line}")
        if len(own) > limit:
            print(f"{title}: … and {len(own) - limit} more")

    lines(f"only in {left}", told.left)
    lines(f"only in {right}", told.right)
    lines("another size or type", told.sizes)
    lines("another value", told.values)
    if told.differences:
        shown = [
            [own.name, f"{own.rows:,}", f"{own.differ:,}", f"{own.largest:.3g}", f"{own.rms:.3g}"]
            for own in told.differences[:limit]
        ]
        print_table(["tensor", "rows>", "rows that differ>", "largest>", "RMS>"], shown)
        if len(told.differences) > limit:
            print(f"… and {len(told.differences) - limit} more tensors differ")
    lines("saved next to the tensors", told.facts)
    print(f"{told.same} tensors are the same{'' if told.equal else ', ' + str(len(told.differences)) + ' differ'}")


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


@contextmanager
def _moving(total: int, label: str, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Progress in MiB; yields a function that takes the [bytes] just done."""
    from pipeline.run_folder.progress import Progress

    done = 0
    with Progress(_mib(total), label, shown=True, plain=quiet, unit="MiB") as progress:

        def advance(count: int) -> None:
            nonlocal done
            before, done = done, done + count
            progress.advance(_mib(done) - _mib(before))

        yield advance


def _mib(count: int) -> int:
    """[MiB] that have begun."""
    return -(-count // MIB)
