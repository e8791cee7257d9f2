"""One GPU: does it learn what a CPU learns, and how fast is DLRM with DCN V2 on it?

    python benchmarks/gpu.py
    python benchmarks/gpu.py --dry-run        everything but the GPU: small, on a CPU, and none of its numbers mean anything

1. Parity. The same small job is trained on the CPU and on the GPU, for every optimizer, kernel and pipeline that both or only
   the GPU has; the losses of every step are compared, and the scores of the test day.
2. Speed. `benchmarks/configs/dlrm.yaml` with its tables cut down to the GPU (--largest), on made-up ids: the step alone, with
   batches that are in memory already, in fp32 and bf16, by every pipeline and kernel; then a whole job from Parquet.

Nothing of it is written for the GPU alone: parts 1 and 2 are `genctr train` and its parts, with `train.device` cuda.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import torch
import yaml

from data.days import write_day
from data.errors import GenctrError
from data.schema import AnyIds, Schema, VectorField
from pipeline.builders.job import Job, build
from pipeline.config.run import load
from pipeline.distributed.world import world
from pipeline.run_folder.log import read_log

ROOT = Path(__file__).parents[1]
DLRM = ROOT / "benchmarks" / "configs" / "dlrm.yaml"
STEADY = ["train.log_every_steps=1", "train.diagnose_every_steps=0", "train.global_batch_rows=256", "data.lanes=1"]

PARITY = {
    "rowwise_adagrad": ["tables.optimizer=rowwise_adagrad"],
    "adagrad": ["tables.optimizer=adagrad"],
    "sgd": ["tables.optimizer=sgd", "tables.lr=0.1"],
    "lazy_adam": ["tables.optimizer=lazy_adam", "tables.lr=0.001"],
    "row_wise": ["tables.sharding=row_wise"],
    "clip": ["tables.gradient_clip_value=0.001"],
}
"""Jobs that a CPU and a GPU can both do."""

ON_GPUS = {
    "base": ["train.pipeline=base"],
    "fused_uvm": ["tables.compute_kernel=fused_uvm"],
    "fused_uvm_caching": ["tables.compute_kernel=fused_uvm_caching"],
    "prefetch": ["tables.compute_kernel=fused_uvm_caching", "train.pipeline=prefetch"],
    "bf16": ["train.dense.precision=bf16"],
    "fp16 tables": ["tables.precision=fp16"],
}
"""Other ways to do the first of them, that only a GPU has."""

TOLERANCE = {"bf16": 2e-2, "fp16 tables": 5e-3}
"""Largest difference between two losses of a step: where precision is lower than fp32. Else 1e-4."""


def write_log(folder: Path, schema: Schema, *, days: int, rows: int) -> None:
    """Days of made-up rows: ids by Zipf's law, and a label that depends on the first of them."""
    for day in range(1, days + 1):
        rng = np.random.default_rng(day)
        columns, score = {}, np.zeros(rows)
        for field in schema.fields:
            if isinstance(field, VectorField):
                vectors = pa.array(rng.random(rows * field.dim, dtype=np.float32))
                columns[field.column] = pa.FixedSizeListArray.from_arrays(vectors, field.dim)
            elif isinstance(field, AnyIds):
                ids = rng.zipf(1.2, rows * field.length) % 10**9
                score += np.sin(ids[:: field.length])
                offsets = pa.array(np.arange(0, len(ids) + 1, field.length, dtype=np.int32))
                columns[field.column] = pa.ListArray.from_arrays(offsets, pa.array(ids))
        columns["label"] = pa.array((score + rng.normal(size=rows) > 0).astype(np.int8))
        write_day(str(folder / "log" / f"day=2026-11-{day:02d}"), [pa.table(columns)])


