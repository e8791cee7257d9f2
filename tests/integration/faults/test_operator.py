"""What a person decides and asks: approve, roll back, backfill, a dry run, and the words that are refused."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.nightly import (
    FIRST,
    FOURTH,
    SECOND,
    THIRD,
    After,
    assert_proven,
    daily,
    files,
    ledger,
    published,
    settings,
    states,
)
from tests.jobs import assert_same_bits
from tests.tiny import genctr


@pytest.fixture
def poisoned(config: Path) -> Path:
    """The third day's labels are turned round."""
    for file in files(config, THIRD):
        table = pq.read_table(file, partitioning=None)
        at = table.schema.get_field_index("is_click")
        turned = pa.array([1 - value for value in table["is_click"].to_pylist()], table.schema.field(at).type)
        pq.write_table(table.set_column(at, "is_click", turned), file)
    return config


def test_a_bad_day_is_held_and_a_person_may_approve_it_and_go_back(poisoned: Path, out: Path, after: After) -> None:
    words = settings("daily.gates={auc: -0.5, ne_ceiling: 1.2}")
    after(SECOND)
    serving = json.loads((out / "published" / "current.json").read_text())
    done = daily(poisoned, out, "--until", THIRD, *words)
    assert done.code == 3
    assert states(out)[THIRD] == "held"
    assert json.loads((out / "published" / "current.json").read_text()) == serving
    assert "ne_ceiling" in genctr("status", out).out
    assert genctr("approve", out, FIRST, "--reason", "why not").code == 2
    assert genctr("approve", out, THIRD, "--reason", "the campaign was turned round").code == 0
    assert states(out)[THIRD] == "approved"
    assert json.loads((out / "published" / "current.json").read_text())["bundle"].startswith(THIRD)
    approved = next(entry for entry in ledger(out) if entry["event"] == "approved")
    assert approved["reason"] == "the campaign was turned round"
    assert approved["who"]
    assert genctr("rollback", out, "--reason", "it was not").code == 0
    assert json.loads((out / "published" / "current.json").read_text()) == serving
    assert daily(poisoned, out, *words).code == 0  # a held model keeps training
    assert states(out) == published(FIRST, SECOND, FOURTH) | {THIRD: "approved"}
    assert_proven(out)


def test_a_person_without_a_name_is_known_by_a_number(poisoned: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = settings("daily.gates={auc_floor: 0.9}")
    assert daily(poisoned, out, "--until", SECOND, *words).code == 3
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # of a container that has no such user

    assert genctr("approve", out, SECOND, "--reason", "it is new").code == 0

    assert ledger(out)[-1]["who"] == "54321"
    assert states(out)[SECOND] == "approved"
    assert_proven(out)


def test_backfill_trains_days_again_from_a_named_checkpoint(config: Path, out: Path, whole: Path, after: After) -> None:
    after(FOURTH)
    done = daily(config, out, "--backfill", f"{FOURTH}..{FOURTH}", "--from", f"day-{SECOND}")
    assert done.code == 2
    assert f"day-{THIRD}" in done.err
    words = ("--backfill", f"{THIRD}..{FOURTH}", "--from", f"day-{SECOND}")
    planned = [line.split()[:2] for line in daily(config, out, *words, "--dry-run").out.splitlines()]
    assert planned == [["rewind", THIRD], ["train", THIRD], ["train", FOURTH], ["wait", FOURTH]]
    assert daily(config, out, *words).code == 0
    assert_same_bits(whole, out)
    assert_proven(out)


def test_a_dry_run_says_what_and_why_and_does_nothing(config: Path, out: Path) -> None:
    done = daily(config, out, "--dry-run", "--until", SECOND)
    assert done.code == 0
    assert [line.split()[:2] for line in done.out.splitlines()] == [["train", FIRST], ["train", SECOND], ["wait", SECOND]]
    assert not out.exists()


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    for words in (["status"], ["verify"], ["approve", "--reason", "x"], ["rollback", "--reason", "x"]):
        done = genctr(words[0], tmp_path / "typo", *([FIRST] if words[0] == "approve" else []), *words[1:])
        assert done.code == 2
        assert "this is not a run folder" in done.err
    assert not (tmp_path / "typo").exists()


def test_a_failing_night_calls_the_hook(config: Path, out: Path, after: After, tmp_path: Path) -> None:
    news = tmp_path / "news.json"
    words = settings(f"daily.hooks.command=tee {news}", "daily.hooks.events=[failed, published]")
    after(SECOND)
    assert daily(config, out, *words, "--until", THIRD).code == 0
    assert json.loads(news.read_text())["event"] == "published"
    files(config, FOURTH)[0].write_bytes(b"PAR1")
    assert daily(config, out, *words).code == 2
    told = json.loads(news.read_text())
    assert (told["event"], told["run"]) == ("failed", str(out))
    assert files(config, FOURTH)[0].name in told["text"]


@pytest.mark.parametrize("until", ["2026-11-2", "20261102", "yesterday"])
def test_until_is_a_date_and_nothing_else(config: Path, out: Path, until: str) -> None:
    for words in (["--dry-run"], []):
        done = daily(config, out, "--until", until, *words)
        assert done.code == 2
        assert f"--until {until!r} is not a date" in done.err
    assert not (out / "ledger.jsonl").exists()


def test_days_that_the_list_leaves_out_are_left_out(config: Path, out: Path) -> None:
    words = settings("daily.missing_day_grace_hours=0", f"data.days=[{FIRST}, {THIRD}..]")
    done = daily(config, out, "--dry-run", *words)
    assert [line.split()[:2] for line in done.out.splitlines()] == [
        ["train", FIRST],
        ["train", THIRD],
        ["train", FOURTH],
        ["wait", "2026-11-05"],
    ]


def test_a_dry_run_refuses_what_the_night_would_refuse(config: Path, out: Path, after: After) -> None:
    after(FIRST)
    words = settings("tables.lr=0.01")
    dry, real = daily(config, out, "--dry-run", *words), daily(config, out, *words)
    assert (dry.code, dry.err) == (real.code, real.err)
    assert dry.code == 2


@pytest.mark.parametrize("word", ["train.epochs=2", "daily.gates={acu: 0.5}", "data.days=[2026-11-03, 2026-11-01..]"])
def test_a_dry_run_refuses_what_no_night_can_do(config: Path, out: Path, word: str) -> None:
    dry, real = daily(config, out, "--dry-run", *settings(word)), daily(config, out, *settings(word))
    assert (dry.code, dry.err) == (real.code, real.err)
    assert dry.code == 2


def test_a_dry_run_compares_rows_too(config: Path, out: Path) -> None:
    done = daily(config, out, "--dry-run", *settings("daily.file_identity=rows"))
    assert done.code == 0
    assert len(done.out.splitlines()) == 5


@pytest.mark.parametrize("word", ["daily.gates={acu: 0.5}", "daily.gates={auc: [0, 1]}", "daily.table_decay={usr_id: 0.9}"])
def test_a_name_that_nobody_knows_is_told_before_a_day_is_trained(config: Path, out: Path, word: str) -> None:
    done = daily(config, out, *settings(word))
    assert done.code == 2
    assert not (out / "ledger.jsonl").exists()
