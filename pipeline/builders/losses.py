"""From a config's losses to what training adds up, and to where logits start."""

import math
from collections.abc import Sequence

from data.errors import GenctrError
from data.schema import Schema
from data.statistics import Statistics
from models.losses.base import LossTerm, links_of
from pipeline.config.model import LossConfig
from pipeline.config.registry import bind, find


def build_losses(losses: Sequence[LossConfig], schema: Schema) -> tuple[LossTerm, ...]:
    """The losses of a ranking.

    Raises:
        GenctrError: no such loss, option or target, or a loss that cannot read what a target is.
    """
    targets = schema.target_names
    for own in losses:
        if wrong := [name for name in own.targets or () if name not in targets]:
            raise GenctrError(f"model.losses: {own.name}: no target {wrong[0]!r}; choose from {list(targets)}")
    terms = tuple(
        LossTerm(own.name, bind(f"loss {own.name}", find("genctr.losses", own.name), own.options), own.weight, own.targets)
        for own in losses
    )
    if schema.group is None and (within := [term.name for term in terms if term.loss.within_groups]):
        raise GenctrError(
            f"model.losses: {within[0]} compares the rows of a group\n  next: name the column of the group in the schema"
        )
    try:
        links = links_of(terms, targets)
    except ValueError as error:
        raise GenctrError(f"model.losses: {error}") from error
    for label in schema.targets:
        if (label.kind == "amount") == (links[label.target] == "sigmoid"):
            told = "an amount and has no loss of amounts" if label.kind == "amount" else "0 or 1 and has a loss of amounts"
            raise GenctrError(
                f"model.losses: target {label.target} is {told}\n"
                "  next: give every loss its targets, such as losses: [{name: bce, targets: [click]}, "
                "{name: log_mse, targets: [seconds]}]"
            )
    return terms


def first_logits(losses: Sequence[LossConfig], schema: Schema, statistics: Statistics) -> list[float]:
    """The logits of the base rates and of the mean amounts, in the order of the targets."""
    if all(label.kind == "binary" for label in schema.targets):  # losses of other packages are not needed to serve
        return [statistics.log_odds(target) for target in schema.target_names]
    links = links_of(build_losses(losses, schema), schema.target_names)
    return [_first_logit(target, links[target], statistics) for target in schema.target_names]


def _first_logit(target: str, link: str, statistics: Statistics) -> float:
    mean = statistics.mean(target)
    if link == "sigmoid":
        return statistics.log_odds(target)
    if link == "exp":
        return math.log(mean) if mean else 0.0
    return math.log1p(mean) if link == "expm1" else mean
