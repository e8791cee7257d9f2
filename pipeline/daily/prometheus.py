"""Numbers of a daily job for Prometheus: `metrics.prom` in the run folder, for node_exporter's textfile collector.

Ours and not prometheus_client: a text file of a dozen lines, written whole.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Any

from data.paths import write_whole
from pipeline.config.registry import NOTHING
from pipeline.daily.ledger import DayRecord, History, base_of

FILE = "metrics.prom"

HELP = {
    "genctr_last_day_timestamp_seconds": "Beginning (UTC) of the last day that was trained.",
    "genctr_written_timestamp_seconds": "When these numbers were written.",
    "genctr_serving_day_timestamp_seconds": "Beginning (UTC) of the last day the serving model was trained on.",
    "genctr_days": "Days in each state.",
    "genctr_rows": "Rows of the last day that was trained.",
    "genctr_ids": "Ids of a managed table: held, and what the last trained day made of them.",
    "genctr_ids_share": "Of a managed table: occupied rows, look-ups that hit, ids that left over those held.",
    "genctr_score": "Metrics of the last scored day, before it was trained.",
    "genctr_gate_ok": "Whether a gate let the last judged model pass.",
    "genctr_gate_value": "What the gate measured.",
}


def write_metrics(folder: str, history: History) -> None:
    """Write the file again."""
    write_whole(f"{folder}/{FILE}", metrics(history, now=time.time()))


def metrics(history: History, *, now: float) -> str:
    """The file's text."""
    lines: dict[str, list[str]] = {name: [] for name in HELP}

    def add(name: str, value: float, labels: Mapping[str, str] = NOTHING) -> None:
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        lines[name].append(f"{name}{{{inside}}} {value:.10g}" if inside else f"{name} {value:.10g}")

    days = list(history.days.values())
    trained = [own for own in days if own.trained is not None]
    add("genctr_written_timestamp_seconds", now)
    if (start := _latest(trained)) is not None:
        add("genctr_last_day_timestamp_seconds", start)
    at = next((at for at, own in enumerate(days) if own.bundle is not None and own.bundle == history.serving), -1)
    if (start := _latest(own for own in days[: at + 1] if own.trained is not None)) is not None:
        add("genctr_serving_day_timestamp_seconds", start)
    for state in ("published", "held", "approved", "skipped", "trained"):
        add("genctr_days", sum(own.state == state for own in days), {"state": state})
    whole = [own for own in trained if "+" not in own.name]  # a few late rows are not a day of their own
    if whole:
        add("genctr_rows", _entry(whole[-1].trained)["rows"])
        for name, table, kind, value in _managed(_entry(whole[-1].trained)):
            add(name, value, {"table": table, "kind": kind})
    scored = [own for own in days if own.scored is not None and "+" not in own.name]
    for target, values in (_entry(scored[-1].scored)["metrics"] if scored else {}).items():
        for metric, value in values.items():
            if value is not None and value == value:
                add("genctr_score", value, {"target": target, "metric": metric})
    judged = [own for own in days if own.judged is not None]
    for answer in _entry(judged[-1].judged)["answers"] if judged else []:
        add("genctr_gate_ok", float(answer["ok"]), {"gate": answer["gate"]})
        if answer["number"] is not None and answer["number"] == answer["number"]:
            add("genctr_gate_value", answer["number"], {"gate": answer["gate"]})
    told = [(name, own) for name, own in lines.items() if own]
    return "".join(f"# HELP {name} {HELP[name]}\n# TYPE {name} gauge\n" + "\n".join(own) + "\n" for name, own in told)


def _managed(entry: Mapping[str, Any]) -> Iterator[tuple[str, str, str, float]]:
    """What a day made of each managed table: the metric's name, the table, what it is, and how much."""
    for table, told in entry.get("ids", {}).items():
        for kind, value in told.items():
            yield "genctr_ids_share" if kind in ("occupancy", "hit_rate", "churn") else "genctr_ids", table, kind, value


def _entry(entry: dict[str, Any] | None) -> dict[str, Any]:
    assert entry is not None
    return entry


def _latest(days: Iterable[DayRecord]) -> float | None:
    """When the latest of them began; late files come after later days."""
    return max((start for own in days if (start := _start(own.name)) is not None), default=None)


def _start(day: str) -> float | None:
    try:
        return datetime.combine(date.fromisoformat(base_of(day)), datetime.min.time(), UTC).timestamp()
    except ValueError:
        return None


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
