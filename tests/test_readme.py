"""The README tells the truth: its map, its commands, its two promises `make demo` and `make test`."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import cli
from models.registries import DECODERS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
FOLDERS = ("launch", "pipeline", "models", "data")
ROOMS = tuple(
    f"pipeline/{room}"
    for room in (
        *("daily", "jobs", "serving", "planning", "builders", "training"),
        *("checkpoint", "distributed", "run_folder", "config"),
    )
)
COMMANDS = [line for block in re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL) for line in block.splitlines()]
INDENTED = [line.strip().partition("   ")[0] for line in README.splitlines() if line.startswith("    ")]


def purpose(file: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]


def clean_copy(folder: Path) -> Path:
    """The project as a fresh clone would have it."""
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", *ignored))
    return folder


def run(command: str, folder: Path, **settings: str) -> str:
    """Run a shell command of the README, its modules taken from `folder`; return what it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "MAKE", "MFLAGS"))}
    env |= {"PYTHONPATH": str(folder), **settings}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, shell=True, cwd=folder, env=env, text=True, **streams)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def test_the_map_says_of_every_room_what_its_docstring_says() -> None:
    block = README.partition("<!-- map -->")[2].partition("<!-- /map -->")[0]
    rooms = [path for folder in FOLDERS for path in (ROOMS if folder == "pipeline" else (folder,))]

    assert block.split() == " ".join(f"{room}/ {purpose(ROOT / room / '__init__.py')}" for room in rooms).split()


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_package_says_what_its_files_are(folder: str) -> None:
    for init in (ROOT / folder).rglob("__init__.py"):
        files = {file.name: purpose(file) for file in init.parent.glob("*.py") if file != init}
        rooms = {f"{room.parent.name}/": purpose(room) for room in init.parent.glob("*/__init__.py")}
        lines = (ast.get_docstring(ast.parse(init.read_text())) or "").splitlines()[2:]

        assert dict(line.split(maxsplit=1) for line in lines) == files | rooms, init


def test_the_page_of_decoders_has_a_line_for_each() -> None:
    lines = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "decoders.md").read_text(), re.MULTILINE)

    assert sorted(lines) == sorted(DECODERS)
    assert f"any of {len(DECODERS)} [decoders]" in README


def anchors(page: str) -> set[str]:
    """What a link into a page may name: its headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/**/*.md")], ids=str)
def test_every_link_of_a_page_leads_to_a_heading_or_a_file(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def test_the_readme_shows_exactly_two_commands() -> None:
    assert COMMANDS == ["make demo", "make test"]


@pytest.mark.parametrize("line", [line for line in INDENTED if line.startswith("genctr ")])
def test_every_genctr_line_is_a_command_there_is(line: str) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main([shlex.split(line)[1], "--help"])


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in INDENTED if line.startswith("torchx run ")])
def test_every_torchx_line_makes_a_job(line: str) -> None:
    words = shlex.split(line)[2:]

    job = run(shlex.join([sys.executable, "-m", "torchx.cli.main", "run", "--dryrun", *words]), ROOT)

    assert "-m launch" in job


def test_make_demo_trains_every_day_and_says_where_the_run_is(tmp_path: Path) -> None:
    copy = clean_copy(tmp_path / "genctr")

    told = run(f"make demo VENV={sys.prefix}", copy, DEMO_ROWS="1000")

    for day in ("2026-11-02", "2026-11-03", "2026-11-04", "2026-11-05"):  # nothing is trained before the first one
        assert day in told
    assert "best auc" in told
    assert "runs/demo" in told
    assert (copy / "runs" / "demo" / "log.jsonl").is_file()


def test_make_test_all_runs_the_slow_tests_too(tmp_path: Path) -> None:
    copy = clean_copy(tmp_path / "genctr")

    told = run(f"make --dry-run test-all VENV={sys.prefix}", copy)

    assert "-m 'not gpu'" in told
    assert "pip" not in told, "nothing is installed into an environment of one's own"


@pytest.mark.slow
def test_the_demo_installs_the_runtime_alone(tmp_path: Path) -> None:
    copy = clean_copy(tmp_path / "genctr")

    assert ".[dev]" not in run("make --dry-run demo", copy)
    for target in ("setup", "test", "test-all", "lint"):
        assert ".[dev]" in run(f"make --dry-run {target}", copy), target


@pytest.mark.slow
def test_make_test_runs_the_default_suite(tmp_path: Path) -> None:
    copy = clean_copy(tmp_path / "genctr")

    told = run(f"make test VENV={sys.prefix}", copy, PYTEST_ADDOPTS="--collect-only -q")

    assert "test_the_readme_shows_exactly_two_commands" in told
    assert "test_the_line_that_doctor_prints_fixes" not in told, "slow tests are not in it"


@pytest.fixture(scope="module")
def installed_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy after `make setup`, which had nothing but Python and pip."""
    copy = clean_copy(tmp_path_factory.mktemp("installed") / "genctr")
    run("make setup", copy)
    return copy


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_installation_from_nothing_is_whole_and_made_once(installed_copy: Path) -> None:
    assert "No broken requirements" in run(".venv/bin/python -m pip check", installed_copy)
    assert "WRONG" not in run(".venv/bin/genctr doctor", installed_copy)
    assert "pip install" not in run("make setup", installed_copy)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_takes_five_minutes_at_most_after_the_install(installed_copy: Path) -> None:
    started = time.monotonic()

    told = run("make demo", installed_copy)

    assert time.monotonic() - started < 300
    assert "2026-11-05" in told


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "breaking",
    [
        "pip uninstall --yes torchrec",
        "pip uninstall --yes fbgemm-gpu-cpu",
        "pip install --no-deps rich==14.0.0",
        "-c 'import pyarrow.lib, os; os.remove(pyarrow.lib.__file__)'",
    ],
)
def test_the_line_that_doctor_prints_fixes(installed_copy: Path, breaking: str) -> None:
    run(f".venv/bin/python {'-m ' if breaking.startswith('pip') else ''}{breaking}", installed_copy)

    (line,) = re.findall(r"^  fix:  (.+)$", run(".venv/bin/genctr doctor || true", installed_copy), re.MULTILINE)
    run(line, installed_copy)

    assert "WRONG" not in run(".venv/bin/genctr doctor", installed_copy)
