"""Standard streams to which only visible text is written."""

import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

from data.errors import masked, visible


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
