import math

import pytest

from data.errors import GenctrError
from pipeline.daily.gates import GATES, Evidence, judge, surely_better


def asked(name: str, limit, **evidence):
    answers = {answer.gate: answer for answer in judge(Evidence(**evidence), {name: limit})}
    return answers[name]


def holdout(metric: str, value: float, low: float, high: float) -> dict:
    return {"difference": {metric: [value, low, high]}, "finite": 1.0}


@pytest.mark.parametrize(
    ("metric", "limit", "interval", "ok"),
    [
        ("auc", -0.002, (-0.010, -0.015, -0.005), False),  # worse for sure
        ("auc", -0.002, (-0.010, -0.030, 0.010), True),  # worse by chance, perhaps
        ("auc", -0.002, (0.010, 0.005, 0.015), True),
        ("gauc", 0.0, (-0.001, -0.002, -0.0005), False),
        ("ne", 0.01, (0.03, 0.02, 0.04), False),
        ("ne", 0.01, (0.03, 0.0, 0.06), True),
        ("logloss", 0.0, (-0.01, -0.02, -0.005), True),
    ],
)
def test_a_difference_holds_when_its_whole_interval_is_on_the_wrong_side(metric, limit, interval, ok) -> None:
    answer = asked(metric, limit, holdout=holdout(metric, *interval))
    assert (answer.ok, answer.number) == (ok, interval[0])
    assert "95 %" in answer.note


@pytest.mark.parametrize("name", sorted(GATES.keys() - {"parity"}))
def test_a_question_that_cannot_be_asked_is_answered_yes_and_says_so(name: str) -> None:
    limit = (0.5, 2.0) if name in ("calibration", "rows") else 0.1
    answer = asked(name, limit)
    assert answer.ok
    assert answer.number is None
    assert answer.note


@pytest.mark.parametrize(
    ("holdout", "note"),
    [
        ({}, "too few rows"),
        ({"rows": 9, "finite": 0.5}, "not all numbers of the new model are finite"),
        ({"finite": 1.0, "candidate": {}}, "no serving model to compare with"),
        ({"finite": 1.0, "candidate": {}, "serving": {}, "difference": {}}, "these rows have no auc"),
    ],
)
def test_what_cannot_be_compared_says_why(holdout, note: str) -> None:
    assert note in asked("auc", 0.0, holdout=holdout).note
    if "candidate" not in holdout:
        assert note in asked("calibration", (0.9, 1.1), holdout=holdout).note
    if "serving" not in holdout:
        assert note in asked("psi", 0.25, holdout=holdout).note


@pytest.mark.parametrize(("number", "ok"), [(0.94, False), (0.95, True), (1.05, True), (1.06, False), (math.nan, False)])
def test_calibration_lies_between(number: float, ok: bool) -> None:
    assert asked("calibration", (0.95, 1.05), holdout={"candidate": {"calibration": number}}).ok == ok


@pytest.mark.parametrize(
    ("interval", "ok"), [((0.7, 0.94), False), ((0.7, 0.96), True), ((1.04, 9.0), True), ((1.06, 9.0), False)]
)
def test_calibration_that_chance_may_have_moved_holds_nothing(interval: tuple[float, float], ok: bool) -> None:
    answer = asked("calibration", (0.95, 1.05), holdout={"candidate": {"calibration": 0.9}, "calibration": interval})
    assert answer.ok == ok
    assert "95 %" in answer.note


def test_floors_look_at_the_day_before_it_trained() -> None:
    scored = {"auc": 0.7, "gauc": 0.6, "ne": 0.9}
    assert asked("auc_floor", 0.69, scored=scored).ok
    assert not asked("auc_floor", 0.71, scored=scored).ok
    assert not asked("gauc_floor", 0.61, scored=scored).ok
    assert asked("ne_ceiling", 0.9, scored=scored).ok
    assert not asked("ne_ceiling", 0.89, scored=scored).ok


