"""The ledger: what happened to each day, one JSON line an entry, chained so that a missing or altered line is seen.

    {"n": 12, "prev": "9f…", "event": "trained", "day": "2026-11-20", …}

`n` counts the entries, `prev` is the SHA-256 of the line before, and the last key, `sha256`, that of the line itself: without it
nobody would notice what became of the last line. An entry says nothing about when: the same days give the
same lines, however often the job was killed; times are in `log.jsonl`. A person's decisions carry their own.

| event      | keys |
|---|---|
| `scored`   | a day before its first row trained: `day`, `step`, `rows`, `skipped`, `metrics`, `headline` |
| `trained`  | `day`, `step`, `rows`, `files`: {name below the log's root: {size, rows, hash, skipped}}, `row_hash`: the format of the hashes, "1" where it is missing, `quarantined`: {name: {size, why}} |
| `judged`   | `day`, `step`, `publish`: the verdict, `answers`: [{gate, number, low, high, ok, note}], `holdout`: what they looked at |
| `published`| `day`, `step`, `bundle`, `parent` |
| `approved` | a held model was published by a person: `day`, `step`, `bundle`, `reason`, `who`, `at` |
| `rolled back` | `bundle`: back to this one, `from`, `reason`, `who`, `at` |
| `skipped`  | a day that never came: `day`, `why` |
| `late`     | files that came after their day was trained and are left: `day`, `files`; without rows or unreadable ones: `quarantined` |
| `rewound`  | training went back: `day`: the first one to train again, `step`: the checkpoint's, `gone`: all days (and parts) to train again, `why` |

A day with late files that were trained has a second name, `2026-11-20+1`.
"""  # noqa: E501

import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any

from data.errors import GenctrError
from data.paths import PATHS, write_whole
from data.seal import is_sealed, sealed, unsealed
from data.times import named_like
from data.yaml_document import finite

if TYPE_CHECKING:
    from pipeline.distributed.world import World
    from pipeline.run_folder.lease import Lease

FILE = "ledger.jsonl"


class LedgerError(GenctrError):
    """A ledger that was altered, cut short or written by someone else."""


@dataclass
class DayRecord:
    """What the ledger says of one day in the lineage that is alive.

    Args:
        name: the day, or a part of late files (`2026-11-20+1`).
        scored, trained, judged: its entries. bundle: what was published of it, at first or by approval.
        skipped: why it was not trained.
    """

    name: str
    scored: dict[str, Any] | None = None
    trained: dict[str, Any] | None = None
    judged: dict[str, Any] | None = None
    bundle: str | None = None
    approved: bool = False
    skipped: str | None = None

    @property
    def state(self) -> str:
        """One word: skipped, scored, trained, held, approved or published."""
        if self.skipped is not None:
            return "skipped"
        if self.bundle is not None:
            return "approved" if self.approved else "published"
        if self.judged is not None and not self.judged["publish"]:
            return "held"
        return "scored" if self.trained is None else "trained"

    @property
    def is_done(self) -> bool:
        """Nothing is left to do by itself."""
        return self.state in ("skipped", "published", "approved", "held")


