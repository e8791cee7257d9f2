"""Run a grid of `genctr train` jobs, a few at a time, and keep one JSON line of test scores for each."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("GENCTR_DATA", ROOT.parent / "shared" / "data"))

T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""The 97.5 % quantile of Student's t with 1, 2, … degrees of freedom; with more it is smaller still."""


@dataclass(frozen=True)
class Cell:
    """One job of the grid: a name, a seed, and what differs from the config file."""

    name: str
    seed: int
    overrides: tuple[str, ...]


def run_grid(config: str, cells: Sequence[Cell], *, results: Path, jobs: int, keep: Callable[[list[dict]], dict]) -> list[dict]:
    """Run the cells that `results` does not hold yet; `keep` makes a line of a run's log events."""
    results.parent.mkdir(parents=True, exist_ok=True)
    known = {(line["name"], line["seed"]) for line in read(results)}
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
    return [line for line in read(results) if (line["name"], line["seed"]) in wanted]


def read(results: Path) -> list[dict]:
    """The lines that are there already."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def paired(rows: Mapping[int, dict], base: Mapping[int, dict], key: str) -> str:
    """Mean difference to another run over the seeds both have, and its 95 % interval (Student's t)."""
    differences = [rows[seed][key] - base[seed][key] for seed in sorted(rows.keys() & base.keys())]
    if not differences:
        return "-"
    if len(differences) == 1:
        return f"{differences[0]:+.4f}"
    half = T_95[min(len(differences) - 2, len(T_95) - 1)] * stdev(differences) / len(differences) ** 0.5
    return f"{mean(differences):+.4f} ± {half:.4f}"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, as a table prints them."""
    return f"{mean(values):.4f} ± {stdev(values):.4f}" if len(values) > 1 else f"{values[0]:.4f}"
