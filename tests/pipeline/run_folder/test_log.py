"""The log keeps every event it acknowledged, also through a kill, and is JSON to any reader."""

import io
import json
import os
import re
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pytest
from iopath.common.file_io import PathHandler

from data.paths import PATHS
from pipeline.run_folder import log as runlog
from pipeline.run_folder.log import RunLog, read_log
from tests.helpers import SERVER


def test_an_event_is_one_line_with_time_event_and_step(tmp_path: Path) -> None:
    before = datetime.now(UTC)
    log = RunLog(f"file://{tmp_path}/run")
    log.write("trained", 7, {"day": "2026-11-01", "rows": 100, "metrics": {"click": {"auc": 0.75}}})
    log.write("tested", 9, {})

    first, second = read_log(f"{tmp_path}/run")
    written = datetime.fromisoformat(first.pop("time"))
    assert abs((written - before).total_seconds()) < 60
    assert written.utcoffset() is not None
    assert first == {
        "event": "trained",
        "step": 7,
        "day": "2026-11-01",
        "rows": 100,
        "metrics": {"click": {"auc": 0.75}},
    }
    assert (second["event"], second["step"]) == ("tested", 9)
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2


def test_an_event_is_on_disk_when_write_returns(tmp_path: Path) -> None:
    log = RunLog(str(tmp_path))
    for step in range(3):
        log.write("train", step, {})
        assert [event["step"] for event in read_log(str(tmp_path))] == list(range(step + 1))


def test_what_is_not_a_number_is_null_in_json(tmp_path: Path) -> None:
    log = RunLog(str(tmp_path))
    log.write("train", 1, {"metrics": {"click": {"auc": float("nan")}}, "rates": [float("inf"), 1.5], "day": "nan"})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    [line] = (tmp_path / "log.jsonl").read_text().splitlines()
    event = json.loads(line, parse_constant=refuse)
    assert (event["metrics"], event["rates"], event["day"]) == ({"click": {"auc": None}}, [None, 1.5], "nan")


def test_a_run_without_a_log_has_no_events(tmp_path: Path) -> None:
    assert read_log(str(tmp_path / "none")) == []
    RunLog(str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()  # looking at a run leaves no files


@pytest.mark.parametrize("torn", ['{"time": "1999-01-', '{"time": "t", "event": "train", "step": 2}'])
def test_a_last_line_cut_short_is_ignored_and_then_taken_away(tmp_path: Path, torn: str) -> None:
    RunLog(str(tmp_path)).write("train", 1, {})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(torn)

    assert [event["step"] for event in read_log(str(tmp_path))] == [1]
    RunLog(str(tmp_path)).write("resumed", 1, {})
    assert [event["event"] for event in read_log(str(tmp_path))] == ["train", "resumed"]
    assert torn not in (tmp_path / "log.jsonl").read_text()


@pytest.mark.parametrize("line", [b"{", b"[1]", b'{"event": "train"}', b"7", b'{"time": "\xff', bytes(4096)])
def test_any_other_line_that_is_not_an_event_is_left_out_with_a_warning(
    tmp_path: Path, line: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    good = b'{"time": "t", "event": "train", "step": 1}\n'
    (tmp_path / "log.jsonl").write_bytes(good + line + b"\n" + good)

    assert [event["step"] for event in read_log(str(tmp_path))] == [1, 1]
    assert "log.jsonl, line 2: not an event; left out" in capsys.readouterr().err


def test_the_events_that_are_asked_for_are_found_among_all_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(str(tmp_path))
    for step, event in enumerate(["train", "scored", "train", "trained", "resumed"]):
        log.write(event, step, {"why": '"event": "scored"'})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 9, "event": "scored", "time": "t"}\n{"broken\n')

    wanted = read_log(str(tmp_path), ("scored", "trained"))

    assert wanted == [event for event in read_log(str(tmp_path)) if event["event"] in ("scored", "trained")]
    assert [event["step"] for event in wanted] == [1, 3, 9]
    assert capsys.readouterr().err.count("log.jsonl, line 7: not an event; left out") == 2


# --- a long log ---


def test_a_log_that_is_full_goes_on_in_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runlog, "FULL_BYTES", 250)
    for started in range(3):
        log = RunLog(str(tmp_path))
        for step in range(10 * started, 10 * started + 10):
            log.write("train", step, {})
        log.close()

    sizes = {file.name: file.stat().st_size for file in tmp_path.glob("*.jsonl")}
    assert [event["step"] for event in read_log(str(tmp_path))] == list(range(30))
    assert sorted(sizes) == ["log-000001.jsonl", *(f"log-{number:06d}.jsonl" for number in range(2, len(sizes))), "log.jsonl"]
    assert len(sizes) > 3
    assert max(sizes.values()) < 250 + 100, "one line more than full"

    (tmp_path / "log-000001.jsonl").unlink()
    left = read_log(str(tmp_path))
    while len(list(tmp_path.glob("*.jsonl"))) < len(sizes):
        RunLog(str(tmp_path)).write("train", 30, {})

    assert read_log(str(tmp_path))[: len(left)] == left


def test_opening_a_log_reads_its_end_alone(tmp_path: Path) -> None:
    good = '{"time": "t", "event": "train", "step": 1}\n'
    file = tmp_path / "log.jsonl"
    file.write_bytes(b"")
    os.truncate(file, 1 << 36)  # more than memory; on the disk it takes nothing
    with file.open("a") as stream:
        stream.write(f"\n{good}{good}torn")

    RunLog(str(tmp_path)).write("resumed", 1, {})

    old = tmp_path / "log-000001.jsonl"
    assert old.stat().st_size == (1 << 36) + 1 + 2 * len(good), "without the line that was cut short"
    assert [json.loads(line)["event"] for line in file.read_text().splitlines()] == ["resumed"]


def test_a_line_cut_short_is_taken_away_however_long_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runlog, "PIECE_BYTES", 16)
    RunLog(str(tmp_path)).write("train", 1, {"filler": "x" * 100})
    whole = (tmp_path / "log.jsonl").read_text()
    for torn in ("x", "x" * 16, "x" * 200):
        (tmp_path / "log.jsonl").write_text(whole + torn)

        RunLog(str(tmp_path)).write("resumed", 1, {})

        assert [event["event"] for event in read_log(str(tmp_path))] == ["train", "resumed"]
    (tmp_path / "log.jsonl").write_text("x" * 50)
    RunLog(str(tmp_path)).write("resumed", 1, {})
    assert [event["event"] for event in read_log(str(tmp_path))] == ["resumed"]


