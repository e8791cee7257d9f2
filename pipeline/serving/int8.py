"""Rows of a table as int8, a byte a number with a scale and a bias per row, and back: FBGEMM's kernels."""

import fbgemm_gpu  # noqa: F401 - registers torch.ops.fbgemm
import torch
from torch import Tensor


def quantised(rows: Tensor) -> Tensor:
    """Rows of float32 as bytes: uint8 (V, D + 8), the last eight bytes of a row its scale and bias."""
    bytes_VX: Tensor = torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(rows.float().contiguous())
    return bytes_VX


def dequantised(bytes_VX: Tensor) -> Tensor:
    """Rows of float32, (V, D), from what `quantised` made of them."""
    rows_VD: Tensor = torch.ops.fbgemm.Fused8BitRowwiseQuantizedToFloat(bytes_VX)
    return rows_VD
