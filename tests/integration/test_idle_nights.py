"""A night with nothing to do is over before torch is loaded; whatever is out of the ordinary is left to the whole night."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.config.run import load
from pipeline.daily.dry_run import idle
from pipeline.run_folder.lease import Lease
from tests.integration.nightly import ledger, write_daily
from tests.jobs import events
from tests.launch.test_imports import HEAVY, TRAINING, among, loaded
from tests.tiny import genctr

FIRST, SECOND, THIRD = "2026-11-01", "2026-11-02", "2026-11-03"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of three days."""
    return write_daily(tmp_path_factory.mktemp("log"), days=3)


@pytest.fixture(scope="module")
def after_two(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has trained and published two of them."""
    out = tmp_path_factory.mktemp("two") / "run"
    done = genctr("daily", config, "--out", out, "--quiet", "--until", SECOND)
    assert done.code == 0, done.err
    return out


@pytest.fixture
def out(after_two: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(after_two, tmp_path / "run")
    return tmp_path / "run"


def asked(config: Path, out: Path, *overrides: str, until: str | None = SECOND) -> str | None:
    return idle(str(out), *load(str(config), [*overrides, "train.progressive_validation=true"]), until)


def newest(out: Path) -> Path:
    return max(path.parent for path in (out / "checkpoints").glob("*/checkpoint.json"))


def flip(file: Path, of: bytes = b"") -> None:
    """Change one bit in the middle of a file, or in the first letter of some text in it."""
    content = bytearray(file.read_bytes())
    content[content.index(of) if of else len(content) // 2] ^= 1
    file.write_bytes(content)


def current(out: Path, bundle: str) -> None:
    told = json.loads((out / "published" / "current.json").read_text())
    (out / "published" / "current.json").write_text(json.dumps(told | {"bundle": bundle}))


DISTURBED: dict[str, Callable[[Path], object]] = {
    "no run yet": shutil.rmtree,
    "a lease": lambda out: (out / "lease.json").write_text("{}"),
    "a piece of a table": lambda out: flip(max(newest(out).glob("*.distcp"), key=lambda own: own.stat().st_size)),
    "a file of tensors is gone": lambda out: min(newest(out).glob("*.distcp")).unlink(),
    ".metadata": lambda out: flip(newest(out) / ".metadata"),
    "a marker": lambda out: flip(newest(out) / "checkpoint.json"),
    "an older marker": lambda out: flip(min((out / "checkpoints").glob("*/checkpoint.json"))),
    "a pin": lambda out: flip(out / "checkpoints" / f"day-{FIRST}.json", of=b"step-"),
    "the newest checkpoint is gone": lambda out: shutil.rmtree(newest(out)),
    "all checkpoints are gone": lambda out: shutil.rmtree(out / "checkpoints"),
    "the ledger": lambda out: flip(out / "ledger.jsonl"),
    "the ledger's last line": lambda out: (out / "ledger.jsonl").write_bytes((out / "ledger.jsonl").read_bytes()[:-9]),
    "the ledger is gone": lambda out: (out / "ledger.jsonl").unlink(),
    "the statistics": lambda out: flip(out / "statistics" / "statistics.json"),
    "the statistics are gone": lambda out: shutil.rmtree(out / "statistics"),
    "the schema of the days": lambda out: shutil.rmtree(out / "schemas"),
    "current, by an approval that was interrupted": lambda out: current(out, ledger(out)[2]["bundle"]),
    "current is gone": lambda out: (out / "published" / "current.json").unlink(),
}


def test_a_night_with_nothing_to_do_loads_no_torch(config: Path, out: Path) -> None:
    before = {name: (out / name).read_bytes() for name in ("ledger.jsonl", "config.yaml", "schema.yaml")}
    logged = len(events(out, "waiting"))
    (out / "metrics.prom").unlink()

    code, modules = loaded("daily", config, "--out", out, "--until", SECOND)

    assert code == 75
    assert among(modules, HEAVY) == []
    assert among(modules, TRAINING) == []
    assert {name: (out / name).read_bytes() for name in before} == before
    assert len(events(out, "waiting")) == logged + 1
    assert (out / "metrics.prom").exists()
    assert not (out / "lease.json").exists()


def test_it_says_what_the_whole_night_says(config: Path, out: Path) -> None:
    why = asked(config, out)
    quick = genctr("daily", config, "--out", out, "--quiet", "--until", SECOND)
    (out / "lease.json").write_text("{}")  # a lease that makes no sense is taken over, by the whole night
    whole = genctr("daily", config, "--out", out, "--quiet", "--until", SECOND)

    assert why == f"day {SECOND} is done, the last that was asked for"
    assert (quick.code, quick.out) == (whole.code, whole.out) == (75, f"nothing to do: {why}\n")
    assert len(events(out, "resumed")) == 1, "the whole night alone has loaded the model"


@pytest.mark.parametrize("what", DISTURBED)
def test_what_is_out_of_the_ordinary_is_left_to_the_whole_night(what: str, config: Path, out: Path) -> None:
    assert asked(config, out) is not None

    DISTURBED[what](out)

    assert asked(config, out) is None


def test_a_day_to_train_is_left_to_the_whole_night(config: Path, out: Path) -> None:
    assert asked(config, out, until=THIRD) is None
    assert asked(config, out, until=None) is None


def test_a_job_at_work_is_left_to_the_whole_night(config: Path, out: Path) -> None:
    with Lease(str(out), seconds=60):
        assert asked(config, out) is None


@pytest.mark.parametrize("override", ["daily.keep=9", "train.dense.lr=0.5", "daily.accept_changes=[a]", "train.epochs=2"])
def test_another_config_is_left_to_the_whole_night(override: str, config: Path, out: Path) -> None:
    assert asked(config, out, override) is None


@pytest.mark.parametrize(
    ("section", "key", "value"), [("daily", "accept_changes", ["a"]), ("train", "sharding_plan", "plan.json")]
)
def test_what_the_whole_night_has_to_check_is_left_to_it(
    section: str, key: str, value: object, config: Path, out: Path
) -> None:
    stored = yaml.safe_load((out / "config.yaml").read_text())
    stored[section][key] = value
    (out / "config.yaml").write_text(yaml.safe_dump(stored))

    assert asked(config, out, f"{section}.{key}={json.dumps(value)}") is None


def test_another_schema_is_left_to_the_whole_night(config: Path, out: Path, tmp_path: Path) -> None:
    schema = yaml.safe_load(Path(yaml.safe_load(config.read_text())["schema"]).read_text())
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(schema))
    assert asked(config, out, f"schema={tmp_path / 'schema.yaml'}") is not None, "the same in another file"

    schema["fields"] = schema["fields"][:-1]
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(schema))
    assert asked(config, out, f"schema={tmp_path / 'schema.yaml'}") is None
