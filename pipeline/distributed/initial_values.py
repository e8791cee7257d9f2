"""The initial values of embedding tables: from (seed, table, row), the same under any sharding."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.config.tables import InitConfig

BLOCK_ROWS = 65_536
"""[rows] of a table that are drawn from one generator; part of what a seed means."""


def first_values(name: str, init: InitConfig, size: Sequence[int], seed: int, first: int, last: int) -> Tensor:
    """The rows first … last - 1 of a table (V, D) as it begins.

    They are drawn in blocks of BLOCK_ROWS whole rows, each from a generator seeded by (seed, table, block).

    Args:
        name: of the table. size: V, D. seed: of the run.
    """
    rows, width = size
    parts = []
    for start in range(first // BLOCK_ROWS * BLOCK_ROWS, last, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, rows)
        block = _drawn(init, f"{seed}/{name}/{start}", stop - start, width, rows)
        parts.append(block[max(first, start) - start : min(last, stop) - start])
    return torch.cat(parts)


def _drawn(init: InitConfig, key: str, height: int, width: int, rows: int) -> Tensor:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    scale = spread_of(init, rows)
    block = torch.empty(height, width)
    if init.kind == "normal":
        return block.normal_(0.0, scale, generator=generator)
    return block.uniform_(-scale, scale, generator=generator)


def spread_of(init: InitConfig, rows: int) -> float:
    """The scale of the initial values of a table of so many rows."""
    return float(rows**-0.5) if init.scale is None else init.scale
