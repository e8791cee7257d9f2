"""docs/daily.md: its commands run, its exit codes are the command's, its settings are settings."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from pipeline.config.run import load
from tests.integration.nightly import Nightly
from tests.tiny import ROOT, SCHEMA, genctr

PAGE = (ROOT / "docs" / "daily.md").read_text()
COMMANDS = re.findall(r"^    genctr (.+)$", PAGE, re.MULTILINE)


def test_the_commands_of_the_page_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kinds = ["synth", "daily", "daily", "status", "verify", "score", "rollback", "schedule"]
    assert [command.split()[0] for command in COMMANDS] == kinds
    for command in COMMANDS:
        words = shlex.split(command.replace("--rows 60000", "--rows 1000"))
        if words[0] in ("daily", "schedule"):
            words[1] = str(ROOT / words[1])
        if words[0] == "daily":
            words += ["--set", f"data.root={tmp_path}/runs/demo-log", "--quiet"]
        if words[0] == "daily" and "--dry-run" not in words:
            out = words.index("--out")
            night = Nightly(Path(words[1]), tmp_path / words[out + 1], *words[out + 2 :], *LENIENT, ranks=2)
            assert night.ended() == 0, night.text
            continue
        done = genctr(*words)
        assert done.code == 0, f"{command}: {done.err}"
    assert (tmp_path / "runs" / "nightly" / "metrics.prom").exists()


LENIENT = ("--set", "daily.gates={}")


def test_the_settings_of_the_page_are_settings(tmp_path: Path) -> None:
    block = re.search(r"^    daily:\n(?:      .+\n)+", PAGE, re.MULTILINE)
    assert block is not None
    run = {"schema": str(SCHEMA), "data": {"root": "/log", "days": "2026-11-01.."}, **yaml.safe_load(block[0])}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    daily = load(str(path))[0].daily
    assert daily.gates["calibration"] == (0.95, 1.05)
    for key, value in re.findall(r"`daily\.(\w+): (\w[\w-]*)`", PAGE):
        assert load(str(path), [f"daily.{key}={value}"])[0]


def test_train_refuses_days_without_an_end() -> None:
    done = genctr("train", ROOT / "launch/configs/daily.yaml", "--set", "train.ranks=1", "--set", "data.root=/nowhere")
    assert done.code == 2
