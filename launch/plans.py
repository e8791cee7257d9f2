"""The tables of `genctr plan`: what every rank holds, where every table is, how long a step takes, what would fit."""

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console

from data.errors import GenctrError
from launch.tables import console, print_table
from pipeline.distributed.planner import TablePlan
from pipeline.planning.estimate import RankLine, StageEstimate

GIB = 2**30


def vocabulary_sizes(text: str) -> dict[str, int]:
    """What `--vocab-rows` says: a number for all tables, or one for each; "" stands for any.

    Raises:
        GenctrError: it says something else.
    """
    sizes = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.rpartition("=")
        try:
            rows = int(number)  # 1_000_000 too
        except ValueError:
            rows = 0
        if rows < 1:
            raise GenctrError(f"--vocab-rows {part!r}: write a number for all vocabularies, or TABLE=NUMBER,TABLE=NUMBER")
        sizes[name.strip()] = rows
    return sizes


def show(papers: Sequence[StageEstimate], *, usd_per_hour: float | None = None) -> None:
    """Print the plans of a run's stages."""
    here = console()
    for paper in papers:
        ask = paper.ask
        named = f"stage {paper.stage}: " if len(papers) > 1 else ""
        here.print(
            f"{named}{ask.ranks} ranks of {ask.device.name} on {ask.hosts} {'host' if ask.hosts == 1 else 'hosts'}, "
            f"{paper.batch_rows:,} rows a step"
        )
        here.print(
            f"tables and their optimizers {_gib(paper.needed)}; a rank has {_gib(paper.budget)} for them, next to a network of "
            f"{paper.network.weights:,} weights, {_gib(paper.network.bytes)} with its optimizer"
        )
        if paper.fits:
            _show_plan(here, paper, usd_per_hour)
        else:
            _show_advice(here, paper)
        for warning in paper.warnings:
            here.print(f"note: {warning}")


def _show_plan(here: Console, paper: StageEstimate, usd_per_hour: float | None) -> None:
    _show_tables(here, paper)
    _show_ranks(here, paper)
    _show_times(here, paper)
    if usd_per_hour is not None:
        hosts = paper.ask.hosts
        here.print(f"{paper.usd_per_billion(usd_per_hour):,.2f} USD a billion rows, at {usd_per_hour * hosts:,.2f} USD an hour")


def _show_tables(here: Console, paper: StageEstimate) -> None:
    """Where every table is, the largest first."""
    largest_first = sorted(paper.tables.items(), key=lambda item: -paper.bytes[item[0]])
    print_table(
        ["table", "rows>", "width>", "optimizer", "GiB>", "sharding", "kernel", "ranks"],
        (
            (
                *(name, f"{own.rows:,}", f"{own.width} {own.precision}", own.optimizer, f"{paper.bytes[name] / GIB:,.3f}"),
                *(own.sharding, own.kernel, _held_by(own)),
            )
            for name, own in largest_first
        ),
        here=here,
    )


def _show_ranks(here: Console, paper: StageEstimate) -> None:
    """What every rank holds."""
    cuda = paper.ask.device.kind == "cuda"
    elsewhere = ["main memory GiB>"] if cuda else []
    lines = []
    for alike in _alike(paper.ranks):
        line = paper.ranks[alike[0]]
        others = [f"{line.ddr / GIB:.2f}"] if cuda else []
        share = f"{line.memory / paper.budget:.0%}"
        lines.append([rank_ranges(alike), f"{line.memory / GIB:.2f}", share, *others, f"{line.lookup:.2f}"])
    headings = ["ranks", "GPU GiB>" if cuda else "memory GiB>", "of>", *elsewhere, "look-ups ms>"]
    print_table(headings, lines, here=here)


def _show_times(here: Console, paper: StageEstimate) -> None:
    """How long a step takes."""
    times = paper.times
    assert times is not None
    parts = {**times.__dict__, "a step": times.step}
    headings = [f"{'look-ups' if name == 'lookup' else name} ms>" for name in parts]
    figures = [*(f"{value:.2f}" for value in parts.values()), f"{paper.rows_per_second:,.0f}"]
    print_table([*headings, "rows/s>"], [figures], keys=0, here=here)


def _show_advice(here: Console, paper: StageEstimate) -> None:
    here.print("[bold]it does not fit[/bold]; each of these by itself:")
    lines = []
    for own in paper.advice:
        figures = (f"{own.most / GIB:.1f}", f"{own.step:.1f}") if own.fits else ("", "")
        lines.append([own.what, "yes" if own.fits else "no", *figures, own.settings])
    print_table(["what", "fits", "fullest rank GiB>", "a step ms>", "how"], lines, here=here)
    if not any(own.fits for own in paper.advice):
        here.print("none is enough: take fewer rows, narrower tables or larger GPUs, or several of these together")


def _held_by(own: TablePlan) -> str:
    return rank_ranges(sorted({shard[0] for shard in own.shards}))


def _alike(lines: Sequence[RankLine]) -> list[list[int]]:
    """Ranks next to each other that hold as much."""
    return [list(ranks) for _, ranks in groupby(range(len(lines)), key=lambda rank: lines[rank])]


def rank_ranges(ranks: Sequence[int]) -> str:
    """0-7 for eight of them, 0, 3 for two apart."""
    runs = [list(run) for _, run in groupby(ranks, key=lambda rank: rank - ranks.index(rank))]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f} GiB"
