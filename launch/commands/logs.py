"""The commands about logs: `synth`, `inspect` and `import`."""

import argparse
import json
import os
import sys

from data.errors import GenctrError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add what makes, shows and imports logs."""
    synth = commands.add_parser("synth", help="make a click log whose true click probability is known")
    synth.add_argument("--out", required=True, metavar="DIR", help="folder the days are written to")
    synth.add_argument("--days", type=int, default=5, help="[days] to make")
    synth.add_argument("--rows", type=int, default=60_000, help="[rows] a day, about")
    synth.add_argument("--seed", type=int, default=2026, help="same seed, same bytes")
    synth.add_argument("--events", action="store_true", help="also what follows a click: long views, likes, seconds, actions")
    synth.add_argument("--cold", type=float, default=0.0, help="[1] share of a day's rows that show items new on that day")
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


def _synth(arguments: argparse.Namespace) -> int:
    from data.synthetic import write

    write(
        arguments.out,
        days=arguments.days,
        rows=arguments.rows,
        seed=arguments.seed,
        events=arguments.events,
        cold=arguments.cold,
    )
    print(f"{arguments.days} days in {arguments.out}")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from data.inspection.inspect import inspect

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
    from data.importers import run_import
    from data.yaml_document import read_value

    options = {}
    for override in arguments.overrides:
        name, equals, value = override.partition("=")
        if not equals:
            raise GenctrError(f"--set {override!r}: write OPTION=VALUE")
        options[name] = read_value(value, f"--set {override!r}")
    report = run_import(arguments.name, arguments.source, arguments.out, options)
    print(f"{report.rows} rows in {len(report.days)} days in {arguments.out}")
    return 0