@pytest.mark.parametrize("name", ["auc_floor", "gauc_floor", "ne_ceiling"])
def test_a_scored_day_that_has_no_such_number_is_held(name: str) -> None:
    answer = asked(name, 0.7, scored={"auc": None, "gauc": None, "ne": None, "logloss": 0.5})
    assert not answer.ok
    assert "labels all alike" in answer.note


def test_rows_are_compared_with_the_median_of_the_days_before() -> None:
    assert asked("rows", (0.5, 2.0), rows=100, earlier_rows=[100, 110, 5000]).number == pytest.approx(100 / 110)
    assert not asked("rows", (0.5, 2.0), rows=40, earlier_rows=[100]).ok
    assert not asked("rows", (0.5, 2.0), rows=300, earlier_rows=[100]).ok


def test_days_before_whose_rows_were_all_left_out_are_nothing_to_compare_with() -> None:
    answer = asked("rows", (0.5, 2.0), rows=100, earlier_rows=[0])
    assert answer.ok
    assert answer.number is None


def test_nulls_name_the_column_that_changed_most() -> None:
    answer = asked("nulls", 0.1, nulls={"a": 0.5, "b": 0.02}, earlier_nulls=[{"a": 0.1, "b": 0.0}, {"a": 0.1}])
    assert not answer.ok
    assert answer.number == pytest.approx(0.4)
    assert "a" in answer.note


def test_what_is_always_asked_cannot_be_left_out() -> None:
    answers = {answer.gate: answer for answer in judge(Evidence(holdout={"finite": 0.99}, parity=1e-3), {})}
    assert answers.keys() == {"finite", "parity"}
    assert not answers["finite"].ok
    assert not answers["parity"].ok
    assert not judge(Evidence(parity=math.nan), {})[1].ok


def test_parity_may_be_what_rounding_explains_and_no_more() -> None:
    for number, ok in ((9e-6, True), (2e-5, False)):
        answer = asked("finite", 1.0, parity=number, parity_bound=1e-5)
        assert answer.ok
        parity = judge(Evidence(parity=number, parity_bound=1e-5), {})[1]
        assert (parity.number, parity.high, parity.ok) == (number, 1e-5, ok)
    assert not asked("parity", 1e-6, parity=9e-6, parity_bound=1e-5).ok  # a limit of one's own stays


def test_psi_and_effective_rank() -> None:
    assert not asked("psi", 0.25, holdout={"psi": 0.3}).ok
    assert asked("psi", 0.25, holdout={"psi": 0.2}).ok
    assert not asked("effective_rank", 0.3, holdout={"effective_rank": 0.2}).ok


def test_an_unknown_gate_and_a_limit_of_the_wrong_kind_are_told() -> None:
    with pytest.raises(GenctrError, match="auc"):
        judge(Evidence(), {"acu": 0.1})
    with pytest.raises(GenctrError, match="one limit"):
        judge(Evidence(), {"auc": (0.1, 0.2)})
    with pytest.raises(GenctrError, match=r"daily\.gates\.rows: two limits are expected, from … to …, got 0\.5"):
        judge(Evidence(), {"rows": 0.5})
    with pytest.raises(GenctrError, match=r"two limits are expected, from … to …, got \(1\.1, 0\.9\)"):
        judge(Evidence(), {"calibration": (1.1, 0.9)})


# --- for the better: no gate about change may hold it ---


def compared(
    calibrations: tuple[float, float] = (1.0, 1.0), psi: float = 3.0, **differences: tuple[float, float, float]
) -> dict:
    new, serving = calibrations
    found = {"candidate": {"calibration": new}, "serving": {"calibration": serving}, "finite": 1.0, "psi": 3.0}
    return {**found, "difference": {name: list(interval) for name, interval in differences.items()}}


