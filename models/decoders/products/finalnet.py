"""FinalNet: networks whose every layer multiplies two linear maps of what it reads."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from models.decoders.base import Decoder, Generate, features_of
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, NETWORK, Dropout, Flat, MakeMLP, MLPOptions, linear
from models.norm import BatchNorm1d

RESIDUALS = ("concat", "sum")


class FinalNet(Decoder):
    """One or two networks of factorised layers, whose order of interaction doubles layer by layer; the first behind a gate.

    layer(y, x) = dropout(relu(norm(concat(h, h * (V y + c)))))  or with residual sum  ..(h + h * (V y + c))..    h = U x + b
    gate(x) = concat(x, x * (G x + g)), G (F, F) between fields: at first G = 0, g = 1
    block_1: layer_n(..layer_1(gate(generated), gate(emb))..)        block_2: layer_n(..layer_1(generated, emb)..)
    out = concat(block_1, block_2)

    Only a first layer has a side y to generate; the layers above read one x on both sides. A linear head makes of the two
    blocks what FinalNet calls the mean of their logits; that each also learns from this mean (self-distillation) is left out.
    No layer here is one of `make_mlp`. Generating is our own extension, no result of the SFG paper.

    Args:
        network: hidden, even with residual concat, of block_1; dropout, batch_norm of both.
        second_hidden: hidden widths of block_2; empty for none.
        gate: whether block_1 has its gate.
        residual: concat, half as many weights, or sum.

    Shape:
        emb_BFD (B, F, D) -> (B, hidden[-1] + second_hidden[-1])

    Raises:
        ValueError: no such residual, no hidden layer in block_1, or a width that has no half.

    Source: Zhu et al., "FINAL: Factorized Interaction Layer for CTR Prediction", SIGIR 2023.
    """

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        network: MLPOptions = NETWORK,
        second_hidden: Sequence[int] = (400,),
        gate: bool = True,
        residual: str = "concat",
    ) -> None:
        super().__init__()
        if residual not in RESIDUALS:
            raise ValueError(f"finalnet: no residual {residual!r}; choose from {list(RESIDUALS)}")
        blocks = [network.hidden, second_hidden] if second_hidden else [network.hidden]
        odd = [units for hidden in blocks for units in hidden if units % 2]
        if residual == "concat" and odd:
            raise ValueError(f"finalnet: residual concat halves hidden widths, and {odd[0]} is odd: choose even ones, or sum")
        flat = len(fields) * width
        self.out = Flat(sum(features_of("finalnet", hidden) for hidden in blocks))
        self.encoder = generate()
        self.gate = _FieldGate(len(fields)) if gate else None
        self.first = _Block(2 * flat if gate else flat, network, residual)
        self.second = _Block(flat, replace(network, hidden=second_hidden), residual) if second_hidden else None

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the last layers of the blocks side by side, (B, hidden[-1] + second_hidden[-1])."""
        generated_BFD, raw_BFD = self.operands(x.emb_BFD)
        left_BFD, right_BFD = (generated_BFD, raw_BFD) if self.gate is None else (self.gate(generated_BFD), self.gate(raw_BFD))
        out_BH: Tensor = self.first(left_BFD.flatten(1), right_BFD.flatten(1))
        if self.second is None:
            return out_BH
        return torch.cat([out_BH, self.second(generated_BFD.flatten(1), raw_BFD.flatten(1))], dim=1)


class _FieldGate(nn.Module):
    """concat(x, x * (G x + g)) over fields, (B, 2F, D)."""

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.mix = nn.Linear(fields, fields)
        nn.init.zeros_(self.mix.weight)
        nn.init.ones_(self.mix.bias)

    def forward(self, x_BFD: Tensor) -> Tensor:
        gate_BFD = self.mix(x_BFD.transpose(1, 2)).transpose(1, 2)
        return torch.cat([x_BFD, x_BFD * gate_BFD], dim=1)


class _Block(nn.Module):
    """Factorised layers, (B, inputs) twice -> (B, hidden[-1])."""

    def __init__(self, inputs: int, network: MLPOptions, residual: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for units in network.hidden:
            self.layers.append(_Factorised(inputs, units, network, residual))
            inputs = units

    def forward(self, left_BX: Tensor, right_BX: Tensor) -> Tensor:
        for layer in self.layers:
            left_BX = right_BX = layer(left_BX, right_BX)
        return right_BX


class _Factorised(nn.Module):
    """A layer of a block, (B, inputs) twice -> (B, units)."""

    def __init__(self, inputs: int, units: int, network: MLPOptions, residual: str) -> None:
        super().__init__()
        self.concat = residual == "concat"
        half = units // 2 if self.concat else units
        self.left, self.right = linear(inputs, half), linear(inputs, half)
        self.norm = BatchNorm1d(units) if network.batch_norm else nn.Identity()
        self.drop = Dropout(network.dropout)

    def forward(self, left_BX: Tensor, right_BX: Tensor) -> Tensor:
        h_BH = self.right(right_BX)
        product_BH = h_BH * self.left(left_BX)
        both_BH = torch.cat([h_BH, product_BH], dim=1) if self.concat else h_BH + product_BH
        out_BH: Tensor = self.drop(torch.relu(self.norm(both_BH)))
        return out_BH
