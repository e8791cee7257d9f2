"""What a diagnosis means, in a sentence for each picture."""

from collections.abc import Mapping
from typing import Any

COLLAPSED, NARROW = 0.1, 0.4
"""[1] shares of the directions there can be: below the first a representation has collapsed, below the other it is narrow."""

ALIKE, RELATED = 0.7, 0.3
"""[1] mean |R| of a product's two sides within a field: from the first on they are redundant, below the other they are not."""

SHOWN = 3
"""[names] in a sentence."""


def findings(told: Mapping[str, Any]) -> dict[str, str]:
    """A sentence by picture: spectrum, correlation, fields, tables; only of what was found.

    Args:
        told: the scalars of a diagnosis.
    """
    found = {}
    if sides := [_spectrum(name, told[name]) for name in ("emb", "generated", "raw") if name in told]:
        found["spectrum"] = "; ".join(sides)
    if "correlation" in told:
        r = told["correlation"]["mean_r_within"]
        said = "redundant" if r >= ALIKE else "partly redundant" if r >= RELATED else "not redundant"
        found["correlation"] = f"the two sides of a field are {said}: mean |R| {r:.2f}"
    if fields := told.get("fields"):
        found["fields"] = _fields(fields)
    if tables := told.get("tables"):
        still = {name: own["moved"] for name, own in tables.items() if own["moved"] < COLLAPSED}
        found["tables"] = _still(still) if still else ""
    return {name: own for name, own in found.items() if own}


def most_directions(own: Mapping[str, float]) -> float:
    """The directions that a representation can have at most, from its spectrum's scalars."""
    return own["rankme"] / max(own["rankme_share"], 1e-12)


def _spectrum(name: str, own: Mapping[str, float]) -> str:
    share = own["rankme_share"]
    said = "collapsed" if share < COLLAPSED else "narrow" if share < NARROW else "not collapsed"
    return f"{name} is {said}: it uses {own['rankme']:.0f} of {most_directions(own):.0f} directions"


def _fields(shares: Mapping[str, float]) -> str:
    few = {name: own for name, own in shares.items() if own < NARROW}
    if not few:
        return f"each of {len(shares)} fields uses at least {NARROW:.0%} of the directions that it can have"
    return f"{len(few)} of {len(shares)} fields use less than {NARROW:.0%} of the directions that they can have: {_names(few)}"


def _still(moved: Mapping[str, float]) -> str:
    return f"tables of which less than {COLLAPSED:.0%} of the rows have moved, so fewer rows may do: {_names(moved)}"


def _names(values: Mapping[str, float]) -> str:
    """The names of the smallest ones."""
    names = sorted(values, key=lambda name: values[name])
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
