"""Logistic regression (LR): one weight for every value of every field."""

from collections.abc import Sequence

from torch import Tensor

from models.decoders.base import Decoder, Generate
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, Flat, MakeMLP


class LR(Decoder):
    """Logistic regression on the values of all fields; the vector of a field is one number wide, its weight.

    score = sum_f generated_f        generated_f = emb_f without an encoder, and that is logistic regression

    Generating here is our own extension, no result of the SFG paper: a sum has no product to reformulate. With `sfg` this is
    one hidden layer over all the weights.

    Shape:
        emb_BFD (B, F, 1) -> (B, 1)

    Source: Richardson et al., "Predicting Clicks: Estimating the Click-Through Rate for New Ads", WWW 2007.
    """

    def __init__(self, *, fields: Sequence[FieldInfo], width: int, generate: Generate, make_mlp: MakeMLP = MLP) -> None:
        super().__init__()
        if width != 1:
            raise ValueError(f"lr: its vectors are one number wide; vectors of {width} cannot be its terms")
        self.encoder = generate()
        self.out = Flat(1)

    @classmethod
    def embedding_width(cls, *, fields: int, dim: int) -> int:
        """Return 1, whatever `dim` is: wider vectors would be rows of tables that nothing reads."""
        return 1

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the score, (B, 1)."""
        score_B1: Tensor = self.encoder(x.emb_BFD).sum(1)
        return score_B1
