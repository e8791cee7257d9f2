"""Components made as a run file makes them: from flat options."""

from collections.abc import Callable
from functools import partial
from typing import Any

from models.options import grouped
from models.registries import ENCODERS


def made_of(build: Callable[..., Any], **options: Any) -> Any:
    """`build` called with its arguments and the options of a user side by side."""
    return build(**grouped(build, options))


sfg = partial(made_of, ENCODERS["sfg"])