def write_forever(folder: str) -> None:
    log, step = RunLog(folder), len(read_log(folder))
    while True:
        log.write("train", step, {"filler": "x" * 5000})
        step += 1


def test_kills_lose_no_event_and_break_no_line(tmp_path: Path) -> None:
    seen = 0
    for _ in range(5):
        writer = SERVER.Process(target=write_forever, args=(str(tmp_path),), daemon=True)
        writer.start()
        while len(read_log(str(tmp_path))) <= seen + 20:
            assert writer.is_alive()
            time.sleep(0.01)
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
        seen = len(read_log(str(tmp_path)))
    assert [event["step"] for event in read_log(str(tmp_path))] == list(range(seen))


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    log = RunLog(str(tmp_path / "run"), silent=True)
    log.write("train", 1, {})
    log.close()

    assert not (tmp_path / "run").exists()


def test_the_numbers_are_in_tensorboard_too(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(str(tmp_path))
    for step, auc in [(1, 0.5), (2, float("nan")), (3, 0.75)]:
        log.write("train", step, {"day": "2026-11-01", "rows": 10 * step, "metrics": {"click": {"auc": auc}}})
    log.write("trained", 3, {"files": {"a.parquet": {"rows": 30}}})

    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert board.Tags()["scalars"] == ["train/rows", "train/metrics/click/auc"]
    assert [(event.step, event.value) for event in board.Scalars("train/metrics/click/auc")] == [(1, 0.5), (3, 0.75)]
    log.close()


class NoAppend(PathHandler):
    """An object store: whole objects only."""

    def __init__(self, prefix: str, folder: Path) -> None:
        super().__init__()
        self.prefix, self.folder, self.puts = prefix, folder, 0

    def _get_supported_prefixes(self) -> list[str]:
        return [self.prefix]

    def _at(self, path: str) -> Path:
        return self.folder / path.removeprefix(self.prefix)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **_: Any) -> IO[Any]:
        assert mode in ("rb", "w"), mode
        self.puts += mode == "w"
        return self._at(path).open(mode)

    def _exists(self, path: str, **_: Any) -> bool:
        return self._at(path).exists()

    def _ls(self, path: str, **_: Any) -> list[str]:
        return os.listdir(self._at(path))

    def _mkdirs(self, path: str, **_: Any) -> None:
        self._at(path).mkdir(parents=True, exist_ok=True)


def test_a_store_that_cannot_append_gets_the_whole_log_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = NoAppend(f"store-{tmp_path.name}://", tmp_path)
    PATHS.register_handler(store)
    folder = f"{store.prefix}run"
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    log = RunLog(folder)
    for step in range(100):
        log.write("train", step, {})
        now[0] += 1
    assert store.puts == 4  # at 0, 30, 60 and 90 seconds
    assert len(read_log(folder)) == 91
    log.close()
    RunLog(folder).write("resumed", 99, {})

    assert [event["step"] for event in read_log(folder)] == [*range(100), 99]
    assert os.listdir(tmp_path / "run") == ["log.jsonl"]


def test_a_log_in_a_store_goes_on_in_a_new_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runlog, "FULL_BYTES", 250)
    store = NoAppend(f"full-{tmp_path.name}://", tmp_path)
    PATHS.register_handler(store)
    folder = f"{store.prefix}run"
    for started in range(2):
        log = RunLog(folder)
        for step in range(10 * started, 10 * started + 10):
            log.write("train", step, {})
        log.close()

    assert [event["step"] for event in read_log(folder)] == list(range(20))
    assert max(file.stat().st_size for file in (tmp_path / "run").iterdir()) < 250 + 100


def test_a_store_that_does_not_take_the_log_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses(io.StringIO):
        """An object is put when it is closed."""

        def close(self) -> None:
            if not self.closed:
                super().close()
                raise TimeoutError("the store did not answer")

    class Once(NoAppend):
        def _open(self, path: str, mode: str = "r", buffering: int = -1, **_: Any) -> IO[Any]:
            if mode == "w" and self.puts == 0:
                self.puts = 1
                return Refuses()
            return super()._open(path, mode)

    store = Once(f"once-{tmp_path.name}://", tmp_path)
    PATHS.register_handler(store)
    monkeypatch.setattr("data.paths.WAIT", 0.0)

    RunLog(f"{store.prefix}run").write("train", 1, {})

    assert store.puts == 2
    assert [event["step"] for event in read_log(f"{store.prefix}run")] == [1]


def test_every_event_of_the_table_is_written_by_the_job_and_no_other() -> None:
    table = set(re.findall(r"^\| `(\w+)`", runlog.__doc__ or "", re.MULTILINE))
    root = Path(runlog.__file__).parents[2]
    sources = [file.read_text() for folder in ("pipeline", "launch") for file in (root / folder).rglob("*.py")]
    written = {name for source in sources for name in re.findall(r'log\.write\(\s*"(\w+)"', source)}

    assert table == written
