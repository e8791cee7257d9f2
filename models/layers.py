"""Dense layers that start as FuxiCTR starts them (xavier-normal weights, zero biases), and the shapes between modules.

B rows, H hidden width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from models.inputs import FieldInfo, FieldVectors
from models.norm import BatchNorm1d

MakeMLP = Callable[..., "MLP"]
"""Makes a network of dense layers: `make_mlp(inputs, hidden=…, dropout=…, batch_norm=…)`, called as `mlp(row_BX, fields)`."""


@runtime_checkable
class Foldable(Protocol):
    """A module that keeps in parts for training what scoring can read as one."""

    def fold(self) -> None:
        """Make one of the parts; the outputs stay the same but for rounding."""
        ...


def fold(model: nn.Module) -> None:
    """Fold all that can be folded inside a trained model that will only score."""
    for module in model.modules():
        if isinstance(module, Foldable):
            module.fold()


@dataclass(frozen=True)
class MLPOptions:
    """How a network of dense layers is made, see `MLP`.

    Args:
        hidden: widths of the hidden layers.
        dropout: [1] probability of dropping a hidden unit while training.
        batch_norm: normalise over the rows of all ranks before every ReLU.
    """

    hidden: Sequence[int] = (400, 400, 400)
    dropout: float = 0.0
    batch_norm: bool = False

    def build(self, make_mlp: MakeMLP, inputs: int) -> "MLP":
        """Return a network over rows of width `inputs`."""
        return make_mlp(inputs, hidden=self.hidden, dropout=self.dropout, batch_norm=self.batch_norm)


NETWORK = MLPOptions()
"""The network of a decoder whose user says nothing of it."""


@dataclass(frozen=True)
class Tokens:
    """Several vectors a row, (B, count, width)."""

    count: int
    width: int


@dataclass(frozen=True)
class Flat:
    """One vector a row, (B, width).

    Args:
        parts: what stands in it, name -> [columns], in order; empty if nothing has a name.
    """

    width: int
    parts: Mapping[str, int] = field(default_factory=dict)


def flat(out: Tokens | Flat) -> Flat:
    """What tokens are side by side."""
    return Flat(out.count * out.width) if isinstance(out, Tokens) else out


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """Return a linear layer with xavier-normal weights and zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_normal_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class Dropout(nn.Dropout):
    """Dropout that does not wait for its random numbers on a CPU.

    out = x * kept / (1 - p)        kept ~ Bernoulli(1 - p), p to the nearest 2^-16, one at least

    torch's own kernel draws one Bernoulli number per element, one after another: on [4096, 400] that takes longer than the
    matrix product before it. Here a draw of 64 bits decides about four elements. Either way torch's generator makes them.

    Shape:
        any -> the same
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return what is kept of the input, rescaled; in evaluation the input."""
        if not self.training or not 0 < self.p < 1 or x.device.type != "cpu":
            return super().forward(x)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        scale = torch.empty_like(x)
        kept = min(round((1 - self.p) * 2**16), 2**16 - 1)  # of the 2^16 draws
        torch.lt(draws[: x.numel()].view(x.shape), kept - 2**15, out=scale)
        return x * scale.mul_(1 / (1 - self.p))


class MLP(nn.Sequential):
    """Linear - BatchNorm - ReLU - Dropout, once for every hidden width.

    Args:
        inputs: width of a row.
        hidden: widths of the hidden layers; empty returns the row as it came.
        dropout: probability of dropping a hidden unit while training.
        batch_norm: normalise over the rows of all ranks before the ReLU.
        layer: makes the linear layers, of inputs and outputs.

    Attributes:
        out_features: width of the last hidden layer.

    Shape:
        (B, inputs), and the fields of the rows, which layers that depend on them read -> (B, out_features)
    """

    def __init__(
        self,
        inputs: int,
        *,
        hidden: Sequence[int],
        dropout: float = 0.0,
        batch_norm: bool = False,
        layer: Callable[[int, int], nn.Module] = linear,
    ) -> None:
        if min(hidden, default=1) < 1:
            raise ValueError(f"the hidden widths are {list(hidden)}; expected each 1 or more")
        layers: list[nn.Module] = []
        for width in hidden:
            layers.append(layer(inputs, width))
            if batch_norm:
                layers.append(BatchNorm1d(width))
            layers.append(nn.ReLU())
            if dropout:
                layers.append(Dropout(dropout))
            inputs = width
        super().__init__(*layers)
        self.out_features = inputs

    def forward(self, row_BX: Tensor, fields: FieldVectors | None = None) -> Tensor:
        """Return the last hidden layer, (B, out_features)."""
        out_BH: Tensor = super().forward(row_BX)  # type: ignore[no-untyped-call]
        return out_BH


def make_plain(*, fields: Sequence[FieldInfo], width: int) -> MakeMLP:
    """What makes plain dense layers, whatever the fields."""
    return MLP
