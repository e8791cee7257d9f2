"""Law 6: bad input is told with its place and what to do, nothing half-written stays behind, and no good row is lost."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.schema import Schema
from data.yaml_document import read_document
from pipeline.config.run import load
from tests.jobs import assert_every_row_once, assert_same_bits, events, start
from tests.tiny import DAYS, SCHEMA, Done, process, some, train, write_log

FIRST, SECOND = DAYS[:2]
PART = f"day={SECOND}/part-00001.parquet"
LAST = f"day={SECOND}/part-00002.parquet"
IN_ORDER = ("data.shuffle_buffer_rows=0", "data.test=[]", "data.validation=[]")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("bad"))


@pytest.fixture(scope="module")
def unbroken(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run ends with whose input was always good."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    assert train(config, out, *IN_ORDER).code == 0
    return out


@pytest.fixture
def root(config: Path, tmp_path: Path) -> Path:
    """A copy of the log, to be spoilt."""
    shutil.copytree(config.parent / "log", tmp_path / "log")
    return tmp_path / "log"


def assert_told(done: Done, *parts: str) -> None:
    assert (done.code, done.out) == (2, ""), done.err
    for part in parts:
        assert part in done.err
    assert "Traceback" not in done.err


def assert_whole(out: Path) -> None:
    """Everything in a run folder is complete or not there."""
    load(str(out / "config.yaml"))
    for line in (out / "log.jsonl").read_text().splitlines() if (out / "log.jsonl").exists() else ():
        json.loads(line)
    folders = list((out / "checkpoints").glob("step-*"))
    assert all((folder / "checkpoint.json").is_file() for folder in folders)
    assert not list(out.rglob("*.tmp"))


def rewrite(file: Path, column: str, change: Callable[[list[Any]], list[Any]], kind: pa.DataType | None = None) -> None:
    """Write a file again with other values in a column."""
    table = pq.read_table(file, partitioning=None)
    at = table.schema.get_field_index(column)
    values = pa.array(change(table[column].to_pylist()), kind or table.schema.field(column).type)
    pq.write_table(table.set_column(at, column, values), file, write_page_checksum=True)


def with_row(row: int, value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [*values[:row], value, *values[row + 1 :]]


# --- files ---


def damage_a_page(root: Path, part: str = PART) -> None:
    """Turn bits in the middle of the prices: the footer stays as it is."""
    file = root / part
    footer = pq.ParquetFile(file).metadata
    chunk = next(c for n in range(footer.num_columns) if (c := footer.row_group(0).column(n)).path_in_schema == "price")
    content = bytearray(file.read_bytes())
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    content[middle : middle + 8] = bytes(byte ^ 0xFF for byte in content[middle : middle + 8])
    file.write_bytes(content)


def cut_short(root: Path) -> None:
    (root / PART).write_bytes((root / PART).read_bytes()[:-50])


def drop_a_column(root: Path) -> None:
    pq.write_table(pq.read_table(root / PART, partitioning=None).drop_columns(["price"]), root / PART)


def write_prices_as_words(root: Path) -> None:
    rewrite(root / PART, "price", lambda values: list(map(str, values)), pa.string())


def write_a_file_twice(root: Path) -> None:
    shutil.copy(root / PART, root / f"day={SECOND}" / "part-00009.parquet")


@dataclass(frozen=True)
class Case:
    """A way to spoil a log, the file that is then bad, and what is said."""

    spoil: Callable[[Path], None]
    file: str
    told: tuple[str, ...]


BAD_FILES = {
    "a damaged page in the middle of a day": Case(damage_a_page, PART, ("unreadable data: ", "row group 0")),
    "a file cut short": Case(cut_short, PART, ("unreadable data: ",)),
    "a missing column": Case(drop_a_column, PART, ("column 'price' is missing", "expected: integers, floats or booleans")),
    "a column of another type": Case(write_prices_as_words, PART, ("column 'price' holds string", "say kind: id")),
    "a file that is there twice": Case(
        write_a_file_twice, f"day={SECOND}/part-00009.parquet", (f"the same content as {{root}}/{PART}", "delete one")
    ),
}


@pytest.mark.parametrize("name", some(BAD_FILES, "a damaged page in the middle of a day"))
def test_a_bad_file_stops_the_run_and_the_fixed_day_goes_on_to_the_same_bits(
    name: str, config: Path, root: Path, unbroken: Path, tmp_path: Path
) -> None:
    case, out = BAD_FILES[name], tmp_path / "run"
    good = (root / PART).read_bytes()
    case.spoil(root)

    stopped = process(*command(config, out, f"data.root={root}", *IN_ORDER), folder=tmp_path)

    assert_told(stopped, f"file {root / case.file}", *(part.format(root=root) for part in case.told))
    assert_whole(out)
    (root / case.file).unlink()
    (root / PART).write_bytes(good)
    assert train(config, out, f"data.root={root}", *IN_ORDER).code == 0
    assert_every_row_once(config, out)
    assert_same_bits(unbroken, out)


def test_ids_that_are_strings_from_one_day_on_are_not_taken_for_new_ones(
    config: Path, root: Path, unbroken: Path, tmp_path: Path
) -> None:
    """The users are hashed: nothing but their type says that they are the same."""
    out, day = tmp_path / "run", root / f"day={SECOND}"
    for file in day.glob("*.parquet"):
        rewrite(file, "user_id", lambda values: list(map(str, values)), pa.string())

    assert_told(
        train(config, out, f"data.root={root}", *IN_ORDER), "column 'user_id' holds string", f"file {day}", "integers, as"
    )

    assert [event["day"] for event in events(out, "trained")] == [FIRST]
    shutil.copytree(config.parent / "log" / day.name, day, dirs_exist_ok=True)
    assert train(config, out, f"data.root={root}", *IN_ORDER).code == 0
    assert_same_bits(unbroken, out)


def test_a_damaged_page_stops_the_run_where_it_is_and_what_was_trained_before_it_is_kept(
    config: Path, root: Path, tmp_path: Path
) -> None:
    damage_a_page(root, LAST)

    train(config, tmp_path / "run", f"data.root={root}", *IN_ORDER)

    assert [event["day"] for event in events(tmp_path / "run", "trained")] == [FIRST]
    steps = [int(path.parent.name[5:]) for path in (tmp_path / "run" / "checkpoints").glob("*/checkpoint.json")]
    assert max(steps) > events(tmp_path / "run", "trained")[0]["step"], "saved inside the bad day"


def test_a_full_check_finds_the_page_before_a_row_of_the_day_is_trained(config: Path, root: Path, tmp_path: Path) -> None:
    damage_a_page(root)

    done = train(config, tmp_path / "run", f"data.root={root}", *IN_ORDER, "data.check=full")

    assert_told(done, f"file {root / PART}, row group 0")
    steps = [int(path.parent.name[5:]) for path in (tmp_path / "run" / "checkpoints").glob("*/checkpoint.json")]
    assert max(steps) == events(tmp_path / "run", "trained")[0]["step"], "the day before, and nothing of this one"


@pytest.mark.parametrize(
    "name", some(BAD_FILES, "a damaged page in the middle of a day", "a missing column", "a file that is there twice")
)
def test_a_quarantined_file_is_named_and_all_rows_of_the_others_are_trained(
    name: str, config: Path, root: Path, tmp_path: Path
) -> None:
    case, out = BAD_FILES[name], tmp_path / "run"
    case.spoil(root)

    done = train(config, out, f"data.root={root}", *IN_ORDER, "data.bad_files=quarantine")

    assert done.code == 0, done.err
    (event,) = events(out, "quarantined")
    assert (event["day"], event["file"]) == (SECOND, str(root / case.file))
    assert case.told[0].format(root=root) in event["why"]
    assert f"genctr: day {SECOND} is read without {root / case.file}: " in done.err
    files = next(event["files"] for event in events(out, "trained") if event["day"] == SECOND)
    others = [file for file in sorted((root / f"day={SECOND}").glob("*.parquet")) if file != root / case.file]
    assert {path: counts["rows"] for path, counts in files.items()} == {
        str(file): pq.read_metadata(file).num_rows for file in others
    }
    assert_every_row_once(config, out)


# --- days ---


def empty_the_day(root: Path) -> None:
    for file in (root / f"day={SECOND}").glob("*.parquet"):
        pq.write_table(pq.read_table(file, partitioning=None).slice(0, 0), file)


def take_the_mark(root: Path) -> None:
    (root / f"day={SECOND}" / "_SUCCESS").unlink()


def take_the_day(root: Path) -> None:
    (root / f"day={SECOND}").rename(root / "day=2026-11-20")


def test_a_day_that_is_not_ready_is_held(config: Path, root: Path, unbroken: Path, tmp_path: Path) -> None:
    for spoil, told in (
        (empty_the_day, (f"day {SECOND} is empty: 3 files without a row", "take it out of data.days")),
        (take_the_mark, (f"day {SECOND} is not complete", "expected: a file _SUCCESS", "wait until it is written")),
        (take_the_day, (f"there is no day {SECOND}", "did you mean")),
    ):
        spoil(root)

        held = train(config, tmp_path / "run", f"data.root={root}", *IN_ORDER)

        assert_told(held, *told)
        assert_whole(tmp_path / "run")
        shutil.rmtree(root)
        shutil.copytree(config.parent / "log", root)
    assert train(config, tmp_path / "run", f"data.root={root}", *IN_ORDER).code == 0
    assert_same_bits(unbroken, tmp_path / "run")


def test_a_log_that_does_not_mark_its_days_says_so(config: Path, root: Path, unbroken: Path, tmp_path: Path) -> None:
    for mark in root.glob("*/_SUCCESS"):
        mark.unlink()

    done = train(config, tmp_path / "run", f"data.root={root}", *IN_ORDER, "data.success_file=null")

    assert done.code == 0, done.err
    assert_same_bits(unbroken, tmp_path / "run")


def test_a_layout_of_one_file_a_day_needs_no_marks(config: Path, root: Path, tmp_path: Path) -> None:
    for day in DAYS[:2]:
        parts = sorted((root / f"day={day}").glob("*.parquet"))
        pq.write_table(pa.concat_tables(pq.read_table(part, partitioning=None) for part in parts), root / f"{day}.parquet")

    done = train(config, tmp_path / "run", f"data.root={root}", *IN_ORDER, "data.layout='{day}.parquet'")

    assert done.code == 0, done.err
    assert_every_row_once(config, tmp_path / "run")


# --- rows ---


def write_vectors_as_lists(root: Path) -> None:
    """Lists may have any length: row 5 gets 7 numbers, its neighbours keep their 8."""
    for file in (root / f"day={SECOND}").glob("*.parquet"):
        change = with_row(5, [0.5] * 7) if file.name == PART.split("/")[1] else list
        rewrite(file, "image", change, pa.list_(pa.float32()))


def label(row: int, value: Any, part: str = PART) -> Callable[[Path], None]:
    return lambda root: rewrite(root / part, "is_click", with_row(row, value))


BAD_ROWS = {
    "no label": (label(3, None), 3, "is_click", "the label of target 'is_click' is None"),
    "a label that is neither 0 nor 1": (label(4, 2), 4, "is_click", "the label of target 'is_click' is 2"),
    "a vector of another width": (write_vectors_as_lists, 5, "image", "the vector has 7 numbers"),
    "an id outside its table": (
        lambda root: rewrite(root / PART, "tab", with_row(6, 99)),
        *(6, "tab", "the id is 99"),
    ),
    "an infinite number": (
        lambda root: rewrite(root / PART, "price", with_row(7, float("inf"))),
        *(7, "price", "the number is inf"),
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_stops_the_run_with_its_file_row_and_column(
    name: str, config: Path, root: Path, unbroken: Path, tmp_path: Path
) -> None:
    spoil, row, column, told = BAD_ROWS[name]
    spoil(root)

    stopped = train(config, tmp_path / "run", f"data.root={root}", *IN_ORDER)

    where = f"file {root / PART}, row {row}, column {column}"
    assert_told(stopped, told, where, "data.bad_rows: skip")
    assert_whole(tmp_path / "run")


@pytest.mark.parametrize("name", some(BAD_ROWS, *list(BAD_ROWS)[:1], "a vector of another width", "an infinite number"))
def test_a_skipped_row_is_counted_for_its_file_and_all_others_are_trained(
    name: str, config: Path, root: Path, tmp_path: Path
) -> None:
    spoil, _, _, _ = BAD_ROWS[name]
    spoil(root)

    done = train(config, tmp_path / "run", f"data.root={root}", *IN_ORDER, "data.bad_rows=skip")

    assert done.code == 0, done.err
    for event in events(tmp_path / "run", "trained"):
        for path, counts in event["files"].items():
            bad = int(path == str(root / PART))
            assert (counts["skipped"], counts["rows"]) == (bad, pq.read_metadata(path).num_rows - bad)
    assert f"{sum(event['rows'] for event in events(tmp_path / 'run', 'trained'))} rows trained" in done.out


def test_a_fixed_row_is_trained_where_the_run_stopped(config: Path, root: Path, unbroken: Path, tmp_path: Path) -> None:
    right = pq.read_table(root / LAST, partitioning=None)["price"][9].as_py()
    rewrite(root / LAST, "price", with_row(9, float("inf")))
    size = (root / LAST).stat().st_size

    stopped = train(config, tmp_path / "run", f"data.root={root}", *IN_ORDER)
    rewrite(root / LAST, "price", with_row(9, right))
    pq.write_table(pq.read_table(root / LAST, partitioning=None), root / LAST, compression="none")
    fixed = train(config, tmp_path / "run", f"data.root={root}", *IN_ORDER)

    assert (stopped.code, fixed.code) == (2, 0), fixed.err
    assert (root / LAST).stat().st_size != size, "another file, and the same rows in it"
    assert f"day {SECOND} is half trained, and {LAST} has {(root / LAST).stat().st_size:,} bytes, had {size:,}" in fixed.err
    (resumed,) = events(tmp_path / "run", "resumed")
    assert resumed["cursor"]["day"] == SECOND
    assert resumed["cursor"]["row"] > 0
    assert_same_bits(unbroken, tmp_path / "run")


@pytest.mark.parametrize("skip", [False, True])
def test_a_list_longer_than_allowed(skip: bool, config: Path, root: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.yaml"
    schema.write_text(SCHEMA.read_text().replace("rows: 50, pool: mean}", "rows: 50, pool: mean, length: 2}"))
    assert next(field for field in read_document(str(schema), Schema).fields if field.name == "tags").length == 2
    for day in DAYS[:2]:
        for file in (root / f"day={day}").glob("*.parquet"):
            rewrite(file, "tags", lambda lists: [ids[:2] for ids in lists])
    rewrite(root / PART, "tags", with_row(8, [1, 2, 3]))
    settings = (f"data.root={root}", *IN_ORDER, f"schema={schema}", f"data.bad_rows={'skip' if skip else 'stop'}")

    done = train(config, tmp_path / "run", *settings)

    if skip:
        (event,) = (event for event in events(tmp_path / "run", "trained") if event["day"] == SECOND)
        assert {path: counts["skipped"] for path, counts in event["files"].items()} == {
            str(file): int(file == root / PART) for file in sorted((root / f"day={SECOND}").glob("*.parquet"))
        }
    else:
        assert_told(done, "the list has 3 ids", f"file {root / PART}, row 8, column tags", "expected: at most 2 ids")


def test_what_rank_0_alone_looks_for_is_told_on_every_rank_so_that_none_waits(config: Path, tmp_path: Path) -> None:
    processes = start(config, tmp_path / "run", 2, "data.root=/nowhere")
    for rank in processes:
        rank.join(300)

    assert [rank.exitcode for rank in processes] == [2, 2]


# --- what the user wrote ---


def test_a_config_that_cannot_be_leaves_nothing_that_is_in_the_way(config: Path, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"

    for override, told in (
        ("data.shuffle_bufer_rows=9", "data.shuffle_bufer_rows: unknown key\n  did you mean 'shuffle_buffer_rows'?"),
        ("data.days=2026-02-27..2026-02-30", "'2026-02-30' is not a date"),
        ("data.test=[2026-11-31]", "'2026-11-31' is not a date"),
        ("data.root=/nowhere", "there is no such folder\n  where: file /nowhere\n  next: check data.root"),
    ):
        assert_told(train(config, out, *IN_ORDER, override), told)
        assert not (out / "checkpoints").exists()

    assert train(config, out, *IN_ORDER).code == 0
    assert_same_bits(unbroken, out)


def test_an_unknown_key_is_told_with_the_line_of_the_run_file(config: Path, tmp_path: Path) -> None:
    text = config.read_text().replace("global_batch_rows:", "global_batchrows:")
    (tmp_path / "run.yaml").write_text(text)
    line = 1 + next(n for n, line in enumerate(text.splitlines()) if "batchrows" in line)

    told = f"{tmp_path / 'run.yaml'}, line {line}: train.global_batchrows: unknown key\n  did you mean 'global_batch_rows'?"
    assert_told(train(tmp_path / "run.yaml", tmp_path / "run"), told)


# --- the run folder ---


def block_the_folder(out: Path) -> None:
    out.write_text("in the way")


def block_the_checkpoints(out: Path) -> None:
    out.mkdir()
    (out / "checkpoints").write_text("in the way")


def block_the_log(out: Path) -> None:
    (out / "log.jsonl").mkdir(parents=True)


def block_the_statistics(out: Path) -> None:
    out.mkdir()
    (out / "statistics").write_text("in the way")


@pytest.mark.parametrize(
    ("block", "told"),
    [
        (block_the_folder, "the run folder cannot be written: [Errno 20] Not a directory"),
        (block_the_checkpoints, "the run folder cannot be written: [Errno 20] Not a directory"),
        (block_the_log, "[Errno 21] Is a directory"),
        (block_the_statistics, "[Errno 20] Not a directory"),
    ],
)
def test_something_in_the_way_of_the_run_folder_is_told_and_left_alone(
    block: Callable[[Path], None], told: str, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    block(out)

    assert_told(train(config, out, *IN_ORDER), told, str(out))

    ways = [path for path in (out, out / "checkpoints", out / "statistics") if path.is_file()]
    assert all(path.read_text() == "in the way" for path in ways)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_a_run_folder_that_may_not_be_read_or_written(mode: int, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir(mode=mode)
    try:
        assert_told(train(config, out, *IN_ORDER), str(out))
    finally:
        out.chmod(0o700)


def test_a_checkpoint_of_another_model_is_refused_and_left_alone(config: Path, unbroken: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    other.mkdir()
    shutil.copytree(unbroken / "checkpoints", other / "checkpoints")
    before = sorted((path, path.read_bytes()) for path in (other / "checkpoints").rglob("*") if path.is_file())

    done = train(config, other, *IN_ORDER, "model.decoder=fm", "model.decoder_options={}")

    assert_told(done, "is of another model", "the model has, the checkpoint does not", "name a new run folder")
    assert sorted((path, path.read_bytes()) for path in (other / "checkpoints").rglob("*") if path.is_file()) == before


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_is_used(config: Path, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    newest = max((out / "checkpoints").glob("step-*"))
    for file in newest.glob("*.distcp"):
        file.write_bytes(file.read_bytes()[:1000])

    done = train(config, out, *IN_ORDER)

    assert done.code == 0
    assert f"checkpoint {newest.name} is damaged" in done.err
    assert f"{newest.name} is set aside" in done.err
    assert (newest / "damaged.json").exists()
    shutil.rmtree(newest)
    assert_same_bits(unbroken, out)


# --- a full disk ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, *, leave: int) -> Path:
    """Fill a disk but for so many bytes."""
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast.write_bytes(b"\0" * max(0, free - leave))
    return ballast


def command(config: Path, out: Path, *overrides: str) -> list[object]:
    return ["train", config, "--out", out, "--quiet", *(word for override in overrides for word in ("--set", override))]


@pytest.mark.parametrize("asynchronous", some(["true", "false"], "true"))
@pytest.mark.parametrize(
    ("leave", "told"),
    [
        (400_000, "the disk is full"),
        pytest.param(8_192, "the disk is full", marks=pytest.mark.slow),
        pytest.param(0, "the run folder cannot be written", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_ends_the_run_and_with_room_again_it_ends_with_the_same_bits(
    leave: int, told: str, asynchronous: str, config: Path, unbroken: Path, small_disk: Path, tmp_path: Path
) -> None:
    out = small_disk / "run"
    settings = (*IN_ORDER, f"checkpoint.asynchronous={asynchronous}")
    train(config, out, *settings, "train.max_steps=4")
    before = {path: path.read_bytes() for path in (out / "checkpoints").rglob("*") if path.is_file()}
    assert before

    ballast = fill(small_disk, leave=leave)
    full = process(*command(config, out, *settings), folder=tmp_path)

    assert_told(full, told)
    ballast.unlink()
    assert {path: path.read_bytes() for path in before} == before, "what was saved is whole"
    assert {path.parent for path in (out / "checkpoints").glob("step-*/checkpoint.json")} == {
        path.parent for path in before if path.name == "checkpoint.json"
    }
    assert train(config, out, *settings).code == 0
    assert_whole(out)
    assert_every_row_once(config, out)
    assert_same_bits(unbroken, out)
