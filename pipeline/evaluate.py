"""Score days without training on them."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.build import Job
from pipeline.meters import Meters
from pipeline.progress import Progress


def evaluate(job: Job, days: Sequence[str], *, quiet: bool) -> dict[str, Any]:
    """Score every row of `days` with the model as it is.

    Returns:
        `rows` [rows], `seconds` [s], `rows_per_second` [rows/s], and `tasks`: {task: {metric: value}} over all the days
        together; the same on every rank.
    """
    model = job.sharded.model
    model.eval()
    meters = Meters(job.schema.task_names)
    since = time.perf_counter()
    rows = 0
    for day in days:
        stream = job.source.stream(job.source.open(day))
        with Progress(stream.rows, f"score {day}", shown=job.world.first, plain=quiet) as progress, torch.no_grad():
            for batch in stream.batches(stream.start()):
                _, output = model(batch.to(job.world.device))
                meters.update(output.logits, output.batch.labels, output.batch.weights, output.batch.groups)
                progress.advance(batch.rows, "")
                rows += batch.rows
    model.train()
    seconds = time.perf_counter() - since
    return job.world.agree(
        {"rows": rows, "seconds": seconds, "rows_per_second": rows / seconds, "tasks": meters.compute()}
    )
