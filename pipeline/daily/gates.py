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
| `psi`            | population stability index of the new model's scores against the serving model's, on the same rows | most, unless the new model is surely better |
| `effective_rank` | RankMe of the embeddings, as a share of the most there can be | least |
| `finite`         | share of predictions and weights that are finite; always asked | 1 |
| `parity`         | largest difference of a logit between the bundle and the trainer; always asked | most what rounding explains: `pipeline/serving/parity.py` |

All but the last rows' are of the first target. A question that cannot be asked (no days before, no click) is answered yes and says
so. The limits are ours to choose: they are in `daily.gates`.

A model is *surely better* than the serving one if, of the paired differences on the day's last rows,

- the 95 % interval of logloss or of NE is all below 0, or that of AUC all above 0 with a calibration no farther from 1 (by |ln|), and
- none of the three intervals lies all on the wrong side of 0.

`psi` is the only gate about change itself. It answers yes, with a note, for what is surely better: the better the new model is than
a bad one that serves, the more its scores differ from that one's, every night again. `auc`, `gauc`, `logloss` and `ne` hold what is
surely worse only; `calibration`, the floors and the ceiling ask how good a model is, `rows` and `nulls` about the log: they hold
whatever the comparison says.

Where nothing serves to compare with (the first publish, or the serving bundle has another schema or model), the gates of a
comparison cannot be asked. If `daily.gates` has one of them, these are asked instead, with the limits of `daily.first_gates`:

| gate                | number | limit |
|---|---|---|
| `first_auc`         | AUC of the new model on the day's last rows | least; held if the 95 % interval is all below it |
| `first_ne`          | the same of NE | most; held if the 95 % interval is all above it |
| `first_calibration` | the same of calibration | from … to; held if the 95 % interval is all outside |

If the last rows have no such number (no click among them, too few steps), that of the whole day before it trained is taken, by the
model of the day before. Without that too the answer is no: the model keeps training, and the next night asks again.

