import json
from pathlib import Path
from typing import Any

import pytest

from data.seal import unsealed
from pipeline.daily.ledger import Ledger, LedgerError, base_of, fold, next_date


def filled(folder: Path) -> Ledger:
    ledger = Ledger(str(folder))
    for day in ("2026-11-01", "2026-11-02"):
        ledger.append("scored", {"day": day, "step": 0, "rows": 3, "metrics": {}})
        ledger.append("trained", {"day": day, "step": 3, "rows": 3, "files": {f"{day}/a": {"size": 9}}, "quarantined": {}})
        ledger.append("judged", {"day": day, "step": 3, "bundle": day, "publish": day == "2026-11-01", "answers": []})
    ledger.append("published", {"day": "2026-11-01", "bundle": "2026-11-01", "step": 3})
    return ledger


def test_entries_are_chained_and_read_back(tmp_path: Path) -> None:
    ledger = filled(tmp_path)
    assert Ledger(str(tmp_path)).entries == ledger.entries
    assert [entry["n"] for entry in ledger.entries] == list(range(7))
    assert len({entry["prev"] for entry in ledger.entries}) == 7


def test_history_says_what_became_of_each_day(tmp_path: Path) -> None:
    history = filled(tmp_path).history()
    assert {name: own.state for name, own in history.days.items()} == {"2026-11-01": "published", "2026-11-02": "held"}
    assert all(own.is_done for own in history.days.values())
    assert (history.last_day, history.serving) == ("2026-11-02", "2026-11-01")
    assert history.files("2026-11-02") == {"2026-11-02/a": {"size": 9}}


@pytest.mark.parametrize("event", ["scored", "trained"])
def test_a_day_in_the_middle_is_not_done(event: str) -> None:
    history = fold([{"event": event, "day": "d", "files": {}, "quarantined": {}}])
    assert history.days["d"].state == event
    assert not history.days["d"].is_done


def test_what_was_rewound_is_forgotten_and_what_served_stays(tmp_path: Path) -> None:
    ledger = filled(tmp_path)
    gone = ledger.history().since("2026-11-01")
    ledger.append("rewound", {"day": "2026-11-01", "step": 0, "gone": gone, "why": "it changed"})
    history = ledger.history()
    assert history.days == {}
    assert history.serving == "2026-11-01"


def test_what_came_after_a_day_is_gone_with_it_late_parts_of_earlier_days_too() -> None:
    trained = {"event": "trained", "files": {}, "quarantined": {}}
    history = fold([{**trained, "day": day} for day in ("2026-11-01", "2026-11-02", "2026-11-03", "2026-11-01+1")])
    assert history.since("2026-11-02") == ["2026-11-02", "2026-11-03", "2026-11-01+1"]
    assert history.since("2026-11-04") == []
    assert history.since("2026-11-01") == list(history.days)


def test_a_rollback_serves_the_bundle_it_names_and_remembers_the_other(tmp_path: Path) -> None:
    ledger = filled(tmp_path)
    ledger.append("approved", {"day": "2026-11-02", "bundle": "2026-11-02", "step": 3, "reason": "x"})
    ledger.append("rolled back", {"bundle": "2026-11-01", "from": "2026-11-02", "reason": "y"})
    history = ledger.history()
    assert (history.serving, history.withdrawn) == ("2026-11-01", {"2026-11-02"})
    assert history.days["2026-11-02"].state == "approved"


def test_the_bundle_to_go_back_to_is_wanted_however_many_nights_are_held(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    assert ledger.history().bundles_to_keep == set()
    for day, publish in (("d1", True), ("d2", True), ("d3", True), ("d4", False), ("d5", False)):
        ledger.append("trained", {"day": day, "step": 1, "rows": 3, "files": {}, "quarantined": {}})
        ledger.append("judged", {"day": day, "step": 1, "bundle": day, "publish": publish, "answers": []})
        if publish:
            ledger.append("published", {"day": day, "bundle": day, "step": 1})
    assert ledger.history().bundles_to_keep == {"d2", "d3"}
    ledger.append("rolled back", {"bundle": "d2", "from": "d3", "reason": "y"})
    assert ledger.history().bundles_to_keep == {"d1", "d2"}
    ledger.append("approved", {"day": "d5", "bundle": "d5", "step": 1, "reason": "x"})
    assert ledger.history().bundles_to_keep == {"d2", "d5"}


def test_a_day_that_is_trained_again_is_compared_with_what_has_not_trained_it(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))

    def night(day: str, bundle: str) -> None:
        ledger.append("trained", {"day": day, "step": 3, "rows": 3, "files": {}, "quarantined": {}})
        ledger.append("judged", {"day": day, "step": 3, "bundle": bundle, "publish": True, "answers": []})
        ledger.append("published", {"day": day, "bundle": bundle, "step": 3})

    def rewind(day: str) -> None:
        ledger.append("rewound", {"day": day, "step": 0, "gone": ledger.history().since(day), "why": "it changed"})

    for day in ("d1", "d2", "d3"):
        night(day, day)
    assert ledger.incumbent(ledger.history(), "d4") == "d3"
    rewind("d3")
    assert ledger.incumbent(ledger.history(), "d3") == "d2"
    ledger.append("rolled back", {"bundle": "d3", "from": "d2", "reason": "x"})
    assert ledger.incumbent(ledger.history(), "d3") == "d1", "d2 was withdrawn"
    rewind("d1")
    assert ledger.incumbent(ledger.history(), "d1") == "d3", "a model of one day is behind it"