@dataclass
class History:
    """The ledger, folded: days in the order they were taken up, and the bundles that served, in order.

    Args:
        days: by name. ignored: late files that were left, by day. unreadable_files: sizes of files that could not be read, by
            day and name.
        served: bundles as `current` named them, in order. withdrawn: bundles that a person went back from.
    """

    days: dict[str, DayRecord] = field(default_factory=dict)
    ignored: dict[str, set[str]] = field(default_factory=dict)
    unreadable_files: dict[str, dict[str, int | None]] = field(default_factory=dict)
    served: list[str] = field(default_factory=list)
    withdrawn: set[str] = field(default_factory=set)

    @property
    def last(self) -> DayRecord | None:
        """The day taken up last, or None."""
        return next(reversed(self.days.values()), None)

    @property
    def last_day(self) -> str | None:
        """The latest calendar day taken up; parts belong to their day."""
        return max((base_of(name) for name in self.days), default=None)

    @property
    def serving(self) -> str | None:
        """The bundle that `current` is to name."""
        return self.served[-1] if self.served else None

    @property
    def bundles_to_keep(self) -> set[str]:
        """The bundle that serves, and the one a person would go back to: nights of held models must not push it out."""
        good = [name for name in dict.fromkeys(self.served) if name not in self.withdrawn]
        return {*self.served[-1:], *good[-2:]}

    def since(self, day: str) -> list[str]:
        """What was taken up from the first of `day` or a later one on: late parts of earlier days too, if they came after."""
        names = list(self.days)
        first = next((at for at, name in enumerate(names) if base_of(name) >= day), len(names))
        return names[first:]

    def names(self, day: str) -> list[str]:
        """A day and its late parts, by name; these are numbered without a gap."""
        parts = takewhile(self.days.__contains__, (f"{day}+{number}" for number in count(1)))
        return [*([day] if day in self.days else []), *parts]

    def was_taken_up(self, day: str) -> bool:
        """Whether it was trained or skipped: what comes to it now is late."""
        return any(self.days[name].trained is not None or self.days[name].skipped is not None for name in self.names(day))

    def parts(self, day: str) -> list[DayRecord]:
        """A day and its late parts, those that were trained."""
        return [self.days[name] for name in self.names(day) if self.days[name].trained is not None]

    def files(self, day: str) -> dict[str, dict[str, Any]]:
        """The files of a day that were trained, over its parts, by name."""
        return {name: own for part in self.parts(day) for name, own in (part.trained or {})["files"].items()}

    def untrained_files(self, day: str, sizes: Mapping[str, int]) -> set[str]:
        """The files of a day, as it is now, that are known and were not trained: left, or quarantined and still the same."""
        bad = dict(self.unreadable_files.get(day, {}))
        for part in self.parts(day):
            bad |= {name: own["size"] for name, own in (part.trained or {})["quarantined"].items()}
        same = {name for name, size in bad.items() if sizes.get(name) == size}  # else it was fixed
        return ((self.ignored.get(day, set()) & sizes.keys()) | same) - self.files(day).keys()


