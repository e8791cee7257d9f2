"""Score days without training on them."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.build import Job
from pipeline.progress import Progress


def evaluate(job: Job, days: Sequence[str], *, step: int, quiet: bool, predictions: str | None = None) -> dict[str, Any]:
    """Score every row of `days` with the model as it is.

    Args:
        job: its model is scored. days: together, in this order. step: [steps] the model has trained, for the log.
        quiet: plain lines instead of a progress bar.

    Returns:
        `rows` [rows], `skipped` [rows] left out, `seconds` [s], `rows_per_second` [rows/s], and `tasks`:
        {task: {metric: value}} over all the days together, of a pre-training `fields`: {field: {metric: value}}; the same on
        every rank.
    """
    model = job.sharded.model
    model.eval()
    meters = job.day_meters()
    torch.manual_seed(job.seed)  # what a pre-training hides is the same at every evaluation
    since = time.perf_counter()
    counts = torch.zeros(2, dtype=torch.int64)
    for day in days:
        stream = job.source.stream(job.open(day, step))
        with Progress(stream.rows, f"score {day}", shown=job.world.first, plain=quiet) as progress, torch.no_grad():
            for batch in stream.batches(stream.start()):
                _, output = model(batch.to(job.world.device))
                meters.update(output)
                progress.advance(batch.rows, "")
                counts += torch.stack([batch.tally.rows.sum(), batch.tally.skipped.sum()])
    model.train()
    seconds = time.perf_counter() - since
    rows, skipped = job.world.total(counts).tolist()
    counted = {"rows": rows, "skipped": skipped, "seconds": seconds, "rows_per_second": rows / seconds}
    scores = {**counted, meters.kind: meters.compute()}
    return job.world.agree(lambda: scores)
