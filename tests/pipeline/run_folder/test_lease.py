import fcntl
import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import IO, Any

import pytest
from iopath.common.file_io import PathHandler

from data.errors import GenctrError
from data.paths import PATHS, remove_folder, write_whole
from pipeline.run_folder import lease as lease_module
from pipeline.run_folder.lease import Lease, LeaseHeld
from tests.helpers import SERVER


def hold(folder: str) -> None:
    with Lease(folder, seconds=0.4):
        time.sleep(60)


def held_by_another(folder: Path):
    process = SERVER.Process(target=hold, args=(str(folder),))
    process.start()
    while not (folder / "lease.json").exists():
        time.sleep(0.01)
    return process


def test_one_at_a_time(tmp_path: Path) -> None:
    with Lease(str(tmp_path), seconds=5) as lease:
        lease.check()
        with pytest.raises(LeaseHeld, match=f"process {os.getpid()} on"), Lease(str(tmp_path), seconds=5):
            pass
    with Lease(str(tmp_path), seconds=5):
        pass
    assert not (tmp_path / "lease.json").exists()


def test_a_dead_process_of_this_machine_is_seen_at_once(tmp_path: Path) -> None:
    process = held_by_another(tmp_path)
    with pytest.raises(LeaseHeld, match=str(process.pid)), Lease(str(tmp_path), seconds=60):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    since = time.monotonic()
    with Lease(str(tmp_path), seconds=60):
        assert time.monotonic() - since < 5


def elsewhere(folder: Path, **changes) -> dict:
    held = {"token": "theirs", "beat": 3, "machine": "far/away", "host": "far", "pid": 1, "born": "1", **changes}
    (folder / "lease.json").write_text(json.dumps(held))
    return held


def test_a_silent_holder_elsewhere_is_outwaited(tmp_path: Path) -> None:
    elsewhere(tmp_path)
    since = time.monotonic()
    with Lease(str(tmp_path), seconds=0.5) as lease:
        assert time.monotonic() - since >= 0.5
        lease.check()


def test_a_holder_elsewhere_whose_heart_beats_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = elsewhere(tmp_path)
    sleep = time.sleep

    def beating(seconds: float) -> None:
        held["beat"] += 1
        (tmp_path / "lease.json").write_text(json.dumps(held))
        sleep(seconds)

    monkeypatch.setattr("pipeline.run_folder.lease.time.sleep", beating)
    with pytest.raises(LeaseHeld, match="process 1 on far"), Lease(str(tmp_path), seconds=1):
        pass


def test_a_process_that_has_the_number_of_a_dead_one_is_not_taken_for_it(tmp_path: Path) -> None:
    with Lease(str(tmp_path), seconds=5):
        mine = json.loads((tmp_path / "lease.json").read_text())
    (tmp_path / "lease.json").write_text(json.dumps(mine | {"token": "older", "born": "12"}))
    with Lease(str(tmp_path), seconds=60):
        pass


def test_who_was_taken_over_stops_writing(tmp_path: Path) -> None:
    with Lease(str(tmp_path), seconds=60) as lease:
        elsewhere(tmp_path)
        with pytest.raises(LeaseHeld, match="has taken this run over"):
            lease.check()
    assert (tmp_path / "lease.json").exists(), "it is theirs"


def test_who_was_taken_over_by_one_that_has_finished_stops_too(tmp_path: Path) -> None:
    with Lease(str(tmp_path), seconds=0.2) as lease:
        (tmp_path / "lease.json").unlink()
        time.sleep(0.3)
        assert lease.was_lost


def test_it_beats(tmp_path: Path) -> None:
    with Lease(str(tmp_path), seconds=0.2):
        time.sleep(0.5)
        assert json.loads((tmp_path / "lease.json").read_text())["beat"] >= 2


def test_an_unreadable_lease_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "lease.json").write_text("{")
    with Lease(str(tmp_path), seconds=60):
        pass


def test_of_two_that_begin_at_once_in_a_store_the_last_to_write_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Store(PathHandler):
        """No locks, and objects whole."""

        def _get_supported_prefixes(self) -> list[str]:
            return [f"lease-{tmp_path.name}://"]

        def _open(self, path: str, mode: str = "r", buffering: int = -1, **_: Any) -> IO[Any]:
            return open(tmp_path / path.rpartition("/")[2], mode)

        def _mkdirs(self, path: str, **_: Any) -> None:
            pass

        def _rm(self, path: str, **_: Any) -> None:
            (tmp_path / path.rpartition("/")[2]).unlink()

    def then_theirs(path: str, content: str) -> None:
        (tmp_path / "lease.json").write_text(content)
        threading.Timer(0.05, elsewhere, [tmp_path]).start()  # they had found no lease either

    PATHS.register_handler(Store())
    monkeypatch.setattr("pipeline.run_folder.lease.write_whole", then_theirs)
    monkeypatch.setattr(Lease, "_outwait", lambda self, held: (_ for _ in ()).throw(LeaseHeld(held["host"])))
    with pytest.raises(LeaseHeld, match="far"), Lease(f"lease-{tmp_path.name}://run", seconds=4):
        pass


def unread(error: OSError):
    """`PATHS.open` of who may write, and cannot read."""

    def opened(path: str, mode: str):
        if mode == "r":
            raise error
        return open(path, mode)

    return opened


