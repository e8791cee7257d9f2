"""What ranks tell each other: JSON in tensors, read as the type the caller names. Nothing is pickled.

torch's own `…_object` collectives unpickle whatever arrives, so that one rank, or whoever can reach its port, could run code
on all. What torch, TorchRec and its checkpoints send inside their own collectives is theirs; on one machine it stays on the
loopback interface.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from data.errors import GenctrError

T = TypeVar("T")


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
