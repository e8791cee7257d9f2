import errno

import torch

from pipeline.world import World
from tests.helpers import on_ranks


def full_disk(rank: int) -> int | None:
    def write() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "ledger.jsonl")

    try:
        World(rank, 2, torch.device("cpu")).agree(write)
    except OSError as error:
        return error.errno
    return None


def test_a_full_disk_of_the_first_rank_is_told_on_every_rank() -> None:
    assert on_ranks(2, full_disk) == [errno.ENOSPC, errno.ENOSPC]