def test_a_store_that_does_not_answer_has_given_the_run_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lease(str(tmp_path), seconds=60) as lease, monkeypatch.context() as outage:
        outage.setattr("pipeline.run_folder.lease.PATHS.open", unread(TimeoutError("the store did not answer")))
        with pytest.raises(TimeoutError):
            lease.check()


def test_a_lease_that_may_not_be_read_is_somebodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = elsewhere(tmp_path)
    monkeypatch.setattr("pipeline.run_folder.lease.PATHS.open", unread(PermissionError("lease.json")))
    with pytest.raises(PermissionError), Lease(str(tmp_path), seconds=60):
        pass
    assert json.loads((tmp_path / "lease.json").read_text()) == held


def test_a_process_of_another_container_on_this_machine_is_not_looked_for_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readlink = os.readlink
    with monkeypatch.context() as there:
        there.setattr(os, "readlink", lambda path: "pid:[1]" if path == "/proc/self/ns/pid" else readlink(path))
        there.setattr(os, "getpid", lambda: 999_999_999)  # its own number, which nobody has here
        there.setattr("pipeline.run_folder.lease._born", lambda _: "17")
        with Lease(str(tmp_path), seconds=60):
            held = (tmp_path / "lease.json").read_text()
    (tmp_path / "lease.json").write_text(held)
    since = time.monotonic()
    with Lease(str(tmp_path), seconds=0.5):
        assert time.monotonic() - since >= 0.5, "it was given the time to beat"


def test_its_own_heartbeat_is_not_taken_for_another_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(path: str, content: str) -> None:
        with open(path, "w") as file:  # for a while there is nothing to read
            time.sleep(0.05)
            file.write(content)

    monkeypatch.setattr("pipeline.run_folder.lease.write_whole", slowly)
    with Lease(str(tmp_path), seconds=0.2) as lease:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            lease.check()


def paused_writer(folder: str, said: Any) -> None:
    """Holds a run as on another machine; asleep while it is taken over; then tries to change everything there."""
    lease_module._machine = lambda: "far/away"
    try:
        with Lease(folder, seconds=0.4):
            said.send("held")
            os.kill(os.getpid(), signal.SIGSTOP)
            for change in (
                lambda: write_whole(f"{folder}/ledger.jsonl", "theirs"),
                lambda: PATHS.rm(f"{folder}/checkpoints/best.json"),
                lambda: remove_folder(f"{folder}/checkpoints/step-0000005"),
                lambda: PATHS.open(f"{folder}/log.jsonl", "a").close(),
                lambda: PATHS.mkdirs(f"{folder}/checkpoints/step-0000009"),
            ):
                with pytest.raises(LeaseHeld, match="has taken this run over"):
                    change()
            said.send("refused")
    except BaseException as error:
        said.send(repr(error))
        raise


def content(folder: Path) -> dict[str, bytes]:
    return {str(own.relative_to(folder)): own.read_bytes() for own in folder.rglob("*") if own.is_file()}


def test_a_job_that_slept_while_it_was_taken_over_changes_nothing_when_it_wakes_up(tmp_path: Path) -> None:
    said, says = multiprocessing.Pipe(duplex=False)
    sleeper = SERVER.Process(target=paused_writer, args=(str(tmp_path), says))
    sleeper.start()
    assert said.recv() == "held"
    while Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)

    with Lease(str(tmp_path), seconds=0.4):
        write_whole(f"{tmp_path}/ledger.jsonl", "ours")
        for file in ("checkpoints/best.json", "checkpoints/step-0000005/__0_0.distcp", "log.jsonl"):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            write_whole(f"{tmp_path}/{file}", "ours")
        before = content(tmp_path) | {"lease.json": b""}
        os.kill(sleeper.pid, signal.SIGCONT)
        assert said.recv() == "refused"
        assert content(tmp_path) | {"lease.json": b""} == before
    sleeper.join()


def test_who_takes_a_run_over_sweeps_up_what_was_not_written_whole(tmp_path: Path) -> None:
    (tmp_path / f"ledger.jsonl.{'0' * 32}.tmp").touch()
    (tmp_path / "notes.tmp").touch()
    with Lease(str(tmp_path), seconds=60):
        pass
    assert sorted(own.name for own in tmp_path.iterdir()) == ["lease.json.lock", "notes.tmp"]


def test_a_file_on_its_way_has_a_name_of_this_holder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: names.append(Path(old).name) or replace(old, new))
    with Lease(str(tmp_path), seconds=60) as lease:
        names.clear()
        write_whole(f"{tmp_path}/ledger.jsonl", "")
        assert names == [f"ledger.jsonl.{lease.token}.tmp"]


def test_a_lock_that_somebody_keeps_is_told_and_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.run_folder.lease.LOCK_SECONDS", 0.1)
    with (tmp_path / "lease.json.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with (
            pytest.raises(LeaseHeld, match=r"lease.json.lock: another process has held this lock for 0 s"),
            Lease(str(tmp_path), seconds=60),
        ):
            pass


def test_a_link_in_the_place_of_the_lock_is_refused_and_its_target_left_alone(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lease.json.lock").symlink_to(tmp_path / "theirs")
    with pytest.raises(GenctrError, match="is a link"), Lease(str(tmp_path / "run"), seconds=60):
        pass
    assert (tmp_path / "theirs").read_text() == "theirs"
