"""docs/checkpoints.md: its commands run one after the other."""

import re
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.jobs import finish, start
from tests.tiny import ROOT, genctr

PAGE = (ROOT / "docs" / "checkpoints.md").read_text()
COMMANDS = re.findall(r"^    genctr (.+)$", PAGE, re.MULTILINE)


@pytest.mark.slow
def test_the_commands_of_the_page_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [command.split()[:2] for command in COMMANDS]
    assert [first for first, _ in words[:2]] == ["synth", "train"]
    assert {second for first, second in words if first == "ckpt"} == set(re.findall(r"^\| `([\w-]+)` \|", PAGE, re.MULTILINE))
    for command in COMMANDS:
        own = shlex.split(command.replace("--rows 60000", "--rows 700"))
        if own[0] == "train":
            finish(start(ROOT / own[1], own[3], 2, f"data.root={tmp_path}/runs/demo-log"))
            continue
        done = genctr(*own)
        assert done.code == 0, f"{command}: {done.err}"
    assert pq.read_table("runs/device.parquet").column_names == ["row", "id", "vector"]
