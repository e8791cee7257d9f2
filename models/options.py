"""What a user may set of a part: the arguments of its constructor, and the fields of those that hold several."""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any


def grouped(build: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `build` that hold these options. An argument whose default is a dataclass holds those that are called
    like its fields; of fields that are not among the options it keeps the default.

    >>> from models.decoders.cross import CrossNet
    >>> grouped(CrossNet, {"layers": 2, "deep_head": True})
    {'cross': CrossOptions(layers=2, cross_dropout=0.0, regenerate=False, bias=False), 'deep_head': True}
    """
    groups, arguments = options_of(build), inspect.signature(build).parameters
    made: dict[str, Any] = {}
    for name, value in options.items():
        group = groups.get(name)
        if group is None:
            made[name] = value
        else:
            made[group] = replace(made.get(group, arguments[group].default), **{name: value})
    return made


def options_of(build: Callable[..., Any], given: Collection[str] = ()) -> dict[str, str | None]:
    """The options that `build` has besides what is given, each with the argument that holds it, None for the option itself."""
    found: dict[str, str | None] = {}
    for name, argument in inspect.signature(build).parameters.items():
        if name in given:
            continue
        default = argument.default
        found |= {field.name: name for field in fields(default)} if is_dataclass(default) else {name: None}
    return found
