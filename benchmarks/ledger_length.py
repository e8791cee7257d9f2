"""What a night costs after many days: `genctr daily` with nothing to do, and with a new day. And with a long log, many files.

    python benchmarks/ledger_length.py --days 10 300
    python benchmarks/ledger_length.py --days 3 --files 10000 --log-mb 1000

Every day has 40 rows. Times are of the processor, medians of three nights, each a process of its own with its start.
`--log-mb` adds so much to `log.jsonl` before these nights. `--files` adds, at the end, a day of so many files of one row:
measured once, with the night after it, which has nothing to do.
"""

import argparse
import datetime
import json
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
    for number in range(days):
        write_day(folder, number, files=1, rows=40)
    (folder / "schema.yaml").write_text(SCHEMA)
    (folder / "run.yaml").write_text(RUN)


def write_day(folder: Path, number: int, *, files: int, rows: int) -> None:
    """A day of so many files of so many rows each."""
    rng = np.random.default_rng(number)
    day = folder / "log" / f"day={FIRST + datetime.timedelta(days=number)}"
    day.mkdir(parents=True)
    for file in range(files):
        columns = {"y": rng.integers(0, 2, rows), "u": [f"u{n % 7}" for n in range(rows)], "x": rng.random(rows)}
        pq.write_table(pa.table(columns), day / f"{file:05d}.parquet")
    (day / "_SUCCESS").touch()


def lengthen(log: Path, megabytes: int) -> None:
    """Add `train` lines of an ordinary length to a log."""
    metrics = {"y": dict.fromkeys(("loss", "auc", "auc_error", "ne", "calibration", "logloss", "rows"), 0.123456789)}
    event = {"time": "2026-11-01T00:00:00.000+00:00", "event": "train", "step": 1, "day": "2020-01-01", "metrics": metrics}
    lines = (json.dumps(event) + "\n").encode() * 4096
    with log.open("ab") as file:
        for _ in range(megabytes * 1_000_000 // len(lines)):
            file.write(lines)


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
    parser.add_argument("--log-mb", type=int, default=0, help="[MB] of log.jsonl")
    parser.add_argument("--files", type=int, default=0, help="[files] of a day at the end")
    arguments = parser.parse_args()
    asked = sorted(arguments.days)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, asked[-1] + NIGHTS)
        for days in asked:
            night(folder, days)
            lengthen(folder / "run" / "log.jsonl", arguments.log_mb)
            idle = statistics.median(night(folder, days) for _ in range(NIGHTS))
            new = statistics.median(night(folder, days + more) for more in range(1, NIGHTS + 1))
            print(f"{days:6,} days: nothing to do {idle:5.2f} s, a new day {new:5.2f} s", flush=True)
        if arguments.files:
            days = asked[-1] + NIGHTS
            write_day(folder, days, files=arguments.files, rows=1)
            new, idle = night(folder, days + 1), night(folder, days + 1)
            print(f"{arguments.files:6,} files in a day: nothing to do {idle:5.2f} s, that day {new:5.2f} s", flush=True)


if __name__ == "__main__":
    main()
