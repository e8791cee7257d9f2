"""What a night costs: saving, restoring, starting again, publishing, verifying, and a day from end to end.

    python benchmarks/daily_costs.py [--rows 4000000] [--dim 32]

A synthetic log and tables of `--rows` rows in all. Rates stand next to the disk's own: the same bytes written and synced, and
read back from a dropped cache where that is allowed. One process, one thread.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path

import yaml
from grid import ROOT

sys.path.insert(0, str(ROOT))

from data.synthetic import write
from pipeline.builders.job import build
from pipeline.config.run import load
from pipeline.distributed.world import world
from pipeline.jobs.restore import load as load_checkpoint
from pipeline.jobs.restore import restore
from pipeline.serving.bundle import Bundle, read_current
from pipeline.serving.export import export
from pipeline.serving.publish import switch
from pipeline.serving.scorer import Scorer


def disk(folder: Path, size: int) -> tuple[float, float]:
    """[GB/s] written and synced, and read."""
    block = os.urandom(1 << 24)
    path = folder / "disk"
    since = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(max(size >> 24, 1)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    wrote = path.stat().st_size / (time.perf_counter() - since)
    drop_cache()
    since = time.perf_counter()
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass
    read = path.stat().st_size / (time.perf_counter() - since)
    path.unlink()
    return wrote / 1e9, read / 1e9


def drop_cache() -> None:
    """So that reads come from the disk, if this user may say so."""
    os.sync()
    with suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("1")


def config_of(folder: Path, rows: int, dim: int, days: int, day_rows: int) -> Path:
    """A log and a run file whose tables have about `rows` rows."""
    write(str(folder / "log"), days=days, rows=day_rows, seed=1)
    schema = yaml.safe_load((ROOT / "launch/configs/demo.schema.yaml").read_text())
    hashed = [own for own in schema["fields"] if own.get("ids") == "hash"]
    for own in hashed:
        own["rows"] = rows // len(hashed)
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema, sort_keys=False))
    run = yaml.safe_load((ROOT / "launch/configs/demo.yaml").read_text())
    run["schema"] = str(folder / "schema.yaml")
    run["data"] |= {"root": str(folder / "log"), "days": "2026-11-01.."}
    run["model"]["dim"] = dim
    run["train"]["ranks"] = 1
    run["checkpoint"] = {"every_steps": 100_000, "asynchronous": False}
    run["daily"] = {"gates": {}}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run, sort_keys=False))
    return path


def genctr(*words: object) -> tuple[float, str]:
    """[s] a command took as a process of its own, and what it said."""
    since = time.perf_counter()
    line = [sys.executable, "-m", "launch", *map(str, words)]
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode in (0, 3, 75), done.stderr
    return time.perf_counter() - since, done.stdout


def size_of(folder: Path) -> int:
    """[bytes] of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--days", type=int, default=3)
    parser.add_argument("--day-rows", type=int, default=200_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as where:
        folder, out = Path(where), Path(where, "run")
        config = config_of(folder, arguments.rows, arguments.dim, arguments.days, arguments.day_rows)
        genctr("daily", config, "--out", out, "--quiet", "--until", "2026-11-02")
        started = time.time()
        whole, _ = genctr("daily", config, "--out", out, "--quiet", "--until", "2026-11-03")
        marks = sorted((out / "checkpoints").glob("step-*"))
        bytes_saved, bytes_published = size_of(marks[-1]), size_of(sorted((out / "published").glob("20*"))[-1])
        wrote, read = disk(folder, bytes_saved)
        lines = []
        with (
            world("cpu") as here,
            closing(build(*load(str(config), ["train.progressive_validation=true"]), str(out), here)) as job,
        ):
            mark = job.checkpoints.latest()
            drop_cache()
            since = time.perf_counter()
            load_checkpoint(job, mark)
            lines.append(("restore a checkpoint", bytes_saved, time.perf_counter() - since, read))
            meta = job.checkpoints.read_meta(mark)
            state, _ = restore(job)
            tensors = {"model": job.sharded.model.state_dict(), "optimizer": job.optimizer.state_dict()}
            since = time.perf_counter()
            job.checkpoints.save(state.step, tensors=tensors, meta={key: value for key, value in meta.items() if key != "step"})
            os.sync()
            lines.append(("save a checkpoint", bytes_saved, time.perf_counter() - since, wrote))
            day = job.open("2026-11-03", state.step)
            facts = {"name": "x", "parent": None, "scored": None, "holdout": {}, "bundle_precision": "fp32"}
            since = time.perf_counter()
            serving = read_current(str(out / "published"))["bundle"]
            bundle = export(job, str(out / "published"), "9999-bench", day=day, step=state.step, facts=facts)
            lines.append(("write a bundle", bytes_published, time.perf_counter() - since, wrote))
            since = time.perf_counter()
            switch(str(out / "published"), "9999-bench")
            lines.append(("publish: check it, switch `current`", bytes_published, time.perf_counter() - since, read))
            since = time.perf_counter()
            Scorer(Bundle(bundle.path)).parity()
            lines.append(("load a bundle and score its sample", bytes_published, time.perf_counter() - since, read))
            switch(str(out / "published"), serving)
            shutil.rmtree(bundle.path)
        _, told = genctr("verify", out)
        print("| | GB | s | s/GB | the disk's own s/GB |\n|---|---|---|---|---|")
        for name, size, seconds, rate in lines:
            print(f"| {name} | {size / 1e9:.2f} | {seconds:.2f} | {seconds / size * 1e9:.1f} | {1 / rate:.1f} |")
        events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        resumed = next(event for event in events if event["event"] == "resumed")["time"]
        restart = datetime.fromisoformat(resumed).timestamp() - started
        times = {event["event"]: event for event in events if event.get("day") == "2026-11-03"}
        idle, _ = genctr("daily", config, "--out", out, "--quiet", "--until", "2026-11-03")
        print(f"\nfrom the start of the process to where the first step can begin: {restart:.1f} s")
        print(f"nothing to do, from start to end of the process: {idle:.1f} s")
        print(f"a day of {times['trained']['rows']:,} rows, from start to end of the process: {whole:.1f} s")
        known = {
            "score it": times["scored"]["seconds"],
            "train it, and score its last rows": times["trained"]["seconds"],
        }
        for name, seconds in known.items():
            print(f"  {name}: {seconds:.1f} s")
        print(f"  start, restore, save, judge, publish: {whole - sum(known.values()):.1f} s")
        print(f"verify: {told.splitlines()[-1]}")


if __name__ == "__main__":
    main()
