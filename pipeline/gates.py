"""Gates: yes/no questions before a model is published, as pure functions of what is known.

| gate             | number | limit |
|---|---|---|
| `auc`, `gauc`    | new model minus serving model, on the day's last rows | least; held if the 95 % interval is all below it |
| `logloss`, `ne`  | the same | most; held if the 95 % interval is all above it |
| `calibration`    | mean prediction / mean label of the new model on these rows | from … to; held if the 95 % interval is all outside |
| `auc_floor`, `gauc_floor` | of the day before it trained, by the model of the day before; no if the day has none | least |
| `ne_ceiling`     | the same | most |
| `rows`           | the day's rows / the median of the days before | from … to |
| `nulls`          | the largest change of a column's share of nulls against the median of the days before | most |
| `psi`            | population stability index of the new model's scores against the serving model's, on the same rows | most |
| `effective_rank` | RankMe of the embeddings, as a share of the most there can be | least |
| `finite`         | share of predictions and weights that are finite; always asked | 1 |
| `parity`         | largest difference of a logit between the bundle and the trainer; always asked | most 1e-6, with int8 tables .1 |

All but the last rows' are of the first task. A question that cannot be asked (no serving model yet, no days before) is answered
yes and says so. The limits are ours to choose: they are in `daily.gates`.

PSI = sum over ten bins b of (p_b - q_b) ln(p_b / q_b); the bins hold a tenth of the serving model's scores each.
"""  # noqa: E501

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeAlias

from data.errors import GenctrError
from pipeline.plugins import find

Limit: TypeAlias = float | tuple[float, float]


@dataclass(frozen=True)
class Evidence:
    """What gates look at.

    Args:
        scored: metrics of the day before it trained, by the model of the day before; empty if there was none.
        fresh: see `pipeline.fresh`; empty if the day was too short.
        rows: [rows] of the day. earlier_rows: of days before, the newest last.
        nulls: share of nulls by column; empty if the files do not say. earlier_nulls: of days before.
        parity: [1] largest difference of a logit between bundle and trainer. as_bytes: the bundle's tables are int8.
    """

    scored: Mapping[str, float] = field(default_factory=dict)
    fresh: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 0
    earlier_rows: Sequence[int] = ()
    nulls: Mapping[str, float] = field(default_factory=dict)
    earlier_nulls: Sequence[Mapping[str, float]] = ()
    parity: float = 0.0
    as_bytes: bool = False


@dataclass(frozen=True)
class Answer:
    """A gate's answer.

    Args:
        number: what was measured; None if the question could not be asked. low, high: what it must lie between.
        note: what a person should know.
    """

    gate: str
    number: float | None
    ok: bool
    low: float | None = None
    high: float | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """As the ledger has it."""
        return dict(self.__dict__)


Gate: TypeAlias = Callable[[Evidence, Limit], Answer]


def _bounded(name: str, number: float | None, low: float | None, high: float | None, missing: str) -> Answer:
    if number is None:
        return Answer(name, None, True, low, high, missing)
    ok = number == number and (low is None or number >= low) and (high is None or number <= high)
    return Answer(name, number, ok, low, high)


def _single(name: str, limit: Limit) -> float:
    if isinstance(limit, tuple):
        raise GenctrError(f"daily.gates.{name}: one limit is expected, got {list(limit)}")
    return limit


def _pair(name: str, limit: Limit) -> tuple[float, float]:
    if not isinstance(limit, tuple) or limit[0] > limit[1]:
        raise GenctrError(f"daily.gates.{name}: two limits are expected, from … to …, got {limit}")
    return limit


def _missing(evidence: Evidence, metric: str) -> str:
    """Why the day's last rows have no such number."""
    if not evidence.fresh:
        return "too few rows"
    if evidence.fresh.get("finite", 1.0) < 1:
        return "not all numbers of the new model are finite"
    if "serving" not in evidence.fresh:
        return "no serving model to compare with"
    return f"these rows have no {metric}: are their labels, or those of every group, all alike?"


def _compared(metric: str, *, higher_is_better: bool) -> Gate:
    """The gate of a difference between the new model and the serving one."""

    def gate(evidence: Evidence, limit: Limit) -> Answer:
        least = _single(metric, limit)
        low, high = (least, None) if higher_is_better else (None, least)
        found = evidence.fresh.get("difference", {}).get(metric)
        if found is None:
            return Answer(metric, None, True, low, high, _missing(evidence, metric))
        number, bottom, top = found
        ok = top >= least if higher_is_better else bottom <= least
        return Answer(metric, number, ok, low, high, f"95 % interval {bottom:+.4f} … {top:+.4f}")

    return gate


