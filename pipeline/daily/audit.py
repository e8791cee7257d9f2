"""Prove from the ledger that every row of every trained day was trained exactly once: read the log again, count and hash."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from data.batch import Tally
from data.days import Day
from data.errors import BadInput, GenctrError
from data.readers import CountsRows
from data.row_hash import ROW_HASH
from data.schema import Schema
from data.yaml_document import read_document
from pipeline.builders.source import Source, build_source
from pipeline.checkpoint.store import CheckpointStore
from pipeline.daily.ledger import History, Ledger, LedgerError, base_of
from pipeline.run_folder.claim import load_run, stage_schema
from pipeline.serving.bundle import Bundle, BundleError
from pipeline.serving.publish import publish_folder


@dataclass
class Proof:
    """What was found.

    Args:
        days: proven ones. rows: [rows] read. seconds: [s] it took. wrong: what was not proven, and why. uncounted: [files]
            whose rows were counted by nothing but the reader's parser.
    """

    days: int = 0
    rows: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    uncounted: int = 0


def verify_run(run: str, *, say: Callable[[str], None]) -> Proof:
    """Read every trained day of a run folder again, and what serves; `say` hears of each day when done.

    Raises:
        GenctrError: the folder holds no run, or one without a ledger.
    """
    config, _ = load_run(run)
    stages = config.resolved()
    # What it read is stored; which fields it reads, and what it makes of bad files and rows, may have changed since.
    last = replace(stages[-1], fields=())

    @cache
    def source_of(digest: str, bad_files: str) -> Source:
        schema = read_document(f"{run}/schemas/{digest}.yaml", Schema)
        data = last.config.data.model_copy(update={"bad_files": bad_files, "bad_rows": "skip"})
        model = last.config.model
        if said := getattr(model, "sequences", None):  # those of fields that came later are none of this schema's
            there = {field.name for field in schema.fields}
            model = model.model_copy(update={"sequences": {name: own for name, own in said.items() if name in there}})
        config_then = last.config.model_copy(update={"data": data, "model": model})
        return build_source(config_then, stage_schema(schema, last, stages), run)

    checkpoints = CheckpointStore(f"{run}/checkpoints")
    mark = checkpoints.latest()
    newest = checkpoints.read_meta(mark) if mark is not None else None
    ledger, folder = Ledger(run, fix=False), publish_folder(config.daily.publish, run)
    if not ledger.entries and "ledger" not in (newest or {}):
        raise GenctrError(f"{run} has no ledger, so nothing can be proven\n  next: `genctr daily` keeps one")
    return verify(source_of, ledger, newest, folder, say=say)


def verify(
    source_of: Callable[[str, str], Source],
    ledger: Ledger,
    newest: Mapping[str, Any] | None,
    folder: str,
    *,
    say: Callable[[str], None],
) -> Proof:
    """Read every trained day and the serving bundle, and compare the ledger with the newest checkpoint.

    Args:
        source_of: what reads the log, by the digest of its schema and what it does with bad files; it leaves out bad rows.
        newest: the newest checkpoint's meta and step; None if there is none. folder: of the bundles. say: hears of each day
            when done.
    """
    history = ledger.history()
    proof, since = Proof(), time.perf_counter()
    there: dict[str, set[str]] = {}  # listed once, not once a day
    for name, record in history.days.items():
        if record.trained is None:
            continue
        schema = record.trained["schema"]
        base = base_of(name)
        # A night may have left out what the config would not now. Not said of all days: it has every file read twice.
        bad = history.unreadable_files.get(base) or any((part.trained or {})["quarantined"] for part in history.parts(base))
        source = source_of(schema, "quarantine" if bad else "stop")
        if schema not in there:
            there[schema] = set(source.days.list())
        wrong = _day(source, name, record.trained, there[schema], history.files(base), proof)
        wrong += _files(source, name, history) if not wrong else []
        proof.rows += record.trained["rows"]
        proof.wrong += wrong
        proof.days += not wrong
        say(f"{name}: " + ("; ".join(wrong) if wrong else f"{record.trained['rows']:,} rows, each trained once"))
    proof.wrong += _whole(ledger, history, newest)
    if history.serving is not None:
        try:
            Bundle(f"{folder}/{history.serving}").verify()
            current = Bundle(folder)
            if current.name != history.serving:
                proof.wrong.append(f"current names {current.name}, the ledger {history.serving}")
        except BundleError as error:
            proof.wrong.append(f"the serving bundle is damaged: {error}")
    proof.seconds = time.perf_counter() - since
    return proof


def _whole(ledger: Ledger, history: History, newest: Mapping[str, Any] | None) -> list[str]:
    """Whether the ledger has all that the checkpoint has seen of it, and the checkpoint all days that the ledger has."""
    wrong = [ledger.fixed] if ledger.fixed else []
    try:
        if newest is not None and "ledger" in newest:
            ledger.check(newest)
    except LedgerError as error:
        wrong.append(str(error).splitlines()[0])
    step = newest["step"] if newest is not None else 0
    lost = [own.name for own in history.days.values() if own.trained is not None and own.trained["step"] > step]
    return [*wrong, *(f"no checkpoint is left that has day {name}: the next night trains it again" for name in lost)]


def _files(source: Source, name: str, history: History) -> list[str]:
    """What a day's files say of it in addition to what each contains: one that two parts have, one that none has."""
    base = base_of(name)
    parts = {own.name: (own.trained or {})["files"].keys() for own in history.parts(base)}
    twice = sorted(file for file in parts[name] for other, own in parts.items() if other != name and file in own)
    wrong = [f"{file} was trained in another part of the day too" for file in twice]
    if name == next(iter(parts)):
        sizes = source.days.sizes(base)
        missed = sorted(sizes.keys() - history.files(base).keys() - history.untrained_files(base, sizes))
        wrong += [f"{file} was not trained: it came later" for file in missed]
    return wrong


