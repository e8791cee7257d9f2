"""A log of a few hundred rows, a run file for it, and two ways to run it: in this process, or as a process of its own."""

import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.synthetic import write
from launch.cli import main
from pipeline.builders.job import Job, build
from pipeline.config.run import load
from pipeline.distributed.world import world
from tests.helpers import SERVER

ROOT = Path(__file__).resolve().parents[1]
EVENTS = ROOT / "launch" / "configs" / "systems" / "events.schema.yaml"
SCHEMA = ROOT / "launch" / "configs" / "demo.schema.yaml"
DAYS = ("2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04")


def write_log(folder: Path, rows: int = 120, *, events: bool = False) -> Path:
    """Four days of about so many rows, three files each, and a run file: two days to train, one to validate, one to test.

    Args:
        events: several targets, and histories whose events carry more than ids.
    """
    write(str(folder / "log"), days=len(DAYS), rows=rows, seed=7, users=40, items=20, events=events)
    run = {
        "name": "tiny",
        "schema": str(EVENTS if events else SCHEMA),
        "seed": 7,
        "data": {
            "root": str(folder / "log"),
            "days": list(DAYS[:2]),
            "validation": [DAYS[2]],
            "test": [DAYS[3]],
            "lanes": 2,
            "shuffle_buffer_rows": 32,
        },
        "model": {"decoder": "mlp", "dim": 4, "decoder_options": {"hidden": [8], "dropout": 0.2}},
        "train": {"global_batch_rows": 16, "device": "cpu"},
        "checkpoint": {"every_steps": 3},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run, sort_keys=False))
    return path


def some(cases: Iterable[str], *default: str) -> list[Any]:
    """Cases to parametrize by; those not named are slow, because a named one takes the same way through the code."""
    cases = list(cases)
    assert set(default) <= set(cases)
    return [case if case in default else pytest.param(case, marks=pytest.mark.slow) for case in cases]


@contextmanager
def built(config: Path, out: Path, *overrides: str) -> Iterator[Job]:
    """A job, alone in a process group of this process."""
    with world("cpu") as here, closing(build(*load(str(config), overrides), str(out), here)) as job:
        yield job


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit code, and what it printed."""

    code: int
    out: str
    err: str


def genctr(*words: object) -> Done:
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    return Done(code, out.getvalue(), err.getvalue())


def train(config: Path, out: Path, *overrides: str) -> Done:
    """Run `genctr train` in this process."""
    return genctr("train", config, "--out", out, "--quiet", *(word for override in overrides for word in ("--set", override)))


def process(*words: object, folder: Path, seconds: float = 300) -> Done:
    """Run the command in a process forked from one that has torch loaded; its output goes through `folder`."""
    out, err = folder / "stdout", folder / "stderr"
    child = SERVER.Process(target=_run, args=([str(word) for word in words], str(out), str(err)))
    child.start()
    child.join(seconds)
    if child.exitcode is None:
        child.kill()
        child.join()
        raise AssertionError(f"still running after {seconds} s:\n{err.read_text()}")
    return Done(child.exitcode, out.read_text(), err.read_text())


def _run(words: Sequence[str], out: str, err: str) -> None:
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
    sys.exit(main(words))
