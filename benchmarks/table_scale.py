"""Tables of up to a billion rows on one machine: what a step, a start, a checkpoint cost, and that they learn.

    python benchmarks/table_scale.py steps          the same ids in tables of 1 M, 10 M, 100 M and 1,000 M rows, in turns
    python benchmarks/table_scale.py job            `genctr train` of 1,000 M rows on one rank and on two; save and restore
    python benchmarks/table_scale.py precision      fp16 rounded at random or to the nearest, and fp32, side by side

One table, four numbers a row, fp16, row-wise Adagrad. The log is made here: ids are Zipf with exponent 1 over a billion, so
half of the rows have one of 32,000 ids; an id is clicked with one of two probabilities, and no other field carries information.
`steps --huge-pages` takes 13 GiB of memory, `job` 30 GB of disk.
"""

import argparse
import json
import mmap
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
import yaml
from grid import DATA, ROOT

sys.path.insert(0, str(ROOT))

import pipeline.distributed.cpu_fp16
from data.ids import mix
from pipeline.builders.job import build
from pipeline.config.run import load
from pipeline.distributed.world import world
from pipeline.jobs.restore import load as load_checkpoint
from pipeline.jobs.train import run

IDS = 10**9
LIKES, DISLIKES = 0.75, 0.25
"""[1] click probability of an id that likes to be clicked, and of one that does not."""

RESULTS = Path(__file__).parent / "results" / "table_scale.jsonl"


def likes(ids: np.ndarray) -> np.ndarray:
    """Which ids like to be clicked: a bit of a hash."""
    words, scratch = np.empty(len(ids), np.uint64), np.empty(len(ids), np.uint64)
    mix(ids.astype(np.uint64), np.uint64(99), words, scratch)
    return (words >> np.uint64(63)).astype(bool)


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Of few distinct scores: the share of pairs in order, half of those that tie."""
    clicked, not_clicked = (
        np.array([((labels == label) & (scores == s)).sum() for s in np.unique(scores)]) for label in (1, 0)
    )
    before = np.cumsum(not_clicked) - not_clicked
    return float((clicked * (before + not_clicked / 2)).sum() / clicked.sum() / not_clicked.sum())


def write_log(folder: Path, *, days: int, rows: int, seed: int = 1, near: int = 1_000_000) -> dict[str, dict[str, float]]:
    """Days of ids and clicks. Returns: for every day the best AUC, and the best that knows only ids of earlier days."""
    rng = np.random.default_rng(seed)
    seen, best = np.empty(0, np.int64), {}
    for at in range(days):
        day = f"2026-11-{at + 1:02d}"
        ids = np.floor(np.exp(rng.random(rows) * np.log(IDS))).astype(np.int64) - 1
        p = np.where(likes(ids), LIKES, DISLIKES)
        clicks = (rng.random(rows) < p).astype(np.int8)
        known = np.isin(ids, seen)
        best[day] = {"auc": auc(clicks, p), "auc_of_seen": auc(clicks, np.where(known, p, 0.5)), "seen": float(known.mean())}
        seen = np.union1d(seen, ids)
        path = folder / "log" / f"day={day}"
        path.mkdir(parents=True)
        pq.write_table(pa.table({"id": ids, "near": ids % near, "click": clicks}), path / "part-0.parquet")
        (path / "_SUCCESS").touch()
    (folder / "log" / "synthetic.json").write_text(json.dumps({"days": best}))
    return best


def run_file(folder: Path, name: str, *, rows: int, days: int, field: str = "id", ids: str = "hash") -> Path:
    """A run of one table."""
    fields = [{"name": "user", "column": field, "kind": "id", "ids": ids, "rows": rows, "dim": 4}]
    schema = {"name": "scale", "label": {"column": "click"}, "fields": fields}
    (folder / f"{name}.schema.yaml").write_text(yaml.safe_dump(schema))
    said = {
        "name": name,
        "schema": f"{name}.schema.yaml",
        "data": {"root": str(folder / "log"), "days": f"2026-11-01..2026-11-{days:02d}"},
        "model": {"decoder": "mlp", "dim": 4, "decoder_options": {"hidden": [32]}},
        "tables": {"optimizer": "rowwise_adagrad", "lr": 0.1, "precision": "fp16", "init": {"scale": 0.01}},
        "train": {"global_batch_rows": 8192, "progressive_validation": True, "log_every_steps": 5, "dense": {"lr": 0.005}},
        "checkpoint": {"every_steps": 100_000, "keep_last": 1},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(said))
    return folder / f"{name}.yaml"


def resident() -> int:
    """[bytes] of memory this process takes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def in_huge_pages(numbers: int, kind: torch.dtype) -> torch.Tensor:
    """What `pipeline.distributed.cpu_fp16.untouched` gives, in pages of 2 MiB."""
    memory = mmap.mmap(-1, numbers * kind.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=kind)


