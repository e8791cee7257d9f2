"""Wide & Deep: first-order terms and a network side by side."""

from collections.abc import Sequence

from torch import Tensor

from models.decoders.base import Decoder, Generate
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, NETWORK, Flat, MakeMLP, MLPOptions, linear


class WideDeep(Decoder):
    """A wide part that sums first-order terms and a deep part that is a network.

    score = sum_f linear_f + w . make_mlp(flat(generated)) + b

    The wide part has no crossed columns but those that the schema has as fields. Generating here is our own extension, no
    result of the SFG paper: neither part has a product to reformulate, so the network reads the generated vectors, as in
    `MLPDecoder`.

    Args:
        network: hidden, dropout, batch_norm.

    Shape:
        emb_BFD (B, F, D), linear_BF (B, F) -> (B, 1)

    Source: Cheng et al., "Wide & Deep Learning for Recommender Systems", DLRS 2016.
    """

    needs_linear = True

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        network: MLPOptions = NETWORK,
    ) -> None:
        super().__init__()
        self.encoder = generate()
        self.mlp = network.build(make_mlp, len(fields) * width)
        self.last = linear(self.mlp.out_features, 1)
        self.out = Flat(1)

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the score, (B, 1)."""
        assert x.linear_BF is not None
        deep_B1: Tensor = self.last(self.mlp(self.encoder(x.emb_BFD).flatten(1), x))
        return deep_B1 + x.linear_BF.sum(1, keepdim=True)
