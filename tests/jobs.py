"""Run whole jobs in processes of their own, kill them, and look at what they leave behind."""

import itertools
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from data.batch import Tally
from pipeline.builders.source import build_source
from pipeline.config.run import load
from pipeline.run_folder.log import read_log
from tests.helpers import SERVER

TURNS = itertools.count(os.getpid() * 7)


def changed_path(arguments: Sequence[Any]) -> str:
    """What a call of `os.replace`, `os.fsync` and the like changes: its last path, or the path of its file."""
    path = arguments[1] if len(arguments) > 1 and isinstance(arguments[1], str | Path) else arguments[0]
    return os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else str(path)


def die_at(point: str) -> None:
    """SIGKILL this process at a change of the file system.

    Args:
        point: `before replace */ledger.jsonl`: before or after the first call of that name on such a path;
            `after * * 7`: after the seventh change, whatever it is.
    """
    when, operation, pattern, *number = point.split()
    left = int(number[0]) if number else 1

    def watched(name: str, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= fnmatch(name, operation) and fnmatch(changed_path(arguments), pattern)
            if left == 0 and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*arguments, **options)
            finally:
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in ("replace", "rename", "remove", "unlink", "mkdir", "fsync"):
        setattr(os, name, watched(name, getattr(os, name)))


def job(argv: Sequence[str], environment: dict[str, str], rank: int, ranks: int, port: int, kill_at: str = "") -> None:
    """What each rank's process runs: the command itself."""
    os.environ |= environment  # the fork server has the environment of the first test that started a job
    if ranks > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if kill_at and rank == 0:
        die_at(kill_at)
    from launch.cli import main

    sys.exit(main(argv))


def free_port() -> int:
    """A port that nobody listens on, nor will: below those that the system gives to connections, and of this worker alone."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
    while True:
        port = 12_000 + 5_000 * worker + next(TURNS) % 5_000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def start(config: Path | str, out: Path | str, ranks: int, *overrides: str, kill_at: str = "") -> list[Any]:
    argv = ["train", str(config), "--out", str(out), "--quiet", "--set", f"train.ranks={ranks}"]
    for override in overrides:
        argv += ["--set", override]
    return command(argv, ranks, kill_at)


def command(argv: Sequence[str], ranks: int, kill_at: str = "") -> list[Any]:
    """The ranks of any command, as a launcher starts them; `kill_at` is for the first one, see `die_at`."""
    given = dict(os.environ), free_port()
    processes = [SERVER.Process(target=job, args=(argv, given[0], rank, ranks, given[1], kill_at)) for rank in range(ranks)]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[Any]) -> None:
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)


def finished_within(processes: list[Any], seconds: float) -> bool:
    """Wait; SIGKILL every rank if the time is over."""
    processes[0].join(seconds)
    if processes[0].exitcode is not None:
        finish(processes)
        return True
    kill(processes)
    return False


def kill_after_lines(processes: list[Any], out: Path, lines: int) -> None:
    """Let the ranks log so many more `train` lines, then SIGKILL all of them."""
    wanted = len(events(out, "train")) + lines
    while len(events(out, "train")) < wanted:
        assert processes[0].is_alive(), "the run ended before it could be killed"
        time.sleep(0.02)
    kill(processes)


def killed_within(processes: list[Any], out: Path, lines: int, seconds: float) -> bool:
    """SIGKILL every rank once so many more `train` lines are logged and so much time has passed; False if they end before."""
    wanted = len(events(out, "train")) + lines
    while processes[0].is_alive() and len(events(out, "train")) < wanted:
        time.sleep(0.02)
    processes[0].join(seconds)
    if processes[0].exitcode is not None:
        finish(processes)
        return False
    kill(processes)
    return True


def kill(processes: list[Any]) -> None:
    for process in processes:
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.join()


def events(out: Path, name: str) -> list[dict[str, Any]]:
    return [line for line in read_log(str(out)) if line["event"] == name] if (out / "log.jsonl").exists() else []


def final_tensors(out: Path, pin: str | None = None) -> dict[str, Any]:
    """What the newest checkpoint holds, or a pinned one."""
    folder = out / "checkpoints"
    newest = folder / json.loads((folder / f"{pin}.json").read_text())["mark"] if pin else max(folder.glob("step-*"))
    tensors: dict[str, Any] = {}
    _load_state_dict(tensors, storage_reader=FileSystemReader(newest), planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    return tensors


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        return {key: value for name, branch in tree.items() for key, value in flat(branch, f"{prefix}/{name}").items()}
    return {prefix: tree}


def assert_same_bits(one: Path, other: Path) -> None:
    first, second = flat(final_tensors(one)), flat(final_tensors(other))
    assert first.keys() == second.keys()
    assert sum(torch.is_tensor(value) for value in first.values()) > 10
    for name, value in first.items():
        assert torch.equal(value, second[name]) if torch.is_tensor(value) else value == second[name], name


def assert_every_row_once(config: Path, out: Path) -> None:
    """The log's counts and hashes per file are those of one plain reading of the source."""
    trained = {event["day"]: event["files"] for event in events(out, "trained")}
    run, schema = load(str(out / "config.yaml"))
    source = build_source(run, schema, str(out))
    assert sorted(trained) == list(source.train_days)
    for day, files in trained.items():
        opened = source.open(day)
        stream = source.stream(opened)
        tally = sum((batch.tally for batch in stream.batches(stream.start())), Tally.zeros(len(opened.files)))
        counts = {file.path: pq.read_metadata(file.path).num_rows for file in opened.files}
        assert {path: file["rows"] for path, file in files.items()} == counts
        hashes = dict(zip(counts, tally.hashes.tolist(), strict=True))
        assert {path: file["hash"] for path, file in files.items()} == hashes
