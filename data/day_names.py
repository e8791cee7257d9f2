"""Names of days, and ranges of them in run files and on the command line."""

import re
from collections.abc import Sequence
from datetime import date, timedelta

from data.errors import GenctrError
from data.times import named_like

MOST_DAYS = 36_525
"""[days] of the longest range: a century."""

DATE = r"\d{4}-\d{2}-\d{2}"


def open_end(days: str | Sequence[str]) -> bool:
    """Whether the days go on without an end, as "2026-11-01.." does."""
    return (days if isinstance(days, str) else next(iter(days[-1:]), "")).endswith("..")


def goes_on_to(days: str | Sequence[str], day: str) -> bool:
    """Whether days without an end come to a later one."""
    last = parse_days(days)[-1]
    return open_end(days) and re.fullmatch(rf"{DATE}|\d{{8}}", day) is not None and len(day) == len(last) and day > last


def parse_days(days: str | Sequence[str]) -> list[str]:
    """The names of days: "2026-11-01..2026-11-05" is five, a list may mix names and ranges. Of "2026-11-01..", which only a
    daily job can follow, the first.

    Raises:
        GenctrError: a date that is not in the calendar, a range that ends before it begins or never and is not the last one, a
            day named twice.
    """
    if isinstance(days, str):
        first, dots, last = days.partition("..")
        if not dots:
            if re.fullmatch(DATE, days):
                _date(days)
            return [days]
        begin = _date(first)
        end = _date(last) if last else begin
        if end < begin:
            raise GenctrError(f"days {days!r}: the range ends before it begins\n  expected: '{last}..{first}'")
        if (count := (end - begin).days + 1) > MOST_DAYS:
            raise GenctrError(f"days {days!r} are {count:,}\n  expected: at most {MOST_DAYS:,}; '{first}..' has no end")
        return [named_like(first, begin + timedelta(days=n)) for n in range(count)]
    if endless := [part for part in days[:-1] if part.endswith("..")]:
        raise GenctrError(
            f"days {endless[0]!r} have no end, so no others can follow them\n  next: put them last, or name an end"
        )
    names = [name for part in days for name in parse_days(part)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise GenctrError(f"days named twice: {', '.join(twice)}\n  next: name every day once; use epochs to repeat them")
    return names


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise GenctrError(f"{text!r} is not a date: {error}\n  expected: a day such as 2026-11-20") from error
