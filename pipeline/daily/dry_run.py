"""What a daily job would do, without doing it: the plan of a dry run, and whether a night has nothing to do. Without torch."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, Protocol

from data.cursor import Cursor
from data.days import Days
from data.errors import GenctrError
from data.paths import PATHS
from data.schema import Schema
from data.statistics import Statistics
from pipeline.builders.days import build_days
from pipeline.checkpoint.intact import verify_marker, verify_records
from pipeline.checkpoint.store import CheckpointStore
from pipeline.config.objective import objective_kind
from pipeline.config.run import RunConfig
from pipeline.daily.ledger import DayRecord, History, Ledger, base_of, fold
from pipeline.daily.policy import Action, check, last_day, next_action
from pipeline.daily.prometheus import write_metrics
from pipeline.run_folder.claim import bucketed, digest, load_run, stage_schema
from pipeline.run_folder.lease import FILE as LEASE
from pipeline.run_folder.lease import Lease
from pipeline.run_folder.log import RunLog
from pipeline.serving.bundle import read_current
from pipeline.serving.publish import prune, publish_folder

DAY_PIN = "day-"
"""What the last checkpoint of a day is pinned as, before the day's name."""


class Pins(Protocol):
    """The checkpoints of a run by their names and pins: of a folder, or of a job."""

    def marks(self) -> list[str]:
        """The names of all complete checkpoints, oldest first."""
        ...

    def pins(self) -> dict[str, str]:
        """The pinned checkpoints by the names they are pinned under."""
        ...

    def read_meta(self, mark: str) -> dict[str, Any]:
        """The `meta` that was saved with a checkpoint, and its `step`."""
        ...


def plan(
    folder: str, config: RunConfig, days: Days, until: str | None, *, backfill: tuple[str, str] | None = None
) -> list[Action]:
    """What a daily job would do, without doing it. Ends with what it would wait or stop for.

    Args:
        config: of the last stage. backfill: the first day to train again, and the checkpoint to begin with.
    """
    check(config)
    entries: list[Mapping[str, Any]] = list(Ledger(folder, fix=False).entries)
    actions: list[Action] = []
    if backfill is not None:
        mark = mark_before(CheckpointStore(f"{folder}/checkpoints"), fold(entries), *backfill)
        actions.append(Action("rewind", backfill[0], f"backfill from {mark}"))
        entries += _foreseen(actions[-1], fold(entries), config, days)
    while not actions or actions[-1].kind not in ("wait", "stop"):
        history = fold(entries)
        actions.append(next_action(history, config, days, last_day(config, until)))
        entries += _foreseen(actions[-1], history, config, days)
    return actions


def _foreseen(action: Action, history: History, config: RunConfig, days: Days) -> list[Mapping[str, Any]]:
    """What the ledger would say once this is done, as far as what comes after depends on it."""
    day = {"day": action.day}
    if action.kind == "rewind":
        return [{**day, "event": "rewound", "gone": history.since(action.day)}]
    if action.kind == "leave":
        return [{**day, "event": "late", "files": list(action.files)}]
    if action.kind == "skip":
        return [{**day, "event": "skipped", "why": action.why}]
    if action.kind != "train":
        return []
    sizes = days.sizes(base_of(action.day))
    rows = days.rows(base_of(action.day)) if config.daily.file_identity == "rows" else {}
    files = {
        name: {"size": size, "rows": rows.get(name, 0), "skipped": 0}
        for name, size in sizes.items()
        if not action.files or name in action.files
    }
    trained = {**day, "event": "trained", "files": files, "quarantined": {}}
    return [trained, {**day, "event": "published", "bundle": f"planned-{action.day}"}]


def idle(folder: str, config: RunConfig, schema: Schema, until: str | None) -> str | None:
    """Why the night has nothing to do, if so; found without torch, by what the whole night would decide by.

    The night is over then: as by the whole night it is logged, old bundles are removed, and metrics are written. Anything
    out of the ordinary is left to the whole night, which begins with all of this again: a run that is new, a config or schema
    that is not the stored one, a lease, a day under way, a damaged checkpoint, ledger or statistics, a `current` that the
    ledger does not know. What this machine has, such as GPUs, is not asked.

    Returns:
        a sentence; None: something may be left to do, or something may be wrong.
    """
    bundles = publish_folder(config.daily.publish, folder)
    try:
        if not PATHS.exists(f"{folder}/config.yaml") or PATHS.exists(f"{folder}/{LEASE}"):
            return None
        if not _is_as_begun(folder, config, schema):
            return None
        with Lease(folder, seconds=config.daily.lease_seconds, also=[bundles]):
            ledger = Ledger(folder, fix=False)
            step = _settled_step(folder, config, schema, ledger)
            if step is None or not _serves(bundles, ledger.history()):
                return None
            last = config.resolved()[-1].config
            check(last)
            action = next_action(ledger.history(), last, build_days(last.data), last_day(last, until))
            if action.kind != "wait":
                return None
            tidy(folder, bundles, ledger, keep=last.daily.keep)
            with closing(RunLog(folder)) as log:
                log.write("waiting", step, {"day": action.day, "why": action.why})
            return action.why
    except (GenctrError, OSError, ValueError, KeyError, TypeError):
        return None  # the whole night finds it again, and says what it means


