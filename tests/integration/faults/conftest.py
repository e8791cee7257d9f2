"""Four small days, and runs that have trained the first of them: a test begins where its fault does."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.nightly import DAYS, After, Nights, daily, states, write_daily


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
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    return Nights(write_daily(tmp_path_factory.mktemp("nights"), days=len(DAYS)))


@pytest.fixture
def trained_until(nights: Nights) -> Callable[[str], Path]:
    """The run folder as it is after the night of a day. Not to be written to."""
    return nights.run


@pytest.fixture
def after(config: Path, out: Path, nights: Nights) -> After:
    """`after(day)`: `out` becomes a run that has trained this test's log until that day."""
    return lambda day: nights.copy(day, config, out)
