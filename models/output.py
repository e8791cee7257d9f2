"""What a model returns: one object for every model, so that losses, metrics and diagnostics need no cases.

B rows.
"""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Output:
    """The answer of a model for one batch.

    Attributes:
        logits: target -> (B,) scores before the sigmoid.
        representations: name -> tensor with its gradient, for losses that read more than logits. "TARGET/easy" and the like
            are of one target.
        aux: name -> (loss of every row, (B,), and its weight): further losses of the model itself.
        observed: name -> detached tensor, for diagnostics; training never reads it.
    """

    logits: dict[str, Tensor]
    representations: dict[str, Tensor] = field(default_factory=dict)
    aux: dict[str, tuple[Tensor, float]] = field(default_factory=dict)
    observed: dict[str, Tensor] = field(default_factory=dict)
