"""Bidirectional layers over the tokens of a row: HSTU and Transformer, without positions.

B rows, S tokens, H hidden width.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from models.layers import Dropout, linear

GUIDANCE = ("none", "query", "query_postnorm", "query+key")
LEAST, MOST = 1 / 3, 3.0
"""[1] a factor of the guidance lies between these."""


class Guidance:
    """How the fields' difficulties steer attention: a factor g = exp(-s / 2) per token.

    query: g times the query, as published (LayerNorm then removes most of it).
    query_postnorm: g, of mean 1, times what the token has attended to, after the norm.
    query+key: g times the query, and min(1, g of mean 1) damps what a token tells the others.

    Args:
        kind: one of `GUIDANCE`.
        factors_S: g of every token, 1 for labels and what has no difficulty.
    """

    def __init__(self, kind: str, factors_S: Tensor) -> None:
        factors_S = factors_S.clamp(LEAST, MOST)
        level_S = factors_S / factors_S.mean()
        self.query_S1 = factors_S.unsqueeze(1) if kind in ("query", "query+key") else None
        self.after_S1 = level_S.unsqueeze(1) if kind == "query_postnorm" else None
        self.key_S = level_S.clamp(max=1) if kind == "query+key" else None


class HSTU(nn.Module):
    """A bidirectional HSTU layer.

    X' = LayerNorm(X)        [U, V, Q, K] = silu(X' W)        A = silu(Q K^T) / n        X + dropout(U * LayerNorm(A V)) O + b

    n counts the row's valid tokens; what is not valid is attended to by nobody. No softmax, no scale, no positions.

    Args:
        hidden: H. heads: a divisor of H. dropout: of the gated result.

    Shape:
        tokens_BSH (B, S, H), valid_BS (B, S) bool -> (B, S, H)

    Source: HSTU (arXiv 2402.17152), meta-recsys/generative-recommenders, without its causal mask and biases.
    """

    def __init__(self, *, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.read = nn.Linear(hidden, 4 * hidden, bias=False)
        nn.init.normal_(self.read.weight, std=0.02)
        self.write = linear(hidden, hidden)
        self.drop = Dropout(dropout)

    def forward(self, tokens_BSH: Tensor, valid_BS: Tensor, guidance: Guidance | None = None) -> Tensor:
        """Return the tokens after the layer, (B, S, H)."""
        width = tokens_BSH.shape[-1:]
        normal_BSH = nn.functional.layer_norm(tokens_BSH, width)
        gate_BSH, value_BSH, query_BSH, key_BSH = nn.functional.silu(self.read(normal_BSH)).chunk(4, dim=2)
        if guidance is not None and guidance.query_S1 is not None:
            query_BSH = query_BSH * guidance.query_S1
        q, k, v = (_heads(own, self.heads) for own in (query_BSH, key_BSH, value_BSH))
        heard_BS = valid_BS / valid_BS.sum(1, keepdim=True).clamp(min=1)
        if guidance is not None and guidance.key_S is not None:
            heard_BS = heard_BS * guidance.key_S
        attention_BASS = nn.functional.silu(q @ k.transpose(2, 3)) * heard_BS[:, None, None, :]
        heard_BSH = nn.functional.layer_norm((attention_BASS @ v).transpose(1, 2).flatten(2), width)
        if guidance is not None and guidance.after_S1 is not None:
            heard_BSH = heard_BSH * guidance.after_S1
        out_BSH: Tensor = self.write(self.drop(gate_BSH * heard_BSH)) + tokens_BSH
        return out_BSH


class Transformer(nn.Module):
    """A pre-norm Transformer layer.

    X = X + softmax(Q K^T / sqrt(d)) V O        X = X + W_2 gelu(W_1 LayerNorm(X)), four times as wide

    Args, Shape: as `HSTU`. A row needs a valid token, unless it is read causally: then a token attends to itself and to valid
    ones before it.
    """

    def __init__(self, *, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.first, self.second = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.read, self.write = linear(hidden, 3 * hidden, bias=False), linear(hidden, hidden)
        self.feed = nn.Sequential(linear(hidden, 4 * hidden), nn.GELU(), linear(4 * hidden, hidden), Dropout(dropout))

    def forward(
        self, tokens_BSH: Tensor, valid_BS: Tensor, guidance: Guidance | None = None, *, causal: bool = False
    ) -> Tensor:
        """Return the tokens after the layer, (B, S, H)."""
        query_BSH, key_BSH, value_BSH = self.read(self.first(tokens_BSH)).chunk(3, dim=2)
        if guidance is not None and guidance.query_S1 is not None:
            query_BSH = query_BSH * guidance.query_S1
        q, k, v = (_heads(own, self.heads) for own in (query_BSH, key_BSH, value_BSH))
        mask_BS = torch.zeros_like(valid_BS, dtype=q.dtype).masked_fill(~valid_BS, -torch.inf)
        if guidance is not None and guidance.key_S is not None:
            mask_BS = mask_BS + guidance.key_S.log()
        mask_BASS = mask_BS[:, None, None, :]
        if causal:
            mask_BASS = causal_mask(mask_BASS)
        dropout = self.dropout if self.training else 0.0
        heard_BASD = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask_BASS, dropout_p=dropout)
        heard_BSH = heard_BASD.transpose(1, 2).flatten(2)
        if guidance is not None and guidance.after_S1 is not None:
            heard_BSH = heard_BSH * guidance.after_S1
        tokens_BSH = tokens_BSH + self.write(heard_BSH)
        out_BSH: Tensor = tokens_BSH + self.feed(self.second(tokens_BSH))
        return out_BSH


def causal_mask(mask_B11S: Tensor) -> Tensor:
    """Return what is added to scores, (B, 1, S, S): a token hears itself, and what the mask allows of those before it."""
    slots = mask_B11S.shape[3]
    later_SS = torch.ones(slots, slots, dtype=torch.bool, device=mask_B11S.device).triu(1)
    itself_SS = torch.eye(slots, dtype=torch.bool, device=mask_B11S.device)
    return mask_B11S.masked_fill(later_SS, -torch.inf).masked_fill(itself_SS, 0.0)


def _heads(x_BSH: Tensor, heads: int) -> Tensor:
    """Return (B, heads, S, H / heads)."""
    rows, slots, hidden = x_BSH.shape
    return x_BSH.view(rows, slots, heads, hidden // heads).transpose(1, 2)


BLOCKS: Mapping[str, type[nn.Module]] = MappingProxyType({"hstu": HSTU, "transformer": Transformer})
