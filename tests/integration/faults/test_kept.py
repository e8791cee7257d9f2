"""What a job itself keeps: ledger, checkpoints and bundles that were damaged or lost are named, repaired or refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.seal import sealed
from pipeline.daily.ledger import Ledger
from tests.integration.nightly import (
    FIRST,
    SECOND,
    THIRD,
    After,
    add_late,
    assert_proven,
    assert_same_outcome,
    daily,
    files,
    ledger,
    settings,
    states,
)
from tests.jobs import assert_same_bits
from tests.tiny import genctr


def test_verify_sees_a_row_that_is_another_though_nothing_else_is(config: Path, out: Path, after: After) -> None:
    after(SECOND)
    assert_proven(out)
    file = files(config, FIRST)[0]
    table = pq.read_table(file, partitioning=None)
    users = table["user_id"].to_pylist()
    at = table.schema.get_field_index("user_id")
    pq.write_table(table.set_column(at, "user_id", pa.array([users[0] + 1, *users[1:]], table.schema.field(at).type)), file)
    done = genctr("verify", out)
    assert done.code == 1
    assert f"{file.name} has other content" in done.err


def test_verify_says_which_rows_were_not_trained_or_twice(config: Path, out: Path, after: After) -> None:
    after(SECOND)
    name = add_late(config, FIRST)
    done = genctr("verify", out)
    assert done.code == 1
    assert f"{name} was not trained: it came later" in done.err
    assert daily(config, out, "--until", SECOND, *settings("daily.on_late_files=append")).code == 0
    assert_proven(out)
    twice = Ledger(str(out))
    entry = next(own for own in twice.entries if own["event"] == "trained" and own["day"] == FIRST)
    twice.append("trained", {**entry, "day": f"{FIRST}+2", "n": len(twice.entries), "prev": twice.mark["prev"]})
    done = genctr("verify", out)
    assert done.code == 1
    assert f"{next(iter(entry['files']))} was trained in another part of the day too" in done.err


def test_verify_leaves_out_what_one_night_has_left_out_and_the_next_would_not(config: Path, out: Path) -> None:
    bad, other = files(config, FIRST)[:2]
    bad.write_bytes(b"PAR1")
    rows = pq.read_table(other, partitioning=None)
    labels = pa.array([None, *rows["is_click"].to_pylist()[1:]], rows.schema.field("is_click").type)
    pq.write_table(rows.set_column(rows.schema.get_field_index("is_click"), "is_click", labels), other)
    words = settings("data.bad_files=quarantine", "data.bad_rows=skip", "data.max_bad_rows_share=0.1")
    assert daily(config, out, "--until", FIRST, *words).code == 0
    assert daily(config, out, "--until", FIRST).code == 75
    assert_proven(out)
    good = other.read_bytes()
    other.write_bytes(good[:100].ljust(len(good), b" "))
    assert genctr("verify", out).code == 1


@pytest.mark.parametrize("lines", [0, 3, -1])
def test_verify_sees_a_ledger_that_lost_lines(config: Path, out: Path, lines: int, after: After) -> None:
    after(SECOND)
    path = out / "ledger.jsonl"
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:lines]) if lines >= 0 else whole[:-30])
    assert lines >= 0 or "the last line" in genctr("status", out).err
    done = genctr("verify", out)
    assert done.code == 1
    assert "the last line" in done.err if lines < 0 else "the newest checkpoint has seen" in done.err


def test_verify_sees_that_a_trained_day_is_in_no_checkpoint(config: Path, out: Path, after: After) -> None:
    after(SECOND)
    newest = json.loads((out / "checkpoints" / f"day-{SECOND}.json").read_text())["mark"]
    shutil.rmtree(out / "checkpoints" / newest)
    done = genctr("verify", out)
    assert done.code == 1
    assert f"no checkpoint is left that has day {SECOND}" in done.err


def test_a_ledger_whose_last_line_is_cut_is_fixed(config: Path, out: Path, after: After) -> None:
    after(SECOND)
    path = out / "ledger.jsonl"
    text = path.read_text()
    path.write_text(text[:-30])
    done = daily(config, out, "--until", SECOND)
    assert done.code == 0
    assert "is damaged" in done.err
    assert path.read_text() == text


def test_a_ledger_that_lost_what_the_last_day_said_gets_it_back(config: Path, out: Path, after: After) -> None:
    after(SECOND)
    path = out / "ledger.jsonl"
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    scored = max(at for at, line in enumerate(lines) if json.loads(line)["event"] == "scored")
    path.write_text("".join(lines[: scored + 1]))
    assert daily(config, out, "--until", SECOND).code == 0
    assert path.read_text() == text


def test_a_ledger_that_lost_more_is_refused(config: Path, out: Path, after: After) -> None:
    after(SECOND)
    path = out / "ledger.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]))
    done = daily(config, out)
    assert done.code == 2
    assert "bring the ledger back" in done.err
    path.write_text("".join([lines[0], lines[2], *lines[3:]]))
    assert "line 2" in daily(config, out).err


def test_a_deleted_checkpoint_has_its_day_trained_again(
    config: Path, out: Path, trained_until: Callable[[str], Path], after: After
) -> None:
    after(SECOND)
    newest = json.loads((out / "checkpoints" / f"day-{SECOND}.json").read_text())["mark"]
    shutil.rmtree(out / "checkpoints" / newest)
    done = daily(config, out, "--until", SECOND)
    assert done.code == 0, done.err
    assert "training again from" in done.err
    assert [entry["day"] for entry in ledger(out) if entry["event"] == "rewound"] == [SECOND]
    first, again = (entry["holdout"] for entry in ledger(out) if entry["event"] == "judged" and entry["day"] == SECOND)
    assert again == first, "it is compared with what had not trained the day, not with the serving model"
    assert_proven(out)
    assert_same_bits(trained_until(SECOND), out)


@pytest.mark.parametrize("file", ["__0_0.distcp", "checkpoint.json"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
    config: Path, out: Path, trained_until: Callable[[str], Path], file: str, after: After
) -> None:
    after(SECOND)
    newest = json.loads((out / "checkpoints" / f"day-{SECOND}.json").read_text())["mark"]
    path = out / "checkpoints" / newest / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    done = daily(config, out, "--until", SECOND)
    assert done.code == 0, done.err
    assert newest in done.err
    assert file in done.err
    assert "set aside" in done.err
    assert (out / "checkpoints" / newest / "damaged.json").exists()
    assert [entry["day"] for entry in ledger(out) if entry["event"] == "rewound"] == [SECOND]
    assert_proven(out)
    assert_same_bits(trained_until(SECOND), out)


def test_with_no_good_checkpoint_left_nothing_is_trained(config: Path, out: Path, after: After) -> None:
    after(SECOND)
    before = (out / "ledger.jsonl").read_bytes()
    for path in (out / "checkpoints").glob("step-*/checkpoint.json"):
        path.write_text("{}")
    done = daily(config, out)
    assert done.code == 2
    assert "no good checkpoint is left" in done.err
    assert (out / "ledger.jsonl").read_bytes() == before


def test_a_cursor_that_the_ledger_contradicts_trains_nothing(config: Path, out: Path, after: After) -> None:
    after(SECOND)
    newest = json.loads((out / "checkpoints" / f"day-{SECOND}.json").read_text())["mark"]
    path = out / "checkpoints" / newest / "checkpoint.json"
    values = json.loads(path.read_text())
    values["meta"]["state"]["cursor"]["day"] = FIRST
    path.write_text(sealed(values))  # with a digest that is right: only the ledger knows
    for words, code in ((("daily", config, "--out", out, "--quiet"), 2), (("verify", out), 1)):
        done = genctr(*words)
        assert done.code == code
        assert f"stands in day {FIRST}, which was done before" in done.err


def test_a_day_that_goes_on_from_its_middle_keeps_its_scores(config: Path, out: Path) -> None:
    words = ["--until", SECOND, *settings("daily.gates={auc_floor: 1.0}")]
    assert daily(config, out, *words).code == 3
    newest = json.loads((out / "checkpoints" / f"day-{SECOND}.json").read_text())["mark"]
    shutil.rmtree(out / "checkpoints" / newest)
    done = daily(config, out, *words)
    assert "the newest there is stands in" in done.err
    assert (done.code, states(out)[SECOND]) == (3, "held")
    scored = [entry["metrics"] for entry in ledger(out) if entry["event"] == "scored"]
    assert len(scored) == 2
    assert scored[0] == scored[1], "by the model of the day before, which is not there any more"


def test_all_checkpoints_deleted_trains_from_the_beginning(
    config: Path, out: Path, trained_until: Callable[[str], Path], after: After
) -> None:
    after(SECOND)
    shutil.rmtree(out / "checkpoints")
    done = daily(config, out, "--until", SECOND)
    assert done.code == 0
    assert "there is none: training again from" in done.err
    again = [entry["holdout"] for entry in ledger(out) if entry["event"] == "judged" and entry["day"] == FIRST][1]
    assert "difference" in again, "a model of one day does not take the place of a better one unasked"
    assert_same_bits(trained_until(SECOND), out)


@pytest.mark.slow
def test_a_pre_training_that_was_done_again_is_kept(config: Path, out: Path) -> None:
    words = ["--until", FIRST, *settings("model={family: denoiser, dim: 4}")]
    assert daily(config, out, *words).code == 0
    shutil.rmtree(out / "checkpoints")
    assert daily(config, out, *words).code == 0
    kept = (out / "checkpoints" / "pretrain.json").read_text()
    assert daily(config, out, *words).code == 75
    assert (out / "checkpoints" / "pretrain.json").read_text() == kept
    assert (out / "checkpoints" / json.loads(kept)["mark"] / "checkpoint.json").exists()


def test_what_a_killed_export_has_left_is_no_part_of_the_bundle(
    config: Path, out: Path, trained_until: Callable[[str], Path]
) -> None:
    undisturbed = trained_until(SECOND)
    for bundle in (undisturbed / "published").glob("2026*"):
        left = out / "published" / bundle.name
        left.mkdir(parents=True)
        (left / "table.0.99.0.safetensors").write_bytes(b"a shard of another number of ranks")
    assert daily(config, out, "--until", SECOND).code == 0
    assert_same_outcome(undisturbed, out)


def test_a_bundle_with_a_flipped_bit_is_refused_told_and_replaced(config: Path, out: Path, after: After) -> None:
    after(SECOND)
    serving = json.loads((out / "published" / "current.json").read_text())["bundle"]
    file = next((out / "published" / serving).glob("table.*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    day = config.parent / "log" / f"day={THIRD}"
    done = genctr("score", out / "published", "--data", day, "--out", out / "scores")
    assert done.code == 2
    assert "cut short or altered" in done.err
    assert genctr("verify", out).code == 1
    done = daily(config, out, "--until", THIRD, *settings("daily.on_changed_files=refuse"))
    assert done.code == 0, done.err
    assert states(out)[THIRD] == "published"
    assert genctr("score", out / "published", "--data", day, "--out", out / "scores").code == 0
