"""MaskNet: blocks that multiply what they read by a mask made of the whole row."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.decoders.base import Decoder, Generate, features_of
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, Dropout, Flat, MakeMLP, linear


@dataclass(frozen=True)
class MaskOptions:
    """The blocks of MaskNet.

    Args:
        blocks: width of every block.
        parallel: next to each other, or one after the other.
        reduction: the mask's hidden layer is as many times wider than its input.
        embedding_norm: normalise every field's vector before the first mask multiplies it; some of FuxiCTR's settings do not.
    """

    blocks: Sequence[int] = (50, 50, 50)
    parallel: bool = True
    reduction: float = 2.0
    embedding_norm: bool = True


MASKS = MaskOptions()


class MaskNet(Decoder):
    """Blocks that multiply what they read by a mask made of the raw vectors.

    block(x) = dropout(relu(LayerNorm(W (mask * x))))        mask = U relu(V flat(emb))
    parallel: MLP(concat of block_k(x_0))        serial: block_n(..block_1(x_0)..)        x_0 = flat(LayerNorm_f(generated_f))

    LayerNorm_f is over the D numbers of a field and has weights of its own for every field. Without an encoder this is MaskNet;
    generating is our own extension, no result of the SFG paper.

    Args:
        masks: blocks, parallel, reduction, embedding_norm.
        hidden: the network after parallel blocks, see `MLP`. dropout: of it and of the blocks.

    Shape:
        emb_BFD (B, F, D) -> (B, hidden[-1]), or (B, blocks[-1]) if not parallel

    Raises:
        ValueError: no block, no hidden layer or no hidden unit, or a normalisation that would leave nothing.

    Source: Wang et al., "MaskNet: Introducing Feature-Wise Multiplication to CTR Ranking Models by Instance-Guided Mask",
    DLP-KDD 2021.
    """

    def __init__(
        self,
        *,
        fields: Sequence[FieldInfo],
        width: int,
        generate: Generate,
        make_mlp: MakeMLP = MLP,
        masks: MaskOptions = MASKS,
        hidden: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        blocks, parallel = masks.blocks, masks.parallel
        if not blocks or min(blocks) < 1:
            raise ValueError(f"masknet: blocks are {list(blocks)}; expected one width or more, each 1 or more")
        if masks.embedding_norm and width == 1:
            raise ValueError("masknet: vectors of one number are all the same once normalised: set embedding_norm to false")
        flat = len(fields) * width
        inputs = [flat] * len(blocks) if parallel else [flat, *blocks[:-1]]
        self.encoder = generate()
        self.norm = _FieldNorm(len(fields), width) if masks.embedding_norm else None
        self.blocks = nn.ModuleList(
            _Masked(flat, own, out, masks.reduction, dropout) for own, out in zip(inputs, blocks, strict=True)
        )
        self.mlp = make_mlp(sum(blocks), hidden=hidden, dropout=dropout) if parallel else None
        self.out = Flat(features_of("masknet", hidden if parallel else blocks))

    def forward(self, x: FieldVectors) -> Tensor:
        """Return the last layer, (B, hidden[-1]) or (B, blocks[-1])."""
        generated_BFD, raw_BFD = self.operands(x.emb_BFD)
        x_BX = (generated_BFD if self.norm is None else self.norm(generated_BFD)).flatten(1)
        raw_BX = raw_BFD.flatten(1)
        if self.mlp is not None:
            out_BH: Tensor = self.mlp(torch.cat([block(x_BX, raw_BX) for block in self.blocks], dim=1), x)
            return out_BH
        for block in self.blocks:
            x_BX = block(x_BX, raw_BX)
        return x_BX


class _FieldNorm(nn.Module):
    """LayerNorm over every field's vector, with weights of its own for every field, (B, F, D) -> (B, F, D)."""

    def __init__(self, fields: int, width: int) -> None:
        super().__init__()
        self.weight_FD, self.bias_FD = nn.Parameter(torch.ones(fields, width)), nn.Parameter(torch.zeros(fields, width))

    def forward(self, x_BFD: Tensor) -> Tensor:
        return nn.functional.layer_norm(x_BFD, x_BFD.shape[-1:]) * self.weight_FD + self.bias_FD


class _Masked(nn.Module):
    def __init__(self, flat: int, inputs: int, outputs: int, reduction: float, dropout: float) -> None:
        super().__init__()
        wide = int(inputs * reduction)
        if wide < 1:
            raise ValueError(f"masknet: reduction is {reduction}, which leaves a mask of {inputs} no hidden unit")
        self.mask = nn.Sequential(linear(flat, wide), nn.ReLU(), linear(wide, inputs))
        self.out = nn.Sequential(linear(inputs, outputs, bias=False), nn.LayerNorm(outputs), nn.ReLU(), Dropout(dropout))

    def forward(self, x_BX: Tensor, raw_BX: Tensor) -> Tensor:
        out_BX: Tensor = self.out(self.mask(raw_BX) * x_BX)
        return out_BX
