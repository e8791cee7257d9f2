"""Tables on standard output: as wide as the terminal, or wide enough for a file."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

WIDTH = 200
"""[columns] of what is printed where there is no terminal."""


def console() -> Console:
    """Standard output, which elsewhere than on a terminal is wide enough for every table."""
    here = Console()
    return here if here.is_terminal else Console(width=WIDTH)


def table(headings: Iterable[str], lines: Iterable[Iterable[str]] = ()) -> Table:
    """A table; a heading that ends in `>` stands over numbers, which go to the right."""
    made = Table()
    for heading in headings:
        made.add_column(heading.rstrip(">"), justify="right" if heading.endswith(">") else "left", overflow="fold")
    for line in lines:
        made.add_row(*line)
    return made


def print_table(headings: Iterable[str], lines: Iterable[Iterable[str]]) -> None:
    """Print a table, see `table`."""
    console().print(table(headings, lines))
