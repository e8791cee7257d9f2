"""The SFG encoder, and the identity that makes every decoder a classic model.

B rows, F fields, D width of a vector.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from models.norm import BatchNorm1d

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "relu": torch.relu,
        "silu": nn.functional.silu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "linear": torch.positive,  # the identity, as a function that pickles
    }
)

MakeTransform = Callable[[int, int], nn.Module]
"""Makes a transform of the fields' vectors, (B, F, D) -> (B, F, D), from F and D."""


class Identity(nn.Module):
    """No generation: the classic models. Has no parameters, whatever `bias` a decoder asks for, and returns its very input.

    Shape:
        emb_BFD (B, F, D) -> (B, F, D)
    """

    def __init__(self, *, fields: int, width: int, bias: bool = False) -> None:
        super().__init__()
        self.fields, self.width = fields, width

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return the input."""
        return emb_BFD


class FieldWise(nn.Linear):
    """flat(emb) @ W^T: for every field a matrix that reads all the fields."""

    def __init__(self, fields: int, width: int) -> None:
        super().__init__(fields * width, fields * width, bias=False)
        nn.init.xavier_normal_(self.weight)

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return (B, F, D)."""
        return super().forward(emb_BFD.flatten(1)).view_as(emb_BFD)


@dataclass(frozen=True)
class SFGOptions:
    """What becomes of the transformed vectors.

    Args:
        activation: a name in `ACTIVATIONS`; the paper finds relu and silu best.
        gamma: [1] factor of the generated vectors.
        learn_gamma: whether it is learnt from there.
        residual: add the raw vectors.
        batch_norm: normalise before the activation, all coordinates as one channel.
    """

    activation: str = "relu"
    gamma: float = 1.0
    learn_gamma: bool = False
    residual: bool = False
    batch_norm: bool = False


SFG = SFGOptions()


class FeatureGenerator(nn.Module):
    """Supervised feature generation (SFG): every field's new vector reads all the fields.

    out = act(transform(emb) + bias) * gamma        (+ emb if residual)

    The transform is flat(emb) @ W^T: W (F*D, F*D) has no bias, and its rows f*D .. (f+1)*D are the matrix of field f. With
    N(0, 1e-4) tables the activations start tiny, so gamma (or residual) sets how fast the generated side learns: tune it per
    data set, the paper's code uses 0.005 to 36.

    Args:
        fields: F.
        width: D.
        bias: add a learnt number to every coordinate before the activation, at first 0; fwfm asks for it.
        options: activation, gamma, learn_gamma, residual, batch_norm.
        make_transform: makes the transform, another one for an arm of the ablations.

    Shape:
        emb_BFD (B, F, D) -> (B, F, D)

    Raises:
        ValueError: no such activation.

    Source: "From Feature Interaction to Feature Generation" (arXiv 2512.14041), default form of the released code
    (USTC-StarTeam/GE4Rec).

    Example:
        >>> FeatureGenerator(fields=3, width=4)(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 3, 4])
    """

    def __init__(
        self,
        *,
        fields: int,
        width: int,
        bias: bool = False,
        options: SFGOptions = SFG,
        make_transform: MakeTransform = FieldWise,
    ) -> None:
        super().__init__()
        choose("activation", options.activation, ACTIVATIONS)
        self.transform = make_transform(fields, width)
        self.bias_FD = nn.Parameter(torch.zeros(fields, width)) if bias else None
        self.norm = BatchNorm1d(1) if options.batch_norm else None
        self.activate = ACTIVATIONS[options.activation]
        self.gamma = nn.Parameter(torch.tensor(float(options.gamma))) if options.learn_gamma else options.gamma
        self.residual = options.residual

    def forward(self, emb_BFD: Tensor) -> Tensor:
        """Return the generated vectors, (B, F, D)."""
        made_BFD: Tensor = self.transform(emb_BFD)
        if self.bias_FD is not None:
            made_BFD = made_BFD + self.bias_FD
        if self.norm is not None:
            made_BFD = self.norm(made_BFD.reshape(-1, 1)).view_as(made_BFD)
        made_BFD = self.activate(made_BFD) * self.gamma
        return made_BFD + emb_BFD if self.residual else made_BFD


def choose(what: str, name: str, names: object) -> None:
    """Check that `name` is among `names`.

    Raises:
        ValueError: it is not; all of them are listed.
    """
    known = sorted(names)  # type: ignore[call-overload]
    if name not in known:
        raise ValueError(f"encoder: no {what} {name!r}; choose from {known}")
