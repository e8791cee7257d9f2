"""A model that has diverged is not saved: every number of a checkpoint is finite."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torchrec.distributed.types import ShardedTensor

from data.errors import GenctrError
from pipeline.distributed.world import World
from pipeline.training.loop import TrainState

BLOCK = 2**22
"""[numbers] that are looked at together."""

SHOWN = 3


class Diverged(GenctrError):
    """Weights or optimizer states that are nan or infinite."""


def check_finite(tensors: Mapping[str, Any], world: World, *, since: TrainState, now: TrainState, kept: str | None) -> None:
    """Refuse to save what is not finite. One pass over this rank's numbers; collective.

    Args:
        tensors: nested state dicts. since, now: the steps between them are to be saved. kept: the newest checkpoint.

    Raises:
        Diverged: on every rank, if any rank has a number that is nan or infinite. Each names what it has.
    """
    wrong = [f"{name}: {where}" for name, part in _parts(tensors) if (where := first_not_finite(*part))]
    if not world.all_reduce_sum(torch.tensor([len(wrong)])).item():
        return
    more = f"; and {len(wrong) - SHOWN} more tensors" if len(wrong) > SHOWN else ""
    what = "; ".join(wrong[:SHOWN]) + more if wrong else "all is finite on this rank, but not on another one, which names it"
    cursor, lanes = now.cursor, now.cursor.lanes
    first = since.cursor.row if since.cursor.day == cursor.day else 0
    raise Diverged(
        f"the model has diverged: {what}\n"
        f"  where: steps {since.step + 1:,} to {now.step:,}, in day {cursor.day}, "
        f"rows {first * lanes:,} to {cursor.row * lanes:,} in the order of training\n"
        f"  kept: {kept or 'no checkpoint was saved yet'}; nothing that is not finite was saved\n"
        "  next: look for values in these rows that are far too large, fix the log or lower the learning rates, and run the "
        f"same command again: it {'resumes from ' + kept if kept else 'begins with the first row'}"
    )


def _parts(value: Any, name: str = "") -> Iterator[tuple[str, tuple[Tensor, int]]]:
    """Every local tensor of floating numbers by name, with the row of the whole that it begins with."""
    if isinstance(value, Mapping):
        for key, own in value.items():
            yield from _parts(own, f"{name}.{key}" if name else str(key))
    elif isinstance(value, ShardedTensor):
        for shard in value.local_shards():
            if shard.tensor.is_floating_point():
                yield name, (shard.tensor, shard.metadata.shard_offsets[0])
    elif isinstance(value, Tensor) and value.is_floating_point():
        yield name, (value, 0)


@torch.no_grad()
def first_not_finite(tensor: Tensor, row: int) -> str:
    """Which of its rows is the first with a number that is not finite, and that number; empty if there is none."""
    flat = tensor.detach()
    rows = flat.reshape(len(flat) if flat.dim() else 1, -1)
    if not rows.numel():
        return ""
    for at, block in enumerate(torch.split(rows, step := max(1, BLOCK // rows.shape[1]))):
        low, high = torch.aminmax(block)  # nan if any number is: one pass, and no mask as large as the block
        if not (low.isfinite() & high.isfinite()):
            line, column = (~block.isfinite()).nonzero()[0].tolist()
            where = f" in row {row + at * step + line:,}" if flat.dim() > 1 else ""
            return f"{float(block[line, column])}{where}"
    return ""
