from datetime import UTC, datetime

import pytest

from pipeline.config.daily import DailyConfig
from pipeline.daily.ledger import fold
from pipeline.daily.policy import Action, decide

NOON = datetime(2026, 11, 4, 12, tzinfo=UTC)


def done(*days: str) -> list[dict]:
    entries: list[dict] = []
    for day in days:
        entries.append({"event": "trained", "day": day, "files": {f"{day}/a": {"size": 5}}, "quarantined": {}})
        entries.append({"event": "judged", "day": day, "publish": False, "bundle": day, "answers": []})
    return entries


def next_of(entries: list[dict], found: list[str], sizes: dict | None = None, until: str | None = None, **config) -> Action:
    sizes = sizes or {}
    return decide(
        fold(entries),
        found,
        lambda day: sizes.get(day, {f"{day}/a": 5}),
        DailyConfig(**config),
        first="2026-11-01",
        until=until,
        now=NOON,
    )


def kind(action: Action) -> tuple[str, str]:
    return action.kind, action.day


def test_the_first_day_then_the_next_then_wait() -> None:
    found = ["2026-10-31", "2026-11-01", "2026-11-02"]
    assert kind(next_of([], found)) == ("train", "2026-11-01")
    assert kind(next_of(done("2026-11-01"), found)) == ("train", "2026-11-02")
    assert kind(next_of(done("2026-11-01", "2026-11-02"), found)) == ("wait", "2026-11-03")


def test_a_begun_day_is_finished_first() -> None:
    entries = [*done("2026-11-01"), {"event": "scored", "day": "2026-11-02"}]
    assert kind(next_of(entries, ["2026-11-01", "2026-11-02", "2026-11-03"])) == ("train", "2026-11-02")


def test_until() -> None:
    found = ["2026-11-01", "2026-11-02", "2026-11-03"]
    assert kind(next_of(done("2026-11-01"), found, until="2026-11-02")) == ("train", "2026-11-02")
    assert next_of(done("2026-11-01", "2026-11-02"), found, until="2026-11-02").kind == "wait"


@pytest.mark.parametrize(
    ("gap", "hours", "expected"),
    [
        ("stop", 0, "stop"),
        ("wait", 12.1, "wait"),
        ("wait", 11.9, "stop"),
        ("skip", 12.1, "wait"),
        ("skip", 11.9, "skip"),
    ],
)
def test_a_missing_day(gap: str, hours: float, expected: str) -> None:
    found = ["2026-11-02", "2026-11-04"]  # the third ended twelve hours ago
    action = next_of(done("2026-11-02"), found, on_missing_day=gap, missing_day_grace_hours=hours)
    assert kind(action) == (expected, "2026-11-03")
    assert "2026-11-04 is there" in action.why


def test_days_that_are_no_dates_have_no_gaps() -> None:
    history = fold(done("a"))
    action = decide(history, ["a", "c"], lambda _: {"a/a": 5}, DailyConfig(), first="a", until=None, now=NOON)
    assert kind(action) == ("train", "c")
    action = decide(fold([]), ["c"], lambda _: {"c/c": 5}, DailyConfig(), first="b", until=None, now=NOON)
    assert kind(action) == ("train", "c")


def test_a_day_that_left_the_log_is_no_change() -> None:
    assert kind(next_of(done("2026-11-01"), ["2026-11-02"])) == ("train", "2026-11-02")


@pytest.mark.parametrize(("policy", "expected"), [("refuse", "stop"), ("retrain_from", "rewind")])
@pytest.mark.parametrize("sizes", [{}, {"2026-11-01/a": 6}, {"2026-11-01/b": 5}])
def test_a_changed_day(policy: str, expected: str, sizes: dict) -> None:
    action = next_of(done("2026-11-01"), ["2026-11-01"], {"2026-11-01": sizes or {"2026-11-01/z": 1}}, on_changed_files=policy)
    assert kind(action) == (expected, "2026-11-01")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("hold", ("stop", "2026-11-01")), ("append", ("train", "2026-11-01+1")), ("ignore", ("leave", "2026-11-01"))],
)
def test_late_files(policy: str, expected: tuple[str, str]) -> None:
    sizes = {"2026-11-01": {"2026-11-01/a": 5, "2026-11-01/late": 3}}
    action = next_of(done("2026-11-01"), ["2026-11-01"], sizes, on_late_files=policy)
    assert kind(action) == expected
    if policy != "hold":
        assert action.files == ("2026-11-01/late",)


