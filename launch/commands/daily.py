"""The commands of the daily job: `daily`, `status`, `verify` and `schedule`."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from data.errors import GenctrError, visible
from launch.arguments import add_quiet, add_run_file, add_run_folder, days_named
from launch.jobs import OURS, open_job, start_ranks

if TYPE_CHECKING:
    from data.schema import Schema
    from pipeline.config.run import RunConfig
    from pipeline.distributed.world import World

HELD, NOTHING = 3, 75
"""Exit codes of `daily`: a model was held back; nothing to do yet (EX_TEMPFAIL of <sysexits.h>, for schedulers that retry)."""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the daily job, what tells of it, and what repeats it."""
    daily = commands.add_parser("daily", help="bring a model up to date with its log: score, train, judge and publish each day")
    add_run_file(daily)
    daily.add_argument("--out", metavar="DIR", help="run folder; default runs/NAME")
    daily.add_argument("--follow", action="store_true", help="wait for new days instead of ending")
    daily.add_argument("--until", metavar="DAY", help="the last day to take up")
    daily.add_argument("--backfill", metavar="A..B", help="train these days again, in order, from a checkpoint: see --from")
    daily.add_argument("--from", dest="mark", metavar="CHECKPOINT", help="day-DAY for the one at a day's end, or its folder")
    daily.add_argument("--dry-run", action="store_true", help="say what would be done and why, and do nothing")
    add_quiet(daily)
    daily.set_defaults(command=_daily)

    status = commands.add_parser("status", help="what happened to each day of a daily run")
    add_run_folder(status)
    status.add_argument("--gates", action="store_true", help="also every gate's answer")
    status.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    status.set_defaults(command=_status)

    verify = commands.add_parser("verify", help="prove that every row of every trained day was trained exactly once")
    add_run_folder(verify)
    verify.set_defaults(command=_verify)

    schedule = commands.add_parser("schedule", help="print what repeats the daily job")
    schedule.add_argument("config", metavar="RUN.yaml")
    schedule.add_argument("--as", dest="kind", required=True, choices=["cron", "systemd", "kubernetes", "slurm", "airflow"])
    schedule.add_argument("--out", metavar="DIR", help="run folder; default runs/NAME")
    schedule.add_argument(
        "--at",
        default="02:00",
        metavar="HH:MM",
        help="start, then every half hour (slurm: once): in UTC for kubernetes and airflow, in the time zone of the machine "
        "that runs it for cron, systemd and slurm; default 02:00",
    )
    schedule.add_argument("--image", default="genctr", help="container image, for kubernetes")
    schedule.add_argument("--cpu", type=int, default=2, help="processors, for kubernetes and slurm")
    schedule.add_argument("--memory", type=int, default=8, metavar="GIB", help="memory, for kubernetes and slurm")
    schedule.add_argument("--gpu", type=int, help="GPUs; default: one a rank where train.device is cuda")
    schedule.set_defaults(command=_schedule)


def _daily(arguments: argparse.Namespace) -> int:
    from data.paths import plain
    from pipeline.config.run import load
    from pipeline.daily.dry_run import idle
    from pipeline.run_folder.launcher import launched

    config, schema = load(arguments.config, [*arguments.overrides, "train.progressive_validation=true"])
    folder = plain(arguments.out or f"runs/{config.name}")
    if (arguments.backfill is None) != (arguments.mark is None):
        raise GenctrError("--backfill A..B and --from CHECKPOINT go together")
    again = days_named(arguments.backfill) if arguments.backfill else []
    until = again[-1] if again else arguments.until
    backfill = (again[0], arguments.mark) if again else None
    if arguments.dry_run:
        return _print_plan(folder, config, schema, until, backfill=backfill)
    if not (launched() or arguments.follow or backfill) and (why := idle(folder, config, schema, until)) is not None:
        print(f"nothing to do: {why}")
        return NOTHING
    if (code := start_ranks(config, arguments.words)) is not None:
        return code
    return _run_days(arguments, config, schema, folder, until, backfill)


