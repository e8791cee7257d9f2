"""Daily jobs in processes of their own: run them, kill them at a time or at a write, compare what they leave."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from data.synthetic import write
from tests.helpers import SERVER
from tests.jobs import free_port, job
from tests.tiny import SCHEMA, Done, genctr

DAYS = FIRST, SECOND, THIRD, FOURTH = tuple(f"2026-11-{day:02}" for day in range(1, 5))

After = Callable[[str], None]
"""`after(day)` makes `out` a run that has trained the log until that day."""


class Nights:
    """Runs of one log, as they are after the night of each day: every night is run once, when it is first asked for."""

    def __init__(self, config: Path) -> None:
        self._config = config

    def run(self, day: str) -> Path:
        """The run folder after that night. Not to be written to."""
        run = self._config.parent / f"after-{day}"
        if not run.exists():
            if day != DAYS[0]:
                shutil.copytree(self.run(DAYS[DAYS.index(day) - 1]), run)
            done = daily(self._config, run, "--until", day)
            assert done.code == 0, done.err
        return run

    def copy(self, day: str, config: Path, out: Path) -> None:
        """Make `out` that run, of a log like it where `config` lies."""
        shutil.copytree(self.run(day), out)
        _, _, stored = (out / "config.yaml").read_text().partition("\n")  # its digest goes: the log lies elsewhere
        (out / "config.yaml").write_text(stored.replace(str(self._config.parent), str(config.parent)))


LENIENT = {"auc": -0.5, "calibration": [0.2, 5.0]}
"""Gates that a tiny model passes on every day."""


def write_daily(folder: Path, *, days: int, rows: int = 90, **daily: Any) -> Path:
    """A log of small days from 2026-11-01 on, and a run file that takes them all up."""
    write(str(folder / "log"), days=days, rows=rows, seed=7, users=40, items=20)
    run = {
        "name": "tiny",
        "schema": str(SCHEMA),
        "seed": 7,
        "data": {"root": str(folder / "log"), "days": "2026-11-01..", "lanes": 2, "shuffle_buffer_rows": 32},
        "model": {"decoder": "mlp", "dim": 4, "decoder_options": {"hidden": [8], "dropout": 0.2}},
        "train": {"global_batch_rows": 16, "device": "cpu", "progressive_validation": True, "log_every_steps": 4},
        "checkpoint": {"every_steps": 3},
        "daily": {"gates": LENIENT, "first_gates": {}, "keep": 4, "lease_seconds": 2, **daily},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run, sort_keys=False))
    return path


def daily(config: Path, out: Path, *words: str) -> Done:
    """A night in this process."""
    return genctr("daily", config, "--out", out, "--quiet", *words)


def settings(*values: str) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def files(config: Path, day: str) -> list[Path]:
    return sorted((config.parent / "log" / f"day={day}").glob("*.parquet"))


def add_late(config: Path, day: str) -> str:
    """Seventeen rows more for a day, in a file of their own; its name in the ledger."""
    rows = pq.read_table(files(config, day)[0], partitioning=None).slice(0, 17)
    pq.write_table(rows, config.parent / "log" / f"day={day}" / "part-late.parquet")
    return f"day={day}/part-late.parquet"


def assert_proven(out: Path) -> None:
    done = genctr("verify", out)
    assert done.code == 0, done.err


def run(words: Sequence[str], environment: dict[str, str], rank: int, ranks: int, port: int, kill_at: str, err: str) -> None:
    for number in (1, 2):
        os.dup2(os.open(err, os.O_CREAT | os.O_APPEND | os.O_WRONLY), number)
    job(words, environment, rank, ranks, port, kill_at)


class Nightly:
    """One run of `genctr daily`, its ranks as processes."""

    def __init__(self, config: Path, out: Path, *words: str, ranks: int = 1, kill_at: str = "") -> None:
        port = free_port()
        out.mkdir(parents=True, exist_ok=True)
        self.told = out / "told.txt"
        self.told.unlink(missing_ok=True)
        argv = ["daily", str(config), "--out", str(out), "--quiet", "--set", f"train.ranks={ranks}", *words]
        environment = dict(os.environ)
        self.processes = [
            SERVER.Process(target=run, args=(argv, environment, rank, ranks, port, kill_at, str(self.told)))
            for rank in range(ranks)
        ]
        for process in self.processes:
            process.start()

    def ended(self, seconds: float = 120) -> int | None:
        """The first rank's exit code; None if it is still at work after so long."""
        self.processes[0].join(seconds)
        code = self.processes[0].exitcode
        if code is not None:
            for process in self.processes[1:]:
                process.join(30)
            self.kill()
        return code

    def kill(self) -> None:
        for process in self.processes:
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
        for process in self.processes:
            process.join()

    @property
    def text(self) -> str:
        return self.told.read_text()


def ledger(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]


def published(*days: str) -> dict[str, str]:
    """The states of days whose models all passed their gates."""
    return dict.fromkeys(days, "published")


def states(out: Path) -> dict[str, str]:
    from pipeline.daily.ledger import Ledger

    return {name: own.state for name, own in Ledger(str(out), fix=False).history().days.items()}


def assert_same_outcome(one: Path, other: Path) -> None:
    """Ledger, bundles and `current` are the same bytes."""
    assert (one / "ledger.jsonl").read_text() == (other / "ledger.jsonl").read_text()
    first, second = ({p.relative_to(out / "published"): p for p in (out / "published").rglob("*")} for out in (one, other))
    assert sorted(first) == sorted(second)
    assert len(first) > 10
    for name, path in first.items():
        if path.is_file():
            assert path.read_bytes() == second[name].read_bytes(), name
