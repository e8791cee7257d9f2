"""Disks that fill up and stores that fail: the night says so, and the next one ends with the same bits."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from iopath.common.file_io import PathHandler

from data.paths import PATHS
from tests.integration.nightly import FIRST, SECOND, After, Nights, assert_same_outcome, daily, settings, states
from tests.jobs import assert_same_bits, changed_path
from tests.tiny import genctr

CHANGES = ("replace", "rename", "fsync")


class FullDisk:
    """From its first call that fits on, every change of the file system finds the disk full.

    Args:
        operation, path: the first change that fails, such as `fsync` of `*.distcp.tmp`; or any from the `number`-th on.
    """

    def __init__(self, operation: str = "*", path: str = "*", number: int = 1) -> None:
        self._operation, self._path, self._left = operation, path, number

    def __enter__(self) -> None:
        self._patch = pytest.MonkeyPatch()
        for name in CHANGES:
            self._patch.setattr(os, name, self._checked(name, getattr(os, name)))

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def _checked(self, name: str, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if self._left and fnmatch(name, self._operation) and fnmatch(changed_path(arguments), self._path):
                self._left -= 1
            if not self._left:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments, **options)

        return call


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        pytest.param("replace", "*/config.yaml", marks=pytest.mark.slow),
        pytest.param("fsync", "*/statistics/*", marks=pytest.mark.slow),
        ("fsync", "*/checkpoints/*.distcp"),
        pytest.param("replace", "*/checkpoints/step-*/checkpoint.json", marks=pytest.mark.slow),
        ("replace", "*/ledger.jsonl"),
        ("replace", "*/published/*/manifest.json"),
        pytest.param("replace", "*/published/current.json", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_is_told_and_the_next_night_goes_on(
    config: Path, out: Path, whole: Path, after: After, operation: str, path: str
) -> None:
    if "statistics" not in path and "config" not in path:  # those are written when a run begins
        after(SECOND)
    with FullDisk(operation, path):
        done = daily(config, out)
    assert done.code == 2, done.err
    assert "space" in done.err or "full" in done.err
    assert fnmatch(done.err, "*/checkpoints/step-*" if "checkpoints" in path else f"*{path}*"), done.err
    assert daily(config, out).code == 0
    assert_same_outcome(whole, out)
    assert_same_bits(whole, out)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("day", [FIRST, SECOND])
def test_a_disk_full_at_any_write_of_a_night(config: Path, tmp_path: Path, nights: Nights, day: str) -> None:
    number, code = 0, 2
    while code == 2:
        number += 1
        out = tmp_path / f"run{number}"
        if day != FIRST:
            nights.copy(FIRST, config, out)
        with FullDisk(number=number):
            code = daily(config, out, "--until", day).code
        if code == 2:
            assert daily(config, out, "--until", day).code in (0, 75)
        assert_same_outcome(nights.run(day), out)
        shutil.rmtree(out)
    assert code == 0
    assert number > 50, "every write was the first that failed once"


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
    config: Path, trained_until: Callable[[str], Path], tmp_path: Path, flaky: Flaky
) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    words = settings(f"daily.publish=flaky://{remote}/published")
    assert daily(config, f"flaky://{remote}/run", "--until", SECOND, *words).code == 0  # type: ignore[arg-type]
    assert flaky.failures > 10
    mine, theirs = (run / "ledger.jsonl" for run in (remote / "run", trained_until(SECOND)))
    assert mine.read_text() == theirs.read_text()
    assert genctr("verify", f"flaky://{remote}/run").code == 0


def test_a_model_that_serves_and_cannot_be_read_is_waited_for(
    config: Path, out: Path, trained_until: Callable[[str], Path], after: After, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the gates that compare would have nothing to ask, and let any model pass."""
    after(FIRST)
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
    assert daily(config, out, "--until", SECOND).code == 0
    assert_same_outcome(trained_until(SECOND), out)
