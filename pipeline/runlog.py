"""One JSON line per event: the record that tables, plots and proofs read.

| event | keys beside time, event, step | units |
|---|---|---|
| resumed | cursor, rows, ranks | [rows] trained so far |
| quarantined | day, file, why | |
| scored | day, rows, seconds, rows_per_second, tasks | a day before it is trained |
| train | day, epoch, rows, rows_per_second, tasks | [rows] so far; metrics of the day so far |
| trained | day, epoch, rows, seconds, rows_per_second, files, tasks | a whole day; files: {path: {rows, hash, skipped}} |
| validated | epoch, rows, seconds, rows_per_second, tasks | [epochs] finished |
| tested | rows, seconds, rows_per_second, tasks | the test days, with the best model |
| evaluated | day, rows, seconds, rows_per_second, tasks | a day, by `genctr evaluate` |

`time` is UTC in ISO 8601, `step` [steps] trained, `seconds` [s], `tasks` {task: {metric: value}}. A day that was scored or
trained again after a kill has two lines; the later one counts. A number that is not finite is null.
"""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import torch.distributed as dist
from torch.utils.tensorboard import SummaryWriter

from data.paths import PATHS


class RunLog:
    """Appends events to `log.jsonl`, and their metrics to TensorBoard files. Only rank 0 writes.

    Args:
        folder: run folder, a path or URI.
    """

    def __init__(self, folder: str) -> None:
        self._path = f"{folder}/log.jsonl"
        self._writes = not dist.is_initialized() or dist.get_rank() == 0
        if self._writes:
            # TensorBoard's writer wants a local folder; a run in an object store has its figures in log.jsonl.
            self._board = None if "://" in folder else SummaryWriter(f"{folder}/tensorboard")
            self._mend()

    def write(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one event."""
        if not self._writes:
            return
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, "step": step, **values}
        self._append(json.dumps(_finite(line)) + "\n")
        if self._board is None:
            return
        for task, metrics in values.get("tasks", {}).items():
            for name, value in metrics.items():
                self._board.add_scalar(f"{event}/{task}/{name}", value, step)
        if "rows_per_second" in values:
            self._board.add_scalar(f"{event}/rows_per_second", values["rows_per_second"], step)

    def _mend(self) -> None:
        """End a line that a kill tore, so that the next event has a line of its own."""
        if PATHS.exists(self._path):
            with PATHS.open(self._path, "rb") as file:
                torn = not file.read().endswith(b"\n")
            if torn:
                self._append("\n")

    def _append(self, text: str) -> None:
        try:
            with PATHS.open(self._path, "a") as file:
                file.write(text)
        except (NotImplementedError, pa.ArrowNotImplementedError):  # object stores replace objects whole
            before = ""
            if PATHS.exists(self._path):
                with PATHS.open(self._path, "r") as file:
                    before = file.read()
            with PATHS.open(self._path, "w") as file:
                file.write(before + text)


def read_log(folder: str) -> list[dict[str, Any]]:
    """All whole events of a run folder, in order; torn lines are passed over."""
    events = []
    with PATHS.open(f"{folder}/log.jsonl", "r") as file:
        for line in file:
            try:
                events.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return events


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