def test_late_files_that_were_left_or_appended_are_not_late_again() -> None:
    sizes = {"2026-11-01": {"2026-11-01/a": 5, "2026-11-01/late": 3}}
    left = [*done("2026-11-01"), {"event": "late", "day": "2026-11-01", "files": ["2026-11-01/late"]}]
    assert next_of(left, ["2026-11-01"], sizes).kind == "wait"
    part = {"event": "trained", "day": "2026-11-01+1", "files": {"2026-11-01/late": {"size": 3}}, "quarantined": {}}
    judged = {"event": "judged", "day": "2026-11-01+1", "publish": False, "bundle": "x", "answers": []}
    assert next_of([*done("2026-11-01"), part, judged], ["2026-11-01"], sizes).kind == "wait"


def test_a_quarantined_file_is_late_once_it_is_fixed() -> None:
    entries = done("2026-11-01")
    entries[0]["quarantined"] = {"2026-11-01/bad": {"size": 3, "why": "cut"}}
    as_it_was = {"2026-11-01": {"2026-11-01/a": 5, "2026-11-01/bad": 3}}
    fixed = {"2026-11-01": {"2026-11-01/a": 5, "2026-11-01/bad": 9}}
    assert next_of(entries, ["2026-11-01"], as_it_was, on_late_files="append").kind == "wait"
    assert kind(next_of(entries, ["2026-11-01"], fixed, on_late_files="append")) == ("train", "2026-11-01+1")


def test_rows_are_compared_if_they_are_asked_for() -> None:
    entries = done("2026-11-01")
    entries[0]["files"] = {"2026-11-01/a": {"size": 5, "rows": 7, "skipped": 1}}
    asked = {"first": "2026-11-01", "until": None, "now": NOON}
    for rows, expected in ((8, "wait"), (7, "stop"), (-1, "stop")):
        counted = {"2026-11-01/a": rows}
        action = decide(
            fold(entries), ["2026-11-01"], lambda day: {f"{day}/a": 5}, DailyConfig(), rows=lambda _, own=counted: own, **asked
        )
        assert action.kind == expected
        assert expected == "wait" or f"has {rows} rows, had 8" in action.why


@pytest.mark.parametrize("name", ["tmp", "9999-12-31"])
def test_a_folder_that_is_no_date_is_none_of_the_days(name: str) -> None:
    assert kind(next_of(done("2026-11-01"), ["2026-11-01", name], missing_day_grace_hours=0)) == ("wait", "2026-11-02")


def test_until_the_end_of_the_calendar_is_without_an_end() -> None:
    found = ["2026-11-01", "2026-11-02"]
    assert kind(next_of(done("2026-11-01"), found, until="9999-12-31")) == ("train", "2026-11-02")
    assert kind(next_of(done(*found), found, until="9999-12-31")) == ("wait", "2026-11-03")


def test_days_that_nobody_asked_for_are_no_gap_and_are_not_taken_up() -> None:
    found = ["2026-11-01", "2026-11-02", "2026-11-03"]
    for there in (found, ["2026-11-01", "2026-11-03"]):
        action = decide(
            fold(done("2026-11-01")),
            there,
            lambda day: {f"{day}/a": 5},
            DailyConfig(missing_day_grace_hours=0),
            first="2026-11-01",
            until="2026-11-03",
            asked=lambda day: day != "2026-11-02",
            now=NOON,
        )
        assert kind(action) == ("train", "2026-11-03")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("hold", ("stop", "2026-11-02")), ("append", ("train", "2026-11-02+1")), ("ignore", ("leave", "2026-11-02"))],
)
def test_a_day_that_comes_after_it_was_skipped_is_late(policy: str, expected: tuple[str, str]) -> None:
    skipped = {"event": "skipped", "day": "2026-11-02", "why": "it is missing"}
    entries = [*done("2026-11-01"), skipped, *done("2026-11-03")]
    found = ["2026-11-01", "2026-11-02", "2026-11-03"]
    assert kind(next_of(entries, found, on_late_files=policy)) == expected
    part = {"event": "trained", "day": "2026-11-02+1", "files": {"2026-11-02/a": {"size": 5}}, "quarantined": {}}
    judged = {"event": "judged", "day": "2026-11-02+1", "publish": False, "bundle": "x", "answers": []}
    assert next_of([*entries, part, judged], found, on_late_files=policy).kind == "wait"
    more = {"2026-11-02": {"2026-11-02/a": 5, "2026-11-02/b": 3}}
    if policy == "append":
        assert kind(next_of([*entries, part, judged], found, more, on_late_files=policy)) == ("train", "2026-11-02+2")