def _run_days(
    arguments: argparse.Namespace,
    config: "RunConfig",
    schema: "Schema",
    folder: str,
    until: str | None,
    backfill: tuple[str, str] | None,
) -> int:
    from pipeline.daily.job import Daily
    from pipeline.run_folder.launcher import launched
    from pipeline.run_folder.lease import Lease
    from pipeline.serving.publish import publish_folder

    @contextmanager
    def failures_told(world: "World") -> Iterator[None]:
        from pipeline.daily.notify import tell

        try:
            yield
        except Exception as error:
            if world.is_rank_zero:
                tell(config.daily.hooks, "failed", run=folder, day="", text=str(error))
            raise

    lease = Lease(folder, seconds=config.daily.lease_seconds, also=[publish_folder(config.daily.publish, folder)])
    with open_job(config, schema, folder, lease=lease, around=failures_told) as job:
        daily = Daily(job, lease if job.world.is_rank_zero else None, until=until, quiet=arguments.quiet)
        if backfill is not None:
            daily.backfill(*backfill)
        outcome = daily.run(follow=arguments.follow)
        if not job.world.is_rank_zero:
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
    from pipeline.builders.days import build_days
    from pipeline.daily.dry_run import plan
    from pipeline.run_folder.claim import check_changes

    check_changes(folder, config, schema)
    last = config.resolved()[-1].config
    days = build_days(last.data)
    actions = plan(folder, last, days, until, backfill=backfill)
    for action in actions:
        print(f"{action.kind:6} {visible(action.day):12} {visible(action.why)}")
    return 0 if len(actions) > 1 else 4 if actions[-1].kind == "stop" else NOTHING


def _status(arguments: argparse.Namespace) -> int:
    from pipeline.daily.ledger import Ledger
    from pipeline.run_folder.claim import load_run

    load_run(arguments.run)  # a mistyped folder is an error, not shown as one where nothing happened
    ledger = Ledger(arguments.run, fix=False)
    if ledger.fixed:
        print(f"genctr: {ledger.fixed}", file=sys.stderr)
    if arguments.json:
        for entry in ledger.entries:
            print(json.dumps(entry))
    else:
        _print_status(arguments.run, gates=arguments.gates)
    return 0


def _print_status(folder: str, *, gates: bool = False) -> None:
    from launch.status import SHOWN_EVENTS, show
    from pipeline.daily.ledger import Ledger
    from pipeline.run_folder.log import read_log

    show(Ledger(folder, fix=False).history(), read_log(folder, SHOWN_EVENTS), gates=gates)


def _verify(arguments: argparse.Namespace) -> int:
    from pipeline.run_folder.claim import load_run

    load_run(arguments.run)  # a mistyped folder is reported before the libraries that read the log's rows are loaded
    from pipeline.daily.audit import verify_run

    proof = verify_run(arguments.run, say=lambda line: print(visible(line)))
    rate = proof.rows / proof.seconds if proof.seconds else 0.0
    for wrong in proof.wrong:
        print(f"genctr: not proven: {wrong}", file=sys.stderr)
    if proof.uncounted:
        print(f"{proof.uncounted} files: rows counted by the reader's parser alone; it has no other count of them")
    print(f"{proof.days} days proven, {proof.rows:,} rows read in {proof.seconds:.1f} s ({rate:,.0f} rows/s)")
    return 1 if proof.wrong else 0


def _schedule(arguments: argparse.Namespace) -> int:
    from launch.schedules import SCHEDULES, Resources
    from pipeline.config.run import load

    config, _ = load(arguments.config)
    out = arguments.out or f"runs/{config.name}"
    own = {"config": arguments.config, "out": out, "name": config.name, "at": arguments.at, "image": arguments.image}
    program = os.path.join(os.path.dirname(sys.executable), "genctr")
    gpu = config.train.ranks if config.train.device == "cuda" else 0
    ask = Resources(arguments.cpu, arguments.memory, gpu if arguments.gpu is None else arguments.gpu)
    if arguments.kind == "kubernetes" and "://" not in config.data.root:
        print(
            f"genctr: data.root {config.data.root} is a folder of this machine\n"
            "  next: mount a volume with the log there, or set data.root to a URI",
            file=sys.stderr,
        )
    print(SCHEDULES[arguments.kind](**own, here=os.getcwd(), program=program, ask=ask))
    return 0
