"""What ranks send each other: looked-up vectors and their gradients, in fewer bytes if asked."""

import math
from collections.abc import Mapping

import torch
from fbgemm_gpu.quantize_comm import QuantizationContext
from fbgemm_gpu.quantize_comm import QuantizedCommCodec as FbgemmCodec
from fbgemm_gpu.split_embedding_configs import SparseType
from torch import Tensor, nn
from torchrec.distributed.types import CommOp, ModuleSharder, QuantizedCommCodecs

from data.errors import GenctrError
from pipeline.distributed.sharded_embeddings import PooledSharder, UnpooledSharder

PARTS = (32, 16)
"""[numbers] that share a scale and an offset, 8 bytes, in int8: the most that divide every vector."""


class ScaledCodec(FbgemmCodec):
    """FBGEMM's fp16, of numbers multiplied by `scale` while they travel.

    Its own scale is taken off before fp16 becomes fp32, where small numbers are lost again.
    """

    def __init__(self, scale: float) -> None:
        super().__init__(SparseType.FP16)
        self._scale = scale

    def encode(self, input_tensor: Tensor, ctx: QuantizationContext | None = None) -> Tensor:
        """What travels."""
        sent: Tensor = super().encode(input_tensor * self._scale, ctx)
        return sent

    def decode(self, input_tensor: Tensor, ctx: QuantizationContext | None = None) -> Tensor:
        """What has arrived."""
        arrived: Tensor = super().decode(input_tensor, ctx)
        return arrived / self._scale


class PartsCodec(FbgemmCodec):
    """FBGEMM's int8, with as many numbers to a scale as divide every vector.

    Its own 32 divide only some numbers of rows, and the last rows of a day are any number.
    """

    def __init__(self, part: int) -> None:
        super().__init__(SparseType.INT8)
        self._part = part

    def create_context(self) -> QuantizationContext:
        """A message's notes."""
        return QuantizationContext(row_dim=self._part)


def check_communication(name: str, device: torch.device) -> None:
    """Refuse what the device cannot send.

    Raises:
        GenctrError: it cannot.
    """
    if name == "bf16" and device.type == "cpu":
        raise GenctrError(
            "train.comm_precision: gloo cannot add bf16 numbers up\n  next: on a CPU set it to fp16, int8 or fp32"
        )


def make_sharders(name: str, batch_rows: int, widths: Mapping[str, int]) -> list[ModuleSharder[nn.Module]]:
    """TorchRec's sharders of both kinds of collection, with what they send in `name`.

    Gradients of a mean over `batch_rows` rows are small numbers, where fp16 has few digits or none: they are multiplied by the
    power of two next to it while they travel, which changes no digit.

    Args:
        name: fp32, fp16, bf16 or int8. widths: [columns] of every table.

    Raises:
        GenctrError: vectors that int8 cannot carry.
    """
    if name == "fp32":
        return [PooledSharder(), UnpooledSharder()]
    # Sums over ranks cannot be made of int8 numbers with different scales: the parts of bags travel as fp16.
    kind = SparseType.BF16 if name == "bf16" else SparseType.FP16
    backward = FbgemmCodec(kind) if name == "bf16" else ScaledCodec(2.0 ** round(math.log2(batch_rows)))
    half = QuantizedCommCodecs(FbgemmCodec(kind), backward)
    vectors = QuantizedCommCodecs(PartsCodec(_part(widths)), backward) if name == "int8" else half
    codecs = {
        CommOp.POOLED_EMBEDDINGS_ALL_TO_ALL.name: vectors,
        CommOp.SEQUENCE_EMBEDDINGS_ALL_TO_ALL.name: vectors,
        CommOp.POOLED_EMBEDDINGS_REDUCE_SCATTER.name: half,
    }
    return [PooledSharder(qcomm_codecs_registry=codecs), UnpooledSharder(qcomm_codecs_registry=codecs)]


def _part(widths: Mapping[str, int]) -> int:
    for part in PARTS:
        if all(width % part == 0 for width in widths.values()):
            return part
    name, width = next((name, width) for name, width in widths.items() if width % PARTS[-1])
    raise GenctrError(
        f"train.comm_precision: int8 has a scale for every {PARTS[-1]} numbers, and table {name!r} is {width} wide\n"
        "  next: set it to fp16, or give tables widths that are multiples of 16"
    )
