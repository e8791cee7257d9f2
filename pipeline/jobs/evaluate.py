"""Score days without training on them."""

import fnmatch
import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from data.days import Day
from data.errors import BadInput, GenctrError
from data.paths import PATHS, list_folder, naming
from pipeline.builders.job import Job
from pipeline.distributed.world import World
from pipeline.run_folder.progress import Progress
from pipeline.training.objective import StepOutput


def evaluate(job: Job, days: Sequence[str | Day], *, step: int, quiet: bool, predictions: str | None = None) -> dict[str, Any]:
    """Score every row of `days` with the model as it is.

    Args:
        job: its model is scored. days: together, in this order; one that is open already is read as it is.
        step: [steps] the model has trained, for the log.
        quiet: plain lines instead of a progress bar.
        predictions: also write every row's logits, labels and weights here: `day=…/rank-….parquet`, with the file and the row
            each is, so that they can be joined with the log.

    Returns:
        `rows` [rows], `skipped` [rows] left out, `seconds` [s], `rows_per_second` [rows/s], `metrics` over all the days
        together: {target: {metric: value}}, of denoising {field: {metric: value}}, and `headline`: the keys of the one that
        counts first; the same on every rank.

    Raises:
        GenctrError: `predictions` of an objective that scores no rows.
    """
    if predictions is not None and not job.objective.scores_rows:
        raise GenctrError(
            f"stage {job.stage.name}, where {job.folder} stands, has the objective {job.stage.objective}: there are no "
            "scores of rows to write\n"
            "  next: train a stage that scores rows, such as one that ranks, or leave --predictions out"
        )
    model = job.sharded.model
    model.eval()
    objective = job.objective
    metrics = objective.day_metrics()
    torch.manual_seed(job.seed)  # what a pre-training hides is the same at every evaluation
    since = time.perf_counter()
    counts = torch.zeros(2, dtype=torch.int64)
    job.source.collate.origins = predictions is not None
    for day in days:
        opened = day if isinstance(day, Day) else job.open(day, step)
        before = counts.clone()
        stream, written = job.source.stream(opened), []
        with (
            Progress(stream.rows, f"score {opened.name}", shown=job.world.is_rank_zero, plain=quiet) as progress,
            torch.no_grad(),
        ):
            for batch in stream.batches(stream.start()):
                _, output = model(batch.to(job.world.device))
                metrics.update(output)
                progress.advance(batch.rows, "")
                counts += torch.stack([batch.tally.rows.sum(), batch.tally.skipped.sum()])
                if predictions is not None:
                    written.append(_predictions(output, job.schema.target_names, opened))
        check_skipped(job, opened, int(job.world.all_reduce_sum(counts - before)[1]))
        if predictions is not None and written:
            _write(pa.concat_tables(written), f"{predictions}/day={opened.name}", job.world)
    job.source.collate.origins = False
    model.train()
    seconds = time.perf_counter() - since
    rows, skipped = job.world.all_reduce_sum(counts).tolist()
    counted = {"rows": rows, "skipped": skipped, "seconds": seconds, "rows_per_second": rows / seconds}
    scores = {**counted, "metrics": metrics.compute(), "headline": list(objective.headline.path)}
    return job.world.from_rank_zero(lambda: scores, dict[str, Any])


def check_skipped(job: Job, day: Day, skipped: int) -> None:
    """Refuse a day of which more than `data.max_bad_rows_share` is left out. Every rank calls it, with the same numbers.

    Args:
        skipped: [rows] left out over all ranks and since the day began. The share is one of the whole day, so a day stops
            whatever was saved of it and whenever it was resumed, as soon as it is sure to.

    Raises:
        BadInput: it is more.
    """
    limit = job.config.data.max_bad_rows_share
    if skipped <= limit * day.rows:
        return
    # Each rank knows its own rows' reasons; the first one's are reported.
    reason = job.world.from_rank_zero(
        lambda: next((own for own, _ in job.source.collate.reasons.most_common(1)), "see data.bad_rows: stop"), str
    )
    raise BadInput(
        f"day {day.name}: {skipped:,} of {day.rows:,} rows, {skipped / day.rows:.1%}, are not what the schema says and "
        f"would be left out; most often: {reason}",
        file=job.config.data.root,
        expected=f"at most {limit:.3g} of the rows, data.max_bad_rows_share",
        hint="set data.bad_rows: stop to see the first one, and say in the schema what the column holds; or raise the limit",
    )


def _predictions(output: StepOutput, targets: Sequence[str], day: Day) -> pa.Table:
    """The rows of a step: where they are in the log, and per target logit, label and weight."""
    batch = output.batch
    assert batch.origin is not None
    files = pa.array([file.path for file in day.files])
    columns = {"file": pa.DictionaryArray.from_arrays(pa.array(batch.origin[:, 0].numpy()).cast(pa.int32()), files)}
    columns["row"] = pa.array(batch.origin[:, 1].numpy())
    for at, target in enumerate(targets):
        columns[f"{target}_logit"] = pa.array(output.logits[target].float().cpu().numpy())
        columns[f"{target}_label"] = pa.array(batch.labels[:, at].cpu().numpy())
        columns[f"{target}_weight"] = pa.array(batch.weights[:, at].cpu().numpy())
    return pa.table(columns)


def _write(rows: pa.Table, folder: str, world: World) -> None:
    """Write this rank's rows; those that more ranks left here before would be there twice."""
    PATHS.mkdirs(folder)
    names = [f"rank-{rank:05d}.parquet" for rank in range(world.ranks)]
    path = f"{folder}/{names[world.rank]}"
    with naming(path), PATHS.open(path, "wb") as file:
        pq.write_table(rows, file)
    if world.is_rank_zero:
        for name in fnmatch.filter(list_folder(folder), "rank-*.parquet"):
            if name not in names:
                PATHS.rm(f"{folder}/{name}")
