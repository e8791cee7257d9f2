"""One JSON line per event: the record of a run that reports read; and the same numbers for TensorBoard.

Every line of `log.jsonl` has `time` (UTC, ISO 8601), `event` and `step` [steps trained so far], and the keys of its event:

| event         | keys |
|---|---|
| `resumed`     | `cursor`: where reading goes on; `rows` [rows trained so far]; `ranks` [ranks] |
| `grown`       | a checkpoint of another shape was taken over: `from` it; `kept`, `enlarged`, `fresh`, `left`: names of tensors |
| `stage`       | a stage after the first begins: `stage`, `objective`; if it takes something over, `from`: the stage, `parts`, `loaded` and `fresh`: names of tables and parameters |
| `scored`      | a day before its first row is trained: `day`; `rows` [rows]; `skipped` [rows]; `seconds` [s]; `rows_per_second` [rows/s]; `metrics`; `headline` |
| `train`       | every so many steps: `day`; `epoch` [passes done]; `rows` [rows trained so far]; `rows_per_second` [rows/s] since the last such line; `metrics` of the day so far, `auc` to within `auc_error` |
| `diagnosed`   | every so many steps, and on demand: of `emb`, `generated` and `raw` abundance, svs98 and rankme, each also as a share of the most there can be; `correlation`; `fields` and `bands`: rankme shares; `weights`: of the decoder's parts; `tables`: rms, dead, moved, rankme |
| `trained`     | a day was trained: `day`; `epoch` [passes done]; `rows` [rows of the day]; `seconds` [s] and `rows_per_second` [rows/s] since the run was last started; `files`: {path: {`rows` [rows], `hash`: sum of the row hashes, `skipped` [rows]}}; `metrics`; of managed tables `ids`: {table: {…}}, see `pipeline.distributed.managed_ids` |
| `quarantined` | a file the day is trained or scored without: `day`; `file`; `why` |
| `validated`   | the validation days after a pass: `epoch` [passes done]; `rows`, `skipped`, `seconds`, `rows_per_second`, `metrics`, `headline` |
| `evaluated`   | a day was scored on request: `day`; `rows`, `skipped`, `seconds`, `rows_per_second`, `metrics`, `headline` |
| `judged`      | a day's model was published or held: `day`; `bundle`; `publish`; `failed`: the gates that said no, with their numbers or why they have none |
| `waiting`     | a daily job has nothing to do: `day` it waits for; `why` |
| `warning`     | `why` |
| `tested`      | the test days with the best model: `rows`, `skipped`, `seconds`, `rows_per_second`, `metrics`, `headline` |

Runs of several stages name the `stage` in `train` and `trained`.

`metrics` is {target: {metric: value}}; of denoising {field: {metric: value}}. What they are and their units: see
`pipeline.training.metrics` and `pipeline.training.field_metrics`. Where they come with `headline`, these are the keys of the one
that counts first. A number that is nan or infinite is written as null.

A run that was killed goes on from its last checkpoint and says so (`resumed`); the steps after that checkpoint are logged a
second time. Whoever reads takes the later line.
"""  # noqa: E501

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from data.errors import masked
from data.paths import PATHS, naming, plain, write_whole
from data.yaml_document import finite
from pipeline.run_folder.lease import Lease, LeaseHeld

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FILE = "log.jsonl"
REWRITE_SECONDS = 30.0


