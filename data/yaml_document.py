"""One YAML file in, one frozen object out; every mistake names its line and the nearest valid key."""

import difflib
import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from types import UnionType
from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from data.errors import BadDocument, OldKeys, masked
from data.paths import PATHS, write_whole

Place: TypeAlias = tuple[str | int, ...]
"""A key path: ("fields", 3, "rows")."""


MOST_VALUES = 1_000_000
"""Of a document, aliases written out."""

_SEAL = re.compile(r"# sha256: ([0-9a-f]{64})\n")


class Section(BaseModel):
    """A part of a document: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    renamed: ClassVar[Mapping[str, str]] = {}
    """Of a whole document: old keys, and in words what they are now. A `*` stands for any key or number; what is said of a
    section holds for those of `stages.*` too."""


class BadValue(ValueError):
    """What a validator raises to name the key, below its own section, that is wrong.

    >>> raise BadValue("no such table", "fields", 3, "table")
    Traceback (most recent call last):
    data.yaml_document.BadValue: no such table
    """

    def __init__(self, what: str, *place: str | int) -> None:
        super().__init__(what)
        self.place: Place = place


AnySection = TypeVar("AnySection", bound=Section)


def read_document(path: str, model: type[AnySection], overrides: Sequence[str] = (), *, below: str = "") -> AnySection:
    """Read a YAML file as a `model`.

    Args:
        path: the file, anywhere `PATHS` reaches.
        overrides: "key.path=value" each, the value in YAML. An element of a list is named by its number, from 0, or by its
            `name` or `target`.
        below: what every path of `overrides` begins with.

    Raises:
        BadDocument: all that is wrong, one mistake a paragraph: file, line, key path, nearest valid key. OldKeys: keys have
            another name now.
    """
    text = _read(path)
    if (seal := _SEAL.match(text)) and hashlib.sha256(text[seal.end() :].encode()).hexdigest() != seal[1]:
        raise BadDocument(
            f"{path} is not what was written: its content and the SHA-256 in its first line disagree\n"
            "  next: bring it back from a copy; if it was edited on purpose, remove the first line"
        )
    try:
        root = _parsed(yaml.compose, text)
        lines = dict(_lines(path, root, (), set())) if root is not None else {}
        if root is not None and _size(root, {}) > MOST_VALUES:
            raise BadDocument(f"{path}: aliases make more than {MOST_VALUES:,} values of it\n  next: write out what is meant")
        values = _parsed(yaml.load, text)
    except RecursionError as error:
        raise BadDocument(f"{path}: it is nested too deeply, or an alias holds itself") from error
    except yaml.YAMLError as error:
        raise BadDocument(_yaml_mistake(path, error)) from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise BadDocument(f"{path}, line 1: expected keys and values, got a {type(values).__name__}")
    places = {_override(values, override, below): override for override in overrides}
    whereabouts = _Whereabouts(path, lines, places)
    if old := [f"{whereabouts(place)}: {_dotted(place)} is now {new}" for place, new in _renamed(values, model.renamed)]:
        raise OldKeys("\n".join(old))
    try:
        return model.model_validate(values)
    except ValidationError as error:
        # A default taken from another key fails only because that key failed: one mistake, reported once.
        # And a list whose elements failed counts as too short.
        failed = {mistake["loc"] for mistake in error.errors()}
        parents = {loc[:end] for loc in failed for end in range(len(loc))}
        told = [
            mistake
            for mistake in error.errors()
            if mistake["type"] != "default_factory_not_called"
            and not (mistake["type"] == "too_short" and mistake["loc"] in parents)
        ]
        raise BadDocument("\n".join(_describe(mistake, model, values, whereabouts) for mistake in told)) from error


def _renamed(values: Any, renamed: Mapping[str, str], place: Place = ()) -> Iterator[tuple[Place, str]]:
    """Every key that has another name now, the innermost ones, and what that is."""
    children = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in children:
        here = (*place, key)
        spots = [here, here[2:]] if here[0] == "stages" else [here]
        inside = list(_renamed(value, renamed, here))
        found = [
            _filled(old.split("."), new, spot)
            for old, new in renamed.items()
            for spot in spots
            if _matches(old.split("."), spot)
        ]
        yield from inside or [(here, new) for new in found[:1]]


def _matches(pattern: Sequence[str], place: Place) -> bool:
    return len(pattern) == len(place) and all(own in ("*", str(step)) for own, step in zip(pattern, place, strict=True))


def _filled(pattern: Sequence[str], new: str, place: Place) -> str:
    """The new name, with the keys and numbers of the place where the old one stands for any."""
    for own, step in zip(pattern, place, strict=True):
        new = new.replace("*", str(step), 1) if own == "*" else new
    return new


def read_value(text: str, what: str) -> Any:
    """One value in YAML, as a document has it; `what` it is, if that is not valid."""
    try:
        return _parsed(yaml.load, text)
    except yaml.YAMLError as error:
        raise BadDocument(_yaml_mistake(what, error)) from error


def write_document(path: str, section: Section) -> None:
    """Write a document with every default filled in, whole or not at all; `read_document` gives back an equal object.

    Its first line is a comment with the SHA-256 of the rest, which `read_document` checks. A file that holds a password of a
    URI, or the address of a web hook, is this user's alone.
    """
    values = section.model_dump(mode="json", by_alias=True)
    text = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    private = masked(text) != text or re.search(r"^ *webhook: .*://", text, re.MULTILINE) is not None
    write_whole(path, f"# sha256: {hashlib.sha256(text.encode()).hexdigest()}\n{text}", private=private)


def finite(value: Any) -> Any:
    """The value as JSON has it: what is not a finite number is null."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def nearest(name: object, valid: Sequence[str]) -> str:
    """Help with a wrong name: the most similar valid one, or all of them."""
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(sorted(valid)) or 'none'}"


