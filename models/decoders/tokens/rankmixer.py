"""RankMixer: tokens that exchange slices of themselves, without weights, and a network of its own for each."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.decoders.base import Decoder, Generate
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, Flat, MakeMLP


@dataclass(frozen=True)
class MixerOptions:
    """The tokens of RankMixer and its layers.

    Args:
        tokens: T, number of tokens, and of the slices that each is cut into.
        token_width: [columns] W of a token; a multiple of T.
        layers: number of layers.
        expansion: the hidden layer of a token's network is as many times wider than the token.
    """

    tokens: int = 8
    token_width: int = 64
    layers: int = 2
    expansion: int = 4


MIXER = MixerOptions()


class RankMixer(Decoder):
    """Tokens of groups of fields, mixed without a weight, then each through a feed-forward network of its own.

    x_t = A_t chunk_t(flat(generated)) + a_t        the row in T chunks of equal length, the last filled up with zeros
    s = LayerNorm(x + mix(x)), mix(x)_h = concat of the h-th slices of x_1 .. x_T
    x = LayerNorm(s + V_t gelu(U_t s_t + u_t) + v_t), layer by layer        out = mean_t x_t

    Neighbouring fields share a token: order them in the schema by what they mean. Mixing has no product to reformulate, so, as
    in `MLPDecoder`, the tokens are made of the generated vectors; that is our own extension, no result of the SFG paper. No
    layer here is one of `make_mlp`: each token has its own. The sparse mixture of experts of the paper is left out.

    Args:
        mixer: tokens, token_width, layers, expansion.

    Shape:
        emb_BFD (B, F, D) -> (B, W)

    Raises:
        ValueError: nothing to mix, or tokens that cannot be cut into T slices.

    Source: Zhu et al., "RankMixer: Scaling Up Ranking Models in Industrial Recommenders", CIKM 2025 (arXiv 2507.15551).
    """

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        mixer: MixerOptions = MIXER,
    ) -> None:
        super().__init__()
        for name in ("tokens", "token_width", "layers", "expansion"):
            if getattr(mixer, name) < 1:
                raise ValueError(f"rankmixer: {name} is {getattr(mixer, name)}; expected 1 or more")
        tokens, token_width, flat = mixer.tokens, mixer.token_width, len(fields) * width
        if token_width % tokens:
            raise ValueError(f"rankmixer: token_width is {token_width}; expected a multiple of tokens, which is {tokens}")
        if tokens > flat:
            raise ValueError(f"rankmixer: tokens is {tokens}; expected at most fields times model.dim, which is {flat}")
        chunk = -(-flat // tokens)
        self.encoder = generate()
        self.padding = tokens * chunk - flat
        self.tokens = tokens
        self.tokenise = _PerToken(tokens, chunk, token_width)
        self.layers = nn.ModuleList(_Layer(tokens, token_width, mixer.expansion) for _ in range(mixer.layers))
        self.out = Flat(token_width)

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the mean of the last tokens, (B, W)."""
        row_BX = nn.functional.pad(self.encoder(x.emb_BFD).flatten(1), (0, self.padding))
        x_BTW = self.tokenise(row_BX.view(-1, self.tokens, row_BX.shape[1] // self.tokens))
        for layer in self.layers:
            x_BTW = layer(x_BTW)
        mean_BW: Tensor = x_BTW.mean(1)
        return mean_BW


def mix(x_BTW: Tensor) -> Tensor:
    """Return tokens of which the h-th holds the h-th slice of every token, (B, T, W)."""
    rows, tokens, width = x_BTW.shape
    return x_BTW.view(rows, tokens, tokens, width // tokens).transpose(1, 2).flatten(2)


class _Layer(nn.Module):
    """(B, T, W) -> (B, T, W)."""

    def __init__(self, tokens: int, width: int, expansion: int) -> None:
        super().__init__()
        self.mixed_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = _PerToken(tokens, width, expansion * width), _PerToken(tokens, expansion * width, width)

    def forward(self, x_BTW: Tensor) -> Tensor:
        s_BTW = self.mixed_norm(x_BTW + mix(x_BTW))
        out_BTW: Tensor = self.norm(s_BTW + self.down(nn.functional.gelu(self.up(s_BTW))))
        return out_BTW


class _PerToken(nn.Module):
    """A linear layer for every token, (B, T, inputs) -> (B, T, outputs)."""

    def __init__(self, tokens: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight_TXY = nn.Parameter(torch.empty(tokens, inputs, outputs))
        self.bias_TY = nn.Parameter(torch.zeros(tokens, outputs))
        for weight_XY in self.weight_TXY:
            nn.init.xavier_normal_(weight_XY)

    def forward(self, x_BTX: Tensor) -> Tensor:
        return torch.einsum("btx,txy->bty", x_BTX, self.weight_TXY) + self.bias_TY
