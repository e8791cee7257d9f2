"""Start a command once per rank on this machine: `python -m launch.ranks RANKS COMMAND …`. No port is opened to the network.

Ranks meet in a file that only this user may read, not at a TCP store: torch's listens on every interface and believes whoever
comes. What went wrong in a rank, the rank says itself.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence

from launch.orphans import LAUNCHER

GO_ON = "run the same command again to go on from the last checkpoint"

WORST_FIRST = (5, 4, 2, 3, 75)
"""Exit codes of ranks, the one that is handed on first; any other is 1."""


def on_ranks(ranks: int, words: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run `genctr WORDS` once per rank, with these variables too, and return the exit code that says most.

    As soon as a rank fails the others are ended: SIGTERM, and after 30 s SIGKILL. If this process dies, they do (see
    `launch.orphans`).

    Raises:
        KeyboardInterrupt: this process was told to end; the ranks have ended.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes
    from torch.distributed.elastic.multiprocessing.api import SignalException

    from pipeline.run_folder.launcher import STORE

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # Python's -m looks into this folder first, as the command that was asked for may not: `data` or `models` there is not ours.
    here = () if {os.getcwd(), ""} & set(sys.path) else ("-P",)
    command = ("-u", *here, "-m", "launch", *words)
    with tempfile.TemporaryDirectory(prefix="genctr-") as folder:  # of mode 0700
        store = f"{folder}/store"
        os.close(os.open(store, os.O_CREAT | os.O_EXCL, 0o600))
        shared = {
            **variables,
            STORE: store,
            LAUNCHER: str(os.getpid()),
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
        }
        own = {rank: {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)}
        # Ranks write to this command's own output, and no folder of logs is made.
        logs = DefaultLogsSpecs(log_dir=os.devnull)
        started = start_processes("genctr", sys.executable, dict.fromkeys(own, command), own, logs)
        try:
            result = started.wait(period=0.1)
        except SignalException as error:
            started.close(error.sigval)
            raise KeyboardInterrupt from error
        finally:
            started.close()
    assert result is not None, "waited for without an end"
    for rank, failure in result.failures.items():
        if failure.exitcode < 0 and failure.signal_name() != "SIGTERM":  # which the others get when one has failed
            print(f"genctr: rank {rank} died of {failure.signal_name()}; {GO_ON}", file=sys.stderr)
    codes = {failure.exitcode for failure in result.failures.values()}
    return next((code for code in WORST_FIRST if code in codes), 1) if codes else 0


def main() -> int:
    """For schedulers: as many ranks as are asked for, whatever the config says."""
    try:
        return on_ranks(int(sys.argv[1]), sys.argv[2:], {})
    except KeyboardInterrupt:
        print(f"genctr: stopped; {GO_ON}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
