"""What a night costs after many days: `genctr daily` with nothing to do, and with a new day.

    python benchmarks/ledger_length.py --days 10 300

Every day has 40 rows. Times are of the processor, medians of three nights, each a process of its own with its start.
"""

import argparse
import datetime
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FIRST = datetime.date(2020, 1, 1)
SCHEMA = "name: tiny\nlabel: {column: y}\nfields:\n  - {name: u, kind: id, ids: vocab}\n  - {name: x, kind: number}\n"
RUN = """name: tiny
schema: schema.yaml
data: {root: log, days: "2020-01-01.."}
model: {decoder: fm, dim: 4}
train: {global_batch_rows: 40, diagnose_every_steps: 0}
daily: {gates: {}, first_gates: {}}
"""
NIGHTS = 3


def write(folder: Path, days: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(days):
        day = folder / "log" / f"day={FIRST + datetime.timedelta(days=number)}"
        day.mkdir(parents=True)
        columns = {"y": rng.integers(0, 2, 40), "u": [f"u{n % 7}" for n in range(40)], "x": rng.random(40)}
        pq.write_table(pa.table(columns), day / "p.parquet")
        (day / "_SUCCESS").touch()
    (folder / "schema.yaml").write_text(SCHEMA)
    (folder / "run.yaml").write_text(RUN)


def night(folder: Path, days: int) -> float:
    """[s] of processor time of a night that may take up so many days."""
    last = FIRST + datetime.timedelta(days=days - 1)
    words = [sys.executable, "-P", "-m", "launch", "daily", "run.yaml", "--out", "run", "--until", str(last), "--quiet"]
    root = Path(__file__).resolve().parents[1]
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = subprocess.run(
        words, cwd=folder, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, check=False
    ).returncode
    assert code in (0, 75), f"exit code {code}"
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, nargs="+", default=[10, 300])
    asked = sorted(parser.parse_args().days)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, asked[-1] + NIGHTS)
        for days in asked:
            night(folder, days)
            idle = statistics.median(night(folder, days) for _ in range(NIGHTS))
            new = statistics.median(night(folder, days + more) for more in range(1, NIGHTS + 1))
            print(f"{days:6,} days: nothing to do {idle:5.2f} s, a new day {new:5.2f} s", flush=True)


if __name__ == "__main__":
    main()
