"""Daily jobs in processes of their own: run them, kill them at a time or at a write, compare what they leave."""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from data.synthetic import write
from tests.helpers import SERVER
from tests.jobs import free_port
from tests.tiny import SCHEMA

LENIENT = {"auc": -0.5, "calibration": [0.2, 5.0]}
"""Gates that a tiny model passes on most days."""


def write_daily(folder: Path, *, days: int, rows: int = 150, **daily: Any) -> Path:
    """A log of small days from 2026-11-01 on, and a run file that takes them all up."""
    write(str(folder / "log"), days=days, rows=rows, seed=7, users=40, items=20)
    run = {
        "name": "tiny",
        "schema": str(SCHEMA),
        "seed": 7,
        "data": {"root": str(folder / "log"), "days": "2026-11-01..", "lanes": 2, "shuffle_rows": 32},
        "model": {"decoder": "mlp", "dim": 4, "decoder_options": {"hidden": [8], "dropout": 0.2}},
        "train": {"batch_rows": 16, "device": "cpu", "score_first": True, "log_every_steps": 4},
        "checkpoint": {"every_steps": 3},
        "daily": {"gates": LENIENT, "first_gates": {}, "keep": 4, "lease_seconds": 2, **daily},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run, sort_keys=False))
    return path


def _run(words: Sequence[str], environment: dict[str, str], rank: int, ranks: int, port: int, kill_at: int, err: str) -> None:
    os.environ |= environment
    if ranks > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for number in (1, 2):
        os.dup2(os.open(err, os.O_CREAT | os.O_APPEND | os.O_WRONLY), number)
    if kill_at and rank == 0:
        die_at(kill_at)
    from launch.cli import main

    sys.exit(main(words))


def die_at(number: int) -> None:
    """SIGKILL this process at its so-manieth change of the file system: before it if the number is odd, after if even."""
    seen = 0

    def watched(real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal seen
            seen += 1
            if number == 2 * seen - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*arguments, **options)
            finally:
                if number == 2 * seen:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in ("replace", "rename", "remove", "unlink", "mkdir", "fsync"):
        setattr(os, name, watched(getattr(os, name)))


class Nightly:
    """One run of `genctr daily`, its ranks as processes."""

    def __init__(self, config: Path, out: Path, *words: str, ranks: int = 1, kill_at: int = 0) -> None:
        port = free_port()
        out.mkdir(parents=True, exist_ok=True)
        self.told = out / "told.txt"
        self.told.unlink(missing_ok=True)
        argv = ["daily", str(config), "--out", str(out), "--quiet", "--set", f"train.ranks={ranks}", *words]
        environment = dict(os.environ)
        self.processes = [
            SERVER.Process(target=_run, args=(argv, environment, rank, ranks, port, kill_at, str(self.told)))
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


def states(out: Path) -> dict[str, str]:
    from pipeline.daily.ledger import Ledger

    return {name: own.state for name, own in Ledger(str(out), mend=False).history().days.items()}


def assert_same_outcome(one: Path, other: Path) -> None:
    """Ledger, bundles and `current` are the same bytes."""
    assert (one / "ledger.jsonl").read_text() == (other / "ledger.jsonl").read_text()
    first, second = ({p.relative_to(out / "published"): p for p in (out / "published").rglob("*")} for out in (one, other))
    assert sorted(first) == sorted(second)
    assert len(first) > 10
    for name, path in first.items():
        if path.is_file():
            assert path.read_bytes() == second[name].read_bytes(), name
