"""The errors a user can fix: what is wrong, where, what was expected, what to do next."""

import re
import unicodedata

UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of what moves, colours or hides other text: control characters, marks of direction, lone surrogates,
line breaks of other kinds."""

FILLERS = "\u115f\u1160\u3164\uffa0\u2800\u034f"
"""Letters and marks that show nothing: two names that differ in one of them look alike."""

LONGEST = 1000
"""[characters] of a word that are shown: longer than any path of a store, and no name of a column."""


def visible(text: str, *, keep: str = "") -> str:
    r"""The text with every character that a terminal would obey, or not show, as an escape such as \x1b.

    >>> visible("day\x1b[31m")
    'day\\x1b[31m'

    Args:
        text: anything.
        keep: characters that stay, such as line breaks of our own.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if letter in keep or _is_seen(letter) else ascii(letter)[1:-1] for letter in text)


def _is_seen(letter: str) -> bool:
    return unicodedata.category(letter) not in UNSEEN and letter not in FILLERS


def shortened(text: str) -> str:
    """The text without the middle of words that are too long for anyone to read.

    >>> shortened("x" * 5000)[490:520]
    'xxxxxxxxxx… (4,000 more)xxxxxx'
    """
    return re.sub(rf"\S{{{LONGEST + 1},}}", lambda word: _without_middle(word[0]), text)


def _without_middle(word: str) -> str:
    half = LONGEST // 2
    return f"{word[:half]}… ({len(word) - 2 * half:,} more){word[-half:]}"


_SECRETS = (
    (re.compile(r"(\w://)[^/\s:@]+:[^/\s@]+@"), r"\1***@"),
    (re.compile(r"(?i)((?:secret|token|password|signature|sig|access)[\w-]*=)(?!\$\{)[^&\s\"']+"), r"\1***"),
)


def masked(text: str) -> str:
    """The text without the keys and passwords of the URIs in it.

    >>> masked("cannot open s3://key:secret@logs/feed?access_token=abc&region=eu")
    'cannot open s3://***@logs/feed?access_token=***&region=eu'
    """
    for pattern, instead in _SECRETS if "://" in text else ():
        text = pattern.sub(instead, text)
    return text


class GenctrError(ValueError):
    """Anything a user can fix. The command prints it without a traceback and ends with `exit_code`."""

    exit_code = 2


class BadDocument(GenctrError):
    """A config or schema file that cannot be read as written."""


class OldKeys(BadDocument):
    """A document of an earlier version: some of its keys have another name now."""


class BadInput(GenctrError):
    """Log data that is not what the schema says.

    Args:
        what: one sentence, what is wrong.
        file, row_group, row, column: where; `row` counts from 0 inside the file.
        expected: what would have been right.
        hint: what to do next.
    """

    def __init__(
        self,
        what: str,
        *,
        file: str | None = None,
        row_group: int | None = None,
        row: int | None = None,
        column: str | None = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.what, self.file, self.row_group, self.row, self.column = what, file, row_group, row, column
        self.expected, self.hint = expected, hint
        place = {"file": file, "row group": row_group, "row": row, "column": column}
        where = ", ".join(f"{name} {shortened(visible(str(value)))}" for name, value in place.items() if value is not None)
        lines = [what, f"  where: {where}" if where else "", f"  expected: {expected}" if expected else ""]
        lines.append(f"  next: {hint}" if hint else "")
        super().__init__("\n".join(shortened(line) for line in lines if line))
