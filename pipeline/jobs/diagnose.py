"""Diagnostics on demand: the best model of a run, looked at over many rows, as numbers and pictures."""

import json
from collections.abc import Sequence
from typing import Any

import torch

from data.paths import PATHS, write_whole
from data.yaml_document import finite
from models.diagnostics import correlation, singular_values
from pipeline.builders.job import Job
from pipeline.jobs.findings import findings
from pipeline.jobs.restore import restore_best
from pipeline.run_folder.log import read_log
from pipeline.run_folder.progress import Progress
from pipeline.training.collapse_monitor import RepresentationStats, set_watch, tables_told
from pipeline.training.metrics import NotFinite

ROWS = 50_000
"""[rows] that are looked at, as the SFG paper does."""


def diagnose(job: Job, days: Sequence[str], *, quiet: bool) -> str:
    """Look at the best model of a run: numbers and pictures into `diagnosis/` of its folder.

    Args:
        days: whose rows are looked at, up to ROWS of them.

    Returns:
        what was found, as a table to print.

    Raises:
        NotFinite: the model has diverged: there are no spectra.
    """
    step = restore_best(job)
    model = job.sharded.model
    model.eval()
    set_watch(job.objective.model, on=True)
    sight, left = RepresentationStats(job.observed), ROWS
    looked: list[str] = []
    for day in days:
        if left <= 0:
            break
        looked.append(day)
        stream = job.source.stream(job.open(day, step))
        with (
            Progress(min(stream.rows, left), f"look at {day}", shown=job.world.is_rank_zero, plain=quiet) as progress,
            torch.no_grad(),
        ):
            for batch in stream.batches(stream.start()):
                if left <= 0:
                    break
                _, output = model(batch.to(job.world.device))
                sight.add(output.observed)
                progress.advance(min(batch.rows, left), "")
                left -= batch.rows
    set_watch(job.objective.model, on=False)
    model.train()
    totals = sight.totals()
    for name, own in totals.items():
        if not own.products.isfinite().all():
            raise NotFinite(
                f"{name}: vectors of the model are not finite\n"
                "  next: start again from an earlier checkpoint with a smaller learning rate or gradient clipping"
            )
    told = {**sight.summary(), "tables": tables_told(job.sharded)}
    job.log.write("diagnosed", step, told)
    if job.world.is_rank_zero:
        folder = f"{job.folder}/diagnosis"
        PATHS.mkdirs(folder)
        spectra = {name: singular_values(own).tolist() for name, own in totals.items() if name not in ("operands", "allowed")}
        found = {"step": step, "days": looked, "findings": findings(told), **told, "spectra": spectra}
        write_whole(f"{folder}/diagnosis.json", json.dumps(finite(found), indent=1, allow_nan=False))
        from pipeline.jobs.plots import draw  # matplotlib takes a second to load

        r = correlation(totals["operands"]).tolist() if "operands" in totals else None
        log = [*read_log(job.folder, ("diagnosed", "train")), {"event": "diagnosed", "step": step, **told}]
        draw(
            folder,
            spectra=spectra,
            correlation=r,
            told=told,
            log=log,
            run=job.config.name,
            days=looked,
            fields=sight.names,
        )
    return _report(told, f"{job.folder}/diagnosis")


def days_to_show(job: Job) -> list[str]:
    """The validation days, or the last day that was trained: days without an end say only the first.

    Collective: another job may be writing the log, and ranks that look at other days would wait for each other.
    """

    def last() -> list[str]:
        trained = [event["day"] for event in read_log(job.folder, ("trained",)) if "+" not in event["day"]]
        return trained[-1:] or job.source.train_days[-1:]

    return job.source.validation_days or job.world.from_rank_zero(last, list[str])


def _report(told: dict[str, Any], folder: str) -> str:
    lines = []
    for name in ("emb", "generated", "raw"):
        if name in told:
            own = told[name]
            of = f" of the {own['allowed']} directions that the input allows" if "allowed" in own else ""
            lines.append(f"{name:10} rankme {own['rankme']:8.1f} ({own['rankme_share']:.0%})  svs98 {own['svs98']:6.0f}{of}")
    if "correlation" in told:
        own = told["correlation"]
        dead = f"dead: {own['dead_generated']:.0%} generated, {own['dead_raw']:.0%} raw"
        lines.append(
            f"correlation of the two sides: mean |R| {own['mean_r']:.3f}, within a field {own['mean_r_within']:.3f}, "
            f"of live coordinates {own['mean_r_live']:.3f} ({dead})"
        )
    for name, own in told["tables"].items():
        rank = f"rankme {own['rankme']:5.1f}  " if "rankme" in own else ""
        lines.append(f"table {name:20} rms {own['rms']:.4f}  {rank}dead {own['dead']:.1%}  moved {own['moved']:.1%}")
    lines += findings(told).values()
    return "\n".join([*lines, f"pictures and numbers are in {folder}"])
