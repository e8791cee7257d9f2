"""The ranks of a run: who am I, how many are we, how do we talk."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from data.errors import GenctrError

T = TypeVar("T")

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

    def agree(self, work: Callable[[], T]) -> T:
        """What rank 0's `work` returns, on every rank; what a person can mend (a `GenctrError`, a full disk) is raised on every
        rank, so that none waits, and all end with the same exit code."""
        answer: list[Any] = [None]
        if self.first:
            try:
                answer = [work()]
            except (GenctrError, OSError) as error:
                answer = [error]
        dist.broadcast_object_list(answer, src=0)
        if isinstance(answer[0], (GenctrError, OSError)):
            raise answer[0]
        return cast(T, answer[0])

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
    if launched():
        _die_with_parent()
        dist.init_process_group(backend, timeout=PATIENCE)
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, timeout=PATIENCE)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), where)
    finally:
        dist.destroy_process_group()


def _die_with_parent() -> None:
    """End with the launcher: a rank that outlived a killed launcher would write beside its successor."""
    if sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
