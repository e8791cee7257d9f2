"""A run's job for a command: its ranks, its process group, its lease, its parts; closed when the command is done."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.schema import Schema
    from pipeline.builders.job import Job
    from pipeline.config.run import RunConfig
    from pipeline.distributed.world import World
    from pipeline.run_folder.lease import Lease

OURS = "GENCTR_RANKS"
"""Set for ranks that this command started itself."""


def start_ranks(config: "RunConfig", words: Sequence[str]) -> int | None:
    """Start the same command once per rank, if the run has several and nobody has, and speak for them.

    Returns:
        the exit code of the ranks; None: this process does the work itself.
    """
    from launch.ranks import on_ranks
    from pipeline.run_folder.launcher import launched

    if launched() or config.train.ranks == 1:  # asked first: half a launch is refused for one rank too
        return None
    return on_ranks(config.train.ranks, words, {OURS: "1"})


@contextmanager
def open_job(
    config: "RunConfig",
    schema: "Schema",
    folder: str,
    *,
    lease: "Lease | None" = None,
    around: "Callable[[World], AbstractContextManager[None]]" = lambda world: nullcontext(),
    at: int | None = None,
    planned: bool = True,
) -> "Iterator[Job]":
    """The job of a run folder, on the ranks that a launcher has started, or alone.

    Args:
        lease: held meanwhile, for a job that writes there; None: the job only looks at a run that was trained.
        around: entered before the job is built, left after it is closed. at, planned: see `build`.

    Raises:
        GenctrError: what `build` refuses. LeaseHeld: another job holds the run folder.
    """
    from pipeline.builders.job import build
    from pipeline.distributed.world import world, writing

    with ExitStack() as stack:
        here = stack.enter_context(world(config.train.device))
        if lease is not None:
            stack.enter_context(writing(here, lease))
        stack.enter_context(around(here))
        writes = lease is not None
        job = build(config, schema, folder, here, at=at, planned=planned, looks=not writes, trains=writes)
        yield stack.enter_context(closing(job))