# --- YAML: no dates (a day is a name), no base 60, and 1e-3 is a number ---


class _Loader(yaml.SafeLoader):
    """YAML as its readers expect it."""


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same, by libyaml where PyYAML has it."""


class _Dumper(yaml.SafeDumper):
    """Quotes exactly what `_Loader` would take for something else."""


_NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
        r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
    ),
}


_TEXT = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}
"""What a key may be."""


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    replaced = {"tag:yaml.org,2002:timestamp", *_NUMBERS}
    kept = {
        first: [(tag, pattern) for tag, pattern in rules if tag not in replaced]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for first in "-+0123456789.":
        kept.setdefault(first, []).extend(_NUMBERS.items())
    return kept


for _own in (_Loader, _FastLoader, _Dumper):
    _own.yaml_implicit_resolvers = _resolvers()


def _parsed(parse: Callable[..., Any], text: str) -> Any:
    """What `yaml.load` or `yaml.compose` reads: libyaml takes a fifth of the time, the other one says what is wrong."""
    try:
        return parse(text, Loader=_FastLoader)
    except yaml.YAMLError:
        return parse(text, Loader=_Loader)


def _read(path: str) -> str:
    try:
        with PATHS.open(path, "r") as file:
            return str(file.read())
    except FileNotFoundError as error:
        raise BadDocument(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadDocument(f"{path}: cannot be read as text: {error}") from error


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """The values below a node, aliases written out."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES  # until it is counted: an alias that holds itself has no end
        inside = [own for pair in node.value for own in pair] if isinstance(node, yaml.MappingNode) else node.value
        parts = inside if isinstance(node, yaml.CollectionNode) else ()
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def _yaml_mistake(path: str, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    line = f", line {mark.line + 1}" if mark is not None else ""
    return f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}"


def _lines(path: str, node: yaml.Node, place: Place, done: set[int]) -> Iterator[tuple[Place, int]]:
    """The line of every key and list element. A key written twice is an error, not a silent choice of the last; and so is one
    that YAML does not read as text (no, on, 5)."""
    yield place, node.start_mark.line + 1
    if id(node) in done:  # an alias, perhaps of a node that holds it
        return
    done.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield from _lines(path, child, (*place, index), done)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, child in node.value:
            line = key.start_mark.line + 1
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                where = _dotted((*place, key.value))
                raise BadDocument(f"{path}, line {line}: {where}: written twice, first on line {seen[key.value]}")
            if isinstance(key, yaml.ScalarNode):
                if key.tag not in _TEXT:
                    where = _dotted((*place, key.value))
                    told = f"YAML does not take this key for text: write {key.value!r}, with the quotes"
                    raise BadDocument(f"{path}, line {line}: {where}: {told}")
                seen[key.value] = line
                yield from _lines(path, child, (*place, key.value), done)
                yield (*place, key.value), line


# --- overrides ---


