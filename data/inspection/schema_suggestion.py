"""What the columns of an unknown log may mean: guesses with their reasons, and a schema to start from."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain, count
from typing import Any

import pyarrow as pa

from data.arrays import is_list, is_text
from data.errors import GenctrError, visible
from data.inspection.facts import SCALES, ColumnFacts, digits_of_time, size_of_time, unit_of
from data.inspection.names import (
    ACTS,
    AFTER,
    CLICKS,
    DATES,
    IDS,
    INDEX,
    KEYS,
    LATER,
    MOMENTS,
    NUMBERS,
    PAST,
    SCORES,
    SEQUENCES,
    THINGS,
    TIMES,
    USERS,
    VISITS,
)  # fmt: skip

VOCAB_VALUES = 100_000
"""[values] up to which a vocabulary is proposed; above, hashing."""

KEY_ROWS = 1000
"""[rows] from which on a column with another value in every row is taken for the key of the row."""

TEXT_WORDS = 3
"""[words] in the mean from which on strings are texts, which are not the names of anything."""

BUCKETS = 64
"""[buckets] proposed at most for counts and floats."""

FEW_VALUES = 256
"""[values] up to which an integer is taken for an id whatever it is called."""

LONGEST_SEQUENCE = 100
"""[events] proposed at most."""

ISO = r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}.*)?"
"""Times and dates as text."""

HELD = (is_text, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_temporal, pa.types.is_null)
"""Types of a column that a field might read, or of which it is said why none should."""

YAML_WORDS = {"y", "n", "yes", "no", "on", "off", "null", "true", "false"}

TORCH = {
    "apply", "buffers", "children", "clear", "compile", "cpu", "cuda", "double", "eval", "float", "forward", "half", "ipu",
    "items", "keys", "modules", "mtia", "parameters", "pop", "to", "train", "training", "type", "update", "values", "xpu",
}  # fmt: skip
"""What torch calls its own in every model, so that no table may be called so."""


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
    moments = [own for own in columns if not is_list(own.type) and unit_of(own) and not own.named(AFTER)]
    time = _best(moments, r"^(time|timestamp|ts)(_|$)", TIMES, "")
    group = _best([own for own in columns if not is_list(own.type)], USERS, VISITS)
    plain = [own for own in columns if not is_list(own.type)]
    for own in columns:
        if own is label:
            guess = _label(own)
        elif own is time:
            unit = unit_of(own)
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


def schema_text(name: str, columns: Sequence[ColumnFacts], source: str, reading: str = "") -> str:
    """The guesses as a schema file, with the reasons as comments; `reading` is what run.yaml has to say for them."""
    guesses = guess_columns(columns)
    own = {kind: next((guess for guess in guesses.values() if guess.kind == kind), None) for kind in ("label", "time")}
    group = next((column for column, guess in guesses.items() if guess.also_group), None)
    label = own["label"] or Guess("label", "no column was found that looks like one: name yours", {"column": "label"})
    lines = [
        f"# Guessed from {visible(source)}. Read every line: only you know what the columns mean.",
        *([f"# In run.yaml: {visible(reading)}"] if reading else []),
        f"name: {_identifier(name)}",
        f"label: {_flow(label.entry)}  # {visible(label.why)}",
    ]
    if own["time"]:
        lines.append(f"time: {_flow(own['time'].entry)}  # {visible(own['time'].why)}")
    if group:
        lines.append(f"group: {_scalar_text(group)}  # GAUC compares the rows of one value")
    lines.append("fields:")
    fields = [guess for guess in guesses.values() if "kind" in guess.entry]
    lines += [f"  - {_flow(guess.entry)}  # {visible(guess.why)}" for guess in fields]
    if not fields:
        raise GenctrError(f"no column of {name} looks like a feature: {', '.join(guesses)}\n  next: write the schema yourself")
    left = {column: guess for column, guess in guesses.items() if guess.kind == "left out"}
    if left:
        lines += ["# Left out:", *(f"#   {visible(column)}: {visible(guess.why)}" for column, guess in left.items())]
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


def _unlike(events: ColumnFacts, time: ColumnFacts) -> str:
    """Why times of events cannot be compared with the row's; empty: they can. Timestamps are brought to its unit, integers are
    not; and two timestamps need a time zone in both, or in neither."""
    stamps = pa.types.is_timestamp(events.element) and pa.types.is_timestamp(time.element)
    if stamps and (events.element.tz is None) != (time.element.tz is None):
        return f", but only one of it and {time.name} has a time zone"
    if pa.types.is_timestamp(events.element) or unit_of(events) == unit_of(time):
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
    """Why a column is no feature; "": it may be one."""
    return _reason_of_values(own) or _reason_of_name(own) or _reason_of_time(own) or _reason_of_key(own)


def _reason_of_values(own: ColumnFacts) -> str:
    if not any(holds(own.type) for holds in HELD):
        return f"no kind of field holds {own.type}"
    if own.low is None and own.null_share < 1 and not own.not_finite:
        return "its values could not be counted"
    return "never more than one value" if own.distinct <= 1 else ""


def _reason_of_name(own: ColumnFacts) -> str:
    if own.named(INDEX):
        return "named like the number of the row, which says nothing of another log"
    if _is_binary(own) and own.named(ACTS):
        return "0 and 1, named like something a user does: a second label? A feature only if known before the row is shown"
    if own.named(CLICKS):
        return "named like the label: a label is 0 and 1, and a feature would tell it"
    if own.named(LATER) or (own.named(AFTER) and not own.named(PAST)):
        return "named like something that is known only after the row was shown"
    if own.named(VISITS):
        return "names one visit: others will come tomorrow"
    if own.named(DATES):
        return "the day itself: tomorrow's was never seen in training"
    if own.named(SCORES):
        return "named like a prediction or a probability"
    return ""


def _reason_of_time(own: ColumnFacts) -> str:
    write = "write what matters of it (hour, weekday, age) as an integer"
    if unit_of(own) or pa.types.is_temporal(own.type):
        return f"a time: {write}"
    if form := digits_of_time(own):
        return f"a time written as {form}: {write}; as the row's time write seconds since 1970"
    if pa.types.is_floating(own.type) and (own.named(TIMES) or own.named(MOMENTS)) and size_of_time(own):
        return f"a time in {size_of_time(own)} as floats: {write}; as the row's time write it as an integer"
    known = [str(value) for value in (own.low, own.high, *own.examples)]
    if is_text(own.type) and all(re.fullmatch(ISO, value) for value in known):
        return f"a time as text: {write}; as the row's time write it as a timestamp"
    return ""


def _reason_of_key(own: ColumnFacts) -> str:
    if own.words >= TEXT_WORDS and own.distinct > FEW_VALUES:
        return f"texts of {own.words:.0f} words, {own.values} of them: write what they say as ids or as a vector"
    plain = is_text(own.type) or pa.types.is_integer(own.type)
    every_row = own.distinct >= own.rows * (1 if own.exact else 0.99) and own.rows >= KEY_ROWS
    if plain and every_row and not own.named(NUMBERS) and not own.named(KEYS):
        return "another value in every row: a key of the row, of which tomorrow's rows have none"
    return ""


def _list(own: ColumnFacts, columns: Sequence[ColumnFacts], plain: Sequence[ColumnFacts], time: ColumnFacts | None) -> Guess:
    shortest, mean, longest = own.lengths or (0, 0.0, 0)
    if longest == 0:
        return Guess("left out", "every list is empty")
    if pa.types.is_floating(own.element):
        if shortest == longest:
            return Guess("vector", f"{longest} floats in every row", _entry(own, "vector", {"dim": longest}))
        return Guess("left out", f"lists of {shortest} to {longest} floats: a vector has one width")
    if unit_of(own):
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
    lists = [other for other in columns if is_list(other.type) and unit_of(other) and other.lengths == own.lengths]
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
    """Quantile buckets: `benchmarks/transforms.py` compares them with scaled numbers."""
    return Guess("number", why, _entry(own, "number", {"transform": "buckets", "buckets": min(own.distinct, BUCKETS)}))


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
    # What is not shown is escaped as YAML has it: some of it may not stand in a document at all.
    return str(value) if plain else visible(json.dumps(value, ensure_ascii=False))
