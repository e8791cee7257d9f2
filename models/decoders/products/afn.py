"""AFN+: a network that reads products of learnt powers of all fields, next to one that reads the raw vectors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.decoders.base import Decoder, Generate, features_of
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, NETWORK, Flat, MakeMLP, MLPOptions, linear
from models.norm import BatchNorm1d

FLOOR = 1e-5
"""What is nearer to 0 is taken the logarithm of as if it were this: as FuxiCTR has it, the paper's 1e-7 trains worse there."""


@dataclass(frozen=True)
class PowerOptions:
    """The products of powers of AFN, and the network that reads them.

    Args:
        neurons: N, number of products.
        afn_hidden: hidden widths of the network.
        afn_dropout: [1] probability of dropping one of its hidden units while training.
    """

    neurons: int = 5
    afn_hidden: Sequence[int] = (400, 400, 400)
    afn_dropout: float = 0.0


POWERS = PowerOptions()


class AFN(Decoder):
    """Adaptive factorisation network: cross features of any order, whose exponents are learnt; with a network next to it AFN+.

    product_n = norm(exp(sum_f w_nf norm(ln max(|generated_f|, 1e-5))))
    out = concat(MLP(flat(product)), MLP(flat(second)))

    exp and ln are taken coordinate by coordinate, so with w = 1 and without the norms product_n is the product of all
    |generated_f|. Both norms are batch normalisations, one channel per field and per product. The second network reads vectors
    of its own, second_f, as the paper and FuxiCTR have it. Without its hidden layers this is AFN.

    Generating here is our own extension, no result of the SFG paper: a product of all fields has no two sides, so the encoder
    makes all of its factors.

    Args:
        powers: neurons, afn_hidden, afn_dropout.
        network: hidden, dropout of the network over the second vectors; batch_norm of both networks.

    Shape:
        emb_BFD (B, F, D), second_BFE (B, F, D) if there is a second network -> (B, afn_hidden[-1] + hidden[-1])

    Raises:
        ValueError: there is no product.

    Source: Cheng et al., "Adaptive Factorization Network: Learning Adaptive-Order Feature Interactions", AAAI 2020.
    """

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        powers: PowerOptions = POWERS,
        network: MLPOptions = NETWORK,
    ) -> None:
        super().__init__()
        if powers.neurons < 1:
            raise ValueError(f"afn: neurons is {powers.neurons}; expected 1 or more")
        self.encoder = generate()
        self.log_norm, self.exp_norm = BatchNorm1d(len(fields)), BatchNorm1d(powers.neurons)
        self.powers = linear(len(fields), powers.neurons, bias=False)
        read = MLPOptions(powers.afn_hidden, powers.afn_dropout, network.batch_norm)
        self.read = read.build(make_mlp, powers.neurons * width)
        self.mlp = network.build(make_mlp, len(fields) * width) if network.hidden else None
        self.second_width = width if network.hidden else 0
        self.out = Flat(features_of("afn", powers.afn_hidden) + (features_of("afn", network.hidden) if network.hidden else 0))

    def products(self, generated_BFD: Tensor) -> Tensor:
        """Return the products, (B, N, D)."""
        logs_BDF = generated_BFD.abs().clamp(min=FLOOR).log().transpose(1, 2)
        # A channel's numbers are all rows and all coordinates: both stand in the first dimension while they are normalised.
        powers_XN = self.powers(self.log_norm(logs_BDF.flatten(0, 1)))  # X = B * D
        products_XN: Tensor = self.exp_norm(powers_XN.exp())
        return products_XN.view(*logs_BDF.shape[:2], self.powers.out_features).transpose(1, 2)

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the last layers of both networks side by side, (B, afn_hidden[-1] + hidden[-1])."""
        out_BH: Tensor = self.read(self.products(self.encoder(x.emb_BFD)).flatten(1), x)
        if self.mlp is None:
            return out_BH
        assert x.second_BFE is not None
        return torch.cat([out_BH, self.mlp(x.second_BFE.flatten(1), x)], dim=1)
