"""`genctr plan`: memory, time and price of a run on ranks that are not there."""

import argparse
import json
import logging
import sys

from launch.arguments import add_run_file, folder


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `plan`."""
    plan = commands.add_parser("plan", help="plan before you pay: memory, time and price of a run on ranks that are not there")
    add_run_file(plan)
    plan.add_argument("--ranks", type=int, metavar="N", help="processes, one a GPU; default train.ranks")
    plan.add_argument("--hosts", type=int, default=1, metavar="N", help="machines, with as many ranks each")
    plan.add_argument("--device", metavar="NAME", help="h100, h200, a100, a100-40gb or cpu; default train.hardware.device, cpu")
    plan.add_argument(
        "--out", type=folder, metavar="DIR", help="run folder of a job that has begun: the sizes of its vocabularies"
    )
    plan.add_argument("--vocab-rows", default="", metavar="N|TABLE=N,…", help="guessed sizes of vocabularies not yet fitted")
    plan.add_argument("--usd-per-hour", type=float, metavar="PRICE", help="of one host, for the price of a billion rows")
    plan.add_argument("--save", metavar="FILE", help="write the plan here, for train.sharding_plan")
    plan.add_argument("--json", action="store_true", help="print JSON instead of tables")
    plan.set_defaults(command=_plan)


def _plan(arguments: argparse.Namespace) -> int:
    logging.getLogger("torchrec").setLevel(logging.ERROR)
    from data.statistics import Statistics
    from launch.plans import show, vocabulary_sizes
    from pipeline.config.run import load
    from pipeline.distributed.hardware import find_device
    from pipeline.planning.estimate import ClusterSpec, estimate, saved_plan

    config, schema = load(arguments.config, arguments.overrides)
    hardware = config.train.hardware
    device = find_device(arguments.device or hardware.device or "cpu", hardware)
    ask = ClusterSpec(device, arguments.ranks or config.train.ranks, arguments.hosts, vocabulary_sizes(arguments.vocab_rows))
    fitted = Statistics.load(f"{arguments.out}/statistics").vocabularies if arguments.out else {}
    papers = estimate(config, schema, ask, {name: len(values) for name, values in fitted.items()})
    if arguments.json:
        print(json.dumps([paper.to_json(arguments.usd_per_hour) for paper in papers], indent=2))
    else:
        show(papers, usd_per_hour=arguments.usd_per_hour)
    if not all(paper.fits for paper in papers):
        return 1
    if arguments.save:
        saved_plan(papers).save(arguments.save)
        print(f"a job keeps to it with train.sharding_plan: {arguments.save}", file=sys.stderr)
    return 0
