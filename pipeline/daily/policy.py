"""What the daily job does next, and why: decided by the ledger, the log and the policies alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Literal

from data.day_names import open_end, parse_days
from data.days import Days
from data.errors import GenctrError
from pipeline.config.daily import DailyConfig
from pipeline.config.run import RunConfig
from pipeline.daily.gates import Evidence, judge
from pipeline.daily.ledger import History, next_date


class OperatorRequired(GenctrError):
    """Somebody has to decide: the log is not what it was, or a day is missing."""

    exit_code = 4


@dataclass(frozen=True)
class Action:
    """What is next.

    Args:
        kind: train a day (or finish it); skip one that never came; leave late files; go back to before a day; wait; or stop
            and have a person decide.
        day: the day. files: late ones, by name below the log's root. why: a sentence.
    """

    kind: Literal["train", "skip", "leave", "rewind", "wait", "stop"]
    day: str = ""
    why: str = ""
    files: tuple[str, ...] = ()


def decide(
    history: History,
    found: Sequence[str],
    sizes: Callable[[str], Mapping[str, int]],
    config: DailyConfig,
    *,
    rows: Callable[[str], Mapping[str, int]] = lambda day: {},
    first: str,
    until: str | None,
    asked: Callable[[str], bool] = lambda day: True,
    now: datetime,
) -> Action:
    """The next action.

    Args:
        history: what the ledger says. found: the complete days of the log. sizes: [bytes] of a day's files, by name.
        rows: [rows] of them; nothing if they are not to be compared.
        first: the day to begin with. until: the last day to take up; None for all. asked: whether a day between is to be taken
            up at all. now: for the deadline of missing days.
    """
    last = history.last
    if last is not None and not last.is_done:
        return Action("train", last.name, "it was begun")
    for day in found:
        if history.was_taken_up(day) and (action := _compared(history, day, sizes(day), rows(day), config)):
            return action
    wanted = _wanted(history, first, until, asked)
    dates = wanted is not None  # a folder that is not a date is then no day of this log
    coming = [day for day in sorted(found) if day >= first and asked(day) and (not dates or _is_date_like(first, day))]
    return _next(history, coming, config, wanted, until, now)


def _is_date_like(first: str, day: str) -> bool:
    """Whether a day is a date, and written as the first one is: 2026-11-05 and 20261105 sort in two places."""
    return next_date(day) is not None and len(day) == len(first)


def _compared(
    history: History, day: str, sizes: Mapping[str, int], rows: Mapping[str, int], config: DailyConfig
) -> Action | None:
    """Is a trained day what it was?"""
    trained = history.files(day)
    gone = sorted(name for name, own in trained.items() if sizes.get(name) != own["size"])
    told = [f"{name} is gone" for name in gone if name not in sizes]
    told += [f"{name} cannot be opened" for name in gone if sizes.get(name, 0) < 0]
    told += [f"{name} has {sizes[name]} bytes, had {trained[name]['size']}" for name in gone if sizes.get(name, -1) >= 0]
    had = {name: own["rows"] + own["skipped"] for name, own in trained.items()} if rows else {}
    told += [f"{name} has {rows[name]} rows, had {had[name]}" for name in sorted(had) if rows.get(name, had[name]) != had[name]]
    if told:
        why = f"day {day} has changed since it was trained: {told[0]}"
        if config.on_changed_files == "retrain_from":
            return Action("rewind", day, why)
        return Action("stop", day, f"{why}\n  next: bring the files back, or set daily.on_changed_files to retrain_from")
    late = tuple(sorted(sizes.keys() - trained.keys() - history.untrained_files(day, sizes)))
    if not late:
        return None
    why = f"{len(late)} files came to day {day} after it was {'trained' if trained else 'skipped'}, such as {late[0]}"
    if config.on_late_files == "append":
        return Action("train", f"{day}+{len(history.names(day))}", why, late)
    if config.on_late_files == "ignore":
        return Action("leave", day, why, late)
    return Action("stop", day, f"{why}\n  next: set daily.on_late_files to append or ignore, or take the files away")


def _wanted(history: History, first: str, until: str | None, asked: Callable[[str], bool]) -> str | None:
    """The day that is to come after the last; None if days are not dates."""
    last = history.last_day
    wanted = next_date(last) if last is not None else first if next_date(first) is not None else None
    while wanted is not None and not asked(wanted) and (until is None or wanted < until):
        wanted = next_date(wanted)
    return wanted


def _next(
    history: History, days: Sequence[str], config: DailyConfig, wanted: str | None, until: str | None, now: datetime
) -> Action:
    """The day after the last."""
    last = history.last_day
    coming = [day for day in days if (last is None or day > last) and (until is None or day <= until)]
    if not coming:
        if until is not None and last is not None and last >= until:
            return Action("wait", until, f"day {until} is done, the last that was asked for")
        return Action("wait", wanted or "", f"day {wanted} is not there yet" if wanted else "no new day is there")
    if wanted is None or coming[0] <= wanted:
        return Action("train", coming[0], "it is complete")
    deadline = _end(wanted) + timedelta(hours=config.missing_day_grace_hours)
    why = f"day {wanted} is missing, {coming[0]} is there"
    if config.on_missing_day == "stop" or (config.on_missing_day == "wait" and now >= deadline):
        return Action("stop", wanted, f"{why}\n  next: bring day {wanted}, or set daily.on_missing_day to skip")
    if now < deadline:
        return Action("wait", wanted, f"{why}; it may come until {deadline:%Y-%m-%d %H:%M} UTC")
    return Action("skip", wanted, why)


def _end(day: str) -> datetime:
    return datetime.combine(date.fromisoformat(day) + timedelta(days=1), datetime.min.time(), UTC)


def last_day(config: RunConfig, until: str | None) -> str | None:
    """The last day to take up; None for all there are.

    Raises:
        GenctrError: `until` is not a date, and the days are: it would be compared letter by letter.
    """
    first = parse_days(config.data.days)[0]
    dates = next_date(first) is not None
    if until is not None and dates and not _is_date_like(first, until) and until != str(date.max):
        raise GenctrError(f"--until {until!r} is not a date\n  expected: a day such as {first}")
    return until or (None if open_end(config.data.days) else parse_days(config.data.days)[-1])


def next_action(history: History, config: RunConfig, days: Days, until: str | None) -> Action:
    """What a daily job of this config does next."""
    names, found = parse_days(config.data.days), days.list()
    named, last = set(names), names[-1] if open_end(config.data.days) else None
    sizes = days.sizes_of(day for day in found if history.was_taken_up(day))
    return decide(
        history,
        found,
        lambda day: sizes[day],
        config.daily,
        rows=days.rows if config.daily.file_identity == "rows" else lambda day: {},
        first=names[0],
        until=until,
        asked=lambda day: day in named or (last is not None and day > last),
        now=datetime.now(UTC),
    )


def check(config: RunConfig) -> None:
    """Refuse what no night can do, before a day is trained; `config`: of the last stage.

    Raises:
        GenctrError: days would not be trained once each, or are not named in their order, or nobody knows a gate.
    """
    if config.train.epochs != 1 or config.train.early_stop is not None or config.train.max_steps is not None:
        raise GenctrError("a daily job trains every day once: set train.epochs to 1, and early_stop and max_steps to null")
    names = parse_days(config.data.days)
    if moved := [name for before, name in pairwise(names) if name < before]:
        raise GenctrError(
            f"data.days: a daily job takes days up in the order of their names, and {moved[0]} is named after a later one: it "
            "would never be trained\n  next: name the days in their order"
        )
    judge(Evidence(), config.daily.gates)