class Ledger:
    """The ledger of a run folder, read whole and written whole: an append is in the file or not, on disk and in a store.

    Args:
        folder: the run folder. fix: take a damaged last line off the file; else it is only not read.

    Raises:
        LedgerError: on reading, a line before the last is damaged or missing. A damaged last line is taken off and described in
            `fixed`; what it said is done again.
    """

    def __init__(self, folder: str, *, fix: bool = True) -> None:
        self._path = f"{folder}/{FILE}"
        self.fixed: str | None = None
        self._fix = fix
        self._entries: list[dict[str, Any]] = []
        self._lines = self._read()

    @property
    def mark(self) -> dict[str, Any]:
        """Where the ledger stands, for a checkpoint to remember."""
        return {"n": len(self._lines), "prev": _hash(self._lines)}

    @property
    def entries(self) -> list[dict[str, Any]]:
        """All entries, in order; each is read once, and is not to be changed."""
        return list(self._entries)

    def history(self) -> History:
        """The entries, folded."""
        return fold(self.entries)

    def incumbent(self, history: History, day: str) -> str:
        """The bundle that the model which trains `day` is compared with: the serving one.

        If the day is trained again, the serving model may have trained the very rows they are compared on. Then it is the
        newest
        bundle before it that has not and is still wanted, unless the serving model has trained other days that the new model
        has not: a model that is behind has to be better all the same.
        """
        assert history.serving is not None
        known = {day, *(name for name, own in history.days.items() if own.trained is not None)}
        trained = self._trained(history.serving)
        if day not in trained or not trained <= known:
            return history.serving
        others = (name for name in reversed(history.served) if name not in history.withdrawn and day not in self._trained(name))
        return next(others, history.serving)

    def _trained(self, bundle: str) -> set[str]:
        """The days, and parts of days, that a bundle's model had trained when it was judged."""
        at = next(at for at, entry in enumerate(self.entries) if entry["event"] == "judged" and entry["bundle"] == bundle)
        return {name for name, own in fold(self.entries[: at + 1]).days.items() if own.trained is not None}

    def append(self, event: str, values: Mapping[str, Any]) -> None:
        """Add an entry.

        Raises:
            LedgerError: somebody else has written since this ledger was read.
        """
        if self._text() != "".join(self._lines):
            raise LedgerError(
                f"{self._path} was written by another job\n  next: see that only one runs, and start this one again"
            )
        entry = {"n": len(self._lines), "prev": _hash(self._lines), "event": event, **values}
        self._lines.append(sealed(finite(entry), sort_keys=True, allow_nan=False) + "\n")
        self._entries.append(unsealed(self._lines[-1].encode()))
        PATHS.mkdirs(self._path.rpartition("/")[0] + "/")
        write_whole(self._path, "".join(self._lines))

    def check(self, saved: Mapping[str, Any]) -> None:
        """See that the ledger has all that a checkpoint has seen of it, and that both say the same of what was trained.

        Args:
            saved: the checkpoint's meta: `ledger`, the mark, and `state`, `tally`.

        Raises:
            LedgerError: it ends before, or says something else there; or cursor, step or rows are not those of its days.
        """
        mark = saved["ledger"]
        if len(self._lines) < mark["n"] or _hash(self._lines[: mark["n"]]) != mark["prev"]:
            raise LedgerError(
                f"{self._path}: the newest checkpoint has seen {mark['n']} entries, "
                f"{len(self._lines)} are here or they are others\n"
                "  next: bring the ledger back from a copy; training goes on from there"
            )
        if wrong := _disagreement(fold(self.entries[: mark["n"]]), self.history(), saved):
            raise LedgerError(
                f"{self._path} and the newest checkpoint disagree: {wrong}\n"
                "  next: bring the ledger and the checkpoints back from one copy, or see `genctr ckpt verify`"
            )

    def _text(self) -> str:
        if not PATHS.exists(self._path):
            return ""
        with PATHS.open(self._path, "rb") as file:
            # A byte that is not UTF-8 is damage in its line, and no other.
            return bytes(file.read()).decode(errors="replace")

    def _read(self) -> list[str]:
        lines = re.findall(r"[^\n]*\n|[^\n]+", self._text())  # splitlines would also split at what damage may make of a byte
        good: list[str] = []
        for number, line in enumerate(lines):
            entry, wrong = _verified(line, number, good)
            if wrong and number == len(lines) - 1:
                self.fixed = f"the last line of {self._path} is damaged ({wrong})"
                if self._fix:
                    self.fixed += ": it is taken off, what it said is done again"
                    write_whole(self._path, "".join(good))
            elif wrong:
                raise LedgerError(f"{self._path}, line {number + 1}: {wrong}\n  next: bring the file back from a copy")
            else:
                good.append(line)
                self._entries.append(entry)
        return good


class SharedLedger:
    """The ledger of a run as all ranks of a job have it: rank 0 reads and writes it, under its lease. Collective.

    Args:
        folder: the run folder. lease: held by rank 0, None elsewhere.
    """

    def __init__(self, folder: str, world: "World", lease: "Lease | None") -> None:
        self._folder, self._world, self._lease = folder, world, lease
        self._ledger: Ledger | None = None
        self._history: History | None = None
        world.from_rank_zero(self._read, None)

    def _read(self) -> None:
        self._ledger = Ledger(self._folder)
        if self._ledger.fixed:
            sys.stderr.write(f"genctr: {self._ledger.fixed}\n")

    @property
    def own(self) -> Ledger:
        """The ledger itself; of rank 0 alone."""
        assert self._ledger is not None, "only rank 0 has the ledger"
        return self._ledger

    @property
    def history(self) -> History:
        """What the ledger says, folded once for every entry."""
        if self._history is None:
            self._history = self._world.from_rank_zero(lambda: self.own.history(), History)
        return self._history

    @property
    def entries(self) -> list[dict[str, Any]]:
        """All entries, in order."""
        return self._world.from_rank_zero(lambda: self.own.entries, list[dict[str, Any]])

    @property
    def mark(self) -> dict[str, Any]:
        """Where the ledger stands, for a checkpoint to remember."""
        return self._world.from_rank_zero(lambda: self.own.mark, dict[str, Any])

    def before(self, number: int) -> History:
        """What its first entries amount to."""
        return self._world.from_rank_zero(lambda: fold(self.own.entries[:number]), History)

    def check(self, saved: Mapping[str, Any]) -> None:
        """See that it agrees with a checkpoint: see `Ledger.check`."""
        self._world.from_rank_zero(lambda: self.own.check(saved), None)

    def append(self, event: str, values: Mapping[str, Any], step: int) -> None:
        """Add an entry, if the job still holds the lease."""

        def append() -> None:
            if self._lease is not None:
                self._lease.check()
            self.own.append(event, {"step": step, **values})

        self._world.from_rank_zero(append, None)
        self._history = None