class RunLog:
    """Appends events to the log of a run folder.

    Each line is in the file when `write` returns. A line that a kill cut short is taken away when the log is opened again. A
    store that cannot append (S3) gets the whole file again, at most every 30 seconds and on `close`.

    Numbers also go to TensorBoard, under `event/key/…`, as files in `tensorboard/`; in a local run folder only, which is
    what TensorBoard's writer can append to.

    Args:
        folder: folder or URI, through `data.paths.PATHS`. It is made, and the log opened, at the first event.
        lease: for who only looks at the run: events are held back, and `close` writes them under this lease, or says that
            another job is writing there. None: the process holds the run folder, and writes at once.
        silent: writes nothing, as ranks other than 0.
    """

    def __init__(self, folder: str, lease: Lease | None = None, *, silent: bool = False) -> None:
        self._lease = lease
        self._held_back: list[tuple[str, str, int, Mapping[str, Any]]] = []
        self._folder = plain(folder)
        self._path = f"{self._folder}/{FILE}"
        self._silent = silent
        self._local = "://" not in self._folder
        self._text: str | None = None
        self._last_put = -math.inf
        self._board: SummaryWriter | None = None

    def write(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """Add one event.

        Args:
            event: one of the table above.
            step: [steps] trained so far.
            values: its keys; JSON values, nan and infinity allowed.
        """
        if self._silent:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        if self._lease is None:
            self._write(now, event, step, values)
        else:
            self._held_back.append((now, event, step, values))

    def _write(self, now: str, event: str, step: int, values: Mapping[str, Any]) -> None:
        if self._text is None:
            PATHS.mkdirs(f"{self._folder}/")
            whole = _repaired(self._path)
            self._text = "" if self._local else whole
        line = masked(json.dumps(finite({"time": now, "event": event, "step": step, **values}), allow_nan=False)) + "\n"
        if self._local:
            with naming(self._path), PATHS.open(self._path, "a") as stream:
                stream.write(line)
        else:
            self._text += line
            if time.monotonic() - self._last_put >= REWRITE_SECONDS:
                self._put()
        if self._local:
            self._draw(step, dict(_numbers(event, values)))

    def _draw(self, step: int, numbers: Mapping[str, float]) -> None:
        if not numbers:
            return
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter  # seconds, and an event may have no numbers

            self._board = SummaryWriter(f"{self._folder}/tensorboard")
        with naming(f"{self._folder}/tensorboard"):
            for name, number in numbers.items():
                self._board.add_scalar(name, number, step)
            self._board.flush()

    def close(self) -> None:
        """Write what is held back. The log may be written to again, but not by who only looked."""
        if self._lease is not None and self._held_back:
            try:
                with self._lease:
                    for event in self._held_back:
                        self._write(*event)
                    self._end()
            except LeaseHeld as error:
                sys.stderr.write(f"genctr: what was found is not in {self._path}, which another job is writing: {error}\n")
            self._held_back = []
        self._end()

    def _end(self) -> None:
        if self._text is not None and not self._local:
            self._put()
        if self._board is not None:
            self._board.close()
        self._text = self._board = None

    def _put(self) -> None:
        assert self._text is not None
        write_whole(self._path, self._text)
        self._last_put = time.monotonic()


def read_log(folder: str) -> list[dict[str, Any]]:
    """All events of a run, in the order they were written. A last line that was cut short is left out; without a log there are
    none.

    A line that is damaged is left out with a warning: the log is a record, and nothing is decided by it.
    """
    lines = _content(f"{plain(folder)}/{FILE}").decode(errors="replace").split("\n")
    lines.pop()  # what follows the last line break: nothing, or a line cut short
    events, damaged = [], []
    for number, line in enumerate(lines):
        try:
            event = json.loads(line)
            events.append({"time": event["time"], "event": event["event"], "step": event["step"], **event})
        except (ValueError, KeyError, TypeError, RecursionError):
            damaged.append(number + 1)
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        sys.stderr.write(f"genctr: {folder}/{FILE}, line {damaged[0]}{more}: not an event; left out\n")
    return events


def _content(path: str) -> bytes:
    if not PATHS.exists(path):
        return b""
    with PATHS.open(path, "rb") as stream:
        return bytes(stream.read())


def _repaired(path: str) -> str:
    """The whole lines of a log; from a file, a last line that was cut short is cut off."""
    content = _content(path)
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content and "://" not in path:
        with PATHS.open(path, "r+") as stream:
            stream.truncate(len(whole))
    return whole.decode(errors="replace")


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Every finite number in nested mappings, with its path."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _numbers(f"{name}/{key}", part)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        yield name, value
