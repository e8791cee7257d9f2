"""The ranks of a run: who am I, how many are we, how do we talk."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore, HashStore

from data.errors import GenctrError
from pipeline.distributed.exchange import share

T = TypeVar("T")

STORE = "GENCTR_STORE"
"""The file in which the ranks of one machine meet, if a launcher of ours started them."""

PATIENCE = timedelta(hours=6)  # ranks wait for rank 0 while it builds vocabularies or checks a day


@dataclass(frozen=True)
class World:
    """One rank's view of the process group."""

    rank: int
    ranks: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this rank writes what is written once."""
        return self.rank == 0

    def agree(self, work: Callable[[], T], kind: Any) -> T:
        """What rank 0's `work` returns, on every rank, read as a `kind` (see `pipeline.distributed.exchange`); what a person can mend (a
        `GenctrError`, a full disk) is raised on every rank, so that none waits, and all end with the same exit code."""
        return share(work, kind)

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over ranks, on every rank; `tensor` is left alone."""
        total = tensor.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.cpu()


def launched() -> bool:
    """Whether a launcher (torchrun, TorchX) already started one process per rank."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


@contextmanager
def world(device: str = "auto") -> Iterator[World]:
    """Join the process group a launcher describes in the environment, or be the only rank.

    Raises:
        GenctrError: the device is not there.
    """
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if kind == "cuda" and not torch.cuda.is_available():
        raise GenctrError("train.device is cuda, but torch finds none here\n  next: set it to cpu, or ask `genctr doctor`")
    where = torch.device(kind, int(os.environ.get("LOCAL_RANK", 0))) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        if where.index >= (cards := torch.cuda.device_count()):
            raise GenctrError(
                f"rank {where.index} of this machine has no card: torch finds {cards} here, and every rank needs its own\n"
                f"  next: start {cards} ranks here (train.ranks), or set train.device to cpu"
            )
        torch.cuda.set_device(where)
    backend = "gloo" if kind == "cpu" else "cpu:gloo,cuda:nccl"
    with _meeting(backend):
        yield World(dist.get_rank(), dist.get_world_size(), where)


@contextmanager
def _meeting(backend: str) -> Iterator[None]:
    """The process group, as the environment describes it: in a file on one machine, or where a launcher of several says."""
    ranks, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if not launched() or os.environ.get("LOCAL_WORLD_SIZE") == str(ranks):
        # gloo and NCCL would listen where others can reach them, and believe whoever comes.
        loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
        os.environ |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    if not launched():
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, timeout=PATIENCE)
    elif path := os.environ.get(STORE):
        store = FileStore(path, ranks)
        store.set_timeout(PATIENCE)
        dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=PATIENCE)
    else:
        dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()
