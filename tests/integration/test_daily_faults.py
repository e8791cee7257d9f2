"""What a night can do to a daily job, and what the job then does: told, held, mended or refused, and never a row lost."""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest
from iopath.common.file_io import PathHandler

from data.paths import PATHS
from data.seal import sealed
from pipeline.daily.ledger import Ledger
from pipeline.run_folder.lease import Lease, _locked
from pipeline.training.callbacks import Tallies
from tests.integration.nightly import Nightly, assert_same_outcome, ledger, states, write_daily
from tests.jobs import assert_same_bits, events
from tests.tiny import Done, genctr

FIRST, SECOND, THIRD, FOURTH = (f"2026-11-{day:02}" for day in range(1, 5))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_daily(tmp_path, days=4)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


def daily(config: Path, out: Path, *words: str) -> Done:
    return genctr("daily", config, "--out", out, "--quiet", *words)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed job makes of the same four days; tests look at it, or go on with a copy."""
    folder = tmp_path_factory.mktemp("whole")
    assert daily(write_daily(folder, days=4), folder / "run").code in (0, 3)
    return folder / "run"


def settings(*values: str) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def files(config: Path, day: str) -> list[Path]:
    return sorted((config.parent / "log" / f"day={day}").glob("*.parquet"))


def assert_proven(out: Path) -> None:
    done = genctr("verify", out)
    assert done.code == 0, done.err


def test_what_train_has_trained_is_not_trained_again_by_a_daily_job(config: Path, out: Path) -> None:
    words = settings(f"data.days={FIRST}..{SECOND}")
    assert genctr("train", config, "--out", out, "--quiet", *words).code == 0
    done = daily(config, out, *words)
    assert done.code == 2
    assert f"{out} was trained by `genctr train`: no ledger has its days" in done.err
    assert not (out / "ledger.jsonl").exists()


def test_what_a_daily_job_trains_is_not_trained_past_its_ledger(config: Path, out: Path) -> None:
    words = settings(f"data.days={FIRST}..{SECOND}")
    assert daily(config, out, *words, "--until", FIRST).code in (0, 3)
    done = genctr("train", config, "--out", out, "--quiet", *words)
    assert done.code == 2
    assert f"{out} is trained by `genctr daily`" in done.err
    assert daily(config, out, *words).code in (0, 3)
    assert list(states(out)) == [FIRST, SECOND]
    assert_proven(out)


# --- the log ---


def test_a_corrupt_file_stops_the_day_and_the_mended_day_is_trained(config: Path, out: Path) -> None:
    file = files(config, SECOND)[1]
    good = file.read_bytes()
    file.write_bytes(good[:100])
    done = daily(config, out)
    assert done.code == 2
    assert file.name in done.err
    assert list(states(out)) == [FIRST]
    file.write_bytes(good)
    assert daily(config, out).code in (0, 3)
    assert list(states(out)) == [FIRST, SECOND, THIRD, FOURTH]
    assert_proven(out)


def test_a_bad_file_may_be_quarantined_in_the_night_it_comes(config: Path, out: Path) -> None:
    assert daily(config, out, "--until", FIRST).code in (0, 3)
    files(config, SECOND)[1].write_bytes(b"PAR1")
    assert daily(config, out).code == 2
    done = daily(config, out, *settings("data.bad_files=quarantine"))
    assert done.code in (0, 3), done.err
    assert list(states(out)) == [FIRST, SECOND, THIRD, FOURTH]


def test_a_day_that_begins_with_bad_rows_has_a_sample_of_its_good_ones(tmp_path: Path, out: Path) -> None:
    config = write_daily(tmp_path, days=1, rows=900)
    file = files(config, FIRST)[0]
    rows = pq.read_table(file, partitioning=None)
    labels = [None] * 256 + rows["is_click"].to_pylist()[256:]
    column = pa.array(labels, rows.schema.field("is_click").type)
    pq.write_table(rows.set_column(rows.schema.get_field_index("is_click"), "is_click", column), file)
    done = daily(config, out, *settings("data.bad_rows=skip", "data.max_bad_rows_share=1"))

    assert done.code == 0, done.err
    (bundle,) = (out / "published").glob("2026*")
    sample = pq.read_table(bundle / "sample.parquet")
    assert sample.num_rows > 0
    assert sample["is_click"].null_count == 0


def test_a_day_whose_labels_are_all_alike_is_held_by_a_floor(config: Path, out: Path) -> None:
    for file in files(config, SECOND):
        table = pq.read_table(file, partitioning=None)
        at = table.schema.get_field_index("is_click")
        pq.write_table(table.set_column(at, "is_click", pa.nulls(len(table), pa.int8()).fill_null(0)), file)
    words = settings("daily.gates={auc_floor: 0.1}")
    assert daily(config, out, "--until", SECOND, *words).code == 3
    assert states(out) == {FIRST: "published", SECOND: "held"}
    assert "no number" in genctr("status", out, "--gates").out
    assert events(out, "judged")[-1]["failed"] == ["auc_floor: the day has no auc: are its labels all alike?"]


@pytest.mark.parametrize("word", ["daily.gates={acu: 0.5}", "daily.gates={auc: [0, 1]}", "daily.row_decay={usr_id: 0.9}"])
def test_a_name_that_nobody_knows_is_told_before_a_day_is_trained(config: Path, out: Path, word: str) -> None:
    done = daily(config, out, *settings(word))
    assert done.code == 2
    assert not (out / "ledger.jsonl").exists()


def test_a_quarantined_file_is_in_the_ledger_and_trained_when_it_is_mended(config: Path, out: Path) -> None:
    file = files(config, SECOND)[1]
    good = file.read_bytes()
    file.write_bytes(good[:100])
    words = settings("data.bad_files=quarantine", "daily.late=append")
    assert daily(config, out, *words).code in (0, 3)
    trained = next(entry for entry in ledger(out) if entry["event"] == "trained" and entry["day"] == SECOND)
    assert list(trained["quarantined"]) == [f"day={SECOND}/{file.name}"]
    file.write_bytes(good)
    assert daily(config, out, *words).code in (0, 3)
    late = next(entry for entry in ledger(out) if entry["event"] == "trained" and entry["day"] == f"{SECOND}+1")
    assert list(late["files"]) == [f"day={SECOND}/{file.name}"]
    assert_proven(out)


def test_a_day_that_shrinks_after_training_is_refused(config: Path, out: Path) -> None:
    assert daily(config, out, "--until", THIRD).code in (0, 3)
    files(config, SECOND)[0].unlink()
    done = daily(config, out)
    assert done.code == 4
    assert f"day {SECOND} has changed" in done.err
    assert list(states(out)) == [FIRST, SECOND, THIRD]


def test_a_day_that_shrinks_is_trained_again_from_before_it(config: Path, out: Path, tmp_path: Path) -> None:
    assert daily(config, out).code in (0, 3)
    files(config, THIRD)[0].unlink()
    assert daily(config, out, *settings("daily.changed=retrain-from")).code in (0, 3)
    assert [entry["day"] for entry in ledger(out) if entry["event"] == "rewound"] == [THIRD]
    assert_proven(out)
    other = tmp_path / "other"
    assert daily(config, other).code in (0, 3)
    assert_same_bits(other, out)


def test_going_back_further_than_checkpoints_are_kept_asks_a_person(config: Path, out: Path) -> None:
    words = settings("daily.changed=retrain-from", "daily.keep_days=1", "checkpoint.keep=1")
    assert daily(config, out, *words).code in (0, 3)
    files(config, SECOND)[0].unlink()
    done = daily(config, out, *words)
    assert done.code == 4
    assert "not kept any more" in done.err


def _add_late(config: Path, day: str) -> str:
    rows = pq.read_table(files(config, day)[0], partitioning=None).slice(0, 17)
    pq.write_table(rows, config.parent / "log" / f"day={day}" / "part-late.parquet")
    return f"day={day}/part-late.parquet"


def test_late_files_ask_a_person_by_default(config: Path, out: Path) -> None:
    assert daily(config, out, "--until", SECOND).code in (0, 3)
    name = _add_late(config, FIRST)
    done = daily(config, out)
    assert done.code == 4
    assert name in done.err


def test_late_files_are_appended_once(config: Path, out: Path) -> None:
    assert daily(config, out, "--until", SECOND).code in (0, 3)
    name = _add_late(config, FIRST)
    words = settings("daily.late=append")
    assert daily(config, out, *words).code in (0, 3)
    late = [entry for entry in ledger(out) if entry["event"] == "trained" and entry["day"] == f"{FIRST}+1"]
    assert [list(entry["files"]) for entry in late] == [[name]]
    assert late[0]["rows"] == 17
    assert daily(config, out, *words).code == 75
    assert_proven(out)


def test_a_few_late_rows_of_one_label_are_not_held_by_a_floor(config: Path, out: Path) -> None:
    words = settings("daily.late=append", "daily.gates={auc_floor: 0.1}")
    assert daily(config, out, "--until", FIRST, *words).code == 0
    rows = pq.read_table(files(config, FIRST)[0], partitioning=None)
    alike = rows.filter(pa.compute.equal(rows["is_click"], 0)).slice(0, 2)
    pq.write_table(alike, config.parent / "log" / f"day={FIRST}" / "part-late.parquet")
    assert daily(config, out, "--until", FIRST, *words).code == 0
    assert states(out) == {FIRST: "published", f"{FIRST}+1": "published"}


def test_going_back_forgets_late_parts_that_came_after(config: Path, out: Path, tmp_path: Path) -> None:
    assert daily(config, out, "--until", THIRD, *settings("daily.keep_days=4")).code in (0, 3)
    _add_late(config, FIRST)
    words = settings("daily.late=append", "daily.changed=retrain-from", "daily.keep_days=4")
    assert daily(config, out, "--until", THIRD, *words).code in (0, 3)
    files(config, SECOND)[0].unlink()
    assert daily(config, out, "--until", THIRD, *words).code in (0, 3)
    (rewound,) = [entry for entry in ledger(out) if entry["event"] == "rewound"]
    assert rewound["gone"] == [SECOND, THIRD, f"{FIRST}+1"]
    assert list(states(out)) == [FIRST, f"{FIRST}+1", SECOND, THIRD]
    assert_proven(out)


def test_late_files_are_left_and_that_is_written_down(config: Path, out: Path) -> None:
    assert daily(config, out, "--until", SECOND).code in (0, 3)
    name = _add_late(config, FIRST)
    words = settings("daily.late=ignore")
    assert daily(config, out, *words).code in (0, 3)
    assert [entry["files"] for entry in ledger(out) if entry["event"] == "late"] == [[name]]
    assert daily(config, out, *words).code == 75


def test_a_missing_day_is_waited_for_then_asked_about_then_skipped(config: Path, out: Path) -> None:
    shutil.move(config.parent / "log" / f"day={SECOND}", config.parent / "aside")
    hours_until_2100 = 24 * 365 * 80
    done = daily(config, out, *settings(f"daily.gap_hours={hours_until_2100}"))
    assert done.code in (0, 3)
    assert list(states(out)) == [FIRST]
    assert daily(config, out, *settings(f"daily.gap_hours={hours_until_2100}")).code == 75
    assert daily(config, out, *settings("daily.gap=stop")).code == 4
    done = daily(config, out, *settings("daily.gap_hours=0"))  # wait, in vain
    assert done.code == 4
    assert f"day {SECOND} is missing" in done.err
    assert daily(config, out, *settings("daily.gap_hours=0", "daily.gap=skip")).code in (0, 3)
    assert states(out)[SECOND] == "skipped"
    assert list(states(out)) == [FIRST, SECOND, THIRD, FOURTH]
    shutil.move(config.parent / "aside", config.parent / "log" / f"day={SECOND}")  # it comes after all
    done = daily(config, out)
    assert done.code == 4
    assert f"files came to day {SECOND} after it was skipped" in done.err
    assert daily(config, out, *settings("daily.late=append")).code in (0, 3)
    assert list(states(out)) == [FIRST, SECOND, THIRD, FOURTH, f"{SECOND}+1"]
    assert daily(config, out, *settings("daily.late=append")).code == 75
    assert_proven(out)


@pytest.mark.parametrize(
    "kind", ["unreadable", "the same as another", "the same, of a name before the other's", "without rows"]
)
def test_late_files_that_give_no_row_are_written_down_and_do_not_stop_the_night(config: Path, out: Path, kind: str) -> None:
    words = settings("data.bad_files=quarantine", "daily.late=append")
    assert daily(config, out, "--until", SECOND, *words).code in (0, 3)
    late = config.parent / "log" / f"day={FIRST}" / ("a-late.parquet" if "before" in kind else "part-late.parquet")
    rows = pq.read_table(files(config, FIRST)[0], partitioning=None)
    if kind == "unreadable":
        late.write_bytes(b"PAR1 and nothing else")
    elif kind == "without rows":
        pq.write_table(rows.slice(0, 0), late)
    else:
        shutil.copy(files(config, FIRST)[0], late)
    assert daily(config, out, "--until", THIRD, *words).code in (0, 3)
    assert list(states(out)) == [FIRST, SECOND, THIRD]
    (told,) = [entry for entry in ledger(out) if entry["event"] == "late"]
    assert list(told["quarantined"]) == [f"day={FIRST}/{late.name}"]
    assert_proven(out)
    pq.write_table(rows.slice(0, 17), late)  # mended
    assert daily(config, out, "--until", THIRD, *words).code in (0, 3)
    assert list(states(out)) == [FIRST, SECOND, THIRD, f"{FIRST}+1"]
    assert_proven(out)


def _stands_in(out: Path) -> tuple[str, int]:
    """The day and the row of the newest checkpoint."""
    marks = [path.parent.name for path in (out / "checkpoints").glob("step-*/checkpoint.json")]
    meta = json.loads((out / "checkpoints" / max(marks) / "checkpoint.json").read_text())["meta"]
    return meta["state"]["cursor"]["day"], len(meta["state"]["fresh"])


def test_a_day_that_grows_while_it_is_trained_is_finished_as_it_was_begun(config: Path, out: Path) -> None:
    assert Nightly(config, out, "--until", SECOND).ended() in (0, 3)
    for kill_at in range(49, 200, 2):  # any earlier one finds the night before the day's first save
        assert Nightly(config, out, "--until", THIRD, kill_at=kill_at).ended() == -9
        if _stands_in(out) == (THIRD, 0):  # saved inside the day, before its last rows
            break
    name = _add_late(config, THIRD)
    assert daily(config, out, "--until", THIRD, *settings("daily.late=append")).code in (0, 3)
    trained = [(entry["day"], file) for entry in ledger(out) if entry["event"] == "trained" for file in entry["files"]]
    assert [day for day, file in trained if file == name] == [f"{THIRD}+1"]
    assert_proven(out)


# --- two jobs, clocks ---


def test_a_second_job_refuses_and_names_the_first(config: Path, out: Path) -> None:
    night = Nightly(config, out, "--follow", "--until", "2026-12-31")
    while not (out / "ledger.jsonl").exists():
        time.sleep(0.02)
    done = daily(config, out)
    try:
        assert done.code == 5
        assert f"process {night.processes[0].pid} on" in done.err
        assert genctr("approve", out, FIRST, "--reason", "no").code == 5
    finally:
        night.kill()
    assert daily(config, out).code in (0, 3, 75)
    assert_proven(out)


@pytest.mark.parametrize("family", ["ranker", "denoiser"])  # in its only stage, and in one before the last
def test_a_job_that_was_taken_over_saves_nothing_more(
    config: Path, out: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    theirs = {"token": "theirs", "beat": 3, "machine": "far/away", "host": "far", "pid": 1, "born": "1"}
    after, enter, lost = Tallies.on_step_end, Lease.__enter__, []
    monkeypatch.setattr(Lease, "__enter__", lambda self: lost.append(self) or enter(self))

    def asleep(self: Tallies, state: Any, output: Any) -> None:
        if state.step == 2:
            with _locked(str(out / "lease.json")):  # not in the middle of a beat
                (out / "lease.json").write_text(json.dumps(theirs))
            while not lost[0].was_lost:  # at its next beat it sees another's name
                time.sleep(0.02)
        after(self, state, output)

    monkeypatch.setattr(Tallies, "on_step_end", asleep)
    words = settings("daily.lease_seconds=0.4", "checkpoint.every_steps=1")
    words += settings("model={family: denoiser, dim: 4}") if family == "denoiser" else []
    done = daily(config, out, "--until", FIRST, *words)
    assert done.code == 5
    assert "process 1 on far has taken this run over" in done.err
    saved = sorted(path.parent.name for path in (out / "checkpoints").glob("*/checkpoint.json"))
    assert set(saved) <= {"step-0000001", "step-0000002"}, "what was being saved is refused too"
    assert json.loads((out / "lease.json").read_text()) == theirs


def test_following_takes_up_a_day_when_it_comes(config: Path, out: Path) -> None:
    shutil.move(config.parent / "log" / f"day={FOURTH}", config.parent / "aside")
    night = Nightly(config, out, "--follow", "--until", FOURTH, *settings("daily.poll_seconds=0.2"))
    while not (out / "ledger.jsonl").exists() or THIRD not in states(out):
        time.sleep(0.05)
    shutil.move(config.parent / "aside", config.parent / "log" / f"day={FOURTH}")
    assert night.ended(60) in (0, 3), night.text
    assert list(states(out)) == [FIRST, SECOND, THIRD, FOURTH]


def test_a_clock_that_jumps_changes_nothing(config: Path, out: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jumps = iter([1e9, -3e8] * 1_000_000)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    assert daily(config, out).code in (0, 3)
    assert_same_outcome(whole, out)
    assert_same_bits(whole, out)


# --- disks and stores ---


def _full_from(number: int) -> Callable[[Any], Any]:
    """From the so-manieth change of the file system on, the disk is full."""
    seen = 0

    def wrap(real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen >= number:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments, **options)

        return call

    return wrap


@pytest.mark.parametrize("number", [1, 2, 3, 5, 8, 13, 21, 34, 55, 72, 89, 110])
def test_a_full_disk_is_told_and_the_next_night_goes_on(config: Path, out: Path, whole: Path, number: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        wrap = _full_from(number)
        for name in ("replace", "rename", "fsync"):
            patch.setattr(os, name, wrap(getattr(os, name)))
        done = daily(config, out)
    assert done.code == 2, done.err
    assert "space" in done.err or "full" in done.err
    assert daily(config, out).code in (0, 3, 75)
    assert_same_outcome(whole, out)
    assert_same_bits(whole, out)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_disk_full_at_any_write(config: Path, tmp_path: Path, whole: Path) -> None:
    number, code = 0, 2
    while code == 2:
        number += 1
        out = tmp_path / f"run{number}"
        with pytest.MonkeyPatch.context() as patch:
            wrap = _full_from(number)
            for name in ("replace", "rename", "fsync"):
                patch.setattr(os, name, wrap(getattr(os, name)))
            code = daily(config, out).code
        if code == 2:
            assert daily(config, out).code in (0, 3, 75)
        assert_same_outcome(whole, out)
        shutil.rmtree(out)
    assert code in (0, 3)
    assert number > 100, "every write was the first that failed once"


class Flaky(PathHandler):
    """`flaky://PATH` is a local path; one call in ten fails."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.failures = 0

    def _get_supported_prefixes(self) -> list[str]:
        return ["flaky://"]

    def _local(self, path: str) -> str:
        self.calls += 1
        if self.calls % 10 == 0:
            self.failures += 1
            raise OSError(errno.EIO, "the store did not answer")
        return path.removeprefix("flaky://")

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **_: Any) -> Any:
        return open(self._local(path), mode)

    def _exists(self, path: str, **_: Any) -> bool:
        return os.path.exists(self._local(path))

    def _isfile(self, path: str, **_: Any) -> bool:
        return os.path.isfile(self._local(path))

    def _isdir(self, path: str, **_: Any) -> bool:
        return os.path.isdir(self._local(path))

    def _ls(self, path: str, **_: Any) -> list[str]:
        return os.listdir(self._local(path))

    def _mkdirs(self, path: str, **_: Any) -> None:
        os.makedirs(self._local(path), exist_ok=True)

    def _rm(self, path: str, **_: Any) -> None:
        os.remove(self._local(path))

    def _copy(self, src_path: str, dst_path: str, overwrite: bool = False, **_: Any) -> bool:
        shutil.copyfile(self._local(src_path), self._local(dst_path))
        return True


