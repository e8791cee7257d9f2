"""The ranks of a job find each other. One that does not come is reported: torch would wait for hours without a message."""

import os
import sys
import time
from datetime import timedelta

import torch.distributed as dist
from torch._C._distributed_c10d import FileStore, Store, TCPStore

from data.errors import GenctrError
from pipeline.run_folder.launcher import STORE, Launched

WARN, END = timedelta(minutes=1), timedelta(minutes=30)
"""How long a rank waits for the others until it says so, and until it ends."""

SHOWN = 8
"""[ranks] that a message names at most."""


def meet(here: Launched, *, warn: timedelta = WARN, end: timedelta = END) -> Store:
    """The store that all ranks have come to, as the launcher describes it: a file, or a port of the first machine. Collective.

    Raises:
        GenctrError: it cannot be reached, or a rank has not come.
    """
    began = time.monotonic()
    store = _store(here, warn, end)
    store.set(_key(here.rank), "here")
    everybody = [_key(rank) for rank in range(here.ranks)]
    try:
        store.wait(everybody, warn)
    except RuntimeError:  # of a file; of a port it is a DistStoreError, which is one too
        sys.stderr.write(
            f"genctr (rank {here.rank}): waiting for {_missing(store, here)} since {time.monotonic() - began:,.0f} s: have "
            f"all ranks been started, each with a RANK of its own? This job ends after {end.total_seconds():,.0f} s\n"
        )
        try:
            store.wait(everybody, end - warn)
        except RuntimeError:
            raise GenctrError(
                f"{_missing(store, here)} of {here.ranks} ranks did not come within {end.total_seconds():,.0f} s\n"
                f"  expected: {here.ranks} processes (WORLD_SIZE), with RANK from 0 to {here.ranks - 1}\n"
                "  next: see what their own output says, and start all ranks again"
            ) from None
    return store


def _store(here: Launched, warn: timedelta, end: timedelta) -> Store:
    if path := os.environ.get(STORE):
        return FileStore(path, here.ranks)
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # torchrun's agent of the first machine has opened the port already, and says so.
    opens = here.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"

    def open_or_connect(patience: timedelta) -> Store:
        return TCPStore(host, port, here.ranks, is_master=opens, timeout=patience, wait_for_workers=False, multi_tenant=True)

    try:
        return open_or_connect(warn)
    except dist.DistError as error:
        if opens:
            raise GenctrError(
                f"rank 0 cannot open port {port} on {host} for the other ranks: {_first_line(error)}\n"
                "  expected: MASTER_ADDR is the machine of rank 0, and MASTER_PORT a port that is free there\n"
                "  next: set another MASTER_PORT, the same for every rank"
            ) from None
    sys.stderr.write(
        f"genctr (rank {here.rank}): nobody answers at {host}:{port} (MASTER_ADDR and MASTER_PORT) since "
        f"{warn.total_seconds():,.0f} s: has rank 0 been started there? This job ends after {end.total_seconds():,.0f} s\n"
    )
    try:
        return open_or_connect(end - warn)
    except dist.DistError as error:
        raise GenctrError(
            f"rank {here.rank} cannot reach rank 0 at {host}:{port}: {_first_line(error)}\n"
            "  expected: MASTER_ADDR is the machine of rank 0, and MASTER_PORT a port of it that this machine may reach\n"
            "  next: see what rank 0 says, and start all ranks again"
        ) from None


def _key(rank: int) -> str:
    return f"genctr/here/{rank}"


def _missing(store: Store, here: Launched) -> str:
    """The ranks that have not come, in words."""
    missing = [str(rank) for rank in range(here.ranks) if not store.check([_key(rank)])]
    more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    return f"rank{'s' if len(missing) > 1 else ''} {', '.join(missing[:SHOWN])}{more}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