def faults() -> int:
    """Pages that the system had to find for this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


# The same ids in tables of every size.


def steps(turns: int, sizes: list[int], batches: int, *, huge: bool) -> dict[str, Any]:
    """Start and steps of every size, turn by turn: the mean of the first, which touches the rows, and later medians."""
    if huge:
        pipeline.distributed.cpu_fp16.untouched = in_huge_pages
    with tempfile.TemporaryDirectory() as name, world("cpu") as here:
        folder = Path(name)
        write_log(folder, days=1, rows=8192 * batches, near=sizes[0])
        found: dict[str, Any] = {}
        jobs = {}
        for kind, field, ids in (("near", "near", "identity"), ("spread", "id", "hash")):
            for rows in sizes:
                path = run_file(folder, f"{kind}-{rows}", rows=rows, days=1, field=field, ids=ids)
                since = time.perf_counter()
                job = build(*load(str(path)), str(folder / f"run-{kind}-{rows}"), here)
                begun = time.perf_counter() - since
                stream = job.source.stream(job.source.open("2026-11-01"))
                jobs[kind, rows] = job, job.pipe(), list(stream.batches(stream.start()))
                found[f"{kind} {rows}"] = {"start_s": begun, "step_ms": [], "faults": []}
        for _ in range(turns + 1):
            for (kind, rows), (_, pipe, read) in jobs.items():
                before, times = faults(), []
                for batch in read:
                    pipe.reset()
                    since = time.perf_counter()
                    pipe.progress(iter([batch]))
                    times.append(1e3 * (time.perf_counter() - since))
                own = found[f"{kind} {rows}"]
                own["step_ms"].append(median(times) if own["step_ms"] else sum(times) / batches)
                own["faults"].append((faults() - before) / batches)
        distinct = len(torch.cat([batch.bags.values() for batch in jobs["spread", sizes[-1]][2]]).unique())
        for job, _, _ in jobs.values():
            job.close()
    told = {"what": "steps", "huge_pages": huge, "ids": distinct, "gib": resident() / 2**30, "load": os.getloadavg()[0]}
    return told | {"of": found}


def print_steps(line: dict[str, Any]) -> None:
    """A line per size: its median step, and the median over turns of its ratio to the smallest table's."""
    print(
        "| ids | rows | start s | first pass, ms a step | faults a step | later, ms a step | faults a step | to the smallest |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for kind in ("near", "spread"):
        names = [name for name in line["of"] if name.startswith(kind)]
        _, *base = line["of"][names[0]]["step_ms"]
        for name in names:
            own = line["of"][name]
            (first, *later), (faults_first, *faults_later) = own["step_ms"], own["faults"]
            ratio = median(a / b for a, b in zip(later, base, strict=True))
            print(
                f"| {kind} | {int(name.split()[1]) // 10**6} M | {own['start_s']:.2f} | {first:.1f} | {faults_first:,.0f} "
                f"| {median(later):.1f} | {median(faults_later):,.0f} | {ratio:.2f} |"
            )
    print(f"\n{line['ids']:,} ids; {line['gib']:.1f} GiB resident; load {line['load']:.1f}")


# The job.


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [below for child in path.read_text().split() for below in descendants(int(child))]
        except OSError:
            continue
    return found


def peaks(pid: int, found: dict[int, int]) -> None:
    """[bytes] at most resident so far, by process."""
    for own in descendants(pid):
        try:
            status = dict(line.split(":", 1) for line in Path(f"/proc/{own}/status").read_text().splitlines())
            found[own] = int(status["VmHWM"].split()[0]) * 1024
        except (OSError, KeyError):
            continue


def trained(config: Path, out: Path, ranks: int, *overrides: str) -> dict[str, Any]:
    """`genctr train` as a person runs it, watched from outside."""
    words = [sys.executable, "-m", "launch", "train", str(config), "--out", str(out), "--quiet"]
    for override in (f"train.ranks={ranks}", "tables.sharding=row_wise", *overrides):
        words += ["--set", override]
    begun, since, memory = time.time(), time.perf_counter(), {}
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.25):
            peaks(process.pid, memory)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, err = process.communicate()
    done.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(err)
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    events = [event for event in events if datetime.fromisoformat(event["time"]).timestamp() >= begun - 1]
    first = next(event for event in events if event["event"] == "train")
    rates = [event["rows_per_second"] for event in events if event["event"] == "train"]
    aucs = {event["day"]: event["metrics"]["click"]["auc"] for event in events if event["event"] == "scored"}
    return {
        "what": "train",
        "ranks": ranks,
        "seconds": time.perf_counter() - since,
        "first_five_steps_s": datetime.fromisoformat(first["time"]).timestamp() - begun,
        "rows_per_second": median(rates),
        "auc": aucs,
        "peak_gib": sorted((own / 2**30 for own in memory.values()), reverse=True)[:ranks],
        "told": [line for line in err.splitlines() if line.startswith("genctr:")],
        "load": os.getloadavg()[0],
    }


