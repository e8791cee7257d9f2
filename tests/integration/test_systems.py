"""launch/configs/systems: every run file there is valid, has its row on the page, trains, and is trained by `make systems`."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.synthetic import write
from pipeline.config.run import load
from tests.jobs import events
from tests.test_readme import clean_copy, run
from tests.tiny import ROOT, genctr, process, some

FOLDER = ROOT / "launch" / "configs" / "systems"
FILES = sorted(file.name for file in FOLDER.glob("*.yaml") if not file.name.endswith(".schema.yaml"))
PAGE = (ROOT / "docs" / "systems.md").read_text()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("systems") / "log"
    write(str(folder), days=5, rows=300, seed=2026, users=60, items=40, events=True)
    return folder


def test_the_page_has_a_row_and_a_section_for_every_file_and_for_no_other() -> None:
    rows = re.findall(r"^\| \[.+?\]\(#(.+?)\) \|.*`launch/configs/systems/(.+?)` \|", PAGE, re.MULTILINE)

    assert sorted(file for _, file in rows) == FILES
    sections = [title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", PAGE, re.MULTILINE)]
    assert [anchor for anchor, _ in rows] == sections


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_called_as_its_run_and_says_how_to_run_it(name: str) -> None:
    config, _ = load(str(FOLDER / name))

    assert name == f"{config.name}.yaml"
    assert f"genctr train launch/configs/systems/{name} --out runs/systems/{config.name}" in (FOLDER / name).read_text()


@pytest.mark.parametrize("name", FILES)
def test_every_file_trains_and_scores(name: str, log: Path, tmp_path: Path) -> None:
    words = [f"data.root={log}", "train.ranks=1", "train.global_batch_rows=64", "train.max_steps=3"]
    words = [word for setting in words for word in ("--set", setting)]

    done = genctr("train", FOLDER / name, "--out", tmp_path / "run", "--quiet", *words)

    assert done.code == 0, done.err
    assert "test" in done.out


@pytest.mark.parametrize("name", some(FILES, "contrast.yaml", "dhen_cvr.yaml"))
def test_every_file_goes_on_with_another_number_of_ranks(name: str, log: Path, tmp_path: Path) -> None:
    """Stopped in its steps, or in its first stage; then to the end, whatever the ranks."""
    config, _ = load(str(FOLDER / name))
    words = [f"data.root={log}", "data.days=2026-11-01..2026-11-01", "train.global_batch_rows=64", "checkpoint.every_steps=2"]
    if config.stages:
        words.append("stages.0.train={global_batch_rows: 64, epochs: 1}")
    words = [word for setting in words for word in ("--set", setting)]
    for ranks, most in ((1, "2"), (2, "4"), (1, "null")):
        limits = ["--set", f"train.ranks={ranks}", "--set", f"train.max_steps={most}"]
        done = process("train", FOLDER / name, "--out", tmp_path / "run", "--quiet", *words, *limits, folder=tmp_path)
        assert done.code == 0, done.err
    trained = [event["rows"] for event in events(tmp_path / "run", "trained") if event.get("stage", "rank") == "rank"]
    whole = sum(pq.read_metadata(file).num_rows for file in (log / "day=2026-11-01").glob("*.parquet"))
    assert sum(trained[-1:]) == whole


@pytest.mark.parametrize("name", some(FILES, "time_aware.yaml", "apg.yaml"))
def test_every_file_publishes_what_scores_as_training_says(name: str, log: Path, tmp_path: Path) -> None:
    words = ["data.days=2026-11-01..", "data.test=[]", "train.ranks=1", "train.global_batch_rows=64", "daily.first_gates={}"]
    if name == "contrast.yaml":  # days that a stage trains before the nights begin have to end
        words.append("stages.0.data={days: 2026-11-01..2026-11-01}")
    words = [word for setting in (f"data.root={log}", *words) for word in ("--set", setting)]
    done = genctr("daily", FOLDER / name, "--out", tmp_path / "run", "--quiet", "--until", "2026-11-01", *words)
    assert done.code == 0, done.err
    told = genctr("score", tmp_path / "run" / "published", "--data", log / "day=2026-11-02", "--out", tmp_path / "scores")
    assert told.code == 0, told.err
    [scores] = [pq.read_table(file) for file in sorted((tmp_path / "scores").glob("*.parquet"))[:1]]
    predicted = [name for name in scores.column_names if name != "row" and not name.endswith("_logit")]
    assert all(np.isfinite(scores[name].to_numpy()).all() for name in predicted)


@pytest.mark.slow
def test_make_systems_trains_them_all(tmp_path: Path) -> None:
    copy = clean_copy(tmp_path / "genctr")
    for name in FILES[1:]:  # every file is trained above: here it is the loop that is tried
        (copy / "launch" / "configs" / "systems" / name).unlink()
    shutil.copy(copy / "launch" / "configs" / "systems" / FILES[0], copy / "launch" / "configs" / "systems" / "another.yaml")

    told = run(f"make systems VENV={sys.prefix}", copy, SYSTEMS_ROWS="500")

    assert "1 of 2: launch/configs/systems/another.yaml" in told
    assert f"2 of 2: launch/configs/systems/{FILES[0]}" in told
    assert (copy / "runs" / "systems" / "another" / "log.jsonl").is_file()
    assert "log made" not in run(f"make systems VENV={sys.prefix}", copy), "and again, from what is there"


def test_make_systems_has_every_file(tmp_path: Path) -> None:
    told = run(f"make --dry-run systems VENV={sys.prefix}", ROOT)

    assert re.findall(r"launch/configs/systems/(\S+\.yaml)", told.partition("for file in ")[2].partition("; do")[0]) == FILES
