"""Every kind of answer that ranks tell each other comes back as it was; nothing that arrives is run."""

import errno
import math
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic_core import PydanticSerializationError

from data.days import Day, DayFile
from data.errors import BadInput
from pipeline.checkpoint.errors import CheckpointError
from pipeline.config.run import RunConfig
from pipeline.daily.gates import GateResult
from pipeline.daily.ledger import DayRecord, History
from pipeline.daily.policy import Action
from pipeline.distributed.planner import TablePlan
from pipeline.distributed.saved_plan import SavedPlan
from pipeline.distributed.world import decode, encode, gather, share
from pipeline.run_folder.lease import LeaseHeld
from tests.helpers import on_ranks

TABLE = TablePlan(8, 4, "fp32", "sgd", "row_wise", "fused", None, False, ((0, 0, 0, 4, 4), (1, 4, 0, 4, 4)))

ANSWERS: dict[str, tuple[Any, Any]] = {
    "nothing": (None, None),
    "a name or none": ("step-0000005", str | None),
    "scores": ({"tasks": {"click": {"auc": 0.1 + 0.2, "ne": math.inf}}, "rows": 3}, dict[str, Any]),
    "sizes of tensors": ({"a": [3, 4], "b": None}, dict[str, list[int] | None]),
    "memory": ((1 << 40, 7), tuple[int, int]),
    "an action": (Action("leave", "2026-11-05", "late", ("a.parquet", "b.parquet")), Action),
    "answers of gates": (
        [GateResult("auc", None, True, note="not asked"), GateResult("psi", 0.1, False, high=0.2)],
        list[GateResult],
    ),
    "a history": (
        History(
            days={"b": DayRecord("b", trained={"files": {}}), "a": DayRecord("a", skipped="why")},
            ignored={"a": {"x", "y"}},
            unreadable_files={"a": {"x": None, "y": 3}},
            served=["b-1"],
            withdrawn={"b-0"},
        ),
        History,
    ),
    "a config": (
        RunConfig.model_validate({"name": "a", "schema": "s.yaml", "data": {"root": "log", "days": ["d"]}}),
        RunConfig,
    ),
    "a plan": (SavedPlan("cpu", "cpu", 2, 1, {"rank": {"t": TABLE}}), SavedPlan),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_comes_back_as_it_was(name: str) -> None:
    answer, kind = ANSWERS[name]
    back = decode(encode(answer), kind)
    assert back == answer
    assert type(back) is type(answer)


def test_a_day_comes_back_with_the_schemas_of_its_files() -> None:
    day = pa.schema([("x", pa.int64())], metadata={"writer": "w"})
    narrow = pa.schema([("x", pa.int32())])
    files = (DayFile("a", 3, (1, 2), day), DayFile("b", 4, (), narrow))
    opened = Day("2026-11-05", files, day, {"c": "it is cut short"})

    assert Day.from_json(decode(encode(opened.to_json()), dict[str, Any])) == opened


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


def test_what_would_run_when_it_is_unpickled_is_not(tmp_path: Path) -> None:
    with pytest.raises(UnicodeDecodeError):
        decode(pickle.dumps(Bomb(str(tmp_path / "ran"))), dict[str, Any])
    with pytest.raises(PydanticSerializationError):
        encode(Bomb(str(tmp_path / "ran")))
    assert not (tmp_path / "ran").exists()


ERRORS = [
    LeaseHeld("it is held"),
    CheckpointError("it is damaged", "there", "fix it"),
    BadInput("it is bad", file="f", row=3),
    OSError(errno.ENOSPC, "No space left on device", "ledger.jsonl"),
    OSError("cannot open"),
    KeyError("a mistake of ours"),
]


def told(rank: int) -> list[tuple[str, str, int | None]]:
    """What rank `1 - rank` hears of errors of the other, by `gather`; and of rank 0's by `share`."""

    def heard(call: Any) -> tuple[str, str, int | None]:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - the test compares them
            return type(error).__name__, str(error), getattr(error, "exit_code", None)
        return "", "", None

    def fail(error: Exception) -> None:
        raise error

    assert gather(lambda: rank, int) == [0, 1]
    assert share(lambda: {"rank": rank}, dict[str, int]) == {"rank": 0}
    return [
        *(heard(lambda error=error: gather(lambda: fail(error) if rank == 0 else None, None)) for error in ERRORS),
        *(heard(lambda error=error: share(lambda: fail(error), None)) for error in ERRORS[:-1]),
    ]


def test_an_error_of_one_rank_is_the_same_one_on_the_other() -> None:
    first, second = on_ranks(2, told)
    assert first[0] == ("LeaseHeld", "it is held", 5)
    assert first[3][0] == "OSError"
    assert second[5] == ("RuntimeError", "rank 0: KeyError: 'a mistake of ours'", None)
    assert first[:5] + first[6:] == second[:5] + second[6:]
