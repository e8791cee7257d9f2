"""The ranks of a run: who am I, how many are we, how do we talk. In JSON and tensors: nothing is pickled.

torch's own `…_object` collectives unpickle whatever arrives, so that one rank, or whoever can reach its port, could run code
on all. What torch, TorchRec and its checkpoints send inside their own collectives is theirs; on one machine it stays on the
loopback interface.
"""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python
from torch._C._distributed_c10d import HashStore, PrefixStore, Store

from data.errors import GenctrError
from pipeline.run_folder.heartbeat import FileSigns, Signs, StoreSigns, heartbeat
from pipeline.run_folder.launcher import STORE, Launched, launched
from pipeline.run_folder.lease import Lease
from pipeline.run_folder.meeting import meet

T = TypeVar("T")

PATIENCE = timedelta(hours=6)  # ranks wait for rank 0 while it builds vocabularies or checks a day


@dataclass(frozen=True)
class World:
    """One rank's view of the process group."""

    rank: int
    ranks: int
    device: torch.device

    @property
    def is_rank_zero(self) -> bool:
        """Whether this rank writes what is written once."""
        return self.rank == 0

    def from_rank_zero(self, work: Callable[[], T], kind: Any) -> T:
        """What rank 0's `work` returns, on every rank, read as a `kind` (see `decode`). What a person can fix (a `GenctrError`,
        a full disk) is raised on every rank, so that none waits, and all end with the same exit code."""
        return share(work, kind)

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over ranks, on every rank; `tensor` is left alone."""
        total = tensor.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.cpu()


@contextmanager
def world(device: str = "auto") -> Iterator[World]:
    """Join the process group a launcher describes in the environment, or be the only rank.

    Raises:
        GenctrError: the device is not there, the environment describes half a launch, or a rank does not come.
    """
    here = launched()
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if kind == "cuda" and not torch.cuda.is_available():
        raise GenctrError("train.device is cuda, but torch finds none here\n  next: set it to cpu, or ask `genctr doctor`")
    where = torch.device(kind, here.local_rank if here else 0) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        if where.index >= (cards := torch.cuda.device_count()):
            raise GenctrError(
                f"rank {where.index} of this machine has no GPU: torch finds {cards} here, and every rank needs its own\n"
                f"  next: start {cards} ranks here (train.ranks), or set train.device to cpu"
            )
        torch.cuda.set_device(where)
    backend = "gloo" if kind == "cpu" else "cpu:gloo,cuda:nccl"
    with _meeting(backend, here):
        yield World(dist.get_rank(), dist.get_world_size(), where)


@contextmanager
def _meeting(backend: str, here: Launched | None) -> Iterator[None]:
    """The process group of the ranks: in a file on one machine, or where a launcher of several says."""
    rank, ranks = (here.rank, here.ranks) if here else (0, 1)
    if not here or os.environ.get("LOCAL_WORLD_SIZE") == str(ranks):
        # gloo and NCCL would listen where others can reach them, and believe whoever comes.
        loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
        os.environ |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    met = meet(here) if here else HashStore()
    store = PrefixStore("default_pg", met)
    store.set_timeout(PATIENCE)
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=PATIENCE)
    try:
        with heartbeat(_signs(met, rank, ranks), rank, ranks) if ranks > 1 else nullcontext():
            yield
    finally:
        dist.destroy_process_group()


def _signs(met: Store, rank: int, ranks: int) -> Signs:
    path = os.environ.get(STORE)
    return FileSigns(path) if path else StoreSigns(met, rank, ranks)


@contextmanager
def writing(world: World, lease: Lease) -> Iterator[Lease]:
    """Hold a run folder as the one job that writes to it: rank 0 holds the lease, every rank asks it. Collective.

    Raises:
        LeaseHeld: on every rank, if another job holds it. GenctrError: it cannot be written.
    """
    with ExitStack() as stack:

        def enter() -> str:
            try:
                return stack.enter_context(lease).token
            except OSError as error:
                where = lease.folder
                raise GenctrError(
                    f"the run folder cannot be written: {error}\n  next: fix {where}, or give another --out"
                ) from error

        token = world.from_rank_zero(enter, str)
        if not world.is_rank_zero:
            stack.enter_context(lease.shared(token))
        yield lease


def encode(value: Any) -> bytes:
    """A value as JSON: numbers to the last bit, nan and infinity too; dataclasses and pydantic models as their fields."""
    return json.dumps(to_jsonable_python(value)).encode()


def decode(content: bytes, kind: Any) -> Any:
    """What `encode` was given, as a `kind`: a class or an annotation such as `dict[str, int]`.

    Raises:
        pydantic.ValidationError: it is something else.
    """
    return TypeAdapter(kind).validate_python(json.loads(content))


def share(work: Callable[[], T], kind: Any, *, group: dist.ProcessGroup | None = None) -> T:
    """What rank 0's `work` returns, on every rank, as a `kind`. Collective.

    Raises:
        GenctrError, OSError: what `work` raised on rank 0, on every rank.
    """
    answer, error = b"", None
    if _rank(group) == 0:
        answer, error = _answer(work, (GenctrError, OSError))
    answer = _broadcast(answer, group)
    if error is not None:
        raise error
    return cast(T, _value(answer, kind, 0))


def gather(work: Callable[[], T], kind: Any, *, group: dist.ProcessGroup | None = None) -> list[T]:
    """What every rank's `work` returns, in the order of the ranks, as a `kind`. Collective.

    Raises:
        Exception: what `work` raised on the first rank where it did, on every rank, so that none is left waiting. An error that
            is neither a GenctrError nor an OSError is a RuntimeError elsewhere.
    """
    mine, error = _answer(work, (Exception,))
    answers = _all_gather(mine, group)
    failed = [rank for rank, answer in enumerate(answers) if answer[:1] == b"!"]
    if failed and failed[0] == _rank(group) and error is not None:
        raise error
    for rank in failed[:1]:
        _value(answers[rank], kind, rank)
    return [_value(answer, kind, rank) for rank, answer in enumerate(answers)]


def _rank(group: dist.ProcessGroup | None) -> int:
    return dist.get_rank(group) if dist.is_initialized() else 0


def _answer(work: Callable[[], Any], told: tuple[type[Exception], ...]) -> tuple[bytes, Exception | None]:
    """An answer to send: `=` and a value, or `!` and an error, which is returned as well."""
    try:
        return b"=" + encode(work()), None
    except told as error:
        return b"!" + json.dumps(_described(error)).encode(), error


def _value(answer: bytes, kind: Any, rank: int) -> Any:
    if answer[:1] == b"!":
        raise _error(json.loads(answer[1:]), rank)
    return decode(answer[1:], kind)


def _described(error: Exception) -> dict[str, Any]:
    values = [error.errno, error.strerror, error.filename, None, error.filename2] if isinstance(error, OSError) else [None]
    named = [value if value is None or isinstance(value, int) else str(value) for value in values]
    return {"kind": type(error).__name__, "text": str(error), "code": getattr(error, "exit_code", 1), "system": named}


def _error(told: dict[str, Any], rank: int) -> Exception:
    """The error that another rank describes: of our own classes, or the system's, and of no other."""
    known = {kind.__name__: kind for kind in _ours(GenctrError)}
    if kind := known.get(told["kind"]):
        error = kind.__new__(kind, told["text"])  # its text is whole: the parts it was made of are not needed again
        error.exit_code = told["code"]
        return error
    if told["system"][0] is not None:
        return OSError(*told["system"])
    if told["kind"] == "OSError":
        return OSError(told["text"])
    return RuntimeError(f"rank {rank}: {told['kind']}: {told['text']}")


