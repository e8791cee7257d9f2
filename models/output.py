"""What a model returns: one object for every model, so that losses, meters and diagnostics need no cases."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Output:
    """The answer of a model for one batch.

    Attributes:
        logits: task -> (B,) scores before the sigmoid.
        aux: name -> (loss, weight): further losses of the model itself, to be added as weight * loss.
        seen: name -> detached tensor that diagnostics look at; training never reads it.
    """

    logits: dict[str, Tensor]
    aux: dict[str, tuple[Tensor, float]] = field(default_factory=dict)
    seen: dict[str, Tensor] = field(default_factory=dict)
