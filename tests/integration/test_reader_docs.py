"""docs/reader.md: the reader of an outside package trains a log, through its entry point."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.tiny import ROOT, train


def block(language: str) -> str:
    """The first block of the page in this language."""
    text, *_ = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "reader.md").read_text(), re.DOTALL)
    return text


def test_the_reader_of_the_docs_trains_a_log_of_json_lines_and_leaves_broken_files_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    (site / "feed_logs-1.dist-info").mkdir(parents=True)
    (site / "feed_logs.py").write_text(block("python"))
    points = re.search(r'"genctr.readers"\]\n(.*)', block("toml"), re.DOTALL)
    assert points is not None
    (site / "feed_logs-1.dist-info" / "entry_points.txt").write_text("[genctr.readers]\n" + points[1].replace('"', ""))
    (site / "feed_logs-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: feed-logs\nVersion: 1\n")
    for day, rows in [("2026-11-01", 301), ("2026-11-02", 77)]:
        folder = tmp_path / "logs" / f"day={day}"
        folder.mkdir(parents=True)
        lines = [json.dumps({"user": row % 7, "item": f"i{row % 5}", "click": int(row % 3 == 0)}) for row in range(rows)]
        (folder / "part-0.jsonl").write_text("\n\n".join(lines) + "\n")
        (folder / "part-1.jsonl").write_text(lines[0] + "\n" + '{"user": 3, "item"\n')
        (folder / "_SUCCESS").touch()
    fields = [{"name": "user", "kind": "id", "ids": "hash", "rows": 50}, {"name": "item", "kind": "id", "ids": "vocab"}]
    schema = {"name": "feed", "label": {"column": "click"}, "fields": fields}
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(schema))
    data = yaml.safe_load(block("yaml"))["data"] | {"root": str(tmp_path / "logs"), "bad_files": "quarantine"}
    run = {"schema": "schema.yaml", "data": data, "model": {"decoder": "fm", "dim": 4}, "train": {"global_batch_rows": 64}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run, default_flow_style=False))

    monkeypatch.syspath_prepend(str(site))
    done = train(tmp_path / "run.yaml", tmp_path / "run")

    assert done.code == 0, done.err
    assert "378 rows trained" in done.out
    for day in ("2026-11-01", "2026-11-02"):
        broken = tmp_path / "logs" / f"day={day}" / "part-1.jsonl"
        assert f"genctr: day {day} is read without {broken}: these are not JSON lines: " in done.err
