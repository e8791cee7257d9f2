"""What tests of several ranks share: a world of gloo processes on this machine."""

import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_ranks(ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call `function(rank, *arguments)` on every rank of a new world, its process group ready; what each rank returned.

    One rank is this process, more are spawned: `function` must then be importable, and it and what it takes and returns must
    pickle. A rank that fails fails the caller, with its traceback. Starting processes takes seconds: do much in one call.
    """
    with tempfile.TemporaryDirectory() as folder:
        if ranks == 1:
            _rank(0, 1, folder, function, arguments)
        else:
            mp.spawn(_rank, (ranks, folder, function, arguments), nprocs=ranks)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(ranks)]


def _rank(rank: int, ranks: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if ranks > 1:
        torch.set_num_threads(1)
        os.environ["LOCAL_WORLD_SIZE"] = str(ranks)
    store = dist.FileStore(f"{folder}/store", ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=120))
    try:
        torch.save(function(rank, *arguments), Path(folder) / f"{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()