def _is_as_begun(folder: str, config: RunConfig, schema: Schema) -> bool:
    """Whether the run folder would take up nothing new of this config and schema."""
    stored, stored_schema = load_run(folder)
    said = config.model_copy(update={"schema_file": stored.schema_file})
    stages = config.resolved()
    read = stage_schema(schema, stages[-1], stages)
    return (
        said.model_dump() == stored.model_dump()
        and schema == stored_schema
        and PATHS.exists(f"{folder}/schemas/{digest(read)}.yaml")
        and not config.daily.accept_changes  # a model that was accepted may not be in the checkpoint yet
        and not any(stage.config.train.sharding_plan for stage in stages)  # which is checked against the ranks there are
        and not objective_kind(stages[-1]).counts_values
    )


def _settled_step(folder: str, config: RunConfig, schema: Schema, ledger: Ledger) -> int | None:
    """[steps] of the newest checkpoint, if it is whole, ends a day, and all that is stored agrees; else None.

    Raises:
        GenctrError, OSError: something is damaged, or cannot be read.
    """
    store, stages = CheckpointStore(f"{folder}/checkpoints"), config.resolved()
    marks = store.marks()
    statistics = f"{folder}/statistics"
    if not marks or ledger.fixed or not Statistics.has_digests(statistics):
        return None
    if not Statistics.load(statistics).are_enough_for(bucketed(schema, stages)):
        return None
    if not all(verify_marker(store, mark) for mark in marks) or abandoned(store, ledger.entries):
        return None
    store.pins()
    meta = store.read_meta(marks[-1])
    state, history = meta["state"], ledger.history()
    ended = history.days.get(state["cursor"]["day"], DayRecord("")).trained
    newest = max((own.trained["step"] for own in history.days.values() if own.trained is not None), default=0)
    if "ledger" not in meta or state["stage"] != len(stages) - 1 or ended is None:
        return None
    if not ended["step"] == state["step"] == newest:
        return None
    ledger.check(meta)
    verify_records(store, marks[-1])
    return int(state["step"])


def _serves(bundles: str, history: History) -> bool:
    """Whether `current` names what the ledger says: if not, a person was deciding, and was interrupted."""
    current = read_current(bundles)
    return (current["bundle"] if current is not None else None) == history.serving


def tidy(run: str, bundles: str, ledger: Ledger, *, keep: int) -> None:
    """Let go of old bundles, and tell the monitoring."""
    history = ledger.history()
    known = [entry["bundle"] for entry in ledger.entries if entry["event"] == "judged"]
    prune(bundles, keep=keep, needed=history.bundles_to_keep, known=known)
    write_metrics(run, history)


def trained_before(history: History, day: str) -> list[str]:
    """What was trained before the first of `day` or a later one, in order."""
    gone = set(history.since(day))
    return [name for name, own in history.days.items() if name not in gone and own.trained is not None]


def mark_before(checkpoints: Pins, history: History, day: str, mark: str) -> str:
    """The checkpoint of this name, or its pin's, that a backfill of `day` begins with.

    Raises:
        GenctrError: there is none of this name, or it does not end the day that was trained before `day`.
    """
    mark = checkpoints.pins().get(mark, mark)
    if mark not in checkpoints.marks():
        known = ", ".join([*checkpoints.pins(), *checkpoints.marks()])
        raise GenctrError(f"there is no checkpoint {mark}\n  there are: {known}")
    cursor = Cursor.from_json(checkpoints.read_meta(mark)["state"]["cursor"])
    before = trained_before(history, day)
    pinned = [pin for pin, own in checkpoints.pins().items() if own == mark]
    if not before or cursor.day != before[-1] or f"{DAY_PIN}{cursor.day}" not in pinned:
        raise GenctrError(
            f"checkpoint {mark} does not end the day before {day}: it stands in {cursor.day}\n"
            f"  next: take {DAY_PIN}{before[-1] if before else '…'}, or another first day"
        )
    return mark


def abandoned(store: CheckpointStore, entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The checkpoints of days that were rewound, by the last time that something was."""
    rewound = [entry for entry in entries if entry["event"] == "rewound"]
    if not rewound:
        return []
    last = rewound[-1]
    stale = []
    for mark in store.marks():
        meta = store.read_meta(mark)
        # Those of stages before the last know no ledger, and hold no day of it.
        if meta["step"] > last["step"] and "ledger" in meta and meta["ledger"]["n"] <= last["n"]:
            stale.append(mark)
    return stale
