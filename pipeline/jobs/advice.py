"""Warnings about a run that does what it was asked to and is of little use: in the log as `warning`, and once on stderr."""

import math
import sys
from collections.abc import Mapping
from typing import Any

from data.day_names import open_end
from pipeline.builders.job import Job

MOST_NE = 1.0
"""[1] of a model that says the base rate of these very rows to each of them."""

CALIBRATED = (0.5, 2.0)
"""[1] mean prediction / mean label beyond which a day's scores are a warning."""

FEW_STEPS = 100


def warn(job: Job, step: int, why: str) -> None:
    """Write down a warning, and say it once. All ranks call it; the first one speaks."""
    job.log.write("warning", step, {"why": why})
    if job.world.is_rank_zero:
        sys.stderr.write(f"genctr: warning: {why}\n")


def warn_of_scores(job: Job, days: str, scores: Mapping[str, Any], step: int) -> None:
    """Say so if scores of days that the model has not trained are worse than no model's, or far from the clicks there were."""
    for target, found in scores["metrics"].items():
        if "ne" not in found:  # of another objective
            continue
        ne, calibration = (found[name] if found[name] is not None else math.nan for name in ("ne", "calibration"))
        low, high = CALIBRATED
        problems = (
            [f"NE is {ne:.3f}: above 1, one and the same prediction for all rows would be better"] if ne > MOST_NE else []
        )
        if calibration < low or (high < calibration < math.inf):
            problems.append(f"predictions are {calibration:.3g} times the labels on average: {low} to {high} is usual")
        if problems:
            warn(
                job,
                step,
                f"target {target}, {days} ({found.get('rows', 0):.0f} rows): {'; '.join(problems)}\n"
                "  next: train more steps (lower train.global_batch_rows, more days), or look for a change of the labels; "
                "early in a run it passes",
            )


def warn_of_few_steps(job: Job, step: int, *, rows: int, steps: int) -> None:
    """Say so if a run has a handful of steps: the optimizers move each weight by about their rate a step, however many rows.

    Args:
        rows, steps: of the run's first day. A run without an end is judged by it alone.
    """
    data, train = job.config.data, job.config.train
    days = 1 if open_end(data.days) else len(job.source.train_days)
    planned = steps * days * train.epochs
    if planned >= FEW_STEPS or train.max_steps is not None:
        return
    batch = max(rows * days * train.epochs // FEW_STEPS, 1)
    told = (
        "the first day has" if days == 1 and train.epochs == 1 else f"{days} days like the first, {train.epochs} epochs, have"
    )
    warn(
        job,
        step,
        f"{told} {planned} steps: a day of {rows} rows, train.global_batch_rows {train.global_batch_rows}. A model "
        "hardly moves in so few\n"
        f"  next: set train.global_batch_rows to {batch} or less for {FEW_STEPS} steps, or train more rows",
    )
