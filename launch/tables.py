"""Tables on standard output: as wide as the terminal, or wide enough for a file."""

import sys
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.errors import visible

WIDTH = 200
"""[columns] of what is printed where there is no terminal."""


def console() -> Console:
    """Standard output, which elsewhere than on a terminal is wide enough for every table."""
    file: TextIO = getattr(sys.stdout, "raw", sys.stdout)
    here = Console(file=file)
    return here if here.is_terminal else Console(file=file, width=WIDTH)


def table(headings: Iterable[str], lines: Iterable[Iterable[str]] = ()) -> Table:
    """A table; a heading that ends in `>` stands over numbers, which go to the right."""
    made = Table()
    for heading in headings:
        made.add_column(
            Text(visible(heading.rstrip(">"))), justify="right" if heading.endswith(">") else "left", overflow="fold"
        )
    for line in lines:
        made.add_row(*(Text(visible(cell, keep="\n")) for cell in line))
    return made


def print_table(headings: Iterable[str], lines: Iterable[Iterable[str]]) -> None:
    """Print a table, see `table`."""
    console().print(table(headings, lines))
