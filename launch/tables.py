"""Tables on standard output: as wide as the terminal, or wide enough for a file."""

import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.errors import masked, visible

WIDTH = 200
"""[columns] of what is printed where there is no terminal."""


class Visible:
    """A standard stream to which nothing is written that a terminal obeys or does not show, and no password of a URI: names and
    values of logs hold anything.

    What writes colours and bars of our own takes `raw`, and shows names by `data.errors.visible`.
    """

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        """Write text, with escapes for what is not visible, or not of the stream's encoding."""
        encoding = self.raw.encoding or "utf-8"
        self.raw.write(visible(masked(text), keep="\n\t").encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write one after the other."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def show_only_the_visible() -> None:
    """Wrap this process's standard streams."""
    sys.stdout, sys.stderr = (cast(TextIO, Visible(own)) for own in (sys.stdout, sys.stderr))


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