def test_two_writers_are_noticed(tmp_path: Path) -> None:
    one, other = filled(tmp_path), Ledger(str(tmp_path))
    one.append("skipped", {"day": "2026-11-03", "why": "it never came", "step": 3})
    with pytest.raises(LedgerError, match="another job"):
        other.append("skipped", {"day": "2026-11-03", "why": "it never came", "step": 3})


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_last_line_cut_short_is_taken_off(tmp_path: Path, cut: int) -> None:
    entries = filled(tmp_path).entries
    path = tmp_path / "ledger.jsonl"
    path.write_text(path.read_text()[:-cut])
    looked = Ledger(str(tmp_path), fix=False)
    assert looked.entries == entries[:-1]
    assert not path.read_text().endswith("\n"), "only looked at"
    fixed = Ledger(str(tmp_path))
    assert fixed.fixed is not None
    fixed.append("published", {key: entries[-1][key] for key in ("day", "bundle", "step")})
    assert Ledger(str(tmp_path)).entries == entries


@pytest.mark.parametrize("altered", [b'"2026-11-07"', b'"2026-11-0\xff"', b'"2026-11-0\x0c"'])
def test_a_last_line_that_was_altered_is_taken_off(tmp_path: Path, altered: bytes) -> None:
    entries = filled(tmp_path).entries
    path = tmp_path / "ledger.jsonl"
    head, _, tail = path.read_bytes().rpartition(b'"2026-11-01"')
    path.write_bytes(head + altered + tail)
    assert Ledger(str(tmp_path), fix=False).entries == entries[:-1]


def test_an_altered_line_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    path = tmp_path / "ledger.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace('"rows": 3', '"rows": 4')
    path.write_text("".join(lines))
    with pytest.raises(LedgerError, match="line 2: it is cut short or altered"):
        Ledger(str(tmp_path))


def test_a_checkpoints_mark_must_be_in_the_ledger(tmp_path: Path) -> None:
    ledger = filled(tmp_path)
    saved = checkpoint(ledger)
    ledger.append("skipped", {"day": "2026-11-04", "why": "it never came", "step": 6})
    ledger.check(saved)
    path = tmp_path / "ledger.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    with pytest.raises(LedgerError, match="bring the ledger back"):
        Ledger(str(tmp_path)).check(saved)


def checkpoint(ledger: Ledger, **state: Any) -> dict[str, Any]:
    """What a checkpoint at the end of the third day says: 4 rows in 3 steps, after two days of 3 rows each."""
    known = {"step": 6, "rows": 10, "cursor": {"day": "2026-11-03"}, "stage": 0, "lr_factor": 1.0, **state}
    return {"ledger": ledger.mark, "state": known, "tally": [[4], [0], [0]]}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"cursor": {"day": "2026-11-02"}}, "stands in day 2026-11-02, which was done before"),
        ({"step": 3}, "step 3, and the days before it end at step 3"),
        ({"rows": 13}, "13 rows, the days before it and its own 10"),
        ({"lr_factor": 0.5}, "lr_factor 0.5"),
    ],
)
def test_a_checkpoint_must_say_what_the_ledger_says(tmp_path: Path, state: dict[str, Any], message: str) -> None:
    ledger = filled(tmp_path)
    with pytest.raises(LedgerError, match=message):
        ledger.check(checkpoint(ledger, **state))


def test_the_rows_of_a_trained_day_must_be_the_checkpoints(tmp_path: Path) -> None:
    ledger = filled(tmp_path)
    saved = checkpoint(ledger)
    ledger.append("trained", {"day": "2026-11-03", "step": 6, "rows": 5, "files": {}, "quarantined": {}})
    with pytest.raises(LedgerError, match="4 rows of day 2026-11-03, the ledger 5"):
        ledger.check(saved)


def test_every_line_is_json_with_no_time_in_it(tmp_path: Path) -> None:
    filled(tmp_path)
    for line in (tmp_path / "ledger.jsonl").read_text().splitlines():
        assert not {"time", "at", "seconds"} & json.loads(line).keys()


def test_names_of_days() -> None:
    assert base_of("2026-11-30+2") == "2026-11-30"
    assert next_date("2026-11-30") == "2026-12-01"
    assert next_date("2028-02-28") == "2028-02-29"
    assert next_date("9999-12-31") is None, "the calendar ends there"
    assert next_date("train") is None


@pytest.mark.parametrize(
    ("day", "after"),
    [("2026-11-30", "2026-12-01"), ("20261130", "20261201"), ("20261301", None), ("week 1", None), ("9999-12-31", None)],
)
def test_the_day_after_is_named_as_the_day(day: str, after: str | None) -> None:
    assert next_date(day) == after


def test_an_entry_is_parsed_once_however_often_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Ledger(str(tmp_path))
    for day in range(3):
        first.append("skipped", {"day": f"2026-11-0{day + 1}", "why": "it never came"})
    parsed: list[bytes] = []
    monkeypatch.setattr("pipeline.daily.ledger.unsealed", lambda line: parsed.append(line) or unsealed(line))
    ledger = Ledger(str(tmp_path))
    for _ in range(5):
        assert [entry["day"] for entry in ledger.entries] == list(ledger.history().days)

    assert len(parsed) == 3
    assert ledger.entries == first.entries
