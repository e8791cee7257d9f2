"""docs/managed.md: its commands run, its schema is one, its keys are those that there are."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from data.schema import Managed, Schema
from tests.integration.nightly import Nightly
from tests.tiny import ROOT, genctr

PAGE = (ROOT / "docs" / "managed.md").read_text()
COMMANDS = re.findall(r"^    genctr (.+)$", PAGE, re.MULTILINE)


@pytest.mark.slow
def test_the_commands_of_the_page_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [command.split()[0] for command in COMMANDS] == ["synth", "daily", "status", "verify", "score"]
    for command in COMMANDS:
        words = shlex.split(command.replace("--rows 60000", "--rows 1000"))
        if words[0] == "daily":
            settings = ("--set", f"data.root={tmp_path}/runs/demo-log", "--set", "daily.gates={}")
            night = Nightly(ROOT / words[1], tmp_path / words[3], *settings, ranks=2)
            assert night.ended() == 0, night.text
            continue
        done = genctr(*words)
        assert done.code == 0, f"{command}: {done.err}"
    assert 'genctr_ids{table="item_id",kind="held"}' in (tmp_path / "runs" / "managed" / "metrics.prom").read_text()


def test_the_schema_of_the_page_is_one() -> None:
    block = re.search(r"^    fields:\n(?:      .+\n)+", PAGE, re.MULTILINE)
    assert block is not None
    schema = Schema.model_validate({"name": "feed", "label": {"column": "is_click"}, **yaml.safe_load(block[0])})
    assert [field.name for field in schema.managed] == ["item_id"]


def test_every_key_of_a_managed_table_is_on_the_page() -> None:
    for key in Managed.model_fields:
        assert f"`managed.{key}`" in PAGE