def _day(
    source: Source, name: str, trained: Mapping[str, Any], there: set[str], known: Collection[str], proof: Proof
) -> list[str]:
    base = base_of(name)
    if base not in there:
        return [f"day {base} is no longer in the log"]
    if (form := trained.get("row_hash", "1")) != ROW_HASH:
        return [
            f"its rows were hashed in format {form}, and this version has format {ROW_HASH}: verify it with the version before"
        ]
    files: Mapping[str, Mapping[str, int]] = trained["files"]
    try:
        opened = source.open(base, known=known)
        paths = {source.days.below_root(file.path): file for file in opened.files}
        bad = {source.days.below_root(path): why for path, why in opened.quarantined.items()}
        if gone := [file for file in files if file not in paths]:
            return [bad.get(gone[0], f"{gone[0]} is gone").splitlines()[0]]
        day = opened.only(name, [paths[file].path for file in files])
        stream = source.stream(day)
        tally = sum((batch.tally for batch in stream.batches(stream.start())), Tally.zeros(len(day.files)))
        wrong = _counted(source, day, files, proof)
    except GenctrError as error:
        return [f"{error.file}: {error.what}" if isinstance(error, BadInput) else str(error).splitlines()[0]]
    for file, rows, hashed, skipped in zip(day.files, *tally.stacked().tolist(), strict=True):
        own = files[source.days.below_root(file.path)]
        if (rows, skipped) != (own["rows"], own["skipped"]):
            wrong.append(f"{file.path} has {rows} rows ({skipped} bad), {own['rows']} ({own['skipped']}) were trained")
        elif hashed != own["hash"]:
            wrong.append(f"{file.path} has other content than what was trained")
    return wrong


def _counted(source: Source, day: Day, files: Mapping[str, Mapping[str, int]], proof: Proof) -> list[str]:
    """Files that have more rows, or fewer, than were trained, counted by their lines or footers: without the parser."""
    wrong = []
    for file in day.files:
        own = files[source.days.below_root(file.path)]
        counted = source.reader.rows(file.path) if isinstance(source.reader, CountsRows) else None
        proof.uncounted += counted is None
        if counted not in (None, own["rows"] + own["skipped"]):
            wrong.append(
                f"{file.path} has {counted:,} rows when its lines or its footer are counted, "
                f"{own['rows'] + own['skipped']:,} were read when it was trained"
            )
    return wrong
