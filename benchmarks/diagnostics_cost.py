"""What live diagnostics cost: the time of one report next to the steps between two reports, in one process.

    python benchmarks/diagnostics_cost.py

Prints, for KuaiRand's and Frappe's shapes, the median step, the seconds of one report (the observed steps' extra and the
report) and its share at the default cadence.
"""

import argparse
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

from grid import DATA

from pipeline.builders.job import build
from pipeline.config.run import load
from pipeline.distributed.world import world
from pipeline.training.collapse_monitor import CollapseMonitor
from pipeline.training.loop import TrainState

CASES = {
    "kuairand": (f"data.root={DATA / 'kuairand'}", "train.progressive_validation=false"),
    "frappe": (f"data.root={DATA / 'frappe'}", "data.layout='{day}.parquet'"),
}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    print("| log | step, ms | one report, s | every steps | share |\n|---|---|---|---|---|")
    for name, words in CASES.items():
        config, schema = load(f"launch/configs/{name}.yaml", (*words, "model.encoder.kind=sfg"))
        with (
            tempfile.TemporaryDirectory() as folder,
            world("cpu") as here,
            closing(build(config, schema, str(Path(folder, "run")), here)) as job,
        ):
            print(measured(job, name, arguments.steps))


def measured(job, name: str, steps: int) -> str:
    """One line of the table."""
    every = job.config.train.diagnose_every_steps
    watch = CollapseMonitor(job, every_steps=every)
    streams = [job.source.stream(job.source.open(day)) for day in job.source.train_days]
    batches = (batch for stream in streams for batch in stream.batches(stream.start()))
    plain, cursor = [], streams[0].start()
    with job.pipe() as pipe:
        for _ in range(steps):
            since = time.perf_counter()
            pipe.progress(batches)
            plain.append(time.perf_counter() - since)
        step = statistics.median(plain)
        looked, total = every - watch.steps, 0.0
        for at in range(looked, every):
            since = time.perf_counter()
            watch.on_step_begin(TrainState(at, 0, cursor))
            output = pipe.progress(batches)
            watch.on_step_end(TrainState(at + 1, 0, cursor), output)
            total += time.perf_counter() - since - step
    return f"| {name} | {step * 1e3:.1f} | {total:.2f} | {every} | {total / (every * step):.1%} |"


if __name__ == "__main__":
    main()
