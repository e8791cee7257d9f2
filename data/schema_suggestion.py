"""What the columns of an unknown log may mean: guesses with their reasons, and a schema to start from."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain, count
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.arrays import element_type, is_list, is_text
from data.errors import GenctrError

VOCAB_VALUES = 100_000
"""[values] up to which a vocabulary is proposed; above, hashing."""

FEW_VALUES = 256
"""[values] up to which an integer is taken for an id whatever it is called."""

LONGEST_SEQUENCE = 100
"""[events] proposed at most."""

SECONDS = (940_000_000, 2_600_000_000)
"""[s] since 1970: 1999 to 2052. Integers in between, or a thousand times that, …, can be times."""

SCALES = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}

HELD = (is_text, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_temporal, pa.types.is_null)
"""Types of a column that a field might read, or of which it is said why none should."""

CLICKS = r"^(is_)?(click(ed|s)?|clk|label|target|y)$"
ACTS = r"click|clk|label|buy|bought|purchase|order|conver|install|cart|like|follow|comment|forward|share|hate|long_view|enter"
LATER = r"(play|stay|watch|dwell|view)(ed|ing)?_?(time|sec|ms|duration)|^rating$"
DATES = r"^(date|day|dt|ds|p_date)$"
SCORES = r"(^|_)(ctr|cvr|score|pred|prediction|prob|probability|propensity)(_|$)"
TIMES = r"(^|_)(time|times|ts|timestamp|timestamps|unixtime|datetime|at|ms)(_|$)"
YAML_WORDS = {"y", "n", "yes", "no", "on", "off", "null", "true", "false"}
USERS = r"^(user|uid|member|visitor|customer|account)(_?id)?$"
VISITS = r"^(session|impression|request|search)(_?id)?$"
IDS = (
    r"(^|_)(id|ids|uid|gid|idx|index|type|code|cat|category|tab|hour|weekday|feat\d*|slot|pos|position|zip|city|country|c\d+)$"
)
THINGS = r"^(user|item|video|movie|article|news|product|goods|shop|author|brand|ad|advertiser|campaign|creative|query)$"
NUMBERS = (
    r"(^|_)(num|number|count|cnt|n|age|price|amount|cost|duration|width|height|days|size|len|length|rate|avg|sum|i\d+)(_|$)"
)
SEQUENCES = r"hist|seq|recent|last|past|clicked|viewed|previous|session"

TORCH = {
    "apply", "buffers", "children", "clear", "compile", "cpu", "cuda", "double", "eval", "float", "forward", "half", "ipu",
    "items", "keys", "modules", "mtia", "parameters", "pop", "to", "train", "training", "type", "update", "values", "xpu",
}  # fmt: skip
"""What torch calls its own in every model, so that no table may be called so."""


@dataclass(frozen=True)
class ColumnFacts:
    """What was counted of a column; for lists, of their elements.

    Args:
        name, type: as Arrow says.
        null_share: [1] of the rows.
        not_finite: [values] that are NaN or infinite.
        distinct, exact: [values], and whether that is a count or an estimate.
        low, high, mean: of the values; None where there are none. The mean of strings and times means nothing.
        whole: every float is a whole number.
        lengths: shortest, mean and longest list; None for other columns.
        examples: a few values.
        hashes: the smallest hashes of the values, to compare columns.
    """

    name: str
    type: pa.DataType
    null_share: float
    not_finite: int
    distinct: int
    exact: bool
    low: Any
    high: Any
    mean: float
    whole: bool
    lengths: tuple[int, float, int] | None
    examples: tuple[str, ...]
    hashes: NDArray[np.uint64] = field(repr=False, compare=False)

    @property
    def values(self) -> str:
        """The distinct count in words."""
        return f"{self.distinct:,}" if self.exact else f"about {self.distinct:,}"

    @property
    def element(self) -> pa.DataType:
        """The type of one value."""
        kind = element_type(self.type)
        return kind.value_type if pa.types.is_dictionary(kind) else kind

    def named(self, pattern: str) -> bool:
        """Does the name, in any case and style, match?"""
        return re.search(pattern, re.sub(r"(?<=[a-z])(?=[A-Z])|[^A-Za-z0-9]", "_", self.name).lower()) is not None

    def likeness(self, other: "ColumnFacts") -> float:
        """The share of the values of both columns that occur in both (Jaccard), from their hashes."""
        if not len(self.hashes) or not len(other.hashes):
            return 0.0
        # Below both sketches' ends each one is complete.
        ends = [own.hashes[-1] for own in (self, other) if not own.exact]
        ours, theirs = (own.hashes[own.hashes <= min(ends)] if ends else own.hashes for own in (self, other))
        return len(np.intersect1d(ours, theirs, assume_unique=True)) / max(len(np.union1d(ours, theirs)), 1)

    def to_json(self) -> dict[str, Any]:
        """For programs: times, types and strings as text."""
        facts = asdict(replace(self, hashes=np.zeros(0, np.uint64), type=str(self.type)))
        ends = {end: own if isinstance(own := facts[end], int | float | None) else str(own) for end in ("low", "high")}
        return {name: value for name, value in facts.items() if name != "hashes"} | ends

    def cells(self) -> list[str]:
        """One line of the report."""
        shortest, mean, longest = self.lengths or (0, 0.0, 0)
        length = f"{shortest}..{longest}, mean {mean:.1f}" if self.lengths else ""
        ends = ["" if end is None else _short(end) for end in (self.low, self.high)]
        return [
            self.name,
            str(self.type),
            f"{self.null_share:.1%}" if self.null_share else "",
            self.values,
            length,
            *ends,
            ", ".join(map(_short, self.examples)),
        ]


@dataclass(frozen=True)
class Guess:
    """What a column may be.

    Args:
        kind: label, time, a kind of field, or "left out".
        why: the reason.
        entry: what the schema says of it; empty if it is left out.
        also_group: the rows of one value belong together.
    """

    kind: str
    why: str
    entry: dict[str, Any] = field(default_factory=dict)
    also_group: bool = False


def guess_columns(columns: Sequence[ColumnFacts]) -> dict[str, Guess]:
    """Guess every column. At most one is the label and one the time."""
    guesses: dict[str, Guess] = {}
    label = _best([own for own in columns if _is_binary(own)], CLICKS, ACTS) or _best(
        [own for own in columns if _is_signed(own)], CLICKS, ACTS
    )
    label = label or _best([own for own in columns if _is_count(own)], CLICKS)
    time = _best([own for own in columns if not is_list(own.type) and _unit(own)], r"^(time|timestamp|ts)(_|$)", "")
    group = _best([own for own in columns if not is_list(own.type)], USERS, VISITS)
    plain = [own for own in columns if not is_list(own.type)]
    for own in columns:
        if own is label:
            guess = _label(own)
        elif own is time:
            unit = _unit(own)
            guess = Guess(
                "time", f"from {_moment(own.low, unit)} to {_moment(own.high, unit)} UTC", {"column": own.name, "unit": unit}
            )
        elif is_list(own.type):
            guess = _list(own, columns, plain, time)
        else:
            guess = _scalar(own)
            if own is group and (is_text(own.type) or pa.types.is_integer(own.type)):
                guess = replace(guess, also_group=True)
        guesses[own.name] = guess
    names = _field_names(columns)
    return {column: replace(guess, entry=_renamed(guess.entry, names)) for column, guess in guesses.items()}


def schema_text(name: str, columns: Sequence[ColumnFacts], source: str) -> str:
    """The guesses as a schema file, with the reasons as comments."""
    guesses = guess_columns(columns)
    own = {kind: next((guess for guess in guesses.values() if guess.kind == kind), None) for kind in ("label", "time")}
    group = next((column for column, guess in guesses.items() if guess.also_group), None)
    label = own["label"] or Guess("label", "no column was found that looks like one: name yours", {"column": "label"})
    lines = [
        f"# Guessed from {source}. Read every line: only you know what the columns mean.",
        f"name: {_identifier(name)}",
        f"label: {_flow(label.entry)}  # {label.why}",
    ]
    if own["time"]:
        lines.append(f"time: {_flow(own['time'].entry)}  # {own['time'].why}")
    if group:
        lines.append(f"group: {_scalar_text(group)}  # GAUC compares the rows of one value")
    lines.append("fields:")
    fields = [guess for guess in guesses.values() if "kind" in guess.entry]
    lines += [f"  - {_flow(guess.entry)}  # {guess.why}" for guess in fields]
    if not fields:
        raise GenctrError(f"no column of {name} looks like a feature: {', '.join(guesses)}\n  next: write the schema yourself")
    left = {column: guess for column, guess in guesses.items() if guess.kind == "left out"}
    if left:
        lines += ["# Left out:", *(f"#   {column}: {guess.why}" for column, guess in left.items())]
    return "\n".join(lines) + "\n"


def _best(columns: Sequence[ColumnFacts], *patterns: str) -> ColumnFacts | None:
    """The first column that matches the first pattern, or the next one."""
    return next((own for pattern in patterns for own in columns if own.named(pattern)), None)


def _label(own: ColumnFacts) -> Guess:
    why, target, above = f"0 and 1, {own.mean:.1%} are 1, and the name says so", _identifier(own.name), {}
    if not _is_binary(own):
        what = "-1 and 1" if _is_signed(own) else f"a count from 0 to {own.high}"
        why, above = f"{what}, and the name says so: 1 where it is greater than 0", {"positive_above": 0}
    return Guess("label", why, {"column": own.name, **({"target": target} if target != own.name else {}), **above})


def _is_signed(own: ColumnFacts) -> bool:
    return own.whole and own.distinct == 2 and not is_list(own.type) and (own.low, own.high) == (-1, 1)


def _is_count(own: ColumnFacts) -> bool:
    return pa.types.is_integer(own.type) and own.low == 0 and 2 < own.distinct <= FEW_VALUES


def _is_binary(own: ColumnFacts) -> bool:
    numeric = pa.types.is_integer(own.type) or pa.types.is_floating(own.type) or pa.types.is_boolean(own.type)
    return bool(numeric and own.whole and own.distinct == 2 and (own.low, own.high) in {(0, 1), (False, True)})


def _unit(own: ColumnFacts) -> str | None:
    """What the integers of a column would count if they were times since 1970."""
    if own.low is None:
        return None
    if pa.types.is_timestamp(own.element):
        return str(own.element.unit)
    if not pa.types.is_integer(own.element) or not own.named(TIMES):
        return None
    return next((unit for unit, by in SCALES.items() if SECONDS[0] * by < own.low <= own.high < SECONDS[1] * by), None)


def _unlike(events: ColumnFacts, time: ColumnFacts) -> str:
    """Why times of events cannot be compared with the row's; empty: they can. Timestamps are brought to its unit, integers are
    not; and two timestamps need a time zone in both, or in neither."""
    stamps = pa.types.is_timestamp(events.element) and pa.types.is_timestamp(time.element)
    if stamps and (events.element.tz is None) != (time.element.tz is None):
        return f", but only one of it and {time.name} has a time zone"
    if pa.types.is_timestamp(events.element) or _unit(events) == _unit(time):
        return ""
    return f", but not in the unit of {time.name}"


def _moment(value: Any, unit: str | None) -> str:
    if isinstance(value, int):
        value = datetime.fromtimestamp(value // SCALES[unit or "s"], UTC)
    if value.tzinfo is not None:
        value = value.astimezone(UTC)
    return str(value)[:16]


def _scalar(own: ColumnFacts) -> Guess:
    if reason := _reason_to_leave_out(own):
        return Guess("left out", reason)
    what = f"{own.type}, {own.values} values"
    if is_text(own.type) or pa.types.is_boolean(own.type):
        return _id(own, what)
    if pa.types.is_floating(own.type):
        if own.whole and own.distinct <= FEW_VALUES and not own.named(NUMBERS):
            why = f"{what}, all whole: an id with gaps? Then better write it as an integer"
            return Guess("number", why, _entry(own, "number", {"transform": "buckets", "buckets": max(2, own.distinct)}))
        return _number(own, what)
    if own.named(NUMBERS) and not own.named(IDS) and own.distinct > 2:
        return _number(own, f"{what}; named like a number")
    if own.named(IDS) or own.named(THINGS):
        return _id(own, f"{what}; named like an id")
    if own.distinct <= FEW_VALUES:
        return _id(own, f"{what}; few for a number")
    return _number(own, f"{what}; an id? Then say kind: id")


def _reason_to_leave_out(own: ColumnFacts) -> str:
    if not any(holds(own.type) for holds in HELD):
        return f"no kind of field holds {own.type}"
    if own.low is None and own.null_share < 1 and not own.not_finite:
        return "its values could not be counted"
    if own.distinct <= 1:
        return "never more than one value"
    if _is_binary(own) and own.named(ACTS):
        return "0 and 1, named like something a user does: a second label? A feature only if known before the row is shown"
    if own.named(CLICKS):
        return "named like the label: a label is 0 and 1, and a feature would tell it"
    if own.named(LATER):
        return "named like something that is known only after the row was shown"
    if own.named(VISITS):
        return "names one visit: others will come tomorrow"
    if own.named(DATES):
        return "the day itself: tomorrow's was never seen in training"
    if own.named(SCORES):
        return "named like a prediction or a probability"
    if _unit(own) or pa.types.is_temporal(own.type):
        return "a time: write what matters of it (hour, weekday, age) as an integer"
    return ""


def _list(own: ColumnFacts, columns: Sequence[ColumnFacts], plain: Sequence[ColumnFacts], time: ColumnFacts | None) -> Guess:
    shortest, mean, longest = own.lengths or (0, 0.0, 0)
    if longest == 0:
        return Guess("left out", "every list is empty")
    if pa.types.is_floating(own.element):
        if shortest == longest:
            return Guess("vector", f"{longest} floats in every row", _entry(own, "vector", {"dim": longest}))
        return Guess("left out", f"lists of {shortest} to {longest} floats: a vector has one width")
    if _unit(own):
        unlike = _unlike(own, time) if time is not None else ""
        return Guess("left out", f"times of events{unlike or ': the `time` of a sequence'}")
    if not is_text(own.element) and not pa.types.is_integer(own.element):
        return Guess("left out", f"no kind of field holds {own.type}")
    alike = max(plain, key=own.likeness, default=None)
    # Small integers are alike by chance, strings are not.
    enough = 0.05 if is_text(own.element) else 0.3
    same_type = alike is not None and is_text(alike.element) == is_text(own.element)
    shared = alike is not None and same_type and own.likeness(alike) >= enough and _scalar(alike).kind == "id"
    what = f"{own.values} values, {mean:.1f} a row, at most {longest}"
    if not (own.named(SEQUENCES) or (shared and longest > 5)):
        return Guess("ids", what, _entry(own, "ids", _table(own)))
    keys: dict[str, Any] = {"length": min(longest, LONGEST_SEQUENCE)}
    lists = [other for other in columns if is_list(other.type) and _unit(other) and other.lengths == own.lengths]
    times = [other.name for other in lists if time is not None and not _unlike(other, time)]
    if times:
        keys["time"] = times[0]
    if shared and alike is not None:
        why = f"{what}; {own.likeness(alike):.0%} of its and {alike.name}'s values are in both"
        return Guess("sequence", why, _entry(own, "sequence", {"table": alike.name, **keys}))
    return Guess("sequence", f"{what}; in order of time?", _entry(own, "sequence", {**_table(own), **keys}))


def _id(own: ColumnFacts, why: str) -> Guess:
    return Guess("id", why, _entry(own, "id", _table(own)))


def _table(own: ColumnFacts) -> dict[str, Any]:
    if own.distinct <= VOCAB_VALUES:
        return {"ids": "vocab"}
    return {"ids": "hash", "rows": 1 << (2 * own.distinct - 1).bit_length()}


def _number(own: ColumnFacts, why: str) -> Guess:
    if own.low >= 0 and own.high > 100:
        return Guess("number", why, _entry(own, "number", {"transform": "log1p"}))
    return Guess("number", why, _entry(own, "number", {"transform": "standardise"}))


def _entry(own: ColumnFacts, kind: str, keys: dict[str, Any]) -> dict[str, Any]:
    """Of a field and of the table it looks up in, the columns; `_renamed` gives them names."""
    return {"name": own.name, "kind": kind, **keys}


def _renamed(entry: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    if "kind" not in entry:
        return entry
    name, column = names[entry["name"]], entry["name"]
    named = {"name": name} if name == column else {"name": name, "column": column}
    table = {"table": names[entry["table"]]} if "table" in entry else {}
    return {**named, **{key: value for key, value in entry.items() if key != "name"}, **table}


def _field_names(columns: Sequence[ColumnFacts]) -> dict[str, str]:
    """The name of a column's field: its own if that will do for one, else one that no other has."""
    names: dict[str, str] = {}
    for own in sorted(columns, key=lambda own: own.name != _identifier(own.name)):
        first = _identifier(own.name)
        others = (f"{first}_{number}" for number in count(2))
        names[own.name] = next(name for name in chain([first], others) if name not in TORCH and name not in names.values())
    return names


def _identifier(name: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", name) or "log"
    return name if re.match(r"[A-Za-z_]", name) else f"_{name}"


def _flow(entry: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {_scalar_text(value)}" for key, value in entry.items()) + "}"


def _scalar_text(value: Any) -> str:
    """YAML on one line; quoted unless it is a number or surely a plain word."""
    plain = isinstance(value, int) or (re.fullmatch(r"[A-Za-z_]\w*", value) and value.lower() not in YAML_WORDS)
    return str(value) if plain else json.dumps(value, ensure_ascii=False)


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value).replace("\n", " ")
    return text if len(text) <= 24 else text[:23] + "…"