def measured(folder: str) -> None:
    """On every rank: start, restore, a step, save; what it took."""
    took: dict[str, float] = {}
    since = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal since
        took[name] = time.perf_counter() - since
        took[f"{name}, GiB"] = resident() / 2**30
        since = time.perf_counter()

    with world("cpu") as here, closing(build(*load(f"{folder}/config.yaml"), folder, here)) as job:
        lap("build")
        mark = str(job.checkpoints.latest())
        load_checkpoint(job, mark)
        lap("restore")
        tensors = {"model": job.sharded.model.state_dict(), "optimizer": job.optimizer.state_dict()}
        meta = job.checkpoints.read_meta(mark)
        since = time.perf_counter()
        job.checkpoints.save(meta["step"], tensors=tensors, meta=meta)
        job.checkpoints.wait()
        lap("save")
        size = sum(path.stat().st_size for path in Path(folder, "checkpoints", str(job.checkpoints.latest())).iterdir())
        took["peak, GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30
        everyones: list[Any] = [None] * here.ranks
        dist.all_gather_object(everyones, took)
        if here.is_rank_zero:
            print(json.dumps({"what": "checkpoint", "ranks": here.ranks, "bytes": size, "took": everyones}))


def job(days: int, rows: int, table: int, scratch: str | None) -> list[dict[str, Any]]:
    """On one rank, gone on with on two; on two from the start."""
    lines = []
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        best = write_log(folder, days=days, rows=rows)
        config = run_file(folder, "billion", rows=table, days=days)
        common = {"rows": table, "day_rows": rows, "best": best}
        for ranks in (1, 2):
            out = folder / f"run-{ranks}"
            lines.append(trained(config, out, ranks) | common)
            print(json.dumps(lines[-1]))
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
            words = [sys.executable, *launcher, __file__, "measure", str(out)]
            said = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
            if said.returncode:
                raise SystemExit(said.stderr)
            lines.append(json.loads(said.stdout.splitlines()[-1]) | {"load": os.getloadavg()[0]})
            print(json.dumps(lines[-1]))
            subprocess.run(["rm", "-rf", str(out / "checkpoints")], check=True)
        out, half_way = folder / "run-moved", days * rows // 8192 // 2
        trained(config, out, 1, f"train.max_steps={half_way}")
        lines.append(trained(config, out, 2) | common | {"what": "gone on with on 2 ranks", "from_step": half_way})
        print(json.dumps(lines[-1]))
    return lines


# What fp16 costs.

AT_RANDOM = pipeline.distributed.cpu_fp16.rounded
ARMS = {
    "fp16, at random": ("fp16", AT_RANDOM),
    "fp16, to the nearest": ("fp16", lambda values, _: values.half()),
    "fp32": ("fp32", AT_RANDOM),
}


def arm_of(config: str, arm: str, *overrides: str) -> dict[str, float]:
    """AUC and logloss of the test day, or of the last day before it trained."""
    kind, pipeline.distributed.cpu_fp16.rounded = ARMS[arm]
    said = [*overrides, f"tables.precision={kind}", "train.diagnose_every_steps=0", "checkpoint.every_steps=100000"]
    with (
        tempfile.TemporaryDirectory() as folder,
        world("cpu") as here,
        closing(build(*load(config, said), f"{folder}/run", here)) as made,
    ):
        results = run(made, quiet=True)
    pipeline.distributed.cpu_fp16.rounded = AT_RANDOM
    [scores] = (results["test"] or results["days"][max(results["days"])])["metrics"].values()
    return {key: scores[key] for key in ("auc", "logloss")}


def precision(days: int, rows: int, seeds: int) -> list[dict[str, Any]]:
    """By how numbers are stored: the ids above, in a table of a million rows, at two rates; and KuaiRand."""
    lines = []

    def add(line: dict[str, Any]) -> None:
        lines.append({"what": "precision", **line})
        print(json.dumps(lines[-1]))

    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as name:
            write_log(Path(name), days=days, rows=rows, seed=seed + 1)
            config = str(run_file(Path(name), "precision", rows=1_000_000, days=days))
            for lr in (0.1, 0.002):
                for arm in ARMS:
                    scores = arm_of(config, arm, f"seed={seed + 1}", f"tables.lr={lr}")
                    add({"log": "zipf", "arm": arm, "lr": lr, "seed": seed + 1, **scores})
        for arm in ARMS:
            scores = arm_of("launch/configs/kuairand.yaml", arm, f"data.root={DATA / 'kuairand'}", f"seed={2026 + seed}")
            add({"log": "kuairand", "arm": arm, "lr": 0.05, "seed": 2026 + seed, **scores})
    return lines


def main() -> None:
    """Measure, print, and keep the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["steps", "job", "precision", "measure"])
    parser.add_argument("--table", type=int, default=IDS, help="[rows] of the largest table")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batches", type=int, default=20, help="of 8192 rows, in `steps`")
    parser.add_argument("--huge-pages", action="store_true", help="of 2 MiB instead of 4 KiB, in `steps`")
    parser.add_argument("--days", type=int, default=4)
    parser.add_argument("--rows", type=int, default=245_760, help="[rows] a day")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scratch", help="folder for logs and checkpoints; default the system's")
    parser.add_argument("folder", nargs="?", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "measure":
        measured(arguments.folder)
        return
    if arguments.what == "steps":
        sizes = [arguments.table // cut for cut in (1000, 100, 10, 1)]
        lines = [steps(arguments.turns, sizes, arguments.batches, huge=arguments.huge_pages)]
        print_steps(lines[0])
    elif arguments.what == "job":
        lines = job(arguments.days, arguments.rows, arguments.table, arguments.scratch)
    else:
        lines = precision(arguments.days, arguments.rows, arguments.seeds)
    with RESULTS.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


if __name__ == "__main__":
    main()
