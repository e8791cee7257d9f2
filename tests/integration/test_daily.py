"""The daily job whole: every day once, whatever is killed where; held, approved, rolled back; and what a log can do to it."""

import json
import random
import time
from pathlib import Path

import pytest

from tests.integration.nightly import Nightly, assert_same_outcome, ledger, published, states, write_daily
from tests.jobs import assert_same_bits, final_tensors, flat
from tests.tiny import genctr

DAYS = 4
"""More than the bundles and checkpoints that are kept: two of each."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_daily(tmp_path_factory.mktemp("nightly"), days=DAYS, keep=2, keep_days=2)


@pytest.fixture(scope="module")
def unbroken(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    night = Nightly(config, out)
    assert night.ended() == 0, night.text
    return out


@pytest.fixture(scope="module")
def seconds(config: Path, unbroken: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    since = time.monotonic()
    Nightly(config, tmp_path_factory.mktemp("timed") / "run").ended()
    return time.monotonic() - since


def test_each_day_is_scored_trained_judged_and_published_in_order(unbroken: Path) -> None:
    entries = ledger(unbroken)
    assert states(unbroken) == published(*(f"2026-11-{day:02}" for day in range(1, DAYS + 1)))
    kinds = [entry["event"] for entry in entries if entry["day"] == "2026-11-03"]
    assert kinds == ["scored", "trained", "judged", "published"]


def test_every_day_is_looked_at_afresh(unbroken: Path) -> None:
    judged = [entry for entry in ledger(unbroken) if entry["event"] == "judged"]
    assert len({json.dumps(entry["holdout"]["candidate"]) for entry in judged}) == DAYS
    published = next(at for at, entry in enumerate(judged) if entry["publish"])
    assert all("difference" in entry["holdout"] for entry in judged[published + 1 :])
    assert {entry["holdout"]["rows"] for entry in judged} <= set(range(1, 33)), "the last step or two of a day"


def test_run_again_and_nothing_happens(config: Path, unbroken: Path) -> None:
    before = (unbroken / "ledger.jsonl").read_bytes()
    night = Nightly(config, unbroken)
    assert night.ended() == 75
    assert "2026-11-05 is not there yet" in night.text
    assert (unbroken / "ledger.jsonl").read_bytes() == before


KILLS = (
    "before replace */config.yaml",
    "before fsync */statistics/statistics.json*",
    "after fsync */checkpoints/*.distcp",
    "before replace */checkpoints/step-*/checkpoint.json",
    "after replace */checkpoints/step-*/checkpoint.json",
    "before replace */ledger.jsonl",
    "after replace */ledger.jsonl",
    "before replace */published/*/manifest.json",
    "before replace */published/current.json",
    "after replace */published/current.json",
    "after replace */checkpoints/day-*.json",
    "after remove */checkpoints/step-*/checkpoint.json",
    "before unlink *.distcp",
    "after remove */published/*/manifest.json",
)
"""A write of every kind, in the order in which a job comes to them."""

FEW = (
    "after fsync */checkpoints/*.distcp",
    "after replace */checkpoints/step-*/checkpoint.json",
    "before replace */ledger.jsonl",
    "before replace */published/current.json",
    "after remove */published/*/manifest.json",
)
"""One of every kind of file: a checkpoint, its marker, the ledger, `current`, a bundle."""


@pytest.mark.parametrize("kills", [pytest.param(FEW, id="few"), pytest.param(KILLS, id="all", marks=pytest.mark.slow)])
def test_a_kill_at_every_kind_of_write_leaves_the_same_bits(
    config: Path, unbroken: Path, tmp_path: Path, kills: tuple[str, ...]
) -> None:
    out = tmp_path / "run"
    for kill_at in kills:
        night = Nightly(config, out, kill_at=kill_at)
        assert night.ended() == -9, f"{kill_at}: {night.text}"
    night = Nightly(config, out)
    assert night.ended() == 0, night.text
    assert_same_outcome(unbroken, out)
    assert_same_bits(unbroken, out)
    assert genctr("verify", out).code == 0


RANDOM_KILLS = 200
"""A second of CPU each. `benchmarks/kills.py` kills the ranks of a launcher, as often as asked."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_at_random_instants_leave_the_same_bits(config: Path, unbroken: Path, seconds: float, tmp_path: Path) -> None:
    rng = random.Random(6)
    done = runs = 0
    while done < RANDOM_KILLS:
        out = tmp_path / f"run{runs}"
        runs += 1
        while True:
            if rng.random() < 0.5:
                night = Nightly(config, out, kill_at=f"{rng.choice(['before', 'after'])} * * {rng.randrange(1, 150)}")
                code = night.ended()
            else:
                night = Nightly(config, out)
                code = night.ended(seconds * rng.uniform(0.1, 0.9))
                if code is None:
                    night.kill()
            if code in (0, 75):
                break
            assert code in (None, -9), night.text
            done += 1
        assert_same_outcome(unbroken, out)
        assert_same_bits(unbroken, out)
        assert genctr("verify", out).code == 0


@pytest.mark.slow
def test_ranks_change_across_kills_and_every_row_is_trained_once(config: Path, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for ranks, kill_at in [(2, "after * * 60"), (1, "after * * 45"), (2, "after * * 80")]:
        night = Nightly(config, out, ranks=ranks, kill_at=kill_at)
        code = night.ended()
        night.kill()
        assert code == -9, night.text
    night = Nightly(config, out, ranks=2)
    assert night.ended() == 0, night.text
    assert genctr("verify", out).code == 0
    trained = {entry["day"]: entry["files"] for entry in ledger(out) if entry["event"] == "trained"}
    assert trained == {entry["day"]: entry["files"] for entry in ledger(unbroken) if entry["event"] == "trained"}
    one, other = flat(final_tensors(out)), flat(final_tensors(unbroken))
    assert one.keys() == other.keys()


def test_a_killed_rank_ends_the_job_and_the_next_one_goes_on(config: Path, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    night = Nightly(config, out, ranks=2)
    while not (out / "ledger.jsonl").exists():
        time.sleep(0.02)
    night.processes[1].kill()
    assert night.ended() == 1, night.text
    night = Nightly(config, out)
    assert night.ended() == 0, night.text
    assert states(out) == states(unbroken)
    assert genctr("verify", out).code == 0
