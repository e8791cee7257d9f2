"""docs/generative.md: its commands run, on a smaller log, and its stages are stages."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from pipeline.config.run import load
from tests.tiny import ROOT, SCHEMA, genctr

PAGE = (ROOT / "docs" / "generative.md").read_text()
COMMANDS = re.findall(r"^    genctr (.+)$", PAGE, re.MULTILINE)


@pytest.mark.slow
def test_the_commands_of_the_page_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [command.split()[0] for command in COMMANDS] == ["synth", "train", "sample", "diagnose"]
    for command in COMMANDS:
        words = shlex.split(command.replace("--rows 60000", "--rows 700"))
        if words[0] == "train":
            words = [
                "train",
                str(ROOT / words[1]),
                *words[2:],
                "--set",
                "train.ranks=1",
                "--set",
                f"data.root={tmp_path}/runs/demo-log",
            ]
        done = genctr(*words, *(["--quiet"] if words[0] != "synth" else []))
        assert done.code == 0, f"{command}: {done.err}"
    assert (tmp_path / "runs" / "hetegen" / "diagnosis" / "history.png").exists()


def test_the_stages_of_the_page_are_stages(tmp_path: Path) -> None:
    block = re.search(r"^    stages:\n(?:      .+\n)+", PAGE, re.MULTILINE)
    assert block is not None
    run = {
        "schema": str(SCHEMA),
        "data": {"root": "/log", "days": "2026-11-01..2026-11-10", "validation": ["2026-11-11"]},
        "model": {"family": "denoiser"},
        **yaml.safe_load(block[0]),
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    stages = load(str(path))[0].resolved()

    assert [(stage.name, stage.objective, stage.freeze) for stage in stages] == [
        ("pretrain", "denoise", ()),
        ("rank", "rank", ()),
        ("serve", "rank", ("tables",)),
    ]


@pytest.mark.parametrize("words", re.findall(r"\| `(model: \{.+?\})`", PAGE))
def test_what_the_page_says_a_model_is_called_is_one(tmp_path: Path, words: str) -> None:
    run = {"schema": str(SCHEMA), "data": {"root": "/log", "days": ["2026-11-01"]}, **yaml.safe_load(words)}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run))

    assert load(str(path))[0].resolved()


def test_the_figures_of_the_page_are_those_that_were_measured() -> None:
    measured = (ROOT / "benchmarks" / "README.md").read_text()
    block = PAGE.partition("| model | KuaiRand")[2].partition("\n\n")[0]
    figures = re.findall(r"[+-]\.\d+ ± \.\d+", block)

    assert len(figures) == 8
    assert [figure for figure in figures if figure not in measured] == []
    assert [time for time in re.findall(r"\b\d+\.\d\d\b", block) if time not in measured] == []