def _override(values: dict[str, Any], override: str, below: str = "") -> Place:
    """Put one override into the values; its place."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise BadDocument(f"override {override!r}: expected key.path=value, such as train.global_batch_rows=4096")
    value = read_value(text, f"override {override!r}")
    place: Place = ()
    here: Any = values
    *parents, last = dotted.removeprefix(f"{below}.").split(".") if below else dotted.split(".")
    for key in parents:
        step = _step(here, key, place, override)
        place = (*place, step)
        if isinstance(here, dict) and here.get(step) is None:
            here[step] = {}
        here[step] = copy(here[step])  # YAML's aliases are one object: the other places keep theirs
        here = here[step]
    step = _step(here, last, place, override)
    here[step] = value
    return (*place, step)


def _step(here: Any, key: str, place: Place, override: str) -> str | int:
    if isinstance(here, dict):
        return key
    if not isinstance(here, list):
        raise BadDocument(f"override {override!r}: {_dotted(place)} is the value {here!r}, it has no key {key!r}")
    if key.isdigit() and int(key) < len(here):
        return int(key)
    names = [str(own.get("name") or own.get("target") or "") if isinstance(own, dict) else "" for own in here]
    if key in names:
        return names.index(key)
    known = f"\n  {nearest(key, [own for own in names if own])}" if any(names) and not key.isdigit() else ""
    raise BadDocument(
        f"override {override!r}: {_dotted(place)} is a list of {len(here)}: expected a number from 0 to {len(here) - 1}"
        f"{' or a name' if any(names) else ''}, got {key!r}{known}"
    )


# --- a mistake, reported so that it can be fixed ---


class _Whereabouts:
    """Says where a key is: in which line of the file, or in which override."""

    def __init__(self, path: str, lines: dict[Place, int], overrides: dict[Place, str]) -> None:
        self.path, self.lines, self.overrides = path, lines, overrides

    def __call__(self, place: Place) -> str:
        for end in range(len(place), -1, -1):
            if place[:end] in self.overrides:
                return f"override {self.overrides[place[:end]]!r}"
        if place not in self.lines:
            for overridden, text in self.overrides.items():
                if overridden[: len(place)] == place:
                    return f"override {text!r}"
        while place and place not in self.lines:
            place = place[:-1]
        return f"{self.path}, line {self.lines.get(place, 1)}"


def _dotted(place: Place) -> str:
    return ".".join(map(str, place)) or "the document"


def _describe(mistake: Any, model: type[Section], values: Any, whereabouts: _Whereabouts) -> str:
    kind, context = mistake["type"], mistake.get("ctx", {})
    place, parent, annotation = _find(model, mistake["loc"], values)
    text, help_ = mistake["msg"], ""
    if kind == "extra_forbidden":
        text, help_ = "unknown key", nearest(place[-1], _keys(parent))
    elif kind == "missing":
        text = "this key is missing"
        help_ = (_fields(parent)[str(place[-1])].description or "") if parent is not None else ""
    elif kind == "union_tag_not_found":
        place = (*place, context["discriminator"].strip("'"))
        text, help_ = "this key is missing", f"valid: {', '.join(sorted(_choices(annotation, str(place[-1]))))}"
    elif kind == "union_tag_invalid":
        place = (*place, context["discriminator"].strip("'"))
        text, help_ = f"no {context['tag']!r}", nearest(context["tag"], _choices(annotation, str(place[-1])))
    elif kind == "literal_error":
        text, help_ = f"no {mistake['input']!r}", nearest(mistake["input"], [str(c) for c in get_args(_bare(annotation))])
    elif kind == "value_error":
        text = str(context["error"])
        place = (*place, *getattr(context["error"], "place", ()))
    elif "input" in mistake and not isinstance(mistake["input"], dict):
        text = f"{text}, got {mistake['input']!r}"
    line = f"{whereabouts(place)}: {_dotted(place)}: {text}"
    return f"{line}\n  {help_}" if help_ else line


def _find(model: type[Section], loc: Place, values: Any) -> tuple[Place, type[Section] | None, Any]:
    """The key path of a pydantic location (which also names union members), its section, and its type.

    Pydantic's location has one more element where it chose a member of a union; the type says where.
    """
    place: Place = ()
    parent: type[Section] | None = None
    here: Any = model
    for step in loc:
        here = _bare(here)
        if _is_union(here):
            members = get_args(here)
            chosen = [member for member in members if _named(member, step)]
            if chosen:
                here = chosen[0]
                continue
            here = next((member for member in members if _holds(_bare(member), step)), Any)
        origin, arguments = get_origin(here), get_args(here)
        if isinstance(here, type) and issubclass(here, Section):
            parent = here
            field = _fields(here).get(str(step))
            here = field.annotation if field is not None else Any
        elif origin in {list, tuple} and isinstance(step, int):
            parent, here = None, arguments[0]
        elif origin is dict:
            parent, here = None, arguments[1]
        elif not (isinstance(values, dict) and step in values) and not isinstance(step, int):
            continue
        place = (*place, step)
        values = _child(values, step)
    return place, parent, here


def _child(values: Any, step: str | int) -> Any:
    try:
        return values[step]
    except (LookupError, TypeError):
        return None


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in {Union, UnionType}


def _bare(annotation: Any) -> Any:
    """The type without Annotated[...] and without "or None"."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif _is_union(annotation) and len(some := [a for a in get_args(annotation) if a is not type(None)]) == 1:
            annotation = some[0]
        else:
            return annotation


def _named(member: Any, step: str | int) -> bool:
    """Does pydantic call this member of a union `step`?"""
    if step in {getattr(member, "__name__", None) if get_origin(member) is None else None, str(member)}:
        return True
    bare = _bare(member)
    if isinstance(bare, type) and issubclass(bare, Section):
        return any(get_args(field.annotation) == (step,) for field in bare.model_fields.values())
    return False


def _holds(member: Any, step: str | int) -> bool:
    if isinstance(member, type) and issubclass(member, Section):
        return step in _fields(member)
    return get_origin(member) in ({list, tuple} if isinstance(step, int) else {dict})


def _keys(section: type[Section] | None) -> list[str]:
    return list(_fields(section)) if section is not None else []


def _fields(section: type[Section]) -> dict[str, FieldInfo]:
    """The fields by the names that a file gives them."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _choices(annotation: Any, discriminator: str) -> list[str]:
    """The values that choose a member of a discriminated union."""
    sections = [_bare(member) for member in get_args(_bare(annotation))]
    return [str(choice) for section in sections for choice in get_args(section.model_fields[discriminator].annotation)]
