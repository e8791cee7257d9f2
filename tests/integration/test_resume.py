"""Laws 1 and 2: killed at any instant and started again, every row of every day is trained exactly once, to the same bits."""

import random
import time
from pathlib import Path

import pytest

from tests.jobs import (
    assert_every_row_once,
    assert_same_bits,
    events,
    finish,
    finished_within,
    kill_after_lines,
    start,
)


@pytest.fixture(scope="module")
def unbroken(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    finish(start(config, out, 1))
    return out


@pytest.fixture(scope="module")
def seconds(config: Path, unbroken: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """[s] a whole run takes on this machine today, once the fork server is warm."""
    since = time.monotonic()
    finish(start(config, tmp_path_factory.mktemp("timed") / "run", 1))
    return time.monotonic() - since


def test_an_unbroken_run_trains_every_row_once(config: Path, unbroken: Path) -> None:
    assert_every_row_once(config, unbroken)


KILLS = (
    "before fsync */statistics/statistics.json*",
    "before fsync */checkpoints/*.distcp",
    "after fsync */checkpoints/*.distcp",
    "before replace */checkpoints/step-*/checkpoint.json",
    "after replace */checkpoints/step-*/checkpoint.json",
    "after remove */checkpoints/step-*/checkpoint.json",
    "after unlink *.distcp",
    "before replace */checkpoints/rank.json",
)
"""A write of every kind, in the order in which a job comes to them."""

FEW = (KILLS[2], KILLS[3], KILLS[4], KILLS[7])
"""A checkpoint in the making, before and after its marker, and a pin."""


@pytest.mark.parametrize("kills", [pytest.param(FEW, id="few"), pytest.param(KILLS, id="all", marks=pytest.mark.slow)])
def test_a_kill_at_every_kind_of_write_leaves_the_same_bits_and_every_row_once(
    config: Path, unbroken: Path, tmp_path: Path, kills: tuple[str, ...]
) -> None:
    """Whatever is read ahead: what was begun with one prefetch depth goes on with another."""
    out = tmp_path / "run"
    for depth, kill_at in enumerate(kills):
        (process,) = start(config, out, 1, f"data.prefetch_batches={depth % 3}", kill_at=kill_at)
        process.join()
        assert process.exitcode == -9, kill_at
    finish(start(config, out, 1))
    assert_every_row_once(config, out)
    assert_same_bits(unbroken, out)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_at_random_instants_leave_the_same_bits_and_every_row_once(
    config: Path, unbroken: Path, seconds: float, tmp_path: Path
) -> None:
    rng = random.Random(11)
    kills = runs = 0
    while kills < 20:
        out = tmp_path / f"run{runs}"
        runs += 1
        while not finished_within(start(config, out, 1), seconds * rng.uniform(0.1, 0.9)):
            kills += 1
        assert_every_row_once(config, out)
        assert_same_bits(unbroken, out)


CHANGES = ((1, 2), (2, 4), (1, 3), (2, 1), (1, 3))


@pytest.mark.parametrize(
    "changes", [pytest.param(CHANGES[1:3], id="few"), pytest.param(CHANGES, id="all", marks=pytest.mark.slow)]
)
def test_ranks_change_in_the_middle_of_a_day_and_every_row_is_trained_once(
    config: Path, tmp_path: Path, changes: tuple[tuple[int, int], ...]
) -> None:
    out = tmp_path / "run"
    for ranks, lines in changes:
        kill_after_lines(start(config, out, ranks), out, lines)
    finish(start(config, out, 2))
    resumed = events(out, "resumed")
    assert {1, 2} <= {event["ranks"] for event in resumed}
    assert any(event["cursor"]["row"] > 0 for event in resumed), "no kill fell into the middle of a day"
    assert_every_row_once(config, out)
