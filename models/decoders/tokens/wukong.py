"""WuKong: layers of factorisation machines and of linear maps over tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.decoders.base import Decoder, Generate, features_of
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, NETWORK, Flat, MakeMLP, MLPOptions, Tokens, linear


@dataclass(frozen=True)
class WuKongOptions:
    """The layers of WuKong.

    Args:
        layers: number of them.
        product_tokens, linear_tokens: tokens that the factorisation machine and the linear map of a layer return.
        rank: k, number of sums of tokens that every token meets in a factorisation machine.
        product_hidden: hidden widths of the network that reads these products.
    """

    layers: int = 3
    product_tokens: int = 16
    linear_tokens: int = 16
    rank: int = 8
    product_hidden: Sequence[int] = (64,)


WUKONG = WuKongOptions()


class WuKong(Decoder):
    """Stacked layers, each twice the order of the one below: products of tokens (FMB) next to sums of tokens (LCB).

    FMB(x) = tokens of make_mlp(LayerNorm(flat(left x^T Y)))        LCB(x) = L x        Y (n, k), L (linear_tokens, n)
    layer(x) = LayerNorm(concat(FMB(x), LCB(x)) + R x)              R the identity where the number n of tokens stays
    out = make_mlp(flat(x_last)), or the tokens x_last without hidden layers

    left is generate(emb) in the first layer; the tokens of later ones are no fields, and left is x. With Y = 1 the products are
    those of all pairs: a factorisation machine. Y is learnt as it is, the attention that the paper may put on it is left out.
    The code of FuxiCTR sums coordinates, too, in its LCB; this is the paper's. Generating here is our own extension, no result
    of the SFG paper.

    Args:
        wukong: layers, product_tokens, linear_tokens, rank, product_hidden.
        network: hidden, dropout, batch_norm of the last network.

    Shape:
        emb_BFD (B, F, D) -> (B, hidden[-1]), or (B, product_tokens + linear_tokens, D)

    Raises:
        ValueError: there is no layer, token or sum.

    Source: Zhang et al., "Wukong: Towards a Scaling Law for Large-Scale Recommendation", ICML 2024.
    """

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        wukong: WuKongOptions = WUKONG,
        network: MLPOptions = NETWORK,
    ) -> None:
        super().__init__()
        for name in ("layers", "product_tokens", "linear_tokens", "rank"):
            if getattr(wukong, name) < 1:
                raise ValueError(f"wukong: {name} is {getattr(wukong, name)}; expected 1 or more")
        tokens = wukong.product_tokens + wukong.linear_tokens
        self.encoder = generate()
        below = [len(fields)] + [tokens] * (wukong.layers - 1)
        self.layers = nn.ModuleList(_Layer(count, width, wukong, make_mlp) for count in below)
        self.mlp = network.build(make_mlp, tokens * width) if network.hidden else None
        self.out = Flat(features_of("wukong", network.hidden)) if network.hidden else Tokens(tokens, width)

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the last hidden layer, (B, hidden[-1]), or the tokens, (B, product_tokens + linear_tokens, D)."""
        left_BND, x_BND = self.operands(x.emb_BFD)
        for layer in self.layers:
            left_BND = x_BND = layer(left_BND, x_BND, x)
        out: Tensor = x_BND if self.mlp is None else self.mlp(x_BND.flatten(1), x)
        return out


class _Layer(nn.Module):
    """(B, n, D) twice -> (B, product_tokens + linear_tokens, D)."""

    def __init__(self, count: int, width: int, wukong: WuKongOptions, make_mlp: MakeMLP) -> None:
        super().__init__()
        tokens = wukong.product_tokens + wukong.linear_tokens
        self.sums = linear(count, wukong.rank, bias=False)
        self.products_norm = nn.LayerNorm(count * wukong.rank)
        self.made = make_mlp(count * wukong.rank, hidden=[*wukong.product_hidden, wukong.product_tokens * width])
        self.compress = linear(count, wukong.linear_tokens, bias=False)
        self.rest = linear(count, tokens, bias=False) if count != tokens else None
        self.norm = nn.LayerNorm(width)

    def products(self, left_BND: Tensor, x_BND: Tensor) -> Tensor:
        """Return the product of every left token with every sum of tokens, (B, n, k)."""
        products_BNK: Tensor = left_BND @ self.sums(x_BND.transpose(1, 2))
        return products_BNK

    def forward(self, left_BND: Tensor, x_BND: Tensor, fields: FieldVectors) -> Tensor:
        made_BX = self.made(self.products_norm(self.products(left_BND, x_BND).flatten(1)), fields)
        x_BDN = x_BND.transpose(1, 2)  # what follows mixes tokens, coordinate by coordinate
        both_BTD = torch.cat([made_BX.unflatten(1, (-1, x_BND.shape[2])), self.compress(x_BDN).transpose(1, 2)], dim=1)
        out_BTD: Tensor = self.norm(both_BTD + (x_BND if self.rest is None else self.rest(x_BDN).transpose(1, 2)))
        return out_BTD
