"""A network of its own for every target, over the features that all share.

B rows, H features of the decoder, T targets.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.heads.base import Head, Scores, by_target
from models.inputs import FieldVectors
from models.layers import MLP, Flat, MakeMLP, MLPOptions
from models.output import Output

TOWER = MLPOptions(hidden=(64,))


class Towers(nn.Module):
    """logit_t = w_t . MLP_t(x_t) + b_t

    Args:
        features: [columns] H of what every target reads. targets: how many there are.
        network: hidden, dropout, batch_norm of every MLP_t; without hidden layers the features are scored as they are.

    Shape:
        x_t (B, H) of every target, fields -> (B, T)
    """

    def __init__(self, *, features: int, targets: int, make_mlp: MakeMLP, network: MLPOptions) -> None:
        super().__init__()
        self.mlps = nn.ModuleList(network.build(make_mlp, features) for _ in range(targets))
        width = network.hidden[-1] if network.hidden else features
        self.scores = nn.ModuleList(Scores(features=width, targets=1) for _ in range(targets))

    def start_at(self, logits: Sequence[float]) -> None:
        """Set the biases, so that the first logits scatter around these, one per target."""
        for score, logit in zip(self.scores, logits, strict=True):
            assert isinstance(score, Scores)
            score.start_at([logit])

    def forward(self, own_TBH: Sequence[Tensor], fields: FieldVectors | None) -> Tensor:
        """Return the logits, (B, T)."""
        towers = zip(own_TBH, self.mlps, self.scores, strict=True)
        return torch.cat([score(mlp(x_BH, fields)) for x_BH, mlp, score in towers], dim=1)


class TowersHead(Head):
    """logit_t = w_t . MLP_t(x) + b_t: targets share the decoder and nothing after it.

    Args:
        network: hidden, dropout, batch_norm of every MLP_t.

    Shape:
        x_BH (B, H) -> Output with logits {target: (B,)}
    """

    def __init__(self, *, features: Flat, targets: Sequence[str], make_mlp: MakeMLP = MLP, network: MLPOptions = TOWER) -> None:
        super().__init__()
        self.targets = tuple(targets)
        self.towers = Towers(features=several(features, "towers"), targets=len(targets), make_mlp=make_mlp, network=network)

    def start_at(self, logits: Sequence[float]) -> None:
        """Set the bias of every target."""
        self.towers.start_at(logits)

    def forward(self, x_BH: Tensor, fields: FieldVectors | None = None) -> Output:
        """Return the logits by target."""
        return Output(by_target(self.towers([x_BH] * len(self.targets), fields), self.targets))


def several(features: Flat, head: str) -> int:
    """Return H, of a decoder that leaves features for networks to read.

    Raises:
        ValueError: it returns a score.
    """
    if features.width == 1:
        raise ValueError(f"{head} reads features, and this decoder returns a score: choose one that ends in a network")
    return features.width
