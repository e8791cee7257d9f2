"""Where a training step's time goes, and how far each part is from what the machine can do.

    OMP_NUM_THREADS=1 python benchmarks/train_speed.py

DCN V2 on 39 id fields x 16, batch 8192, three full-rank cross layers and a network of 3 x 400, row-wise Adagrad tables of
100,000 rows and Adam, on one thread. Every part is timed alone, in the processor seconds of its thread, which other work on
the machine does not lengthen by taking turns; the matrix product is timed between any two repeats, so that the ratio holds
while the processor's speed moves. Medians are printed, best in brackets.

The reader is timed from Parquet (39 int64 columns, zstd, row groups of 65,536) to collated batches with mapped ids, one core.

Whole jobs on one and on two ranks, a thread each, are then run in turns; their rows/s are those of the clock.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from data.batch import Batch
from models.inputs import FieldVectors
from models.losses.base import Targets, losses_of
from pipeline.builders.job import Job, build
from pipeline.config.run import load
from pipeline.distributed.world import world
from pipeline.training.inputs import inputs_of
from pipeline.training.objective import StepOutput

FIELDS, DIM, BATCH, ROWS, VOCABULARY = 39, 16, 8192, 524_288, 100_000


def write_log(root: Path) -> Path:
    """One day of Zipf ids, a schema and a run file; the path of the run file."""
    rng = np.random.default_rng(0)
    names = [f"c{i}" for i in range(FIELDS)]
    columns = {name: rng.zipf(1.2, ROWS) % VOCABULARY for name in names}
    table = pa.table({"label": rng.integers(0, 2, ROWS).astype(np.int8), **columns})
    folder = root / "log" / "day=2026-11-01"
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part-0.parquet", compression="zstd", row_group_size=65_536)
    (folder / "_SUCCESS").touch()
    fields = [{"name": name, "kind": "id", "ids": "hash", "rows": VOCABULARY} for name in names]
    (root / "schema.yaml").write_text(yaml.safe_dump({"name": "speed", "label": {"column": "label"}, "fields": fields}))
    run = {
        "schema": "schema.yaml",
        "data": {"root": str(root / "log"), "days": "2026-11-01..2026-11-01", "prefetch_batches": 0},
        "model": {"decoder": "dcnv2", "dim": DIM, "decoder_options": {"layers": 3, "hidden": [400, 400, 400]}},
        "train": {"global_batch_rows": BATCH},
    }
    (root / "run.yaml").write_text(yaml.safe_dump(run))
    return root / "run.yaml"


class Timer:
    """Seconds of named parts, repeat by repeat."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def __call__(self, name: str, work: Callable[[], object]) -> object:
        since = time.thread_time()
        result = work()
        self.seconds.setdefault(name, []).append(time.thread_time() - since)
        return result


def gemm(size: int = 624) -> Callable[[], object]:
    """The machine's rate on the model's own largest product: (8192, 624) x (624, 624)."""
    left, right, out = torch.randn(BATCH, size), torch.randn(size, size), torch.empty(BATCH, size)
    return lambda: [torch.mm(left, right, out=out) for _ in range(4)]


GEMM_FLOP = 4 * 2 * BATCH * 624 * 624


def dense_flop(job: Job) -> int:
    """FLOP of one forward and backward of the dense part: three products of two FLOP a weight and row."""
    weights = sum(p.numel() for p in job.sharded.dense_parameters.values() if p.dim() == 2)
    return 3 * 2 * weights * BATCH


def step_parts(job: Job, batches: list[Batch], repeats: int) -> Timer:
    """Time the parts of a step, one after the other."""
    timer, multiply = Timer(), gemm()
    objective = job.sharded.model.module
    objective = getattr(objective, "module", objective)
    ranker = objective.model
    dense = job.optimizer.optimizers[1][1]
    with job.pipe() as pipe:
        for repeat in range(repeats):
            batch = batches[repeat % len(batches)]
            timer("gemm", multiply)
            looked = timer("sparse forward", lambda batch=batch: ranker.sparse(batch.bags, batch.sequences))
            leaves = {name: vector.detach().requires_grad_() for name, vector in looked.vectors.items()}
            sparse_vectors, looked.vectors = looked.vectors, leaves

            def forward_backward(batch: Batch = batch, looked: object = looked) -> None:
                emb, linear = ranker.embed(looked, inputs_of(batch))
                scored = ranker.head(ranker.decoder(FieldVectors(emb, linear)))
                losses = losses_of(
                    objective.losses, scored, Targets(objective.targets, batch.labels, batch.weights, batch.rows, batch.groups)
                )
                torch.stack(list(losses.values())).sum().backward()

            dense.zero_grad()
            timer("dense forward and backward", forward_backward)
            grads = [leaf.grad for leaf in leaves.values()]
            timer("sparse backward and update", partial(torch.autograd.backward, list(sparse_vectors.values()), grads))
            timer("dense optimizer", dense.step)
            timer("whole step", lambda batch=batch: _step(pipe, batch))
    return timer


