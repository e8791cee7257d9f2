"""The `genctr` command: which words there are, and what it says and returns when one of them fails."""

import argparse
import errno
import hashlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence

from data.errors import GenctrError
from launch import doctor
from launch.commands import checkpoint, daily, logs, plan, publish, run
from launch.ranks import GO_ON

COMMANDS = (doctor, logs, run, plan, daily, publish, checkpoint)
"""What adds the commands, in the order of the help."""

YIELD = 3.0
"""[s] that a rank which lost another one stays, saying nothing more."""

FIRST = 0.5
"""[s] that other ranks leave to the first one to print an error that all of them have."""


NO_THREAD = "can't start new thread"
"""How Python says that the system gives this process no thread more."""

MORE_PROCESSES = (
    "  expected: room for the threads and processes of every rank\n"
    "  next: end other processes of this user, or raise the limit (`ulimit -u`; in a container its pids.max or its memory)"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit code: 0 done; 1 `doctor`, `verify`, `plan` or `ckpt` found something, or a rank died; 2 something to fix, described
        on standard error; 5 another job works on the run; of `daily` also 3 a model was held back; 4 a person has to decide
        what to do about the log; 75 nothing to do yet.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(words, argparse.Namespace(words=words))
    # What libraries tell their own developers, on every rank, would hide what we tell a person.
    warnings.simplefilter("ignore")
    logging.getLogger("torch.fx").setLevel(logging.ERROR)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except (GenctrError, OSError) as error:  # OSError: a full disk, a folder that may not be written
        _print_once("\n".join([str(error), *_hints(error)]))
        return error.exit_code if isinstance(error, GenctrError) else 2
    except RuntimeError as error:
        if NO_THREAD in str(error):
            _print_once(f"{error}\n{MORE_PROCESSES}")
            return 2
        # Of gloo: the connection was closed or reset by the peer, which reading finds out, and writing may first.
        if not any(what in str(error) for what in ("by peer", "Broken pipe")):
            raise
        _print_once("lost another rank; see what it said")
        time.sleep(YIELD)  # the rank that knows why ends first: the launcher looks at who has ended, and ends the others
        return 1
    except KeyboardInterrupt:
        print(f"genctr: stopped; {GO_ON}", file=sys.stderr)
        return 130


def _print_once(text: str) -> None:
    """Print an error, unless another rank of this machine has printed the same one."""
    rank = os.environ.get("RANK", "0")
    if "RANK" in os.environ and not _is_first(text, rank):
        return
    print(f"genctr: {text}" if rank == "0" else f"genctr (rank {rank}): {text}", file=sys.stderr)


def _is_first(text: str, rank: str) -> bool:
    """Whether no other rank of this machine has printed it; rank 0 is asked first, in whose name it reads best."""
    from pipeline.run_folder.launcher import STORE

    store = os.environ.get(STORE)
    if store is None:
        return True
    if rank != "0":
        time.sleep(FIRST)
    mark = f"{store}.{hashlib.sha256(text.encode(errors='replace')).hexdigest()}"
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    except OSError:  # better twice than never
        return True
    return True


def _hints(error: Exception) -> list[str]:
    """What to do about an error of the system, which says only what is wrong."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return ["  next: make room, and run the same command again"]
    return [MORE_PROCESSES] if number == errno.EAGAIN else []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="genctr", description="Daily training of generative click models on TorchRec.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands)
    return parser
