"""Find a component by name: the project's own first, then installed packages."""

import difflib
import functools
import pkgutil
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from pydantic import AfterValidator

from data.errors import GenctrError
from data.yaml_document import BadValue, nearest
from models.options import grouped, options_of

NOTHING: Mapping[str, Any] = MappingProxyType({})

REGISTRIES: Mapping[str, str] = MappingProxyType(
    {
        "genctr.families": "pipeline.builders.families:FAMILIES",
        "genctr.objectives": "pipeline.config.objective:OBJECTIVES",
        "genctr.decoders": "models.registries:DECODERS",
        "genctr.interactions": "models.registries:INTERACTIONS",
        "genctr.encoders": "models.registries:ENCODERS",
        "genctr.dense": "models.registries:DENSE",
        "genctr.heads": "models.registries:HEADS",
        "genctr.sequence_encoders": "models.registries:SEQUENCE_ENCODERS",
        "genctr.losses": "models.registries:LOSSES",
        "genctr.readers": "data.readers:READERS",
        "genctr.gates": "pipeline.daily.gates:GATES",
    }
)
"""Where the project's own of every entry point group are. Named as entry points name theirs, and loaded when a name is looked
up: a file is read below what it names, and loads nothing else of it."""


def named(group: str) -> AfterValidator:
    """The check of a config's key that names a component: an error names its line when the file is read."""

    def check(name: str) -> str:
        known = names(group)
        if name not in known:
            raise BadValue(f"no {name!r}; {nearest(name, known)}")
        return name

    return AfterValidator(check)


def names(group: str, own: Mapping[str, Any] | None = None) -> list[str]:
    """All names of an entry point group; outside ones are not loaded for it."""
    return sorted({*_own(group, own), *_outside(group)})


def find(group: str, name: str, own: Mapping[str, Any] | None = None) -> Any:
    """The component called `name`.

    Args:
        group: entry point group that outside packages add to, such as `genctr.readers`.
        own: the project's registry, unless it is in REGISTRIES; an outside package adds names and never replaces one.

    Raises:
        GenctrError: no such name (the error says the nearest), a package reuses one of ours, or names what cannot be loaded.
    """
    own, outside = _own(group, own), _outside(group)
    if taken := sorted(own.keys() & outside.keys()):
        raise GenctrError(f"{group}: an installed package reuses our names {taken}: rename them there")
    if name in own:
        return own[name]
    if name in outside:
        try:
            return outside[name].load()
        except (ImportError, AttributeError) as error:
            package = outside[name].dist
            whose = f" of {package.name} {package.version}" if package is not None else ""
            raise GenctrError(
                f"{group}: {name} = {outside[name].value}{whose} cannot be loaded: {error}\n  next: fix that package"
            ) from error
    known = sorted({*own, *outside})
    near = difflib.get_close_matches(name, known, n=1)
    hint = f", nearest {near[0]!r}" if near else ""
    raise GenctrError(f"{group}: no {name!r}{hint}; choose from {known}")


def _own(group: str, own: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if own is not None:
        return own
    registry: Mapping[str, Any] = pkgutil.resolve_name(REGISTRIES[group])
    return registry


def _outside(group: str) -> Mapping[str, EntryPoint]:
    return _installed(tuple(sys.path)).get(group, {})


@functools.cache
def _installed(path: tuple[str, ...]) -> dict[str, dict[str, EntryPoint]]:
    """The entry points on a search path, by group. Reading them opens a file of every package: too slow for every name."""
    found = entry_points()
    return {group: {point.name: point for point in found.select(group=group)} for group in found.groups}


def bind(what: str, build: Callable[..., Any], options: Mapping[str, Any], given: Mapping[str, Any] = NOTHING) -> Any:
    """Call `build` with options that came from a file; a wrong name or value is the user's mistake, not ours.

    Args:
        what: what is built, as an error calls it.
        build: a class or function; its arguments are the options there are, see `grouped`.
        options: what the file says, flat.
        given: arguments that are not for the file to say.

    Raises:
        GenctrError: names the option and those there are.
    """
    known = options_of(build, given)
    if wrong := sorted(set(options) - known.keys()):
        near = difflib.get_close_matches(wrong[0], known, n=1)
        hint = f", nearest {near[0]!r}" if near else ""
        raise GenctrError(f"{what}: unknown option {wrong[0]!r}{hint}; it has {sorted(known)}")
    try:
        return build(**given, **grouped(build, options))
    except GenctrError:
        raise
    except (TypeError, ValueError) as error:
        raise GenctrError(f"{what}: {error}") from error