@pytest.fixture(scope="module")
def flaky() -> Iterator[Flaky]:
    handler = Flaky()
    PATHS.register_handler(handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data.paths.WAIT", 0.0)
        yield handler


def test_a_store_that_fails_one_call_in_ten_delays_and_loses_nothing(
    config: Path, whole: Path, tmp_path: Path, flaky: Flaky
) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    words = settings(f"daily.publish=flaky://{remote}/published")
    assert daily(config, f"flaky://{remote}/run", *words).code in (0, 3)  # type: ignore[arg-type]
    assert flaky.failures > 10
    mine, theirs = (remote / "run" / "ledger.jsonl").read_text(), (whole / "ledger.jsonl").read_text()
    assert mine == theirs
    assert genctr("verify", f"flaky://{remote}/run").code == 0


def test_a_model_that_serves_and_cannot_be_read_is_waited_for(
    config: Path, out: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the gates that compare would have nothing to ask, and let any model pass."""
    assert daily(config, out, "--until", FIRST).code in (0, 3)
    opened = PATHS.open

    def away(path: str, mode: str = "r", *rest: Any) -> Any:
        if f"published/{FIRST}" in path and path.endswith(".safetensors"):
            raise TimeoutError("the store did not answer")
        return opened(path, mode, *rest)

    with monkeypatch.context() as outage:
        outage.setattr(PATHS, "open", away)
        done = daily(config, out, "--until", SECOND)
    assert (done.code, states(out)[SECOND]) == (2, "scored")
    assert "the store did not answer" in done.err
    assert daily(config, out).code in (0, 3)
    assert_same_outcome(whole, out)


# --- what the job itself keeps ---


def test_verify_sees_a_row_that_is_another_though_nothing_else_is(config: Path, out: Path) -> None:
    assert daily(config, out, "--until", SECOND).code in (0, 3)
    assert_proven(out)
    file = files(config, FIRST)[0]
    table = pq.read_table(file, partitioning=None)
    users = table["user_id"].to_pylist()
    at = table.schema.get_field_index("user_id")
    pq.write_table(table.set_column(at, "user_id", pa.array([users[0] + 1, *users[1:]], table.schema.field(at).type)), file)
    done = genctr("verify", out)
    assert done.code == 1
    assert f"{file.name} has other content" in done.err


def test_verify_says_which_rows_were_not_trained_or_twice(config: Path, out: Path) -> None:
    assert daily(config, out, "--until", SECOND).code in (0, 3)
    name = _add_late(config, FIRST)
    done = genctr("verify", out)
    assert done.code == 1
    assert f"{name} was not trained: it came later" in done.err
    assert daily(config, out, "--until", SECOND, *settings("daily.late=append")).code in (0, 3)
    assert_proven(out)
    twice = Ledger(str(out))
    entry = next(own for own in twice.entries if own["event"] == "trained" and own["day"] == FIRST)
    twice.append("trained", {**entry, "day": f"{FIRST}+2", "n": len(twice.entries), "prev": twice.mark["prev"]})
    done = genctr("verify", out)
    assert done.code == 1
    assert f"{next(iter(entry['files']))} was trained in another part of the day too" in done.err


def test_verify_leaves_out_what_one_night_has_left_out_and_the_next_would_not(config: Path, out: Path) -> None:
    bad, other = files(config, FIRST)[:2]
    bad.write_bytes(b"PAR1")
    rows = pq.read_table(other, partitioning=None)
    labels = pa.array([None, *rows["is_click"].to_pylist()[1:]], rows.schema.field("is_click").type)
    pq.write_table(rows.set_column(rows.schema.get_field_index("is_click"), "is_click", labels), other)
    words = settings("data.bad_files=quarantine", "data.bad_rows=skip")
    assert daily(config, out, "--until", FIRST, *words).code in (0, 3)
    assert daily(config, out, "--until", FIRST).code == 75
    assert_proven(out)
    good = other.read_bytes()
    other.write_bytes(good[:100].ljust(len(good), b" "))
    assert genctr("verify", out).code == 1


@pytest.mark.parametrize("lines", [0, 3, -1])
def test_verify_sees_a_ledger_that_lost_lines(config: Path, out: Path, lines: int) -> None:
    assert daily(config, out, "--until", SECOND).code in (0, 3)
    path = out / "ledger.jsonl"
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:lines]) if lines >= 0 else whole[:-30])
    assert lines >= 0 or "the last line" in genctr("status", out).err
    done = genctr("verify", out)
    assert done.code == 1
    assert "the last line" in done.err if lines < 0 else "the newest checkpoint has seen" in done.err


def test_verify_sees_that_a_trained_day_is_in_no_checkpoint(config: Path, out: Path) -> None:
    assert daily(config, out, "--until", SECOND).code in (0, 3)
    newest = json.loads((out / "checkpoints" / f"day-{SECOND}.json").read_text())["mark"]
    shutil.rmtree(out / "checkpoints" / newest)
    done = genctr("verify", out)
    assert done.code == 1
    assert f"no checkpoint is left that has day {SECOND}" in done.err


def test_a_ledger_whose_last_line_is_cut_is_mended(config: Path, out: Path, whole: Path) -> None:
    shutil.copytree(whole, out)
    path = out / "ledger.jsonl"
    text = path.read_text()
    path.write_text(text[:-30])
    done = daily(config, out)
    assert done.code in (0, 3)
    assert "is damaged" in done.err
    assert path.read_text() == text


def test_a_ledger_that_lost_what_the_last_day_said_gets_it_back(config: Path, out: Path, whole: Path) -> None:
    shutil.copytree(whole, out)
    path = out / "ledger.jsonl"
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    scored = max(at for at, line in enumerate(lines) if json.loads(line)["event"] == "scored")
    path.write_text("".join(lines[: scored + 1]))
    assert daily(config, out).code in (0, 3)
    assert path.read_text() == text


def test_a_ledger_that_lost_more_is_refused(config: Path, out: Path, whole: Path) -> None:
    shutil.copytree(whole, out)
    path = out / "ledger.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]))
    done = daily(config, out)
    assert done.code == 2
    assert "bring the ledger back" in done.err
    path.write_text("".join([lines[0], lines[2], *lines[3:]]))
    assert "line 2" in daily(config, out).err


def test_a_deleted_checkpoint_has_its_day_trained_again(config: Path, out: Path, whole: Path) -> None:
    assert daily(config, out, "--until", THIRD).code in (0, 3)
    newest = json.loads((out / "checkpoints" / f"day-{THIRD}.json").read_text())["mark"]
    shutil.rmtree(out / "checkpoints" / newest)
    done = daily(config, out)
    assert done.code in (0, 3), done.err
    assert "training again from" in done.err
    assert [entry["day"] for entry in ledger(out) if entry["event"] == "rewound"] == [THIRD]
    first, again = (entry["fresh"] for entry in ledger(out) if entry["event"] == "judged" and entry["day"] == THIRD)
    assert again == first, "it is compared with what had not trained the day, not with what serves"
    assert_proven(out)
    assert_same_bits(whole, out)


@pytest.mark.parametrize("file", ["__0_0.distcp", "checkpoint.json"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(config: Path, out: Path, whole: Path, file: str) -> None:
    assert daily(config, out, "--until", THIRD).code in (0, 3)
    newest = json.loads((out / "checkpoints" / f"day-{THIRD}.json").read_text())["mark"]
    path = out / "checkpoints" / newest / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    done = daily(config, out)
    assert done.code in (0, 3), done.err
    assert newest in done.err
    assert file in done.err
    assert "set aside" in done.err
    assert (out / "checkpoints" / newest / "damaged.json").exists()
    assert [entry["day"] for entry in ledger(out) if entry["event"] == "rewound"] == [THIRD]
    assert_proven(out)
    assert_same_bits(whole, out)


def test_with_no_good_checkpoint_left_nothing_is_trained(config: Path, out: Path) -> None:
    assert daily(config, out, "--until", SECOND).code in (0, 3)
    before = (out / "ledger.jsonl").read_bytes()
    for path in (out / "checkpoints").glob("step-*/checkpoint.json"):
        path.write_text("{}")
    done = daily(config, out)
    assert done.code == 2
    assert "no good checkpoint is left" in done.err
    assert (out / "ledger.jsonl").read_bytes() == before


def test_a_cursor_that_the_ledger_contradicts_trains_nothing(config: Path, out: Path) -> None:
    assert daily(config, out, "--until", SECOND).code in (0, 3)
    newest = json.loads((out / "checkpoints" / f"day-{SECOND}.json").read_text())["mark"]
    path = out / "checkpoints" / newest / "checkpoint.json"
    values = json.loads(path.read_text())
    values["meta"]["state"]["cursor"]["day"] = FIRST
    path.write_text(sealed(values))  # with a digest that is right: only the ledger knows
    for words in (("daily", config, "--out", out, "--quiet"), ("verify", out)):
        done = genctr(*words)
        assert done.code in (1, 2)
        assert f"stands in day {FIRST}, which was done before" in done.err


def test_a_day_that_goes_on_from_its_middle_keeps_its_scores(config: Path, out: Path) -> None:
    words = ["--until", SECOND, *settings("daily.gates={auc_floor: 1.0}")]
    assert daily(config, out, *words).code == 3
    newest = json.loads((out / "checkpoints" / f"day-{SECOND}.json").read_text())["mark"]
    shutil.rmtree(out / "checkpoints" / newest)
    done = daily(config, out, *words)
    assert "the newest there is stands in" in done.err
    assert (done.code, states(out)[SECOND]) == (3, "held")
    scored = [entry["metrics"] for entry in ledger(out) if entry["event"] == "scored"]
    assert len(scored) == 2
    assert scored[0] == scored[1], "by the model of the day before, which is not there any more"


def test_all_checkpoints_deleted_trains_from_the_beginning(config: Path, out: Path, whole: Path) -> None:
    assert daily(config, out, "--until", SECOND).code in (0, 3)
    shutil.rmtree(out / "checkpoints")
    done = daily(config, out)
    assert done.code in (0, 3)
    assert "there is none: training again from" in done.err
    again = [entry["fresh"] for entry in ledger(out) if entry["event"] == "judged" and entry["day"] == FIRST][1]
    assert "difference" in again, "a model of one day does not take the place of a better one unasked"
    assert_same_bits(whole, out)


def test_a_pre_training_that_was_done_again_is_kept(config: Path, out: Path) -> None:
    words = ["--until", FIRST, *settings("model={family: denoiser, dim: 4}")]
    assert daily(config, out, *words).code in (0, 3)
    shutil.rmtree(out / "checkpoints")
    assert daily(config, out, *words).code in (0, 3)
    kept = (out / "checkpoints" / "pretrain.json").read_text()
    assert daily(config, out, *words).code == 75
    assert (out / "checkpoints" / "pretrain.json").read_text() == kept
    assert (out / "checkpoints" / json.loads(kept)["mark"] / "checkpoint.json").exists()


def test_what_a_killed_export_has_left_is_no_part_of_the_bundle(config: Path, out: Path, tmp_path: Path) -> None:
    assert daily(config, tmp_path / "whole", "--until", SECOND).code in (0, 3)
    for bundle in (tmp_path / "whole" / "published").glob("2026*"):
        left = out / "published" / bundle.name
        left.mkdir(parents=True)
        (left / "table.0.99.0.safetensors").write_bytes(b"a shard of another number of ranks")
    assert daily(config, out, "--until", SECOND).code in (0, 3)
    assert_same_outcome(tmp_path / "whole", out)


def test_a_bundle_with_a_flipped_bit_is_refused_told_and_replaced(config: Path, out: Path) -> None:
    assert daily(config, out, "--until", THIRD).code in (0, 3)
    serving = json.loads((out / "published" / "current.json").read_text())["bundle"]
    file = next((out / "published" / serving).glob("table.*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    day = config.parent / "log" / f"day={FOURTH}"
    done = genctr("score", out / "published", "--data", day, "--out", out / "scores")
    assert done.code == 2
    assert "cut short or altered" in done.err
    assert genctr("verify", out).code == 1
    done = daily(config, out, *settings("daily.changed=refuse"))
    assert done.code in (0, 3), done.err
    assert states(out)[FOURTH] == "published"
    assert genctr("score", out / "published", "--data", day, "--out", out / "scores").code == 0


# --- a person's decisions ---


@pytest.fixture
def poisoned(config: Path) -> Path:
    """The third day's labels are turned round."""
    for file in files(config, THIRD):
        table = pq.read_table(file, partitioning=None)
        at = table.schema.get_field_index("is_click")
        turned = pa.array([1 - value for value in table["is_click"].to_pylist()], table.schema.field(at).type)
        pq.write_table(table.set_column(at, "is_click", turned), file)
    return config


def test_a_bad_day_is_held_and_a_person_may_approve_it_and_go_back(poisoned: Path, out: Path) -> None:
    words = settings("daily.gates={auc: -0.5, ne_ceiling: 1.2}")
    assert daily(poisoned, out, "--until", SECOND, *words).code in (0, 3)
    serving = json.loads((out / "published" / "current.json").read_text())
    done = daily(poisoned, out, "--until", THIRD, *words)
    assert done.code == 3
    assert states(out)[THIRD] == "held"
    assert json.loads((out / "published" / "current.json").read_text()) == serving
    assert "ne_ceiling" in genctr("status", out).out
    assert genctr("approve", out, FIRST, "--reason", "why not").code == 2
    assert genctr("approve", out, THIRD, "--reason", "the campaign was turned round").code == 0
    assert states(out)[THIRD] == "approved"
    assert json.loads((out / "published" / "current.json").read_text())["bundle"].startswith(THIRD)
    approved = next(entry for entry in ledger(out) if entry["event"] == "approved")
    assert approved["reason"] == "the campaign was turned round"
    assert approved["who"]
    assert genctr("rollback", out, "--reason", "it was not").code == 0
    assert json.loads((out / "published" / "current.json").read_text()) == serving
    assert daily(poisoned, out, *words).code in (0, 3)  # a held model keeps training
    assert states(out)[FOURTH] in ("published", "held")
    assert_proven(out)


def test_a_person_without_a_name_is_known_by_a_number(poisoned: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = settings("daily.gates={auc_floor: 0.9}")
    assert daily(poisoned, out, "--until", SECOND, *words).code == 3
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # of a container that has no such user

    assert genctr("approve", out, SECOND, "--reason", "it is new").code == 0

    assert ledger(out)[-1]["who"] == "54321"
    assert states(out)[SECOND] == "approved"
    assert_proven(out)


def test_backfill_trains_days_again_from_a_named_checkpoint(config: Path, out: Path, whole: Path) -> None:
    shutil.copytree(whole, out)
    done = daily(config, out, "--backfill", f"{FOURTH}..{FOURTH}", "--from", f"day-{SECOND}")
    assert done.code == 2
    assert f"day-{THIRD}" in done.err
    words = ("--backfill", f"{THIRD}..{FOURTH}", "--from", f"day-{SECOND}")
    planned = [line.split()[:2] for line in daily(config, out, *words, "--dry-run").out.splitlines()]
    assert planned == [["rewind", THIRD], ["train", THIRD], ["train", FOURTH], ["wait", FOURTH]]
    assert daily(config, out, *words).code in (0, 3)
    assert_same_bits(whole, out)
    assert_proven(out)


def test_a_dry_run_says_what_and_why_and_does_nothing(config: Path, out: Path) -> None:
    done = daily(config, out, "--dry-run", "--until", SECOND)
    assert done.code == 0
    assert [line.split()[:2] for line in done.out.splitlines()] == [["train", FIRST], ["train", SECOND], ["wait", SECOND]]
    assert not out.exists()


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    for words in (["status"], ["verify"], ["approve", "--reason", "x"], ["rollback", "--reason", "x"]):
        done = genctr(words[0], tmp_path / "typo", *([FIRST] if words[0] == "approve" else []), *words[1:])
        assert done.code == 2
        assert "no run folder" in done.err
    assert not (tmp_path / "typo").exists()


def test_a_failing_night_calls_the_hook(config: Path, out: Path, tmp_path: Path) -> None:
    news = tmp_path / "news.json"
    words = settings(f"daily.hooks.command=tee {news}", "daily.hooks.events=[failed, published]")
    assert daily(config, out, *words, "--until", THIRD).code in (0, 3)
    assert json.loads(news.read_text())["event"] == "published"
    files(config, FOURTH)[0].write_bytes(b"PAR1")
    assert daily(config, out, *words).code == 2
    told = json.loads(news.read_text())
    assert (told["event"], told["run"]) == ("failed", str(out))
    assert files(config, FOURTH)[0].name in told["text"]


@pytest.mark.parametrize("until", ["2026-11-2", "20261102", "yesterday"])
def test_until_is_a_date_and_nothing_else(config: Path, out: Path, until: str) -> None:
    for words in (["--dry-run"], []):
        done = daily(config, out, "--until", until, *words)
        assert done.code == 2
        assert f"--until {until!r} is no date" in done.err
    assert not (out / "ledger.jsonl").exists()


def test_days_that_the_list_leaves_out_are_left_out(config: Path, out: Path) -> None:
    words = settings("daily.gap_hours=0", f"data.days=[{FIRST}, {THIRD}..]")
    done = daily(config, out, "--dry-run", *words)
    assert [line.split()[:2] for line in done.out.splitlines()] == [
        ["train", FIRST],
        ["train", THIRD],
        ["train", FOURTH],
        ["wait", "2026-11-05"],
    ]


def test_a_dry_run_refuses_what_the_night_would_refuse(config: Path, out: Path) -> None:
    assert daily(config, out, "--until", FIRST).code in (0, 3)
    words = settings("tables.lr=0.01")
    dry, real = daily(config, out, "--dry-run", *words), daily(config, out, *words)
    assert (dry.code, dry.err) == (real.code, real.err)
    assert dry.code == 2


@pytest.mark.parametrize("word", ["train.epochs=2", "daily.gates={acu: 0.5}", "data.days=[2026-11-03, 2026-11-01..]"])
def test_a_dry_run_refuses_what_no_night_can_do(config: Path, out: Path, word: str) -> None:
    dry, real = daily(config, out, "--dry-run", *settings(word)), daily(config, out, *settings(word))
    assert (dry.code, dry.err) == (real.code, real.err)
    assert dry.code == 2


def test_a_dry_run_compares_rows_too(config: Path, out: Path) -> None:
    done = daily(config, out, "--dry-run", *settings("daily.compare=rows"))
    assert done.code == 0
    assert len(done.out.splitlines()) == 5


@pytest.mark.parametrize(("kept", "precision"), [("float32", "fp32"), ("int8", "fp32"), ("float32", "fp16")])
def test_a_bundle_of_another_run_is_never_taken_for_ones_own(config: Path, tmp_path: Path, kept: str, precision: str) -> None:
    tables = (f"daily.tables={kept}", f"tables.precision={precision}")
    words = ["--until", FIRST, *settings(f"daily.publish={tmp_path}/shared", *tables, "daily.gates={}")]
    assert daily(config, tmp_path / "one", *words).code == 0
    serving = (tmp_path / "shared" / "current.json").read_bytes()
    assert daily(config, tmp_path / "same", *words).code == 0, "the same bits are the same model"
    done = daily(config, tmp_path / "other", *words, *settings("seed=8"))
    assert done.code == 2
    assert "is another model's" in done.err
    assert (tmp_path / "shared" / "current.json").read_bytes() == serving
