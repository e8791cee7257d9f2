"""Kill ranks and launchers at random instants: what lives on, and whether the run ends with the same bits.

    python -m benchmarks.kills --trials 50

Trains a small synthetic log on two ranks, again and again. Each trial kills one rank or the launcher (SIGKILL) at a random
instant from its start to the time an unbroken run takes, counts the processes that are still there 30 s later, runs the same
command to its end, and compares the tensors of the last checkpoint with those of the unbroken run.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from pipeline.checkpoint.inspect import compare, open_named

ORPHAN_SECONDS = 30.0
"""[s] that a process may need to end after its job was killed."""


def main() -> None:
    """Run the trials and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50, help="[kills]")
    parser.add_argument("--seed", type=int, default=2026, help="of the instants and of what is killed")
    parser.add_argument("--results", type=Path, help="also write the trials here, as JSON")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        config = _config(Path(folder))
        since = time.monotonic()
        assert _start(config, Path(folder) / "unbroken").wait() == 0
        whole = time.monotonic() - since
        trials: list[dict[str, Any]] = []
        for number in range(arguments.trials):
            trials.append(_trial(config, Path(folder), number, whole, chance))
            left = (time.monotonic() - since) / (number + 2) * (arguments.trials - number - 1)  # the unbroken run counts as one
            print(f"{number + 1}/{arguments.trials}, {left / 60:.0f} min left: {json.dumps(trials[-1])}", file=sys.stderr)
            if arguments.results:
                arguments.results.write_text(json.dumps(trials, indent=1) + "\n")
    _print(trials)


def _config(folder: Path) -> Path:
    from data.synthetic import write

    write(str(folder / "log"), days=2, rows=600, seed=7)
    run = {
        "name": "kills",
        "schema": str(Path(__file__).parents[1] / "launch" / "configs" / "demo.schema.yaml"),
        "data": {"root": str(folder / "log"), "days": "2026-11-01..2026-11-02", "shuffle_buffer_rows": 256},
        "train": {"global_batch_rows": 16, "device": "cpu", "ranks": 2},
        "checkpoint": {"every_steps": 4},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


def _start(config: Path, out: Path) -> "subprocess.Popen[bytes]":
    line = [sys.executable, "-m", "launch", "train", str(config), "--out", str(out), "--quiet"]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _trial(config: Path, folder: Path, number: int, whole: float, chance: random.Random) -> dict[str, Any]:
    out, at, target = folder / str(number), chance.uniform(0, whole), chance.choice(["launcher", "rank 0", "rank 1"])
    job = _start(config, out)
    deadline = time.monotonic() + at
    family: list[int] = []
    while time.monotonic() < deadline and job.poll() is None:
        family = _children(job.pid) or family
        time.sleep(0.01)
    victim = job.pid if target == "launcher" or len(family) < 2 else family[int(target[-1])]
    if job.poll() is None and _is_there(victim):
        os.kill(victim, signal.SIGKILL)
    killed = "launcher" if victim == job.pid else "rank"
    job.wait()
    end = time.monotonic() + ORPHAN_SECONDS
    while any(map(_is_there, family)) and time.monotonic() < end:
        time.sleep(0.05)
    orphans = sum(map(_is_there, family))
    stage = "import" if not out.exists() else "build" if not (out / "log.jsonl").exists() else "training"
    code = _start(config, out).wait()
    same = code == 0 and _same(folder / "unbroken", out)
    return {"killed": killed, "during": stage, "after_seconds": at, "orphans": orphans, "code": code, "same_bits": same}


def _same(one: Path, other: Path) -> bool:
    with open_named(str(one)) as left, open_named(str(other)) as right:
        told = compare(left, right, advance=lambda _: None)
    return told.equal


def _children(process: int) -> list[int]:
    try:
        return [int(own) for own in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def _is_there(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _print(trials: Sequence[dict[str, Any]]) -> None:
    table = Table("killed", "during", "trials", "orphans", "ended well afterwards", "same bits")
    for key in sorted({(own["killed"], own["during"]) for own in trials}):
        rows = [own for own in trials if (own["killed"], own["during"]) == key]
        sums = (len(rows), sum(own["orphans"] for own in rows), sum(own["code"] == 0 for own in rows))
        table.add_row(*key, *map(str, sums), str(sum(own["same_bits"] for own in rows)))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