def _ours(kind: type[GenctrError]) -> Iterator[type[GenctrError]]:
    yield kind
    for more in kind.__subclasses__():
        yield from _ours(more)


def _broadcast(content: bytes, group: dist.ProcessGroup | None) -> bytes:
    if not dist.is_initialized():
        return content
    size = torch.tensor([len(content)])
    dist.broadcast(size, group=group, group_src=0)
    tensor = _tensor(content, int(size))
    dist.broadcast(tensor, group=group, group_src=0)
    return tensor.numpy().tobytes()


def _all_gather(content: bytes, group: dist.ProcessGroup | None) -> list[bytes]:
    if not dist.is_initialized():
        return [content]
    ranks = dist.get_world_size(group)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(ranks)]
    dist.all_gather(sizes, torch.tensor([len(content)]), group=group)
    longest = max(int(size) for size in sizes)
    tensors = [torch.empty(longest, dtype=torch.uint8) for _ in range(ranks)]
    dist.all_gather(tensors, _tensor(content, longest), group=group)
    return [tensor.numpy().tobytes()[: int(size)] for tensor, size in zip(tensors, sizes, strict=True)]


def _tensor(content: bytes, size: int) -> torch.Tensor:
    """Bytes in the memory that gloo sends, also where the backend of a GPU run has another one for GPUs."""
    return torch.frombuffer(bytearray(content.ljust(size, b"\0")), dtype=torch.uint8)
