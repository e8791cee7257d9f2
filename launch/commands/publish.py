"""The commands about published models: `approve`, `rollback` and `score`."""

import argparse
import sys

from launch.arguments import add_run_folder, folder


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add what a person decides about a model, and what scores with one."""
    approve = commands.add_parser("approve", help="publish the model of a held day after all")
    add_run_folder(approve)
    approve.add_argument("day", metavar="DAY")
    approve.add_argument("--reason", required=True, help="goes into the ledger")
    approve.set_defaults(command=_approve)

    rollback = commands.add_parser("rollback", help="have the bundle that was published before serve again")
    add_run_folder(rollback)
    rollback.add_argument("--reason", required=True, help="goes into the ledger")
    rollback.set_defaults(command=_rollback)

    score = commands.add_parser("score", help="score raw rows with a published bundle")
    score.add_argument("bundle", metavar="BUNDLE", help="a bundle, or the folder of all: then the current one")
    score.add_argument("--data", required=True, metavar="FILE|DIR", help="a file, or a folder of files such as a day's")
    score.add_argument("--out", type=folder, required=True, metavar="DIR", help="one Parquet file of scores per file")
    score.add_argument("--keys", default="", metavar="COLUMN,…", help="columns of the rows to write next to their scores")
    score.set_defaults(command=_score)


def _approve(arguments: argparse.Namespace) -> int:
    from pipeline.daily.approvals import approve
    from pipeline.run_folder.claim import load_run
    from pipeline.serving.publish import publish_folder

    daily = load_run(arguments.run)[0].daily
    bundles = publish_folder(daily.publish, arguments.run)
    bundle = approve(arguments.run, bundles, arguments.day, reason=arguments.reason, lease_seconds=daily.lease_seconds)
    print(f"{bundle} serves now")
    return 0


def _rollback(arguments: argparse.Namespace) -> int:
    from pipeline.daily.approvals import rollback
    from pipeline.run_folder.claim import load_run
    from pipeline.serving.publish import publish_folder

    daily = load_run(arguments.run)[0].daily
    bundles = publish_folder(daily.publish, arguments.run)
    bundle = rollback(arguments.run, bundles, reason=arguments.reason, lease_seconds=daily.lease_seconds)
    print(f"{bundle} serves now")
    return 0


def _score(arguments: argparse.Namespace) -> int:
    from pipeline.serving.bundle import Bundle
    from pipeline.serving.scorer import Scorer, score_folder

    scorer = Scorer(Bundle(arguments.bundle))
    keys = [key for key in arguments.keys.split(",") if key]
    rows, bad = score_folder(scorer, arguments.data, arguments.out, keys=keys), scorer.lenient.reasons
    for reason, count in bad.items():
        print(f"genctr: {count:,} rows have no score: {reason}", file=sys.stderr)
    print(f"{rows - bad.total():,} rows scored into {arguments.out}")
    return 0
