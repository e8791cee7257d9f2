"""Score days without training on them."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.build import Job
from pipeline.meters import Meters
from pipeline.progress import Progress


def evaluate(job: Job, days: Sequence[str], *, step: int, quiet: bool) -> dict[str, Any]:
    """Score every row of `days` with the model as it is.

    Args:
        job: its model is scored. days: together, in this order. step: [steps] the model has trained, for the log.
        quiet: plain lines instead of a progress bar.

    Returns:
        `rows` [rows], `skipped` [rows] left out, `seconds` [s], `rows_per_second` [rows/s], and `tasks`:
        {task: {metric: value}} over all the days together; the same on every rank.
    """
    model = job.sharded.model
    model.eval()
    meters = Meters(job.schema.task_names)
    since = time.perf_counter()
    counts = torch.zeros(2, dtype=torch.int64)
    for day in days:
        stream = job.source.stream(job.open(day, step))
        with Progress(stream.rows, f"score {day}", shown=job.world.first, plain=quiet) as progress, torch.no_grad():
            for batch in stream.batches(stream.start()):
                _, output = model(batch.to(job.world.device))
                meters.update(output.logits, output.batch.labels, output.batch.weights, output.batch.groups)
                progress.advance(batch.rows, "")
                counts += torch.stack([batch.tally.rows.sum(), batch.tally.skipped.sum()])
    model.train()
    seconds = time.perf_counter() - since
    rows, skipped = job.world.total(counts).tolist()
    counted = {"rows": rows, "skipped": skipped, "seconds": seconds, "rows_per_second": rows / seconds}
    scores = {**counted, "tasks": meters.compute()}
    return job.world.agree(lambda: scores)
