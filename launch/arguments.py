"""Arguments that several commands share: folders, days, settings."""

import argparse

from data.errors import GenctrError


def folder(text: str) -> str:
    """A folder without the slash at its end, as shells and consoles write it: a store takes `run//ledger.jsonl` for no name."""
    return text.rstrip("/") or text


def days_named(text: str) -> list[str]:
    """The days that `--days` or `--backfill` names.

    Raises:
        GenctrError: they have no end, or are not days.
    """
    from data.day_names import open_end, parse_days

    if open_end(text):
        raise GenctrError(f"days {text!r} have no end\n  next: name the last one")
    return parse_days(text)


def add_run_file(parser: argparse.ArgumentParser) -> None:
    """Add the run file, and what is set over it."""
    parser.add_argument("config", metavar="RUN.yaml")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")


def add_run_folder(parser: argparse.ArgumentParser) -> None:
    """Add the folder of a run that was begun."""
    parser.add_argument("run", type=folder, metavar="RUN_DIR")


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add what takes the progress bar away."""
    parser.add_argument("--quiet", action="store_true", help="plain lines instead of a progress bar")
