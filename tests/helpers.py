"""Processes that already have torch loaded, and worlds of several ranks made of them."""

import multiprocessing
import multiprocessing.connection
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SERVER = multiprocessing.get_context("forkserver")
"""Forks processes from one that has imported all of it: a new interpreter takes six seconds of CPU to do so.

Python has one fork server for all contexts, and the last one that says what to preload wins: nobody else may say it.
"""

SERVER.set_forkserver_preload(["launch.cli", "launch.status", "pipeline.daily.job", "pipeline.builders.job", "pytest"])


def on_ranks(ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call `function(rank, *arguments)` on every rank of a new world, its process group ready; what each rank returned.

    One rank is this process, more are forked: `function` must then be importable, and it and what it takes and returns must
    pickle. A rank that fails ends the others and fails the caller, with its traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        if ranks == 1:
            _rank(0, 1, folder, function, arguments)
        else:
            _fork(ranks, folder, function, arguments)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(ranks)]


def _fork(ranks: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    processes = [SERVER.Process(target=_forked, args=(rank, ranks, folder, function, arguments)) for rank in range(ranks)]
    for process in processes:
        process.start()
    running = {process.sentinel: process for process in processes}
    failed = False
    while running and not failed:
        for sentinel in multiprocessing.connection.wait(running):
            failed |= running.pop(sentinel).exitcode != 0  # type: ignore[call-overload]
    for process in processes:
        if failed:
            process.kill()
        process.join()
    if failed:
        raise AssertionError("\n".join(file.read_text() for file in sorted(Path(folder).glob("*.txt"))) or "a rank was killed")


def _forked(rank: int, ranks: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ["LOCAL_WORLD_SIZE"] = str(ranks)
    try:
        _rank(rank, ranks, folder, function, arguments)
    except BaseException:
        (Path(folder) / f"{rank}.txt").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        raise


def _rank(rank: int, ranks: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    store = dist.FileStore(f"{folder}/store", ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=120))
    try:
        torch.save(function(rank, *arguments), Path(folder) / f"{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()
