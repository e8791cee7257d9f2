"""The `genctr` command: one function per word, from `doctor` to `schedule`."""

import argparse
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from data.errors import GenctrError
from launch import ckpt
from launch.ranks import GO_ON

if TYPE_CHECKING:
    from data.schema import Schema
    from pipeline.builders.source import Source
    from pipeline.config.run import RunConfig
    from pipeline.jobs.sample import SampleReport

HELD, NOTHING = 3, 75
"""Exit codes of `daily`: a model was held back; nothing to do yet (EX_TEMPFAIL of <sysexits.h>, for schedulers that retry)."""

OURS = "GENCTR_RANKS"
"""Set for ranks that this command started itself."""

YIELD = 3.0
"""[s] that a rank which lost another one stays, saying nothing more."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit code: 0 done; 1 `doctor`, `verify`, `plan` or `ckpt` found something, or a rank died; 2 something to mend, told on
        standard error; 5 another job works on the run; of `daily` also 3 a model was held back; 4 a person has to decide what
        to do about the log; 75 nothing to do yet.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(words, argparse.Namespace(words=words))
    # What libraries tell their own developers, on every rank, would hide what we tell a person.
    warnings.simplefilter("ignore")
    logging.getLogger("torch.fx").setLevel(logging.ERROR)
    command: Callable[[argparse.Namespace], int] = arguments.command
    rank = os.environ.get("RANK", "0")
    me = "genctr" if rank == "0" else f"genctr (rank {rank})"
    try:
        return command(arguments)
    except (GenctrError, OSError) as error:  # OSError: a full disk, a folder that may not be written
        print(f"{me}: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, GenctrError) else 2
    except RuntimeError as error:
        # Of gloo: the connection was closed or reset by the peer, which reading finds out, and writing may first.
        if not any(what in str(error) for what in ("by peer", "Broken pipe")):
            raise
        print(f"{me}: lost another rank; see what it said", file=sys.stderr)
        time.sleep(YIELD)  # the rank that knows why ends first: the launcher looks at who has ended, and ends the others
        return 1
    except KeyboardInterrupt:
        print(f"genctr: stopped; {GO_ON}", file=sys.stderr)
        return 130


def _folder(text: str) -> str:
    """A folder without the slash at its end, as shells and consoles write it: a store takes `run//ledger.jsonl` for no name."""
    return text.rstrip("/") or text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="genctr", description="Daily training of generative click models on TorchRec.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    doctor = commands.add_parser("doctor", help="check this environment and print what mends it")
    doctor.set_defaults(command=_doctor)

    synth = commands.add_parser("synth", help="make a click log whose true click probability is known")
    synth.add_argument("--out", required=True, metavar="DIR", help="folder the days are written to")
    synth.add_argument("--days", type=int, default=5, help="[days] to make")
    synth.add_argument("--rows", type=int, default=60_000, help="[rows] a day, about")
    synth.add_argument("--seed", type=int, default=2026, help="same seed, same bytes")
    synth.set_defaults(command=_synth)

    inspect = commands.add_parser("inspect", help="what is in this log, and a schema to start from")
    inspect.add_argument("path", metavar="DIR|FILE", help="a log, one day of it, or one file")
    inspect.add_argument("--schema", metavar="FILE", help="write the suggested schema here")
    inspect.add_argument("--json", action="store_true", help="print JSON instead of a table")
    inspect.set_defaults(command=_inspect)

    imports = commands.add_parser("import", help="turn a public set's raw files into day folders")
    imports.add_argument("name", help="criteo, avazu, movielens, kuairand or frappe")
    imports.add_argument("--from", dest="source", required=True, metavar="PATH", help="the raw file or folder")
    imports.add_argument("--out", required=True, metavar="DIR", help="folder the days are written to")
    imports.add_argument("--set", dest="overrides", action="append", default=[], metavar="OPTION=VALUE")
    imports.set_defaults(command=_import)

    train = commands.add_parser("train", help="train the days a run file names; resumes an existing run folder")
    train.add_argument("config", metavar="RUN.yaml")
    train.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    train.add_argument("--out", metavar="DIR", help="run folder; default runs/NAME")
    train.add_argument("--quiet", action="store_true", help="plain lines instead of a progress bar")
    train.set_defaults(command=_train)

    plan = commands.add_parser("plan", help="plan before you pay: memory, time and price of a run on ranks that are not there")
    plan.add_argument("config", metavar="RUN.yaml")
    plan.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    plan.add_argument("--ranks", type=int, metavar="N", help="processes, one a card; default train.ranks")
    plan.add_argument("--hosts", type=int, default=1, metavar="N", help="machines, with as many ranks each")
    plan.add_argument("--device", metavar="NAME", help="h100, h200, a100, a100-40gb or cpu; default train.hardware.device, cpu")
    plan.add_argument(
        "--out", type=_folder, metavar="DIR", help="run folder of a job that has begun: the sizes of its vocabularies"
    )
    plan.add_argument("--vocab-rows", default="", metavar="N|TABLE=N,…", help="guessed sizes of vocabularies not yet fitted")
    plan.add_argument("--usd-per-hour", type=float, metavar="PRICE", help="of one host, for the price of a billion rows")
    plan.add_argument("--save", metavar="FILE", help="write the plan here, for train.plan")
    plan.add_argument("--json", action="store_true", help="print JSON instead of tables")
    plan.set_defaults(command=_plan)

    evaluate = commands.add_parser("evaluate", help="score days with a trained run")
    evaluate.add_argument("run", type=_folder, metavar="RUN_DIR")
    evaluate.add_argument("--days", required=True, metavar="A..B", help="the days to score, each on its own")
    evaluate.add_argument("--predictions", type=_folder, metavar="DIR", help="also write every row's scores here, as Parquet")
    evaluate.add_argument("--quiet", action="store_true", help="plain lines instead of a progress bar")
    evaluate.set_defaults(command=_evaluate)

    diagnose = commands.add_parser("diagnose", help="spectra, correlations and table health of a trained run, with pictures")
    diagnose.add_argument("run", type=_folder, metavar="RUN_DIR")
    diagnose.add_argument("--days", metavar="A..B", help="the days to look at; default validation, or the last trained")
    diagnose.add_argument("--quiet", action="store_true", help="plain lines instead of a progress bar")
    diagnose.set_defaults(command=_diagnose)

    sample = commands.add_parser("sample", help="draw rows from a pre-trained model, and compare them with the log's")
    sample.add_argument("run", type=_folder, metavar="RUN_DIR")
    sample.add_argument("--rows", type=int, default=10_000, help="[rows] to draw")
    sample.add_argument(
        "--given", default="", metavar="FIELD,…", help="fields (or targets) taken from the log's rows, not drawn"
    )
    sample.add_argument("--days", metavar="A..B", help="the days compared with; default the last day of the pre-training")
    sample.add_argument("--steps", type=int, default=0, help="[rounds] of unmasking; 0 draws one value a round")
    sample.add_argument("--quiet", action="store_true", help="plain lines instead of a progress bar")
    sample.set_defaults(command=_sample)
    _add_nightly(commands)
    ckpt.add(commands)
    return parser


def _add_nightly(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    daily = commands.add_parser("daily", help="bring a model up to date with its log: score, train, judge and publish each day")
    daily.add_argument("config", metavar="RUN.yaml")
    daily.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    daily.add_argument("--out", metavar="DIR", help="run folder; default runs/NAME")
    daily.add_argument("--follow", action="store_true", help="wait for new days instead of ending")
    daily.add_argument("--until", metavar="DAY", help="the last day to take up")
    daily.add_argument("--backfill", metavar="A..B", help="train these days again, in order, from a checkpoint: see --from")
    daily.add_argument("--from", dest="mark", metavar="CHECKPOINT", help="day-DAY for the one at a day's end, or its folder")
    daily.add_argument("--dry-run", action="store_true", help="say what would be done and why, and do nothing")
    daily.add_argument("--quiet", action="store_true", help="plain lines instead of a progress bar")
    daily.set_defaults(command=_daily)

    status = commands.add_parser("status", help="what happened to each day of a daily run")
    status.add_argument("run", type=_folder, metavar="RUN_DIR")
    status.add_argument("--gates", action="store_true", help="also every gate's answer")
    status.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    status.set_defaults(command=_status)

    verify = commands.add_parser("verify", help="prove that every row of every trained day was trained exactly once")
    verify.add_argument("run", type=_folder, metavar="RUN_DIR")
    verify.set_defaults(command=_verify)

    approve = commands.add_parser("approve", help="publish the model of a held day after all")
    approve.add_argument("run", type=_folder, metavar="RUN_DIR")
    approve.add_argument("day", metavar="DAY")
    approve.add_argument("--reason", required=True, help="goes into the ledger")
    approve.set_defaults(command=_approve)

    rollback = commands.add_parser("rollback", help="have the bundle that was published before serve again")
    rollback.add_argument("run", type=_folder, metavar="RUN_DIR")
    rollback.add_argument("--reason", required=True, help="goes into the ledger")
    rollback.set_defaults(command=_rollback)

    score = commands.add_parser("score", help="score raw rows with a published bundle")
    score.add_argument("bundle", metavar="BUNDLE", help="a bundle, or the folder of all: then the current one")
    score.add_argument("--data", required=True, metavar="FILE|DIR", help="a file, or a folder of files such as a day's")
    score.add_argument("--out", type=_folder, required=True, metavar="DIR", help="one Parquet file of scores per file")
    score.set_defaults(command=_score)

    schedule = commands.add_parser("schedule", help="print what repeats the daily job")
    schedule.add_argument("config", metavar="RUN.yaml")
    schedule.add_argument("--as", dest="kind", required=True, choices=["cron", "systemd", "kubernetes", "slurm", "airflow"])
    schedule.add_argument("--out", metavar="DIR", help="run folder; default runs/NAME")
    schedule.add_argument(
        "--at", default="02:00", metavar="HH:MM", help="when it starts; where it can, it tries again every half hour"
    )
    schedule.add_argument("--image", default="genctr", help="container image, for kubernetes")
    schedule.set_defaults(command=_schedule)


def _doctor(arguments: argparse.Namespace) -> int:
    from launch.doctor import run  # each command loads only what it needs: torch takes seconds

    return run()


def _synth(arguments: argparse.Namespace) -> int:
    from data.synthetic import write

    write(arguments.out, days=arguments.days, rows=arguments.rows, seed=arguments.seed)
    print(f"{arguments.days} days in {arguments.out}")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from data.inspect import inspect

    report = inspect(arguments.path)
    print(json.dumps(report.to_json(), indent=2) if arguments.json else report.text())
    if arguments.schema:
        if os.path.exists(arguments.schema):
            raise GenctrError(f"{arguments.schema} is there already\n  next: delete it, or name another file")
        with open(arguments.schema, "x", encoding="utf-8") as file:
            file.write(report.schema_yaml())
        print(f"schema to start from: {arguments.schema}", file=sys.stderr if arguments.json else sys.stdout)
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from data.document import read_value
    from data.importers import run_import

    options = {}
    for override in arguments.overrides:
        name, equals, value = override.partition("=")
        if not equals:
            raise GenctrError(f"--set {override!r}: write OPTION=VALUE")
        options[name] = read_value(value, f"--set {override!r}")
    report = run_import(arguments.name, arguments.source, arguments.out, options)
    print(f"{report.rows} rows in {len(report.days)} days in {arguments.out}")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from data.paths import plain
    from pipeline.config.run import load
    from pipeline.distributed.world import launched, world

    config, schema = load(arguments.config, arguments.overrides)
    if config.train.ranks > 1 and not launched():
        return _on_ranks(config.train.ranks, arguments.words)
    from pipeline.builders.job import build
    from pipeline.distributed.world import writing
    from pipeline.jobs.train import run
    from pipeline.run_folder.lease import Lease

    folder = plain(arguments.out or f"runs/{config.name}")
    lease = Lease(folder, seconds=config.daily.lease_seconds)
    with (
        world(config.train.device) as here,
        writing(here, lease),
        closing(build(config, schema, folder, here, trains=True)) as job,
    ):
        results = run(job, quiet=arguments.quiet)
        if here.first:
            _print_scores(results["days"], results["test"], best=job.best_reachable())
            print(f"{results['rows']} rows trained in {results['step']} steps; the run is in {folder}")
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    logging.getLogger("torchrec").setLevel(logging.ERROR)
    from data.statistics import Statistics
    from launch.plans import show, vocabulary_sizes
    from pipeline.config.run import load
    from pipeline.distributed.hardware import find_device
    from pipeline.planning.estimate import Ask, on_paper, saved_plan

    config, schema = load(arguments.config, arguments.overrides)
    hardware = config.train.hardware
    device = find_device(arguments.device or hardware.device or "cpu", hardware)
    ask = Ask(device, arguments.ranks or config.train.ranks, arguments.hosts, vocabulary_sizes(arguments.vocab_rows))
    fitted = Statistics.load(f"{arguments.out}/statistics").vocabularies if arguments.out else {}
    papers = on_paper(config, schema, ask, {name: len(values) for name, values in fitted.items()})
    if arguments.json:
        print(json.dumps([paper.to_json(arguments.usd_per_hour) for paper in papers], indent=2))
    else:
        show(papers, usd_per_hour=arguments.usd_per_hour)
    if not all(paper.fits for paper in papers):
        return 1
    if arguments.save:
        saved_plan(papers).save(arguments.save)
        print(f"a job keeps to it with train.plan: {arguments.save}", file=sys.stderr)
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from pipeline.builders.job import build
    from pipeline.distributed.world import launched, world
    from pipeline.jobs.evaluate import evaluate
    from pipeline.jobs.restore import restore_best
    from pipeline.run_folder.claim import load_run

    config, schema = load_run(arguments.run)
    if config.train.ranks > 1 and not launched():
        return _on_ranks(config.train.ranks, arguments.words)
    days = _days(arguments.days)
    with world(config.train.device) as here, closing(build(config, schema, arguments.run, here, looks=True)) as job:
        step = restore_best(job)
        scores = {}
        for day in days:
            scores[day] = evaluate(job, [day], step=step, quiet=arguments.quiet, predictions=arguments.predictions)
            job.log.write("evaluated", step, {"day": day, **scores[day]})
        if here.first:
            _print_scores(scores, None, best=job.best_reachable())
    return 0


def _diagnose(arguments: argparse.Namespace) -> int:
    from pipeline.builders.job import build
    from pipeline.distributed.world import launched, world
    from pipeline.jobs.diagnose import days_to_show, diagnose
    from pipeline.run_folder.claim import load_run

    config, schema = load_run(arguments.run)
    if config.train.ranks > 1 and not launched():
        return _on_ranks(config.train.ranks, arguments.words)
    with world(config.train.device) as here, closing(build(config, schema, arguments.run, here, looks=True)) as job:
        days = _days(arguments.days) if arguments.days else days_to_show(job)
        report = diagnose(job, days, quiet=arguments.quiet)
        if here.first:
            print(report)
    return 0


def _sample(arguments: argparse.Namespace) -> int:
    from pipeline.builders.job import build
    from pipeline.builders.objectives import objective_kind
    from pipeline.distributed.world import world
    from pipeline.jobs.sample import sample
    from pipeline.run_folder.claim import load_run

    config, schema = load_run(arguments.run)
    generating = [at for at, stage in enumerate(config.resolved()) if objective_kind(stage).generates]
    if not generating:
        raise GenctrError(f"{arguments.run}: no stage of this run pre-trains, so there is nothing that could draw rows")
    at = generating[-1]
    with (
        world(config.train.device) as here,
        closing(build(config, schema, arguments.run, here, at=at, planned=False, looks=True)) as job,
    ):
        days = _days(arguments.days) if arguments.days else job.source.train_days[-1:]
        given = [name for name in arguments.given.split(",") if name]
        report = sample(job, days, rows=arguments.rows, given=given, steps=arguments.steps, quiet=arguments.quiet)
        _print_samples(report)
    return 0


def _daily(arguments: argparse.Namespace) -> int:
    from data.paths import plain
    from pipeline.config.run import load
    from pipeline.distributed.world import launched, world

    config, schema = load(arguments.config, [*arguments.overrides, "train.score_first=true"])
    folder = plain(arguments.out or f"runs/{config.name}")
    if (arguments.backfill is None) != (arguments.mark is None):
        raise GenctrError("--backfill A..B and --from CHECKPOINT go together")
    again = _days(arguments.backfill) if arguments.backfill else []
    until = again[-1] if again else arguments.until
    if arguments.dry_run:
        return _print_plan(folder, config, schema, until, backfill=(again[0], arguments.mark) if again else None)
    if config.train.ranks > 1 and not launched():
        return _on_ranks(config.train.ranks, arguments.words)
    from pipeline.builders.job import build
    from pipeline.daily.job import Daily, publish_folder
    from pipeline.daily.notify import tell
    from pipeline.distributed.world import writing
    from pipeline.run_folder.lease import Lease

    lease = Lease(folder, seconds=config.daily.lease_seconds, also=[publish_folder(config.daily.publish, folder)])
    with world(config.train.device) as here, writing(here, lease), ExitStack() as stack:
        try:
            job = stack.enter_context(closing(build(config, schema, folder, here, trains=True)))
            daily = Daily(job, lease if here.first else None, until=until, quiet=arguments.quiet)
            if again:
                daily.backfill(again[0], arguments.mark)
            outcome = daily.run(follow=arguments.follow)
        except Exception as error:
            if here.first:
                tell(config.daily.hooks, "failed", run=folder, day="", text=str(error))
            raise
        if not here.first:
            return 0  # the first rank speaks for all
        # To another launcher anything but 0 is a failure, to be tried again.
        speaks = not launched() or OURS in os.environ
        if outcome.waits and outcome.did_nothing:
            print(f"nothing to do: {outcome.waits}")
            return NOTHING if speaks else 0
        _print_status(folder)
        return HELD if outcome.held and speaks else 0


def _print_plan(
    folder: str, config: "RunConfig", schema: "Schema", until: str | None, *, backfill: tuple[str, str] | None
) -> int:
    from pipeline.builders.models import build_reader
    from pipeline.builders.source import build_days
    from pipeline.daily.job import plan
    from pipeline.run_folder.claim import check_changes

    check_changes(folder, config, schema)
    last = config.resolved()[-1].config
    days = build_days(last.data, build_reader(last.data.format, last.data.reader_options))
    actions = plan(folder, last, days, until, backfill=backfill)
    for action in actions:
        print(f"{action.kind:6} {action.day:12} {action.why}")
    return 0 if len(actions) > 1 else 4 if actions[-1].kind == "stop" else NOTHING


def _status(arguments: argparse.Namespace) -> int:
    from pipeline.daily.ledger import Ledger
    from pipeline.run_folder.claim import load_run

    load_run(arguments.run)  # a mistyped folder is told, not shown as one where nothing happened
    ledger = Ledger(arguments.run, mend=False)
    if ledger.mended:
        print(f"genctr: {ledger.mended}", file=sys.stderr)
    if arguments.json:
        for entry in ledger.entries:
            print(json.dumps(entry))
    else:
        _print_status(arguments.run, gates=arguments.gates)
    return 0


def _print_status(folder: str, *, gates: bool = False) -> None:
    from launch.status import show
    from pipeline.daily.ledger import Ledger
    from pipeline.run_folder.log import read_log

    show(Ledger(folder, mend=False).history(), read_log(folder), gates=gates)


def _verify(arguments: argparse.Namespace) -> int:
    from data.document import read_document
    from data.schema import Schema
    from pipeline.builders.source import build_source
    from pipeline.checkpoint.manager import Checkpoints
    from pipeline.daily.audit import verify
    from pipeline.daily.job import publish_folder
    from pipeline.daily.ledger import Ledger
    from pipeline.run_folder.claim import load_run, stage_schema

    config, _ = load_run(arguments.run)
    stages = config.resolved()
    # What it read is stored; which fields it reads, and what it makes of bad files and rows, may have changed since.
    last = replace(stages[-1], fields=())

    @cache
    def source_of(digest: str, bad_files: str) -> "Source":
        schema = read_document(f"{arguments.run}/schemas/{digest}.yaml", Schema)
        data = last.config.data.model_copy(update={"bad_files": bad_files, "bad_rows": "skip"})
        return build_source(last.config.model_copy(update={"data": data}), stage_schema(schema, last, stages), arguments.run)

    checkpoints = Checkpoints(f"{arguments.run}/checkpoints", keep=1, asynchronous=False)
    mark = checkpoints.latest()
    newest = checkpoints.read_meta(mark) if mark is not None else None
    ledger, folder = Ledger(arguments.run, mend=False), publish_folder(config.daily.publish, arguments.run)
    if not ledger.entries and "ledger" not in (newest or {}):
        raise GenctrError(f"{arguments.run} has no ledger, so nothing can be proven\n  next: `genctr daily` keeps one")
    proof = verify(source_of, ledger, newest, folder, say=print)
    rate = proof.rows / proof.seconds if proof.seconds else 0.0
    for wrong in proof.wrong:
        print(f"genctr: not proven: {wrong}", file=sys.stderr)
    if proof.uncounted:
        print(f"{proof.uncounted} files: rows counted by the reader's parser alone; it has no other count of them")
    print(f"{proof.days} days proven, {proof.rows:,} rows read in {proof.seconds:.1f} s ({rate:,.0f} rows/s)")
    return 1 if proof.wrong else 0


def _approve(arguments: argparse.Namespace) -> int:
    from pipeline.daily.approvals import approve
    from pipeline.daily.job import publish_folder
    from pipeline.run_folder.claim import load_run

    daily = load_run(arguments.run)[0].daily
    folder = publish_folder(daily.publish, arguments.run)
    bundle = approve(arguments.run, folder, arguments.day, reason=arguments.reason, lease_seconds=daily.lease_seconds)
    print(f"{bundle} serves now")
    return 0


def _rollback(arguments: argparse.Namespace) -> int:
    from pipeline.daily.approvals import rollback
    from pipeline.daily.job import publish_folder
    from pipeline.run_folder.claim import load_run

    daily = load_run(arguments.run)[0].daily
    folder = publish_folder(daily.publish, arguments.run)
    bundle = rollback(arguments.run, folder, reason=arguments.reason, lease_seconds=daily.lease_seconds)
    print(f"{bundle} serves now")
    return 0


def _score(arguments: argparse.Namespace) -> int:
    from pipeline.serving.bundle import Bundle
    from pipeline.serving.scorer import Scorer, score_folder

    rows = score_folder(Scorer(Bundle(arguments.bundle)), arguments.data, arguments.out)
    print(f"{rows:,} rows scored into {arguments.out}")
    return 0


def _schedule(arguments: argparse.Namespace) -> int:
    from launch.schedules import SCHEDULES
    from pipeline.config.run import load

    config, _ = load(arguments.config)
    out = arguments.out or f"runs/{config.name}"
    own = {"config": arguments.config, "out": out, "name": config.name, "at": arguments.at, "image": arguments.image}
    program = os.path.join(os.path.dirname(sys.executable), "genctr")
    print(SCHEDULES[arguments.kind](**own, here=os.getcwd(), program=program))
    return 0


def _days(text: str) -> list[str]:
    """The days that `--days` or `--backfill` names."""
    from data.days import open_end, parse_days

    if open_end(text):
        raise GenctrError(f"days {text!r} have no end\n  next: name the last one")
    return parse_days(text)


def _on_ranks(ranks: int, words: Sequence[str]) -> int:
    """Start the same command once per rank, and speak for them."""
    from launch.ranks import on_ranks

    return on_ranks(ranks, words, {OURS: "1"})


def _print_scores(days: Mapping[str, Any], test: Mapping[str, Any] | None, *, best: Mapping[str, float]) -> None:
    """The table of scores: a line per day and target; with the best reachable AUC where the log knows it."""
    from rich.console import Console
    from rich.table import Table

    from launch.status import metric_names

    lines = dict(days) | ({"test": test} if test else {})
    if not lines:
        return
    names = metric_names(lines.values())
    table = Table()
    for heading in ["day", "of", "rows", *names, *(["best auc"] if best else []), "rows/s"]:
        table.add_column(heading, justify="left" if heading in {"day", "of"} else "right")
    for day, scores in lines.items():
        for target, values in scores["metrics"].items():
            figures = [f"{values[name]:.4f}" if name in values else "" for name in names]
            reachable = [f"{best[day]:.4f}" if day in best else "-"] if best else []
            table.add_row(day, target, f"{scores['rows']:,}", *figures, *reachable, f"{scores['rows_per_second']:,.0f}")
    console = Console()
    console.print(table) if console.is_terminal else Console(width=140).print(table)


def _print_samples(report: "SampleReport") -> None:
    """The distances of drawn rows, a line per field and one for the pairs."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for heading in ("field", "drawn to log", "log to itself", "independent values to log"):
        table.add_column(heading, justify="left" if heading == "field" else "right")
    lines = report.fields | ({"pairs of fields, mean": report.pairs} if report.pairs else {})
    for name, own in lines.items():
        table.add_row(
            name, f"{own.drawn:.3f}", f"{own.log:.3f}", f"{own.independent:.3f}" if own.independent is not None else ""
        )
    console = Console()
    console.print(table) if console.is_terminal else Console(width=140).print(table)
    console.print(f"{report.rows} rows; total variation, 0 is the same and 1 has nothing in common")
