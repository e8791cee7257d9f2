"""The table of `genctr status`: a line per day, from the ledger; times from the log."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data.errors import visible
from launch.tables import print_table
from pipeline.daily.ledger import DayRecord, History

SHOWN_EVENTS = ("scored", "trained")
"""What the table needs of the log: how long it took."""


def metric_names(scores: Iterable[Mapping[str, Any]]) -> list[str]:
    """The metrics that scored days have, of whatever objective: headlines first, the others as they come."""
    days = [own for own in scores if "headline" in own]
    others = (name for own in days for values in own["metrics"].values() for name in values if name != "rows")
    return list(dict.fromkeys([*(own["headline"][1] for own in days), *others]))


def show(history: History, log: Sequence[Mapping[str, Any]], *, gates: bool) -> None:
    """Print what happened to each day; scores are of the target that gates look at."""
    names = metric_names(own.scored for own in history.days.values() if own.scored is not None)
    seconds = {(event["event"], event.get("day")): event.get("seconds") for event in log}
    lines = [_line(own, history, names, seconds) for own in history.days.values()]
    headings = ("day", "state", "rows>", *(f"{name}>" for name in names), "held by", "bundle", "scored in>", "trained in>")
    print_table(headings, lines)
    if gates:
        for own in history.days.values():
            _show_gates(own)


def _line(
    own: DayRecord, history: History, names: Sequence[str], seconds: Mapping[tuple[str, str | None], float | None]
) -> list[str]:
    scored, trained, judged = own.scored or {}, own.trained or {}, own.judged or {}
    scores: Mapping[str, float] = scored["metrics"][scored["headline"][0]] if scored else {}
    failed = [answer["gate"] for answer in judged.get("answers", []) if not answer["ok"]]
    serving = " (serves)" if judged and judged["bundle"] == history.serving else ""
    return [
        own.name,
        "rolled back" if own.bundle in history.withdrawn else own.state,
        f"{trained['rows']:,}" if trained else "",
        *(_number(scores.get(metric)) for metric in names),
        ", ".join(failed) or (own.skipped or ""),
        judged.get("bundle", "") + serving,
        *(_seconds(seconds.get((event, own.name))) for event in ("scored", "trained")),
    ]


def _show_gates(own: DayRecord) -> None:
    if own.judged is None:
        return
    print(f"{visible(own.name)}: {own.state}")
    for answer in own.judged["answers"]:
        limits = _limits(answer["low"], answer["high"])
        word = "-" if answer["ok"] and answer["number"] is None else "yes" if answer["ok"] else "NO"
        missing = "not asked" if answer["ok"] else "no number"
        number = missing if answer["number"] is None else f"{answer['number']:.6g}"
        print(f"  {word:3} {visible(answer['gate']):15} {number:>12}  {limits:20}  {visible(answer['note'])}".rstrip())


def _limits(low: float | None, high: float | None) -> str:
    """What a gate asks of its number."""
    if low is not None and high is not None:
        return f"from {low:g} to {high:g}"
    return f"at least {low:g}" if low is not None else f"at most {high:g}" if high is not None else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"
