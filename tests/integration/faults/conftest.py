"""Four small days, and runs that have trained the first of them: a test begins where its fault does."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.nightly import DAYS, After, daily, states, write_daily


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_daily(tmp_path, days=len(DAYS))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one undisturbed job makes of the four days. Not to be written to."""
    folder = tmp_path_factory.mktemp("whole")
    assert daily(write_daily(folder, days=len(DAYS)), folder / "run").code == 0
    assert states(folder / "run") == dict.fromkeys(DAYS, "published")
    return folder / "run"


@pytest.fixture(scope="session")
def trained_until(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run folder as it is after the night of a day, each day trained once a session."""
    folder = tmp_path_factory.mktemp("nights")
    config = write_daily(folder, days=len(DAYS))

    def run_of(day: str) -> Path:
        run = folder / day
        if not run.exists():
            if day != DAYS[0]:
                shutil.copytree(run_of(DAYS[DAYS.index(day) - 1]), run)
            assert daily(config, run, "--until", day).code == 0
        return run

    return run_of


@pytest.fixture
def after(config: Path, out: Path, trained_until: Callable[[str], Path]) -> After:
    """`after(day)`: `out` becomes a run that has trained this test's log until that day."""

    def begin(day: str) -> None:
        run = trained_until(day)
        shutil.copytree(run, out)
        _, _, stored = (out / "config.yaml").read_text().partition("\n")  # its digest goes: the log lies elsewhere
        (out / "config.yaml").write_text(stored.replace(str(run.parent), str(config.parent)))

    return begin
