"""What a model returns: one object for every model, so that losses, meters and diagnostics need no cases."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Output:
    """The answer of a model for one batch.

    Attributes:
        logits: task -> (B,) scores before the sigmoid.
        branches: task -> (easy, hard), two (B,): what the two encoders of a twin-focus model say on their own.
        aux: name -> (loss of every row, (B,), and its weight): further losses of the model itself.
        seen: name -> detached tensor that diagnostics look at; training never reads it.
    """

    logits: dict[str, Tensor]
    branches: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    aux: dict[str, tuple[Tensor, float]] = field(default_factory=dict)
    seen: dict[str, Tensor] = field(default_factory=dict)
