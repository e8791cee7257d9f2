"""A launcher that says half, or nonsense, is refused before anybody waits for anybody.

Run: pytest tests/pipeline/run_folder/test_launcher.py
"""

from collections.abc import Mapping
from itertools import combinations

import pytest

from data.errors import GenctrError
from pipeline.run_folder.launcher import STORE, Launched, launched
from tests.tiny import genctr, write_log

WHOLE = {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
WHOLE |= {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
OURS = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", STORE: "/tmp/genctr/store"}


def say(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name in (*WHOLE, STORE):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, None),
        (WHOLE, Launched(1, 4, 0)),
        (OURS, Launched(1, 2, 1)),
        ({name: WHOLE[name] for name in NEEDED}, Launched(1, 4, 0)),
    ],
    ids=["no launcher", "torchrun", "genctr", "one rank a machine"],
)
def test_a_launcher_says_which_rank_this_is(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: Launched | None
) -> None:
    say(monkeypatch, variables)

    assert launched() == said


def test_every_part_of_what_a_launcher_says_is_refused_and_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [part for size in range(1, len(WHOLE)) for part in combinations(WHOLE, size) if not {*NEEDED} <= {*part}]
    assert len(parts) == 2 ** len(WHOLE) - 1 - 2**2
    for part in parts:
        say(monkeypatch, {name: WHOLE[name] for name in part})
        missing = [name for name in NEEDED if name not in part]

        with pytest.raises(GenctrError) as told:
            launched()

        first = str(told.value).splitlines()[0]
        assert all(name in first.partition("not set")[0] for name in missing), first
        assert str(told.value).endswith(f"or run `unset {' '.join(name for name in ORDER if name in part)}` first")


ORDER = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", *NEEDED)


def test_several_ranks_of_a_machine_need_their_numbers_there(monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, {name: value for name, value in WHOLE.items() if name != "LOCAL_RANK"})

    with pytest.raises(GenctrError, match="LOCAL_RANK is not set"):
        launched()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("RANK", "4", "0 to 3"),
        ("RANK", "-1", "0 to 3"),
        ("RANK", "one", "0 to 3"),
        ("WORLD_SIZE", "0", "an integer of at least 1"),
        ("WORLD_SIZE", "2.0", "an integer of at least 1"),
        ("LOCAL_RANK", "2", "0 to 1"),
        ("LOCAL_WORLD_SIZE", "8", "1 to 4"),
        ("MASTER_PORT", "70000", "1 to 65535"),
        ("MASTER_PORT", "tcp://10.0.0.1:29500", "1 to 65535"),  # as Kubernetes sets it for a service called master
    ],
)
def test_a_value_that_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str) -> None:
    say(monkeypatch, WHOLE | {name: value})

    with pytest.raises(GenctrError, match=f"the variable {name} of the environment is '{value}'\n  expected: {expected}"):
        launched()


@pytest.mark.parametrize("command", ["train", "daily"])
def test_a_job_of_one_rank_refuses_half_a_launch(
    monkeypatch: pytest.MonkeyPatch, command: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp(command)
    config = write_log(folder, rows=10)
    say(monkeypatch, {"RANK": "0"})

    done = genctr(command, config, "--out", folder / "run", "--quiet")

    assert done.code == 2
    assert "WORLD_SIZE, MASTER_ADDR and MASTER_PORT are not set, and RANK is\n" in done.err
    assert not (folder / "run").exists()
