"""Tables on standard output: as wide as the terminal, or wide enough for a file."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.errors import shortened, visible

WIDTH = 200
"""[columns] of what is printed where there is no terminal."""

FRAME = 3
"""[columns] of the line and the blanks around a cell."""


def console() -> Console:
    """Standard output, which elsewhere than on a terminal is wide enough for every table."""
    file: TextIO = getattr(sys.stdout, "raw", sys.stdout)
    here = Console(file=file)
    return here if here.is_terminal else Console(file=file, width=WIDTH)


def table(headings: Iterable[str], lines: Iterable[Iterable[str]] = (), *, keys: int = 0) -> Table:
    """A table; a heading that ends in `>` stands over numbers, which go to the right. The first `keys` columns are never cut
    while another one can be."""
    made = Table()
    for at, heading in enumerate(headings):
        made.add_column(
            Text(_cell(heading.rstrip(">"))),
            justify="right" if heading.endswith(">") else "left",
            overflow="fold",
            no_wrap=at < keys,
        )
    for line in lines:
        made.add_row(*(Text(_cell(cell)) for cell in line))
    return made


def _cell(text: str) -> str:
    """What a cell shows: a line break of a name could draw a row of its own."""
    return shortened(visible(text))


def tables(headings: Sequence[str], lines: Sequence[Sequence[str]], *, keys: int, width: int) -> Iterator[Table]:
    """One table, or where it is wider than `width` several one below the other, each with the first `keys` columns, so that a
    reader of any of them knows what its lines are about."""
    columns = [[heading.rstrip(">"), *(line[at] for line in lines)] for at, heading in enumerate(headings)]
    sizes = [max(cell_len(_cell(cell)) for cell in own) + FRAME for own in columns]
    blocks: list[list[int]] = [[]]
    for at in range(keys, len(headings)):
        if blocks[-1] and 1 + sum(sizes[:keys]) + sum(sizes[own] for own in blocks[-1]) + sizes[at] > width:
            blocks.append([])
        blocks[-1].append(at)
    for block in blocks:
        shown = [*range(keys), *block]
        yield table([headings[at] for at in shown], [[line[at] for at in shown] for line in lines], keys=keys)


def print_table(headings: Sequence[str], lines: Iterable[Sequence[str]], *, keys: int = 1, here: Console | None = None) -> None:
    """Print a table, see `tables`, on `here` or standard output."""
    here = here or console()
    for own in tables(headings, list(lines), keys=keys, width=here.width):
        here.print(own)
