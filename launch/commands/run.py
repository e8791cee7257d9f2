"""The commands that run a job by hand: `train`, `evaluate`, `diagnose` and `sample`."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from data.errors import GenctrError
from launch.arguments import add_quiet, add_run_file, add_run_folder, days_named, folder
from launch.jobs import open_job, start_ranks

if TYPE_CHECKING:
    from pipeline.config.run import RunConfig
    from pipeline.jobs.sample import SampleReport


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add what trains a run, and what looks at one that was trained."""
    train = commands.add_parser("train", help="train the days a run file names; resumes an existing run folder")
    add_run_file(train)
    train.add_argument("--out", metavar="DIR", help="run folder; default runs/NAME")
    add_quiet(train)
    train.set_defaults(command=_train)

    evaluate = commands.add_parser("evaluate", help="score days with a trained run")
    add_run_folder(evaluate)
    evaluate.add_argument("--days", required=True, metavar="A..B", help="the days to score, each on its own")
    evaluate.add_argument("--predictions", type=folder, metavar="DIR", help="also write every row's scores here, as Parquet")
    add_quiet(evaluate)
    evaluate.set_defaults(command=_evaluate)

    diagnose = commands.add_parser("diagnose", help="spectra, correlations and table health of a trained run, with pictures")
    add_run_folder(diagnose)
    diagnose.add_argument("--days", metavar="A..B", help="the days to look at; default validation, or the last trained")
    add_quiet(diagnose)
    diagnose.set_defaults(command=_diagnose)

    sample = commands.add_parser("sample", help="draw rows from a pre-trained model, and compare them with the log's")
    add_run_folder(sample)
    sample.add_argument("--rows", type=int, default=10_000, help="[rows] to draw")
    sample.add_argument(
        "--given", default="", metavar="FIELD,…", help="fields (or targets) taken from the log's rows, not drawn"
    )
    sample.add_argument("--days", metavar="A..B", help="the days compared with; default the last day of the pre-training")
    sample.add_argument("--steps", type=int, default=0, help="[rounds] of unmasking; 0 draws one value a round")
    add_quiet(sample)
    sample.set_defaults(command=_sample)


def _train(arguments: argparse.Namespace) -> int:
    from data.paths import plain
    from pipeline.config.run import load
    from pipeline.run_folder.lease import Lease

    config, schema = load(arguments.config, arguments.overrides)
    if (code := start_ranks(config, arguments.words)) is not None:
        return code
    from pipeline.jobs.train import run

    out = plain(arguments.out or f"runs/{config.name}")
    lease = Lease(out, seconds=config.daily.lease_seconds)
    with open_job(config, schema, out, lease=lease) as job:
        results = run(job, quiet=arguments.quiet)
        if job.world.is_rank_zero:
            _print_scores(results["days"], results["test"], best=job.best_reachable())
            print(f"{results['rows']} rows trained in {results['step']} steps; the run is in {out}")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from pipeline.run_folder.claim import load_run

    config, schema = load_run(arguments.run)
    days = _days_there(arguments.days, config)
    if (code := start_ranks(config, arguments.words)) is not None:
        return code
    from pipeline.jobs.evaluate import evaluate
    from pipeline.jobs.restore import restore_best

    with open_job(config, schema, arguments.run) as job:
        step = restore_best(job)
        scores = {}
        for day in days:
            scores[day] = evaluate(job, [day], step=step, quiet=arguments.quiet, predictions=arguments.predictions)
            job.log.write("evaluated", step, {"day": day, **scores[day]})
        if job.world.is_rank_zero:
            _print_scores(scores, None, best=job.best_reachable())
    return 0


def _diagnose(arguments: argparse.Namespace) -> int:
    from pipeline.run_folder.claim import load_run

    config, schema = load_run(arguments.run)
    days = _days_there(arguments.days, config) if arguments.days else []
    if (code := start_ranks(config, arguments.words)) is not None:
        return code
    from pipeline.jobs.diagnose import days_to_show, diagnose

    with open_job(config, schema, arguments.run) as job:
        report = diagnose(job, days or days_to_show(job), quiet=arguments.quiet)
        if job.world.is_rank_zero:
            print(report)
    return 0


def _sample(arguments: argparse.Namespace) -> int:
    from pipeline.config.objective import objective_kind
    from pipeline.run_folder.claim import load_run

    config, schema = load_run(arguments.run)
    generating = [at for at, stage in enumerate(config.resolved()) if objective_kind(stage).generates]
    if not generating:
        raise GenctrError(f"{arguments.run}: no stage of this run pre-trains, so there is nothing that could draw rows")
    days = _days_there(arguments.days, config) if arguments.days else []
    from pipeline.jobs.sample import sample

    with open_job(config, schema, arguments.run, at=generating[-1], planned=False) as job:
        given = [name for name in arguments.given.split(",") if name]
        report = sample(
            job,
            days or job.source.train_days[-1:],
            rows=arguments.rows,
            given=given,
            steps=arguments.steps,
            quiet=arguments.quiet,
        )
        _print_samples(report)
    return 0


def _days_there(text: str, config: "RunConfig") -> list[str]:
    """The days that are named, all of them complete in the log: asked before libraries are loaded and ranks started.

    Raises:
        BadInput: one is not there, or not complete.
    """
    from pipeline.builders.days import build_days

    days = days_named(text)
    build_days(config.resolved()[-1].config.data).sizes_of(days)
    return days


def _print_scores(days: Mapping[str, Any], test: Mapping[str, Any] | None, *, best: Mapping[str, float]) -> None:
    """The table of scores: a line per day and target; with the best reachable AUC where the log knows it."""
    from launch.status import metric_names
    from launch.tables import print_table

    scored = dict(days) | ({"test": test} if test else {})
    if not scored:
        return
    names = metric_names(scored.values())
    lines = []
    for day, scores in scored.items():
        for target, values in scores["metrics"].items():
            figures = [f"{values[name]:.4f}" if name in values else "" for name in names]
            reachable = [f"{best[day]:.4f}" if day in best else "-"] if best else []
            # Those that the metrics are of: a target with `valid_where` counts in some rows only, a field where it was hidden.
            rows = round(values.get("rows", scores["rows"]))
            lines.append([day, target, f"{rows:,}", *figures, *reachable, f"{scores['rows_per_second']:,.0f}"])
    headings = ["day", "of", "rows>", *(f"{name}>" for name in names), *(["best auc>"] if best else []), "rows/s>"]
    print_table(headings, lines, keys=2)


def _print_samples(report: "SampleReport") -> None:
    """The distances of drawn rows, a line per field and one for the pairs."""
    from launch.tables import print_table

    distances = report.fields | ({"pairs of fields, mean": report.pairs} if report.pairs else {})
    lines = [
        [name, f"{own.drawn:.3f}", f"{own.log:.3f}", f"{own.independent:.3f}" if own.independent is not None else ""]
        for name, own in distances.items()
    ]
    print_table(["field", "drawn to log>", "log to itself>", "independent values to log>"], lines)
    print(f"{report.rows} rows; total variation, 0 is the same and 1 has nothing in common")