def _scored(name: str, metric: str, *, at_least: bool) -> Gate:
    """The gate of a score of the day before it trained."""

    def gate(evidence: Evidence, limit: Limit) -> Answer:
        bound = _single(name, limit)
        low, high = (bound, None) if at_least else (None, bound)
        number = evidence.scored.get(metric)
        if evidence.scored and number is None:  # the ledger has null for what is no number: a floor that nobody saw held
            return Answer(name, None, False, low, high, f"the day has no {metric}: are its labels all alike?")
        return _bounded(name, number, low, high, "no model had seen a day before, or a few late rows")

    return gate


def calibration(evidence: Evidence, limit: Limit) -> Answer:
    """Mean prediction over mean label of the new model."""
    low, high = _pair("calibration", limit)
    number = evidence.fresh.get("candidate", {}).get("calibration")
    if number is None:
        return Answer("calibration", None, True, low, high, _missing(evidence, "calibration"))
    bottom, top = evidence.fresh.get("calibration", (number, number))
    ok = top >= low and bottom <= high
    return Answer("calibration", number, ok, low, high, f"95 % interval {bottom:.3f} … {top:.3f}")


def rows(evidence: Evidence, limit: Limit) -> Answer:
    """Is the day as large as its like?"""
    usual = median(evidence.earlier_rows) if evidence.earlier_rows else 0
    number = evidence.rows / usual if usual else None
    return _bounded("rows", number, *_pair("rows", limit), "no days before, or none with rows")


def nulls(evidence: Evidence, limit: Limit) -> Answer:
    """Has a column lost its values?"""
    changes = {
        column: abs(share - median(before))
        for column, share in evidence.nulls.items()
        if (before := [day[column] for day in evidence.earlier_nulls if column in day])
    }
    if not changes:
        return Answer("nulls", None, True, None, _single("nulls", limit), "no days before, or files that count no nulls")
    worst = max(changes, key=lambda column: changes[column])
    answer = _bounded("nulls", changes[worst], None, _single("nulls", limit), "")
    return Answer(answer.gate, answer.number, answer.ok, answer.low, answer.high, f"column {worst}")


def psi(evidence: Evidence, limit: Limit) -> Answer:
    """Have the scores moved?"""
    return _bounded("psi", evidence.fresh.get("psi"), None, _single("psi", limit), _missing(evidence, "psi"))


def effective_rank(evidence: Evidence, limit: Limit) -> Answer:
    """Are the embeddings collapsing?"""
    return _bounded(
        "effective_rank", evidence.fresh.get("effective_rank"), _single("effective_rank", limit), None, "too few rows"
    )


def finite(evidence: Evidence, limit: Limit) -> Answer:
    """Is everything a number?"""
    return _bounded("finite", evidence.fresh.get("finite"), _single("finite", limit), None, "too few rows")


def parity(evidence: Evidence, limit: Limit) -> Answer:
    """Does the bundle say what the trainer said? (law 8)"""
    return _bounded("parity", evidence.parity, None, _single("parity", limit), "")


GATES: dict[str, Gate] = {
    "auc": _compared("auc", higher_is_better=True),
    "gauc": _compared("gauc", higher_is_better=True),
    "logloss": _compared("logloss", higher_is_better=False),
    "ne": _compared("ne", higher_is_better=False),
    "calibration": calibration,
    "auc_floor": _scored("auc_floor", "auc", at_least=True),
    "gauc_floor": _scored("gauc_floor", "gauc", at_least=True),
    "ne_ceiling": _scored("ne_ceiling", "ne", at_least=False),
    "rows": rows,
    "nulls": nulls,
    "psi": psi,
    "effective_rank": effective_rank,
    "finite": finite,
    "parity": parity,
}
"""All gates; outside packages add to `genctr.gates`."""

ALWAYS: Mapping[str, float] = {"finite": 1.0, "parity": 1e-6}
"""What is asked even if the config does not say so."""

BYTES_PARITY = 0.1


def judge(evidence: Evidence, limits: Mapping[str, Limit]) -> list[Answer]:
    """Every gate's answer, in the order of the config, then what is always asked.

    Raises:
        GenctrError: no such gate, or a limit that it cannot use.
    """
    always = dict(ALWAYS) | ({"parity": BYTES_PARITY} if evidence.as_bytes else {})
    asked: dict[str, Limit] = {**limits, **{name: own for name, own in always.items() if name not in limits}}
    return [find("genctr.gates", name, GATES)(evidence, limit) for name, limit in asked.items()]
