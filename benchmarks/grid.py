"""Run a grid of `genctr train` jobs, a few at a time, and keep one JSON line of test scores for each."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("GENCTR_DATA", ROOT.parent / "shared" / "data"))


@dataclass(frozen=True)
class Cell:
    """One job of the grid: a name, a seed, and what differs from the config file."""

    name: str
    seed: int
    overrides: tuple[str, ...]


def run_grid(config: str, cells: Sequence[Cell], *, results: Path, jobs: int, keep: Callable[[list[dict]], dict]) -> list[dict]:
    """Run the cells that `results` does not hold yet; `keep` makes a line of a run's log events."""
    results.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    known = {(line["name"], line["seed"]) for line in done}
    todo = [cell for cell in cells if (cell.name, cell.seed) not in known]

    def one(cell: Cell) -> None:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "launch", "train", config, "--out", f"{folder}/run", "--quiet"]
            for override in (*cell.overrides, f"seed={cell.seed}"):
                command += ["--set", override]
            finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if finished.returncode:
                print(f"{cell.name} seed {cell.seed} failed:\n{finished.stderr[-2000:]}", file=sys.stderr)
                return
            events = [json.loads(line) for line in Path(folder, "run", "log.jsonl").read_text().splitlines()]
        line = {"name": cell.name, "seed": cell.seed, **keep(events)}
        with results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{cell.name:24} seed {cell.seed}  " + "  ".join(f"{k} {v:.5g}" for k, v in line.items() if isinstance(v, float)))

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, todo))
    wanted = {(cell.name, cell.seed) for cell in cells}
    return [line for line in map(json.loads, results.read_text().splitlines()) if (line["name"], line["seed"]) in wanted]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, as a table prints them."""
    return f"{mean(values):.4f} ± {stdev(values):.4f}" if len(values) > 1 else f"{values[0]:.4f}"
