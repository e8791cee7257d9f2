"""What a log can do to a night: corrupt, late, missing and shrinking files are named or trained, and no row is lost."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest

from tests.integration.nightly import (
    FIRST,
    SECOND,
    THIRD,
    After,
    Nightly,
    add_late,
    assert_proven,
    daily,
    files,
    ledger,
    published,
    settings,
    states,
    write_daily,
)
from tests.jobs import assert_same_bits, events
from tests.tiny import genctr, some


def test_a_corrupt_file_stops_the_day_and_the_fixed_day_is_trained(config: Path, out: Path, after: After) -> None:
    after(FIRST)
    file = files(config, SECOND)[1]
    good = file.read_bytes()
    file.write_bytes(good[:100])
    done = daily(config, out)
    assert done.code == 2
    assert file.name in done.err
    assert states(out) == published(FIRST)
    file.write_bytes(good)
    assert daily(config, out, "--until", SECOND).code == 0
    assert states(out) == published(FIRST, SECOND)
    assert_proven(out)


def test_a_bad_file_may_be_quarantined_in_the_night_it_comes(config: Path, out: Path, after: After) -> None:
    after(FIRST)
    files(config, SECOND)[1].write_bytes(b"PAR1")
    assert daily(config, out).code == 2
    done = daily(config, out, "--until", SECOND, *settings("data.bad_files=quarantine"))
    assert done.code == 0, done.err
    assert states(out) == published(FIRST, SECOND)


def test_a_day_that_begins_with_bad_rows_has_a_sample_of_its_good_ones(tmp_path: Path, out: Path) -> None:
    config = write_daily(tmp_path, days=1, rows=900)
    file = files(config, FIRST)[0]
    rows = pq.read_table(file, partitioning=None)
    labels = [None] * 256 + rows["is_click"].to_pylist()[256:]
    column = pa.array(labels, rows.schema.field("is_click").type)
    pq.write_table(rows.set_column(rows.schema.get_field_index("is_click"), "is_click", column), file)
    done = daily(config, out, *settings("data.bad_rows=skip", "data.max_bad_rows_share=1"))

    assert done.code == 0, done.err
    (bundle,) = (out / "published").glob("2026*")
    sample = pq.read_table(bundle / "sample.parquet")
    assert sample.num_rows > 0
    assert sample["is_click"].null_count == 0


def test_a_day_whose_labels_are_all_alike_is_held_by_a_floor(config: Path, out: Path, after: After) -> None:
    after(FIRST)
    for file in files(config, SECOND):
        table = pq.read_table(file, partitioning=None)
        at = table.schema.get_field_index("is_click")
        pq.write_table(table.set_column(at, "is_click", pa.nulls(len(table), pa.int8()).fill_null(0)), file)
    words = settings("daily.gates={auc_floor: 0.1}")
    assert daily(config, out, "--until", SECOND, *words).code == 3
    assert states(out) == {FIRST: "published", SECOND: "held"}
    assert "no number" in genctr("status", out, "--gates").out
    assert events(out, "judged")[-1]["failed"] == ["auc_floor: the day has no auc: are its labels all alike?"]


def test_a_quarantined_file_is_in_the_ledger_and_trained_when_it_is_fixed(config: Path, out: Path, after: After) -> None:
    after(FIRST)
    file = files(config, SECOND)[1]
    good = file.read_bytes()
    file.write_bytes(good[:100])
    words = settings("data.bad_files=quarantine", "daily.on_late_files=append")
    assert daily(config, out, "--until", SECOND, *words).code == 0
    trained = next(entry for entry in ledger(out) if entry["event"] == "trained" and entry["day"] == SECOND)
    assert list(trained["quarantined"]) == [f"day={SECOND}/{file.name}"]
    file.write_bytes(good)
    assert daily(config, out, "--until", SECOND, *words).code == 0
    late = next(entry for entry in ledger(out) if entry["event"] == "trained" and entry["day"] == f"{SECOND}+1")
    assert list(late["files"]) == [f"day={SECOND}/{file.name}"]
    assert_proven(out)


def test_a_day_that_shrinks_after_training_is_refused(config: Path, out: Path, after: After) -> None:
    after(SECOND)
    files(config, FIRST)[0].unlink()
    done = daily(config, out)
    assert done.code == 4
    assert f"day {FIRST} has changed" in done.err
    assert states(out) == published(FIRST, SECOND)


def test_a_day_that_shrinks_is_trained_again_from_before_it(config: Path, out: Path, tmp_path: Path, after: After) -> None:
    after(FIRST)
    other = Path(shutil.copytree(out, tmp_path / "other"))
    assert daily(config, out, "--until", SECOND).code == 0
    files(config, SECOND)[0].unlink()
    assert daily(config, out, "--until", SECOND, *settings("daily.on_changed_files=retrain_from")).code == 0
    assert [entry["day"] for entry in ledger(out) if entry["event"] == "rewound"] == [SECOND]
    assert_proven(out)
    assert daily(config, other, "--until", SECOND).code == 0
    assert_same_bits(other, out)


def test_going_back_further_than_checkpoints_are_kept_asks_a_person(config: Path, out: Path, after: After) -> None:
    words = settings("daily.on_changed_files=retrain_from", "daily.keep_days=1", "checkpoint.keep_last=1")
    after(SECOND)
    assert daily(config, out, "--until", THIRD, *words).code == 0
    files(config, SECOND)[0].unlink()
    done = daily(config, out, *words)
    assert done.code == 4
    assert "not kept any more" in done.err


def test_late_files_ask_a_person_by_default(config: Path, out: Path, after: After) -> None:
    after(SECOND)
    name = add_late(config, FIRST)
    done = daily(config, out)
    assert done.code == 4
    assert name in done.err


def test_late_files_are_appended_once(config: Path, out: Path, after: After) -> None:
    after(SECOND)
    name = add_late(config, FIRST)
    words = settings("daily.on_late_files=append")
    assert daily(config, out, "--until", SECOND, *words).code == 0
    late = [entry for entry in ledger(out) if entry["event"] == "trained" and entry["day"] == f"{FIRST}+1"]
    assert [list(entry["files"]) for entry in late] == [[name]]
    assert late[0]["rows"] == 17
    assert daily(config, out, "--until", SECOND, *words).code == 75
    assert states(out) == published(FIRST, SECOND, f"{FIRST}+1")
    assert_proven(out)


def test_a_few_late_rows_of_one_label_are_not_held_by_a_floor(config: Path, out: Path) -> None:
    words = settings("daily.on_late_files=append", "daily.gates={auc_floor: 0.1}")
    assert daily(config, out, "--until", FIRST, *words).code == 0
    rows = pq.read_table(files(config, FIRST)[0], partitioning=None)
    alike = rows.filter(pa.compute.equal(rows["is_click"], 0)).slice(0, 2)
    pq.write_table(alike, config.parent / "log" / f"day={FIRST}" / "part-late.parquet")
    assert daily(config, out, "--until", FIRST, *words).code == 0
    assert states(out) == {FIRST: "published", f"{FIRST}+1": "published"}


@pytest.mark.slow
def test_going_back_forgets_late_parts_that_came_after(config: Path, out: Path, after: After) -> None:
    after(THIRD)
    add_late(config, FIRST)
    words = settings("daily.on_late_files=append", "daily.on_changed_files=retrain_from", "daily.keep_days=4")
    assert daily(config, out, "--until", THIRD, *words).code == 0
    files(config, SECOND)[0].unlink()
    assert daily(config, out, "--until", THIRD, *words).code == 0
    (rewound,) = [entry for entry in ledger(out) if entry["event"] == "rewound"]
    assert rewound["gone"] == [SECOND, THIRD, f"{FIRST}+1"]
    assert states(out) == published(FIRST, f"{FIRST}+1", SECOND, THIRD)
    assert_proven(out)


def test_late_files_are_left_and_that_is_written_down(config: Path, out: Path, after: After) -> None:
    after(FIRST)
    name = add_late(config, FIRST)
    words = settings("daily.on_late_files=ignore")
    assert daily(config, out, "--until", SECOND, *words).code == 0
    assert [entry["files"] for entry in ledger(out) if entry["event"] == "late"] == [[name]]
    assert daily(config, out, "--until", SECOND, *words).code == 75
    assert states(out) == published(FIRST, SECOND)


def test_a_missing_day_is_waited_for_then_asked_about_then_skipped(config: Path, out: Path, after: After) -> None:
    shutil.move(config.parent / "log" / f"day={SECOND}", config.parent / "aside")
    hours_until_2100 = 24 * 365 * 80
    after(FIRST)
    assert daily(config, out, "--until", THIRD, *settings(f"daily.missing_day_grace_hours={hours_until_2100}")).code == 75
    assert daily(config, out, "--until", THIRD, *settings("daily.on_missing_day=stop")).code == 4
    done = daily(config, out, "--until", THIRD, *settings("daily.missing_day_grace_hours=0"))  # wait, in vain
    assert done.code == 4
    assert f"day {SECOND} is missing" in done.err
    assert (
        daily(config, out, "--until", THIRD, *settings("daily.missing_day_grace_hours=0", "daily.on_missing_day=skip")).code
        == 0
    )
    assert states(out) == {FIRST: "published", SECOND: "skipped", THIRD: "published"}
    shutil.move(config.parent / "aside", config.parent / "log" / f"day={SECOND}")  # it comes after all
    done = daily(config, out, "--until", THIRD)
    assert done.code == 4
    assert f"files came to day {SECOND} after it was skipped" in done.err
    assert daily(config, out, "--until", THIRD, *settings("daily.on_late_files=append")).code == 0
    assert states(out) == {FIRST: "published", SECOND: "skipped", THIRD: "published", f"{SECOND}+1": "published"}
    assert daily(config, out, "--until", THIRD, *settings("daily.on_late_files=append")).code == 75
    assert_proven(out)


@pytest.mark.parametrize(
    "kind",
    some(
        ["unreadable", "the same as another", "the same, of a name before the other's", "without rows"],
        "unreadable",
        "the same, of a name before the other's",
    ),
)
def test_late_files_that_give_no_row_are_written_down_and_do_not_stop_the_night(
    config: Path, out: Path, kind: str, after: After
) -> None:
    words = settings("data.bad_files=quarantine", "daily.on_late_files=append")
    after(FIRST)
    late = config.parent / "log" / f"day={FIRST}" / ("a-late.parquet" if "before" in kind else "part-late.parquet")
    rows = pq.read_table(files(config, FIRST)[0], partitioning=None)
    if kind == "unreadable":
        late.write_bytes(b"PAR1 and nothing else")
    elif kind == "without rows":
        pq.write_table(rows.slice(0, 0), late)
    else:
        shutil.copy(files(config, FIRST)[0], late)
    assert daily(config, out, "--until", SECOND, *words).code == 0
    assert states(out) == published(FIRST, SECOND)
    (told,) = [entry for entry in ledger(out) if entry["event"] == "late"]
    assert list(told["quarantined"]) == [f"day={FIRST}/{late.name}"]
    assert_proven(out)
    pq.write_table(rows.slice(0, 17), late)  # fixed
    assert daily(config, out, "--until", SECOND, *words).code == 0
    assert states(out) == published(FIRST, SECOND, f"{FIRST}+1")
    assert_proven(out)


def newest_cursor(out: Path) -> dict[str, Any]:
    marks = [path.parent.name for path in (out / "checkpoints").glob("step-*/checkpoint.json")]
    return json.loads((out / "checkpoints" / max(marks) / "checkpoint.json").read_text())["meta"]["state"]["cursor"]


def test_a_day_that_grows_while_it_is_trained_is_finished_as_it_was_begun(config: Path, out: Path, after: After) -> None:
    after(FIRST)
    assert Nightly(config, out, "--until", SECOND, kill_at="after replace */checkpoint.json").ended() == -9
    assert newest_cursor(out)["day"] == SECOND, "saved inside the day"
    name = add_late(config, SECOND)
    assert daily(config, out, "--until", SECOND, *settings("daily.on_late_files=append")).code == 0
    trained = [(entry["day"], file) for entry in ledger(out) if entry["event"] == "trained" for file in entry["files"]]
    assert [day for day, file in trained if file == name] == [f"{SECOND}+1"]
    assert_proven(out)
