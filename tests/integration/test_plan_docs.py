"""docs/plan.md: its commands run and print what the page shows, its settings are settings."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from pipeline.config.run import load
from pipeline.config.tables import TableConfig
from pipeline.config.train import TrainConfig
from tests.tiny import ROOT, SCHEMA, genctr

PAGE = (ROOT / "docs" / "plan.md").read_text()
SHOWN = re.findall(r"^    genctr (plan .+)\n\n<!-- output -->\n((?:    .*\n|\n)*)<!-- /output -->", PAGE, re.MULTILINE)
COMMANDS = re.findall(r"^    genctr (.+)$", PAGE.partition("## A plan that a job keeps to")[2], re.MULTILINE)


def test_three_plans_are_shown() -> None:
    assert len(SHOWN) == 3
    assert len(SHOWN) + len(COMMANDS) == len(re.findall(r"^    genctr ", PAGE, re.MULTILINE))


@pytest.mark.parametrize(("command", "output"), SHOWN, ids=[command for command, _ in SHOWN])
def test_a_shown_plan_is_what_its_command_prints(command: str, output: str) -> None:
    words = shlex.split(command)

    done = genctr(words[0], ROOT / words[1], *words[2:])

    assert done.code == ("does not fit" in output)
    assert done.out.rstrip("\n") == "\n".join(line[4:].rstrip() for line in output.rstrip("\n").splitlines())


def test_the_commands_of_the_page_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [command.split()[0] for command in COMMANDS] == ["synth", "train", "plan", "train"]
    for command in COMMANDS:
        words = shlex.split(command.replace("--rows 60000", "--rows 700"))
        if words[0] != "synth":
            words[1] = str(ROOT / words[1])
            words += ["--set", f"data.root={tmp_path}/runs/demo-log", "--set", "train.ranks=1"]
        done = genctr(*words, *(["--quiet"] if words[0] == "train" else []))
        assert done.code == 0, f"{command}: {done.err}"
    assert (tmp_path / "runs" / "demo-plan.json").exists()


def test_the_settings_of_the_page_are_settings(tmp_path: Path) -> None:
    block = re.search(r"^    train:\n(?:      .+\n)+", PAGE, re.MULTILINE)
    assert block is not None
    run = {"schema": str(SCHEMA), "data": {"root": "/log", "days": "2026-11-01.."}, **yaml.safe_load(block[0])}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    assert load(str(path))[0].train.hardware.device == "a100"
    name, rows = "", re.findall(r"^\| (?:`(\S+)`)? *\| ([^|]+) \| [^|]+ \|$", PAGE, re.MULTILINE)
    assert len(rows) > 10
    for named, values in rows:
        name = named or name
        if "number" in values:
            assert load(str(path), [f"{name}=1"])[0]
        for value in values.partition(":")[0].partition(", rounded")[0].split(", ") if "number" not in values else ():
            assert load(str(path), [f"{name}={value}"])[0]
    assert "auto" in TableConfig.model_fields["compute_kernel"].annotation.__args__
    assert "auto" in TrainConfig.model_fields["pipeline"].annotation.__args__
