"""Find a component by name: the project's own first, then installed packages."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from data.errors import GenctrError

NOTHING: Mapping[str, Any] = MappingProxyType({})


def find(group: str, name: str, own: Mapping[str, Any]) -> Any:
    """The component called `name`.

    Args:
        group: entry point group that outside packages add to, such as `genctr.readers`.
        own: the project's registry; an outside package adds names and never replaces one.

    Raises:
        GenctrError: no such name (the nearest is told), a package reuses one of ours, or names what cannot be loaded.
    """
    outside = {point.name: point for point in entry_points(group=group)}
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
                f"{group}: {name} = {outside[name].value}{whose} cannot be loaded: {error}\n  next: mend that package"
            ) from error
    names = sorted({*own, *outside})
    near = difflib.get_close_matches(name, names, n=1)
    hint = f", nearest {near[0]!r}" if near else ""
    raise GenctrError(f"{group}: no {name!r}{hint}; choose from {names}")


def bind(what: str, build: Callable[..., Any], options: Mapping[str, Any], given: Mapping[str, Any] = NOTHING) -> Any:
    """Call `build` with options that came from a file; a wrong name or value is the user's mistake, not ours.

    Args:
        what: what is built, as an error calls it.
        build: a class or function; its arguments are the options there are.
        options: what the file says.
        given: arguments that are not for the file to say.

    Raises:
        GenctrError: names the option and those there are.
    """
    known = inspect.signature(build).parameters.keys() - given.keys()
    if wrong := sorted(set(options) - known):
        near = difflib.get_close_matches(wrong[0], known, n=1)
        hint = f", nearest {near[0]!r}" if near else ""
        raise GenctrError(f"{what}: unknown option {wrong[0]!r}{hint}; it has {sorted(known)}")
    try:
        return build(**given, **options)
    except GenctrError:
        raise
    except (TypeError, ValueError) as error:
        raise GenctrError(f"{what}: {error}") from error