def write_run(folder: Path, *, largest: int, rows: int, days: int = 3) -> Path:
    """The log, the schema with its tables cut, and the run file; the path of the last."""
    schema = load(str(DLRM))[1]
    cut = [
        field.model_copy(update={"rows": min(field.rows, largest)}) if isinstance(field, AnyIds) else field
        for field in schema.fields
    ]
    schema = schema.model_copy(update={"fields": tuple(cut)})
    folder.mkdir(parents=True, exist_ok=True)
    write_log(folder, schema, days=days, rows=rows)
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema.model_dump(mode="json", exclude_none=True)))
    names = [f"2026-11-{day:02d}" for day in range(1, days + 1)]
    test = {"days": names[:-1], "test": names[-1:]} if days > 1 else {"days": names}
    run = {**yaml.safe_load(DLRM.read_text()), "schema": "schema.yaml"}
    run["data"] = {"root": str(folder / "log"), "lanes": 1, **test}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return folder / "run.yaml"


def trained(config: Path, out: Path, device: str, settings: Sequence[str]) -> dict[str, object]:
    """Train in a process of its own; the loss of every step, the AUC of the test day, the rate."""
    command = [sys.executable, "-m", "launch", "train", str(config), "--out", str(out), "--quiet"]
    command += [word for own in (f"train.device={device}", *settings) for word in ("--set", own)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no word"])[-1]}
    events = read_log(str(out))
    losses = [event["metrics"]["label"]["logloss"] for event in events if event["event"] == "train"]
    auc = [event["metrics"]["label"]["auc"] for event in events if event["event"] == "tested"]
    rates = [event["rows_per_second"] for event in events if event["event"] == "train"]
    return {"losses": losses, "auc": auc[-1] if auc else None, "rows_per_second": median(rates) if rates else 0.0}


def parity(folder: Path, device: str) -> list[dict[str, object]]:
    """Jobs on the CPU beside jobs on the GPU: how far apart their losses are at most."""
    config = write_run(folder, largest=1000, rows=2048)
    small = [*STEADY, "model.dim=16", "model.decoder_options.hidden=[64,32]"]
    others = ON_GPUS if device == "cuda" else {"base": ON_GPUS["base"]}
    expected, lines = {}, []
    for name, settings in PARITY.items():
        expected[name] = trained(config, folder / f"cpu {name}", "cpu", [*small, *settings])
    cases = {name: (name, settings) for name, settings in PARITY.items()}
    cases |= {name: ("rowwise_adagrad", [*PARITY["rowwise_adagrad"], *settings]) for name, settings in others.items()}
    for name, (like, settings) in cases.items():
        got, right = trained(config, folder / f"{device} {name}", device, [*small, *settings]), expected[like]
        if "failed" in got or "failed" in right:
            lines.append({"case": name, "ok": False, "told": got.get("failed", right.get("failed"))})
            continue
        apart = max(abs(a - b) for a, b in zip(got["losses"], right["losses"], strict=True))
        ok = bool(apart <= TOLERANCE.get(name, 1e-4))
        lines.append({"case": name, "ok": ok, "apart": apart, "auc_cpu": right["auc"], "auc": got["auc"]})
    return lines


def batches_of(job: Job) -> Iterator[object]:
    """The first batches of the job's first day, over and over."""
    stream = job.source.stream(job.source.open(job.source.train_days[0]))
    with closing(stream.batches(stream.start())) as batches:
        held = list(islice(batches, 4))
    return cycle(held)


def step_rate(config: Path, out: Path, device: str, settings: Sequence[str], steps: int) -> dict[str, object]:
    """[ms] of a step whose batch is in memory, and the memory that was needed."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()  # here: a case before may have failed of the memory it took
    try:
        with world(device) as here, closing(build(*load(str(config), settings), str(out), here)) as job, job.pipe() as pipe:
            batches, seconds = batches_of(job), []
            for step in range(steps):
                since = time.perf_counter()
                pipe.progress(batches)
                if device == "cuda":
                    torch.cuda.synchronize()
                if step >= steps // 4:  # the first ones choose kernels and fill caches
                    seconds.append(time.perf_counter() - since)
            rows = job.config.train.global_batch_rows
    except (GenctrError, RuntimeError) as error:
        return {"failed": str(error).splitlines()[0]}
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return {"ms": 1e3 * median(seconds), "rows_per_second": rows / median(seconds), "peak_gib": peak}


def speed(folder: Path, device: str, *, largest: int, batch: int, steps: int) -> list[dict[str, object]]:
    """The step alone in every way, then a whole job."""
    config = write_run(folder, largest=largest, rows=4 * batch, days=1)
    plain = [f"train.global_batch_rows={batch}", "train.diagnose_every_steps=0", f"train.device={device}"]
    plain += ["model.dim=16", "model.decoder_options.hidden=[64]"] if device == "cpu" else []
    cases = {"fp32": [], "base": ["train.pipeline=base"]}
    if device == "cuda":
        cases |= {"bf16": ["train.dense.precision=bf16"], "fp16 tables": ["tables.precision=fp16"]}
        cases |= {name: ON_GPUS[name] for name in ("fused_uvm", "fused_uvm_caching", "prefetch")}
        cases |= {"bf16 and fp16": ["train.dense.precision=bf16", "tables.precision=fp16"]}
    lines = []
    for name, settings in cases.items():
        found = step_rate(config, folder / f"step {name}", device, [*plain, *settings], steps)
        lines.append({"case": f"step, {name}", **found})
    whole = trained(config, folder / "whole", device, [*plain, "train.log_every_steps=1"])
    lines.append({"case": "whole job from Parquet", **{key: own for key, own in whole.items() if key != "losses"}})
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, small: shows that the script runs, measures nothing")
    parser.add_argument("--largest", type=int, default=4_000_000, help="[rows] of the largest table")
    parser.add_argument("--batch", type=int, default=65_536, help="[rows] of a step")
    parser.add_argument("--steps", type=int, default=40, help="[steps] of every case")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "gpu.json")
    arguments = parser.parse_args(argv)
    if not arguments.dry_run and not torch.cuda.is_available():
        print("torch finds no GPU here: ask `genctr doctor`, or try the script out with --dry-run", file=sys.stderr)
        return 2
    device = "cpu" if arguments.dry_run else "cuda"
    if arguments.dry_run:
        arguments.largest, arguments.batch, arguments.steps = 1000, 256, 4
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with tempfile.TemporaryDirectory() as folder:
        same = parity(Path(folder) / "parity", device)
        fast = speed(Path(folder) / "speed", device, largest=arguments.largest, batch=arguments.batch, steps=arguments.steps)
    name = "no GPU: a dry run, in which no number means anything" if device == "cpu" else torch.cuda.get_device_name()
    print(f"{name}; torch {torch.__version__}\n\n| job | same losses as on the CPU | apart at most | AUC on the CPU | AUC |")
    print("|---|---|---|---|---|")
    for line in same:
        figures = [f"{line[key]:.2e}" if key == "apart" else f"{line[key]:.4f}" for key in ("apart", "auc_cpu", "auc")
                   if line.get(key) is not None] or [str(line.get("told"))]  # fmt: skip
        print(f"| {line['case']} | {'yes' if line['ok'] else 'NO'} | {' | '.join(figures)} |")
    print("\n| DLRM with DCN V2 | rows/s | ms a step | GiB |\n|---|---|---|---|")
    for line in fast:
        if "failed" in line:
            print(f"| {line['case']} | failed: {line['failed']} |")
        else:
            print(
                f"| {line['case']} | {line['rows_per_second']:,.0f} | {line.get('ms', 0):.1f} | {line.get('peak_gib', 0):.1f} |"
            )
    if not arguments.dry_run:
        arguments.results.write_text(json.dumps({"device": name, "parity": same, "speed": fast}, indent=1) + "\n")
    return 0 if all(line["ok"] for line in same) and not any("failed" in line for line in fast) else 1


if __name__ == "__main__":
    sys.exit(main())
