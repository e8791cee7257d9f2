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

The newest events are in `log.jsonl`. When it has 16 MiB it becomes `log-000001.jsonl`, or the next number, and a new one begins:
nothing of a run takes longer because its log is long. The numbered files may be moved away; reports then begin later.
"""  # noqa: E501

import io
import json
import math
import re
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from data.errors import masked
from data.paths import PATHS, list_folder, naming, plain, replace, write_whole
from data.yaml_document import finite
from pipeline.run_folder.lease import Lease, LeaseHeld

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FILE = "log.jsonl"
OLD = re.compile(r"log-(\d{6,})\.jsonl")
REWRITE_SECONDS = 30.0

FULL_BYTES = 1 << 24
"""[bytes] of `log.jsonl` after which a new one begins. A store that cannot append gets so much again and again."""

PIECE_BYTES = 1 << 20
"""[bytes] of a log that are read at a time."""

EVENT = re.compile(rb'\{"time": "[^"]*", "event": "([^"]*)", "step": ')
"""How a line begins that `RunLog` has written."""


class RunLog:
    """Appends events to the log of a run folder.

    Each line is in the file when `write` returns. A line that a kill cut short is taken away when the log is opened again. A
    store that cannot append (S3) gets the whole file again, at most every 30 seconds and on `close`.

    Numbers also go to TensorBoard, under `event/key/…`, except for those of single `files`, as files in `tensorboard/`; in a
    local run folder only, which is what TensorBoard's writer can append to.

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
        self._size = 0
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
            self._text = "" if self._local else _whole_lines(self._path)
            self._size = _repaired(self._path) if self._local else len(self._text)
        if self._size >= FULL_BYTES:
            self._begin_next()
        line = masked(json.dumps(finite({"time": now, "event": event, "step": step, **values}), allow_nan=False)) + "\n"
        if self._local:
            with naming(self._path), PATHS.open(self._path, "a") as stream:
                stream.write(line)
        else:
            self._text += line
            if time.monotonic() - self._last_put >= REWRITE_SECONDS:
                self._put()
        self._size += len(line)
        if self._local:
            # Of every file of every day there would be a curve of one point.
            self._draw(step, dict(_numbers(event, {key: own for key, own in values.items() if key != "files"})))

    def _begin_next(self) -> None:
        """Give the file of this log its number; the next event begins a new one."""
        last = next(reversed(_old_files(self._folder)), None)
        number = int(cast(re.Match[str], OLD.fullmatch(last))[1]) + 1 if last is not None else 1
        path = f"{self._folder}/log-{number:06d}.jsonl"
        if self._local:
            replace(self._path, path)
        else:
            assert self._text is not None
            write_whole(path, self._text)
            self._text, self._last_put = "", -math.inf
        self._size = 0

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


def read_log(folder: str, only: Collection[str] = ()) -> list[dict[str, Any]]:
    """The events of a run, in the order they were written. A last line that was cut short is left out; without a log there are
    none.

    A line that is damaged is left out with a warning: the log is a record, and nothing is decided by it.

    Args:
        only: the events that are wanted; the lines of others are passed over, so that a long log is read fast. Empty: all.
    """
    folder, events = plain(folder), list[dict[str, Any]]()
    for name in [*_old_files(folder), FILE]:
        damaged = []
        for number, line in enumerate(_lines(f"{folder}/{name}")):
            if only and (begins := EVENT.match(line)) is not None and begins[1].decode(errors="replace") not in only:
                continue
            try:
                event = json.loads(line.decode(errors="replace"))
                event = {"time": event["time"], "event": event["event"], "step": event["step"], **event}
                events += [event] if not only or event["event"] in only else []
            except (ValueError, KeyError, TypeError, RecursionError):
                damaged.append(number + 1)
        if damaged:
            more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            sys.stderr.write(f"genctr: {folder}/{name}, line {damaged[0]}{more}: not an event; left out\n")
    return events


def _old_files(folder: str) -> list[str]:
    """The names of the files that were `log.jsonl` before, the oldest first."""
    return sorted(filter(OLD.fullmatch, list_folder(folder)), key=lambda name: int(cast(re.Match[str], OLD.fullmatch(name))[1]))


def _lines(path: str) -> Iterator[bytes]:
    """The whole lines of a file, without their ends; of a file that is not there none."""
    if not PATHS.exists(path):
        return
    rest = b""
    with PATHS.open(path, "rb") as stream:
        while piece := bytes(stream.read(PIECE_BYTES)):
            *whole, rest = (rest + piece).split(b"\n")
            yield from whole


def _whole_lines(path: str) -> str:
    """The whole lines of a log in a store."""
    return "".join(f"{line.decode(errors='replace')}\n" for line in _lines(path))


def _repaired(path: str) -> int:
    """[bytes] of the whole lines of a log on disk, of which only the end is read; a last line that was cut short is cut off."""
    if not PATHS.exists(path):
        return 0
    with PATHS.open(path, "rb+") as stream:
        size = end = stream.seek(0, io.SEEK_END)
        whole = 0
        while end and not whole:
            begin = max(0, end - PIECE_BYTES)
            stream.seek(begin)
            at = bytes(stream.read(end - begin)).rfind(b"\n")
            whole, end = begin + at + 1 if at >= 0 else 0, begin
        if whole != size:
            stream.truncate(whole)
    return whole


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Every finite number in nested mappings, with its path."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _numbers(f"{name}/{key}", part)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        yield name, value