def _disagreement(before: History, now: History, saved: Mapping[str, Any]) -> str:
    """What a checkpoint says of its day that the ledger does not, or nothing.

    Args:
        before: the ledger when the checkpoint's day was begun. now: as it is. saved: the checkpoint's meta.
    """
    state, counted = saved["state"], sum(saved["tally"][0])
    day, step = state["cursor"]["day"], state["step"]
    trained = {name: own.trained for name, own in before.days.items() if own.trained is not None}
    if day in trained or before.days.get(day, DayRecord(day)).skipped is not None:
        return f"the checkpoint stands in day {day}, which was done before it was begun"
    if (newest := max((own["step"] for own in trained.values()), default=0)) and step <= newest:
        return f"the checkpoint has step {step:,}, and the days before it end at step {newest:,}"
    ended = now.days.get(day, DayRecord(day)).trained
    if ended is not None and ended["step"] == step and ended["rows"] != counted:
        return f"the checkpoint has {counted:,} rows of day {day}, the ledger {ended['rows']:,}"
    if state["stage"] == 0:
        rows = sum(own["rows"] for own in trained.values()) + counted
        skipped = 0 if ended is not None and ended["step"] == step else sum(saved["tally"][2])
        if state["rows"] not in (rows, rows + skipped):
            return f"the checkpoint has {state['rows']:,} rows, the days before it and its own {rows:,}"
    if state["lr_factor"] != 1.0:
        return f"the checkpoint has lr_factor {state['lr_factor']}, and no daily job changes it"
    return ""


def _verified(line: str, number: int, before: Sequence[str]) -> tuple[dict[str, Any], str]:
    """A line after those before it as an entry, and what is wrong with it, or nothing."""
    try:
        entry = unsealed(line.encode())
        whole = line.endswith("}\n")
    except ValueError:
        entry, whole = {}, False
    if not whole:
        return entry, "it is cut short or altered"
    if before and is_sealed(before[-1].encode()) and not is_sealed(line.encode()):
        return entry, "it has lost its SHA-256"
    if entry.get("n") != number or entry.get("prev") != _hash(before):
        return entry, "it does not follow from the line before: lines are missing or altered"
    return entry, ""


def _hash(lines: Sequence[str]) -> str:
    return hashlib.sha256(lines[-1].encode()).hexdigest()[:16] if lines else ""


def fold(entries: Sequence[Mapping[str, Any]]) -> History:
    """What the entries amount to."""
    history = History()
    for entry in entries:
        event, day = entry["event"], entry.get("day", "")
        if event == "rewound":
            for name in entry["gone"]:
                del history.days[name]
            continue
        if event == "rolled back":
            history.served.append(entry["bundle"])
            history.withdrawn.add(entry["from"])
            continue
        if event == "late":
            history.ignored.setdefault(day, set()).update(entry["files"])
            bad = {name: own["size"] for name, own in entry.get("quarantined", {}).items()}
            history.unreadable_files.setdefault(day, {}).update(bad)
            continue
        own = history.days.setdefault(day, DayRecord(day))
        if event in ("scored", "trained", "judged"):
            setattr(own, event, dict(entry))
        elif event == "skipped":
            own.skipped = entry["why"]
        else:
            own.bundle, own.approved = entry["bundle"], event == "approved"
            history.served.append(entry["bundle"])
    return history


def base_of(name: str) -> str:
    """The calendar day of a day or of a part of its late files."""
    return name.partition("+")[0]


def next_date(day: str) -> str | None:
    """The day after, or None for days that are not dates, such as 2026-11-05 or 20261105 is one, and for 9999-12-31, which has
    none after it: logs call what never ends so."""
    try:
        own = date.fromisoformat(day)
    except ValueError:
        return None
    return named_like(day, own + timedelta(days=1)) if named_like(day, own) == day and own < date.max else None
