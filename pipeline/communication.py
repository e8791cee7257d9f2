"""What ranks send each other: looked-up vectors and their gradients, in fewer bytes if asked."""

import math

import torch
from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs_registry
from torchrec.distributed.types import CommOp, ModuleSharder

from data.errors import GenctrError
from pipeline.lookups import PooledSharder, UnpooledSharder

PRECISIONS = {
    "fp16": (CommType.FP16, CommType.FP16),
    "bf16": (CommType.BF16, CommType.BF16),
    "int8": (CommType.INT8, CommType.FP16),
}
"""What vectors travel in, and their gradients."""


def check_communication(name: str, device: torch.device) -> None:
    """Refuse what the device cannot send.

    Raises:
        GenctrError: it cannot.
    """
    if name == "bf16" and device.type == "cpu":
        raise GenctrError("train.communication: gloo cannot add bf16 numbers up\n  next: on a CPU set it to fp16, int8 or fp32")


def make_sharders(name: str, device: torch.device, batch_rows: int) -> list[ModuleSharder[torch.nn.Module]]:
    """TorchRec's sharders of both kinds of collection, with what they send in `name`.

    Gradients of a mean over `batch_rows` rows are small numbers, where fp16 has few digits or none: they are multiplied by the
    power of two next to it while they travel, which changes no digit.

    Args:
        name: fp32, fp16, bf16 or int8.
    """
    check_communication(name, device)
    if name == "fp32":
        return [PooledSharder(), UnpooledSharder()]
    forward, backward = PRECISIONS[name]
    scale = 2.0 ** round(math.log2(batch_rows)) if backward == CommType.FP16 else None
    config = QCommsConfig(forward_precision=forward, backward_precision=backward, backward_loss_scale=scale)
    codecs = get_qcomm_codecs_registry(config, device=device)
    if codecs is not None and forward == CommType.INT8:
        # Parts of int8 sums cannot be added up: those travel as fp16.
        sums = QCommsConfig(forward_precision=CommType.FP16, backward_precision=backward, backward_loss_scale=scale)
        codecs |= get_qcomm_codecs_registry(sums, [CommOp.POOLED_EMBEDDINGS_REDUCE_SCATTER], device) or {}
    return [PooledSharder(qcomm_codecs_registry=codecs), UnpooledSharder(qcomm_codecs_registry=codecs)]