PSI = sum over ten bins b of (p_b - q_b) ln(p_b / q_b); the bins hold a tenth of the serving model's scores each.
"""  # noqa: E501

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, TypeAlias

from data.errors import GenctrError
from pipeline.config.registry import find

Limit: TypeAlias = float | tuple[float, float]


@dataclass(frozen=True)
class Evidence:
    """What gates look at.

    Args:
        scored: metrics of the day before it trained, by the model of the day before; empty if there was none.
        holdout: see `pipeline.daily.challenger`; empty if the day was too short.
        rows: [rows] of the day. earlier_rows: of days before, the newest last.
        nulls: share of nulls by column; empty if the files do not say. earlier_nulls: of days before.
        parity: [1] largest difference of a logit between bundle and trainer. parity_bound: [1] what rounding explains of it.
        alone: nothing serves that the new model can be compared with.
    """

    scored: Mapping[str, float] = field(default_factory=dict)
    holdout: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 0
    earlier_rows: Sequence[int] = ()
    nulls: Mapping[str, float] = field(default_factory=dict)
    earlier_nulls: Sequence[Mapping[str, float]] = ()
    parity: float = 0.0
    parity_bound: float = 0.0
    alone: bool = False


@dataclass(frozen=True)
class GateResult:
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


Gate: TypeAlias = Callable[[Evidence, Limit], GateResult]


def _bounded(name: str, number: float | None, low: float | None, high: float | None, missing: str) -> GateResult:
    if number is None:
        return GateResult(name, None, True, low, high, missing)
    ok = number == number and (low is None or number >= low) and (high is None or number <= high)
    return GateResult(name, number, ok, low, high)


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
    if not evidence.holdout:
        return "too few rows"
    if evidence.holdout.get("finite", 1.0) < 1:
        return "not all numbers of the new model are finite"
    if "serving" not in evidence.holdout:
        return "no serving model to compare with"
    return f"these rows have no {metric}: are their labels, or those of every group, all alike?"


def _compared(metric: str, *, higher_is_better: bool) -> Gate:
    """The gate of a difference between the new model and the serving one."""

    def gate(evidence: Evidence, limit: Limit) -> GateResult:
        least = _single(metric, limit)
        low, high = (least, None) if higher_is_better else (None, least)
        found = evidence.holdout.get("difference", {}).get(metric)
        if found is None:
            return GateResult(metric, None, True, low, high, _missing(evidence, metric))
        number, bottom, top = found
        ok = top >= least if higher_is_better else bottom <= least
        return GateResult(metric, number, ok, low, high, f"95 % interval {bottom:+.4f} … {top:+.4f}")

    return gate


def _scored(name: str, metric: str, *, at_least: bool) -> Gate:
    """The gate of a score of the day before it trained."""

    def gate(evidence: Evidence, limit: Limit) -> GateResult:
        bound = _single(name, limit)
        low, high = (bound, None) if at_least else (None, bound)
        number = evidence.scored.get(metric)
        if evidence.scored and number is None:  # the ledger has null for what is not a number: a floor that nobody saw held
            return GateResult(name, None, False, low, high, f"the day has no {metric}: are its labels all alike?")
        return _bounded(name, number, low, high, "no model had seen a day before, or a few late rows")

    return gate


def calibration(evidence: Evidence, limit: Limit) -> GateResult:
    """Mean prediction over mean label of the new model."""
    low, high = _pair("calibration", limit)
    number = evidence.holdout.get("candidate", {}).get("calibration")
    if number is None:
        return GateResult("calibration", None, True, low, high, _missing(evidence, "calibration"))
    bottom, top = evidence.holdout.get("calibration", (number, number))
    ok = top >= low and bottom <= high
    return GateResult("calibration", number, ok, low, high, f"95 % interval {bottom:.3f} … {top:.3f}")


def rows(evidence: Evidence, limit: Limit) -> GateResult:
    """Is the day as large as its like?"""
    usual = median(evidence.earlier_rows) if evidence.earlier_rows else 0
    number = evidence.rows / usual if usual else None
    return _bounded("rows", number, *_pair("rows", limit), "no days before, or none with rows")


def nulls(evidence: Evidence, limit: Limit) -> GateResult:
    """Has a column lost its values?"""
    changes = {
        column: abs(share - median(before))
        for column, share in evidence.nulls.items()
        if (before := [day[column] for day in evidence.earlier_nulls if column in day])
    }
    if not changes:
        return GateResult("nulls", None, True, None, _single("nulls", limit), "no days before, or files that count no nulls")
    worst = max(changes, key=lambda column: changes[column])
    answer = _bounded("nulls", changes[worst], None, _single("nulls", limit), "")
    return GateResult(answer.gate, answer.number, answer.ok, answer.low, answer.high, f"column {worst}")


def psi(evidence: Evidence, limit: Limit) -> GateResult:
    """Have the scores moved, other than for the better?"""
    answer = _bounded("psi", evidence.holdout.get("psi"), None, _single("psi", limit), _missing(evidence, "psi"))
    better = surely_better(evidence.holdout)
    if answer.ok or not better:
        return answer
    return replace(answer, ok=True, note=f"above the limit, but the new model is surely better: {better}")


def surely_better(holdout: Mapping[str, Any]) -> str:
    """Why the new model is surely better than the serving one, as the table above defines it; empty if it is not."""
    found = {name: interval for name, interval in holdout.get("difference", {}).items() if name in ("logloss", "ne", "auc")}
    gains = {name: (low, high) if name == "auc" else (-high, -low) for name, (_, low, high) in found.items()}
    if any(high < 0 for _, high in gains.values()):
        return ""
    sure = [name for name, (low, _) in gains.items() if low > 0]
    new, serving = (abs(_log(holdout.get(model, {}).get("calibration"))) for model in ("candidate", "serving"))
    if sure == ["auc"] and not new <= serving:
        return ""
    return ", ".join(
        f"{name} {found[name][0]:+.4f}, 95 % interval {found[name][1]:+.4f} … {found[name][2]:+.4f}" for name in sure
    )


def _log(ratio: float | None) -> float:
    return math.log(ratio) if ratio is not None and 0 < ratio < math.inf else math.inf


def _first(metric: str) -> Gate:
    """The gate of a model that nothing serves to compare with."""
    name = f"first_{metric}"

    def gate(evidence: Evidence, limit: Limit) -> GateResult:
        low: float | None
        high: float | None
        if metric == "calibration":
            low, high = _pair(name, limit)
        else:
            low, high = (_single(name, limit), None) if metric == "auc" else (None, _single(name, limit))
        number = _number(evidence.holdout.get("candidate", {}).get(metric))
        if number is not None:
            bottom, top = evidence.holdout.get("intervals", {}).get(metric, (number, number))
            ok = (low is None or top >= low) and (high is None or bottom <= high)
            return GateResult(name, number, ok, low, high, f"95 % interval {bottom:.4f} … {top:.4f}")
        number = _number(evidence.scored.get(metric))
        if number is not None:
            return replace(_bounded(name, number, low, high, ""), note="of the whole day, by the model of the day before")
        return GateResult(name, None, False, low, high, f"{_unmeasured(evidence, metric)}; the next night asks again")

    return gate


def _number(value: float | None) -> float | None:
    """None for what is not a finite number: a ratio to no click is infinite."""
    return value if value is not None and math.isfinite(value) else None


def _unmeasured(evidence: Evidence, metric: str) -> str:
    """Why nothing says how good a first model is."""
    if not evidence.holdout:
        return "the day has a single step, so none of its rows is held out: set train.global_batch_rows lower"
    if evidence.holdout.get("finite", 1.0) < 1:
        return "not all numbers of the new model are finite"
    return f"the {evidence.holdout.get('rows', 0)} rows held out have no {metric}: are their labels all alike?"


def effective_rank(evidence: Evidence, limit: Limit) -> GateResult:
    """Are the embeddings collapsing?"""
    return _bounded(
        "effective_rank", evidence.holdout.get("effective_rank"), _single("effective_rank", limit), None, "too few rows"
    )


def finite(evidence: Evidence, limit: Limit) -> GateResult:
    """Is everything a number?"""
    return _bounded("finite", evidence.holdout.get("finite"), _single("finite", limit), None, "too few rows")


def parity(evidence: Evidence, limit: Limit) -> GateResult:
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

FIRST: dict[str, Gate] = {metric: _first(metric) for metric in ("auc", "ne", "calibration")}
"""What is asked instead of a comparison, by the name in `daily.first_gates`."""

COMPARED = ("auc", "gauc", "logloss", "ne", "psi")


def judge(evidence: Evidence, limits: Mapping[str, Limit], first: Mapping[Any, Limit] | None = None) -> list[GateResult]:
    """Every gate's answer, in the order of the config, then `first` in place of a comparison, then what is always asked.

    Raises:
        GenctrError: no such gate, or a limit that it cannot use.
    """
    asked: dict[str, Limit] = {**limits}
    for name, limit in (("finite", 1.0), ("parity", evidence.parity_bound)):
        asked.setdefault(name, limit)
    answers = [find("genctr.gates", name, GATES)(evidence, limit) for name, limit in asked.items()]
    if evidence.alone and any(name in limits for name in COMPARED):
        answers[len(limits) : len(limits)] = [FIRST[name](evidence, limit) for name, limit in (first or {}).items()]
    return answers
