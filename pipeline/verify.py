"""Prove from the ledger that every row of every trained day was trained exactly once: read the log again, count and hash."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from data.batch import Tally
from data.errors import GenctrError
from pipeline.build import Source
from pipeline.bundle import Bundle, BundleError
from pipeline.ledger import History


@dataclass
class Proof:
    """What was found.

    Args:
        days: proven ones. rows: [rows] read. seconds: [s] it took. wrong: what was not proven, and why.
    """

    days: int = 0
    rows: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def verify(source_of: Callable[[str], Source], history: History, folder: str, *, say: Callable[[str], None]) -> Proof:
    """Read every trained day, and what serves.

    Args:
        source_of: what reads the log, by the digest of its schema. folder: of the bundles. say: hears of each day when done.
    """
    proof, since = Proof(), time.perf_counter()
    for name, record in history.days.items():
        if record.trained is None:
            continue
        source = source_of(record.trained["schema"])
        wrong = _day(source, name, record.trained, set(source.days.list()))
        proof.rows += record.trained["rows"]
        proof.wrong += wrong
        proof.days += not wrong
        say(f"{name}: " + ("; ".join(wrong) if wrong else f"{record.trained['rows']:,} rows, each trained once"))
    if history.serving is not None:
        try:
            Bundle(f"{folder}/{history.serving}").verify()
            current = Bundle(folder)
            if current.name != history.serving:
                proof.wrong.append(f"current names {current.name}, the ledger {history.serving}")
        except BundleError as error:
            proof.wrong.append(f"what serves is damaged: {error}")
    proof.seconds = time.perf_counter() - since
    return proof


def _day(source: Source, name: str, trained: Mapping[str, Any], there: set[str]) -> list[str]:
    base = name.partition("+")[0]
    if base not in there:
        return [f"day {base} is no longer in the log"]
    files: Mapping[str, Mapping[str, int]] = trained["files"]
    try:
        opened = source.open(base)
        paths = {source.days.below_root(file.path): file for file in opened.files}
        if gone := [file for file in files if file not in paths]:
            return [f"{gone[0]} is gone"]
        day = opened.only(name, [paths[file].path for file in files])
        stream = source.stream(day)
        tally = sum((batch.tally for batch in stream.batches(stream.start())), Tally.zeros(len(day.files)))
    except GenctrError as error:
        return [str(error).splitlines()[0]]
    wrong = []
    for file, rows, hashed, skipped in zip(day.files, *tally.stacked().tolist(), strict=True):
        own = files[source.days.below_root(file.path)]
        if (rows, skipped) != (own["rows"], own["skipped"]):
            wrong.append(f"{file.path} has {rows} rows ({skipped} bad), {own['rows']} ({own['skipped']}) were trained")
        elif hashed != own["hash"]:
            wrong.append(f"{file.path} has other content than what was trained")
    return wrong
