"""The table of `genctr status`: a line per day, from the ledger; times from the log."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.daily.ledger import DayRecord, History


def metric_names(scores: Iterable[Mapping[str, Any]]) -> list[str]:
    """The metrics that scored days have, of whatever objective: headlines first, the others as they come."""
    days = [own for own in scores if "headline" in own]
    others = (name for own in days for values in own["metrics"].values() for name in values if name != "rows")
    return list(dict.fromkeys([*(own["headline"][1] for own in days), *others]))


def show(history: History, log: Sequence[Mapping[str, Any]], *, gates: bool) -> None:
    """Print what happened to each day; scores are of the target that gates look at."""
    table = Table()
    names = metric_names(own.scored for own in history.days.values() if own.scored is not None)
    for heading in ("day", "state", "rows", *names, "held by", "bundle", "scored in", "trained in"):
        table.add_column(heading, justify="left" if heading in ("day", "state", "held by", "bundle") else "right")
    seconds = {(event["event"], event.get("day")): event.get("seconds") for event in log}
    for name, own in history.days.items():
        scored, trained, judged = own.scored or {}, own.trained or {}, own.judged or {}
        scores: Mapping[str, float] = scored["metrics"][scored["headline"][0]] if scored else {}
        failed = [answer["gate"] for answer in judged.get("answers", []) if not answer["ok"]]
        serving = " (serves)" if judged and judged["bundle"] == history.serving else ""
        table.add_row(
            name,
            own.state,
            f"{trained['rows']:,}" if trained else "",
            *(_number(scores.get(metric)) for metric in names),
            ", ".join(failed) or (own.skipped or ""),
            judged.get("bundle", "") + serving,
            *(_seconds(seconds.get((event, name))) for event in ("scored", "trained")),
        )
    console = Console()
    console = console if console.is_terminal else Console(width=170)
    console.print(table)
    if gates:
        for own in history.days.values():
            _show_gates(console, own)


def _show_gates(console: Console, own: DayRecord) -> None:
    if own.judged is None:
        return
    console.print(f"{own.name}: {own.state}")
    for answer in own.judged["answers"]:
        limits = " … ".join("" if answer[side] is None else f"{answer[side]:g}" for side in ("low", "high"))
        missing = "not asked" if answer["ok"] else "no number"
        number = missing if answer["number"] is None else f"{answer['number']:.6g}"
        console.print(
            f"  {'yes' if answer['ok'] else 'NO ':3} {answer['gate']:15} {number:>12}  limit {limits}  {answer['note']}"
        )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"