BETTER, WORSE, UNSURE = (-0.02, -0.03, -0.01), (0.02, 0.01, 0.03), (-0.01, -0.03, 0.02)


@pytest.mark.parametrize(
    ("holdout", "better"),
    [
        (compared(logloss=BETTER, auc=UNSURE), True),
        (compared(ne=BETTER), True),
        (compared(logloss=UNSURE, ne=UNSURE, auc=UNSURE), False),
        (compared(logloss=BETTER, auc=(-0.02, -0.03, -0.01)), False),  # AUC surely worse
        (compared(logloss=UNSURE, auc=(0.09, 0.01, 0.21), calibrations=(1.1, 0.004)), True),
        (compared(logloss=UNSURE, auc=(0.09, 0.01, 0.21), calibrations=(1.5, 1.1)), False),
        (compared(logloss=WORSE, auc=(0.09, 0.01, 0.21)), False),
        (compared(gauc=(0.09, 0.01, 0.21)), False),
        ({}, False),
    ],
)
def test_psi_does_not_hold_what_is_surely_better(holdout: dict, better: bool) -> None:
    assert bool(surely_better(holdout)) == better
    answer = asked("psi", 0.25, holdout={"psi": 3.0, **holdout})
    assert (answer.ok, answer.number) == (better, 3.0)
    assert ("surely better" in answer.note) == better


# --- the first model ---

FIRST = {"auc": 0.5, "ne": 1.1, "calibration": (0.5, 2.0)}
GOOD = {"auc": 0.6, "ne": 0.98, "calibration": 1.2}


def first(holdout: dict, limits: dict | None = None, **evidence) -> dict:
    alone = Evidence(holdout=holdout, alone=True, **evidence)
    return {answer.gate: answer for answer in judge(alone, {"auc": -0.002} if limits is None else limits, FIRST)}


@pytest.mark.parametrize(
    ("metric", "number", "interval", "ok"),
    [
        ("auc", 0.45, [0.40, 0.55], True),
        ("auc", 0.45, [0.40, 0.49], False),
        ("ne", 1.2, [1.05, 1.4], True),
        ("ne", 1.5, [1.3, 1.6], False),
        ("calibration", 0.004, [0.002, 0.01], False),
        ("calibration", 0.4, [0.3, 0.6], True),
        ("calibration", 70.0, [30.0, math.inf], False),
    ],
)
def test_the_first_model_has_floors_of_its_own(metric: str, number: float, interval: list[float], ok: bool) -> None:
    answers = first({"rows": 9, "finite": 1.0, "candidate": GOOD | {metric: number}, "intervals": {metric: interval}})
    assert answers[f"first_{metric}"].ok == ok
    assert all(answer.ok for name, answer in answers.items() if name != f"first_{metric}")


@pytest.mark.parametrize(
    ("holdout", "note"),
    [
        ({}, "train.global_batch_rows"),
        ({"rows": 600, "finite": 1.0, "candidate": {"auc": math.nan, "ne": math.nan, "calibration": math.inf}}, "the 600 rows"),
    ],
)
def test_a_first_model_that_nothing_measures_is_held_until_a_day_says_how_good_it_is(holdout: dict, note: str) -> None:
    floors = [answer for name, answer in first(holdout).items() if name.startswith("first_")]
    assert len(floors) == 3
    assert not any(answer.ok for answer in floors)
    assert all(note in answer.note for answer in floors)
    assert all(answer.ok for answer in first(holdout, scored=GOOD).values())  # the next day, scored before it trained
    assert not first(holdout, scored=GOOD | {"ne": 1.5})["first_ne"].ok


def test_without_gates_that_compare_the_first_model_has_no_floor() -> None:
    assert first({}, limits={}).keys() == {"finite", "parity"}
    assert "first_ne" not in first({}, limits={"rows": (0.5, 2.0)})
    assert "first_ne" not in {answer.gate for answer in judge(Evidence(), {"auc": -0.002}, FIRST)}
