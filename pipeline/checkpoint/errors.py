"""What can be wrong with a checkpoint, and what to do about it."""

import errno
from typing import TYPE_CHECKING

from data.errors import GenctrError

if TYPE_CHECKING:
    from torch.distributed.checkpoint.api import CheckpointException

FIX = "restore the file from a copy, or remove this folder: the run then resumes from the checkpoint before it"
AGAIN = f"see that its store answers and that this user may read it, and start again; only if the file is damaged, {FIX}"
"""What helps where reading failed: a checkpoint that is whole must not be removed because a store was away."""


class CheckpointError(GenctrError):
    """A checkpoint that could not be written or cannot be read.

    Args:
        what: one sentence, what is wrong.
        where: the folder or file.
        hint: what to do next.
    """

    def __init__(self, what: str, where: str, hint: str) -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(f"{what}\n  where: {where}\n  next: {hint}")


class Damaged(CheckpointError):
    """A checkpoint with a file that is missing or not what was written. Another one may be good."""


def first_failure(error: "CheckpointException") -> tuple[int, BaseException]:
    """The lowest rank that failed, and its error."""
    rank = min(error.failures)
    return rank, error.failures[rank][0]


def is_full(error: OSError) -> bool:
    """Whether there is no room left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_of_store(error: BaseException) -> bool:
    """Whether reading failed for another reason than what a file holds, or that it is gone."""
    return isinstance(error, OSError) and not isinstance(error, FileNotFoundError)


def one_line(error: BaseException) -> str:
    """What an error says first."""
    return (str(error).strip().splitlines() or [""])[0] or type(error).__name__