def _step(pipe: object, batch: Batch) -> StepOutput:
    pipe.reset()
    return pipe.progress(iter([batch]))


def reader_parts(job: Job, repeats: int) -> Timer:
    """Time reading alone and reading with collation; the difference is id mapping and collation."""
    timer = Timer()
    opened = job.source.open("2026-11-01")
    for epoch in range(repeats):
        stream = job.source.stream(opened, epoch=epoch, shuffle=True)
        timer("read and collate", lambda stream=stream: sum(1 for _ in stream.batches(stream.start())))
        bare = job.source.stream(opened, epoch=epoch, shuffle=True)
        bare._collate = lambda batch, *, files, rows, cursor: batch  # the same stream without its last step
        timer("read", lambda bare=bare: sum(1 for _ in bare.batches(bare.start())))
    return timer


def jobs_per_rank(config: str, folder: str, turns: int) -> dict[int, list[float]]:
    """[rows/s] of whole jobs on one and on two ranks, in turns; the first steps, which fill caches, are not counted."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(turns):
        for ranks, found in rates.items():
            out = f"{folder}/{ranks}-{turn}"
            settings = [f"train.ranks={ranks}", "train.max_steps=30", "train.log_every_steps=10", "data.prefetch_batches=2"]
            command = [sys.executable, "-m", "launch", "train", config, "--out", out, "--quiet"]
            command += [word for setting in settings for word in ("--set", setting)]
            subprocess.run(command, cwd=Path(__file__).parents[1], check=True, capture_output=True)
            events = [json.loads(line) for line in Path(out, "log.jsonl").read_text().splitlines()]
            found += [event["rows_per_second"] for event in events if event["event"] == "train"][1:]
    return rates


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "train_speed.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    with tempfile.TemporaryDirectory() as folder, world("cpu") as here:
        config, schema = load(str(write_log(Path(folder))))
        job = build(config, schema, f"{folder}/run", here)
        reading = reader_parts(job, 5)
        stream = job.source.stream(job.source.open("2026-11-01"), shuffle=True)
        iterator = stream.batches(stream.start())
        batches = [next(iterator) for _ in range(8)]
        parts = step_parts(job, batches, arguments.repeats)
        flop = dense_flop(job)
        rates = jobs_per_rank(f"{folder}/run.yaml", folder, arguments.turns)

    ratios = [
        flop / dense / (GEMM_FLOP / product)
        for dense, product in zip(parts.seconds["dense forward and backward"], parts.seconds["gemm"], strict=True)
    ]
    middle = {name: median(values) for name, values in (parts.seconds | reading.seconds).items()}
    best = {name: min(values) for name, values in (parts.seconds | reading.seconds).items()}
    per_batch = BATCH / ROWS
    shares = {
        "read": middle["read"] * per_batch,
        "map ids and collate": max(0.0, middle["read and collate"] - middle["read"]) * per_batch,
        **{name: middle[name] for name in ("sparse forward", "dense forward and backward")},
        **{name: middle[name] for name in ("sparse backward and update", "dense optimizer")},
    }
    total = sum(shares.values())
    print("| part | ms a batch of 8192 | share |\n|---|---|---|")
    for name, seconds in shares.items():
        print(f"| {name} | {1e3 * seconds:.1f} | {seconds / total:.1%} |")
    print(f"\nwhole step (one thread, batch ready): {BATCH / middle['whole step']:,.0f} rows a processor second")
    print(f"GEMM {GEMM_FLOP / middle['gemm'] / 1e9:.1f} ({GEMM_FLOP / best['gemm'] / 1e9:.1f}) GFLOP/s")
    dense = "dense forward and backward"
    print(f"dense {flop / middle[dense] / 1e9:.1f} ({flop / best[dense] / 1e9:.1f}) GFLOP/s of {flop / 1e9:.1f} GFLOP a step")
    print(f"dense / GEMM, pair by pair: median {median(ratios):.0%}")
    rate = {name: ROWS / middle[name] / 1e6 for name in reading.seconds}
    fast = {name: ROWS / best[name] / 1e6 for name in reading.seconds}
    for told, name in [("Parquet to collated batches", "read and collate"), ("Parquet to shuffled Arrow batches", "read")]:
        print(f"reader alone, {told}: {rate[name]:.2f} ({fast[name]:.2f}) M rows/s")
    one, two = (median(rates[ranks]) for ranks in (1, 2))
    print(f"whole job: {one:,.0f} rows/s on one rank, {two:,.0f} on two, {two / one:.2f} times as fast")
    arguments.results.parent.mkdir(exist_ok=True)
    figures = {"median_s": middle, "best_s": best, "dense_over_gemm": median(ratios), "rows_per_second_by_ranks": rates}
    arguments.results.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
