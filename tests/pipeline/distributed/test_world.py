import errno

import pytest
import torch

from data.errors import GenctrError
from pipeline.distributed.world import World, world
from tests.helpers import on_ranks


def full_disk(rank: int) -> int | None:
    def write() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "ledger.jsonl")

    try:
        World(rank, 2, torch.device("cpu")).from_rank_zero(write, None)
    except OSError as error:
        return error.errno
    return None


def test_a_full_disk_of_the_first_rank_is_told_on_every_rank() -> None:
    assert on_ranks(2, full_disk) == [errno.ENOSPC, errno.ENOSPC]


def test_more_ranks_than_cards_are_told_before_the_others_are_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for name, value in {
        "RANK": "2",
        "LOCAL_RANK": "2",
        "WORLD_SIZE": "3",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)

    told = "rank 2 of this machine has no GPU: torch finds 2 here.*\n  next: start 2 ranks here"
    with pytest.raises(GenctrError, match=told), world("auto"):
        pass
