"""A log of a few hundred rows, a run file for it, and two ways to run it: in this process, or as the command in one of its own."""

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from data.synthetic import write

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "launch" / "configs" / "demo.schema.yaml"
DAYS = ["2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04"]

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["launch.cli", "pipeline.build", "pipeline.run", "pipeline.evaluate"])


def write_log(folder: Path) -> Path:
    """Four days of about 120 rows, three files each, and a run file: two days to train, one to validate, one to test."""
    write(str(folder / "log"), days=len(DAYS), rows=120, seed=7, users=40, items=20)
    run = {
        "name": "tiny",
        "schema": str(SCHEMA),
        "seed": 7,
        "data": {
            "root": str(folder / "log"),
            "days": [DAYS[0], DAYS[1]],
            "validation": [DAYS[2]],
            "test": [DAYS[3]],
            "lanes": 2,
            "shuffle_rows": 32,
        },
        "model": {"decoder": "mlp", "dim": 4, "options": {"hidden": [8], "dropout": 0.2}},
        "train": {"batch_rows": 16, "device": "cpu"},
        "checkpoint": {"every_steps": 3},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run, sort_keys=False))
    return path


@contextmanager
def job(config: Path, out: Path, *overrides: str) -> Iterator["Job"]:
    """The built job, alone in a process group of this process."""
    from pipeline.build import Job, build  # noqa: F401
    from pipeline.config import load
    from pipeline.world import world

    with world("cpu") as here, closing(build(*load(str(config), overrides), str(out), here)) as built:
        yield built


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit code, and what it printed."""

    code: int
    out: str
    err: str


def command(*argv: object, folder: Path, cwd: Path = ROOT, seconds: float = 60) -> Done:
    """Run `genctr` in a process forked from one that has torch loaded."""
    out, err = folder / "stdout", folder / "stderr"
    process = SERVER.Process(target=_command, args=([str(word) for word in argv], str(out), str(err), str(cwd)))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"still running after {seconds} s:\n{err.read_text()}")
    return Done(process.exitcode, out.read_text(), err.read_text())


def _command(argv: Sequence[str], out: str, err: str, cwd: str) -> None:
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
    os.chdir(cwd)
    from launch.cli import main

    sys.exit(main(argv))
