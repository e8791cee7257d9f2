"""A checkpoint moves between ranks, shardings and stores, and grows: the job goes on from it, and every row is the same row."""

import json
import os
import shutil
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from pipeline.builders.job import build
from pipeline.checkpoint import reader
from pipeline.checkpoint import writer as writing
from pipeline.checkpoint.inspect import open_named
from pipeline.config.run import load
from pipeline.distributed.world import world
from pipeline.jobs.reshape import load_grown
from pipeline.jobs.restore import load as load_checkpoint
from pipeline.run_folder.lease import Lease
from tests.helpers import SERVER
from tests.integration.test_object_store import bucket
from tests.jobs import (
    assert_every_row_once,
    assert_same_bits,
    events,
    final_tensors,
    finish,
    flat,
    free_port,
    start,
)
from tests.tiny import DAYS, built, genctr, train, write_log

__all__ = ["bucket"]
"""A fixture of that module."""

SHORT = ("train.max_steps=11", "data.validation=[]", "data.test=[]")
"""Half a day is left to train."""


def marks(out: Path) -> list[str]:
    return sorted(folder.name for folder in (out / "checkpoints").glob("step-*"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def trained(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one rank with Adam in its tables, in the middle of a day."""
    out = tmp_path_factory.mktemp("trained") / "run"
    train(config, out, *SHORT, "tables.optimizer=lazy_adam")
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut tiny tables too."""
    monkeypatch.setattr(writing, "LEAST", 8)


def test_rows_are_said_to_be_of_the_day_they_are_of(config: Path, trained: Path, tmp_path: Path) -> None:
    train(config, tmp_path / "run", "data.validation=[]", "data.test=[]")
    inside, ended = (genctr("ckpt", "show", out).out for out in (trained, tmp_path / "run"))

    assert "of this day: " in inside
    assert f"cursor: epoch 1, day {DAYS[0]}, row 0\n" in ended
    rows = events(tmp_path / "run", "trained")[-1]["rows"]
    assert f"of the day that had just ended: {rows} rows of 3 files trained, 0 skipped\n" in ended


# Other ranks.


def on(ranks: int, config: Path, out: Path, *overrides: str) -> None:
    """On so many ranks, load the newest checkpoint into the job, and save what the job then has as one more."""
    port = free_port()
    processes = [SERVER.Process(target=_resave, args=(config, out, overrides, rank, ranks, port)) for rank in range(ranks)]
    for process in processes:
        process.start()
    finish(processes)


def _resave(config: Path, out: Path, overrides: tuple[str, ...], rank: int, ranks: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with world("cpu") as here, closing(build(*load(str(config), overrides), str(out), here)) as job:
        meta = load_checkpoint(job, str(job.checkpoints.latest()))
        tensors = {"model": job.sharded.model.state_dict(), "optimizer": job.optimizer.state_dict()}
        job.checkpoints.save(meta.pop("step"), tensors=tensors, meta=meta)
        job.checkpoints.wait()
    sys.exit(0)


def exported(out: Path, tables: tuple[str, ...]) -> dict[str, Any]:
    """Rows, raw ids and vectors of tables, by the command."""
    found = {}
    for table in tables:
        file = out.parent / f"{table}.parquet"
        done = genctr("ckpt", "export-table", out, "--table", table, "--out", file, "--quiet")
        assert done.code == 0, done.err
        found[table] = pq.read_table(file)
    return found


def corners(out: Path) -> set[tuple[int, int]]:
    """Where the pieces of the users' table begin."""
    with open_named(str(out)) as opened:
        chunks = opened.tensors["model.model.sparse.bags.embedding_bags.user_id.weight"].chunks
        return {(chunk.offsets[0], chunk.offsets[1]) for chunk in chunks}


PLANS = {
    "adagrad": [(2, "column_wise"), (4, "row_wise"), (2, "table_wise"), (1, "auto")],
    "rowwise_adagrad": [(2, "row_wise"), (4, "table_wise")],
    "adam": [(4, "column_wise"), (2, "row_wise")],
    "lazy_adam": [(2, "table_wise"), (4, "row_wise"), (2, "column_wise"), (1, "table_wise")],
}


@pytest.mark.parametrize(
    ("optimizer", "plans"),
    [
        pytest.param("adagrad", [(2, "column_wise"), (1, "auto")], id="short"),
        *(pytest.param(*case, id=case[0], marks=pytest.mark.slow) for case in PLANS.items()),
    ],
)
def test_every_row_is_the_same_after_any_ranks_and_any_sharding(
    config: Path, tmp_path: Path, optimizer: str, plans: list[tuple[int, str]]
) -> None:
    out = tmp_path / "run"
    same = (*SHORT, f"tables.optimizer={optimizer}", "model.dim=16", "checkpoint.keep_last=20")
    train(config, out, *same)
    (tmp_path / "first").mkdir()
    first = Path(shutil.copytree(out, tmp_path / "first" / "run"))
    tables = ("user_id", "item_id", "device", "tab")
    before = exported(first, tables)
    for ranks, sharding in plans:
        done = genctr("ckpt", "reshard", out, "--ranks", ranks, "--quiet")
        assert done.code == 0, done.err
        assert_same_bits(out, first)
        assert corners(out) == {(min(part * -(-32768 // ranks), 32768), 0) for part in range(ranks)}
        on(ranks, config, out, *same, f"train.ranks={ranks}", f"tables.sharding={sharding}")
        assert corners(out) == {
            "row_wise": {(part * 32768 // ranks, 0) for part in range(ranks)},
            "column_wise": {(0, part * 16 // ranks) for part in range(ranks)},
        }.get(sharding, {(0, 0)})
        assert_same_bits(out, first)
        assert genctr("ckpt", "diff", first, out, "--quiet").code == 0
    assert exported(out, tables) == before
    known = pq.read_table(out / "statistics" / "vocabulary.device.parquet")["id"].to_pylist()
    assert before["device"]["id"].to_pylist() == [None, None, *known]
    assert before["tab"]["id"].to_pylist() == [None, 0, 1, 2, 3, 4]
    assert genctr("ckpt", "verify", out, "--quiet").code == 0


@pytest.mark.slow
def test_a_job_goes_on_with_other_ranks_from_what_was_written_for_them(config: Path, tmp_path: Path) -> None:
    out, none = tmp_path / "run", ("data.validation=[]", "data.test=[]", "data.lanes=4")
    for ranks, sharding, steps in [(1, "table_wise", 4), (2, "row_wise", 9), (4, "row_wise", 13), (1, "table_wise", "null")]:
        if steps != 4:
            assert genctr("ckpt", "reshard", out, "--ranks", ranks, "--quiet").code == 0
            assert len(list((out / "checkpoints" / marks(out)[-1]).glob("*.distcp"))) == ranks
        finish(start(config, out, ranks, *none, f"tables.sharding={sharding}", f"train.max_steps={steps}"))
    assert [event["step"] for event in events(out, "resumed")] == [4, 9, 13]
    assert_every_row_once(config, out)


# Another place.


def test_a_moved_run_ends_with_the_bits_of_one_that_stayed(config: Path, run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "run"
    (run / "checkpoints" / "day-2026-10-31.json").write_text('{"mark": "step-0000011"}')

    done = genctr("ckpt", "reshard", run, "all", "--ranks", 3, "--out", moved, "--quiet")
    assert done.code == 0, done.err
    assert marks(moved) == marks(run) == ["step-0000009", "step-0000011"]
    assert json.loads((moved / "checkpoints" / "day-2026-10-31.json").read_text())["mark"] == "step-0000011"
    files = (path.relative_to(run) for path in run.rglob("*") if path.is_file())
    inside = {str(path) for path in files if path.parts[0] not in ("checkpoints", "lease.json.lock")}
    assert len(inside) > 5
    assert {str(path.relative_to(moved)) for path in moved.rglob("*") if path.is_file()} >= inside
    assert (moved / "statistics" / "vocabulary.device.parquet").read_bytes() == (
        run / "statistics" / "vocabulary.device.parquet"
    ).read_bytes()
    for out in (run, moved):
        train(config, out, "tables.optimizer=lazy_adam", "data.validation=[]", "data.test=[]")
    assert_same_bits(run, moved)

    done = genctr("ckpt", "reshard", run, "--ranks", 3, "--out", moved)
    assert done.code == 2
    assert "has a run in it, or part of one" in done.err


def test_a_run_does_not_move_into_itself(run: Path) -> None:
    before = sorted(path for path in run.rglob("*") if path.name != "lease.json.lock")
    for out in (run / "moved", f"file://{run}/tensorboard/moved"):
        done = genctr("ckpt", "reshard", run, "--ranks", 2, "--out", out, "--quiet")
        assert done.code == 2
        assert "is inside of the run" in done.err
    assert [path for path in sorted(run.rglob("*")) if path.name != "lease.json.lock"] == before


def test_one_moved_checkpoint_takes_its_pins_and_says_which_stay(run: Path, tmp_path: Path) -> None:
    for name, mark in (("new", "step-0000011"), ("old", "step-0000009")):
        (run / "checkpoints" / f"{name}.json").write_text(json.dumps({"mark": mark}))
    done = genctr("ckpt", "reshard", run, "new", "--ranks", 1, "--out", tmp_path / "out", "--quiet")
    assert "pin old stays behind: step-0000009 was not moved" in done.out
    assert {path.name for path in (tmp_path / "out" / "checkpoints").glob("*.json")} >= {"new.json"}
    assert not (tmp_path / "out" / "checkpoints" / "old.json").exists()


@pytest.mark.slow
def test_a_run_moves_into_an_object_store_and_back(bucket: str, run: Path, tmp_path: Path) -> None:
    there = f"{bucket}/moved"
    words: list[tuple[Any, ...]] = [
        ("reshard", run, "all", "--ranks", 2, "--out", there),
        ("verify", there),
        ("diff", run, there),
        ("ls", there),
        ("show", there),
        ("reshard", there, "--ranks", 1),
        ("export-table", there, "--table", "device", "--out", f"{bucket}/device.parquet"),
        ("reshard", there, "--ranks", 1, "--out", tmp_path / "back"),
    ]
    for word in words:
        done = genctr("ckpt", *word, *(["--quiet"] if word[0] not in ("ls", "show") else []))
        assert done.code == 0, done.err
    assert_same_bits(run, tmp_path / "back")
    assert genctr("ckpt", "ls", there).out.count("step-0000011") == 2


def test_what_is_written_is_a_checkpoint_at_the_end_and_none_before(config: Path, run: Path) -> None:
    before = marks(run)
    process = SERVER.Process(target=_reshard_slowly, args=(str(run),))
    process.start()
    while process.is_alive() and len(marks(run)) == len(before):
        time.sleep(0.005)
    process.kill()
    process.join()
    assert marks(run) == [*before, "step-0000011-2"]
    assert not (run / "checkpoints" / "step-0000011-2" / "checkpoint.json").exists()
    assert "step-0000011-2: not finished, no checkpoint" in genctr("ckpt", "ls", run).out

    train(config, run, "tables.optimizer=lazy_adam", "data.validation=[]", "data.test=[]")
    assert marks(run) == ["step-0000015", "step-0000016"]
    assert_every_row_once(config, run)


def _reshard_slowly(run: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    read = reader.CheckpointReader.rows
    reader.CheckpointReader.rows = lambda self, *words: (time.sleep(0.02), read(self, *words))[1]  # type: ignore[method-assign]
    sys.exit(genctr("ckpt", "reshard", run, "--ranks", 2, "--quiet").code)


def test_a_save_that_a_job_has_begun_is_not_touched(run: Path) -> None:
    begun = run / "checkpoints" / "step-0000014" / "__0_0.distcp"
    begun.parent.mkdir()
    begun.write_bytes(b"half")
    assert genctr("ckpt", "reshard", run, "--ranks", 2, "--quiet").code == 0
    assert begun.read_bytes() == b"half"


def test_a_failed_write_leaves_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reader.CheckpointReader, "rows", full)
    done = genctr("ckpt", "reshard", run, "--ranks", 2, "--quiet")
    assert done.code == 2
    assert "the checkpoint could not be written: [Errno 28] No space left on device" in done.err
    assert marks(run) == ["step-0000009", "step-0000011"]


def test_a_new_folder_is_no_run_until_all_is_in_it(run: Path, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    words = ("ckpt", "reshard", run, "all", "--ranks", 2, "--out", tmp_path / "out", "--quiet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader.CheckpointReader, "rows", full)
        assert genctr(*words).code == 2
    assert (tmp_path / "out" / "statistics").exists()
    assert not (tmp_path / "out" / "config.yaml").exists()
    assert genctr(*words).code == 0
    assert (tmp_path / "out" / "config.yaml").read_bytes() == (run / "config.yaml").read_bytes()


@pytest.mark.parametrize("out", [(), ("--out", "elsewhere")])
def test_a_daily_job_at_work_is_left_alone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    with Lease(str(run), seconds=1):
        done = genctr("ckpt", "reshard", run, "--ranks", 2, "--quiet", *out)
        assert done.code == 5
        assert "works on this run" in done.err
        assert not (tmp_path / "elsewhere").exists()
        assert genctr("ckpt", "verify", run, "--quiet").code == 0


def test_the_vectors_of_a_table_are_as_wide_as_the_model_reads_them(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    wide = ("model.dim=6", "model.decoder=deepfm", "model.decoder_options={hidden: [8]}")
    assert train(config, out, *SHORT, *wide).code == 0
    stored = final_tensors(out)["model"]["model.sparse.bags.embedding_bags.tab.weight"]
    tables = exported(out, ("tab", "tab_linear"))
    assert tables["tab"]["vector"].to_pylist() == stored[:, :6].tolist()
    assert tables["tab_linear"]["vector"].type.list_size == 1


# What is missing.


def test_a_checkpoint_without_one_of_its_files_is_told(run: Path) -> None:
    assert genctr("ckpt", "reshard", run, "--ranks", 2, "--quiet").code == 0
    (run / "checkpoints" / "step-0000011-2" / "__1_0.distcp").unlink()

    done = genctr("ckpt", "verify", run, "--quiet")
    assert done.code == 1
    assert "step-0000011: whole" in done.out
    assert "step-0000011-2: DAMAGED" in done.out
    assert "the file __1_0.distcp is not there: it holds rows " in done.out
    for word in (
        ("reshard", run, "--ranks", 1),
        ("diff", run, run),
        ("export-table", run, "--table", "user_id", "--out", run / "t"),
        ("export-table", run, "--table", "user_id", "--out", f"file://{run}/t"),
    ):
        done = genctr("ckpt", *word, "--quiet")
        assert done.code == 2
        assert "checkpoint step-0000011-2 is damaged: the file __1_0.distcp is not there; " in done.err
        assert "Traceback" not in done.err
    assert not [*run.glob("t*.tmp"), *run.glob("t")]
    assert marks(run) == ["step-0000009", "step-0000011", "step-0000011-2"]


def test_bad_words_are_told(run: Path, tmp_path: Path) -> None:
    export = ("export-table", run, "--table", "users", "--out", tmp_path / "t")
    for words, told in [
        (
            ("show", run, "step-0000007"),
            "there is no whole checkpoint step-0000007\n  there are: rank, step-0000009, step-0000011",
        ),
        (("ls", tmp_path), "no whole checkpoint in"),
        (("reshard", run, "all", "--ranks", 2), "all checkpoints can be written again in a new run folder only"),
        (export, "there is no table users\n  there are: category, device"),
        (("grow", run, "--table", "users", "--rows", 9), "the schema has no table users\n  there are: user_id, item_id"),
        (("grow", run, "--table", "device", "--rows", 9), "table device has ids: vocab, and cannot be given rows"),
        (("grow", run, "--table", "tab", "--rows", 4), "table tab has 6 rows already"),
        (("grow", run, "--table", "user_id", "--rows", 65536), "its ids would all move\n  next: choose 65535 or 98302 rows"),
    ]:
        done = genctr("ckpt", *words)
        assert done.code == 2, words
        assert told in done.err


# A larger table.


def assert_every_row_counted_once(config: Path, out: Path) -> None:
    """The hashes of a day's rows are those of rows of tables, and other ones before and after a hashed table has grown."""
    trained = {path: own["rows"] for event in events(out, "trained") for path, own in event["files"].items()}
    days = yaml.safe_load(config.read_text())["data"]["days"]
    files = [file for day in days for file in (config.parent / "log" / f"day={day}").glob("*.parquet")]
    assert trained == {str(file): pq.read_metadata(file).num_rows for file in files}


@pytest.mark.parametrize(("table", "rows"), [("user_id", 65535), pytest.param("tab", 9, marks=pytest.mark.slow)])
def test_a_table_grows_to_what_a_job_with_the_new_schema_would_make_of_it(tmp_path: Path, table: str, rows: int) -> None:
    config, out, grown = write_log(tmp_path), tmp_path / "run", tmp_path / "grown"
    wide = ("model.decoder=deepfm", "model.decoder_options={hidden: [8]}", "tables.optimizer=lazy_adam")
    train(config, out, *SHORT, *wide)
    done = genctr("ckpt", "grow", out, "--table", table, "--rows", rows, "--out", grown, "--quiet")
    assert done.code == 0, done.err
    assert "6 tensors with " in done.out  # the table, its linear part, and two moments of each

    schema = yaml.safe_load(Path(yaml.safe_load(config.read_text())["schema"]).read_text())
    next(field for field in schema["fields"] if field["name"] == table)["rows"] = rows
    (tmp_path / "larger.yaml").write_text(yaml.safe_dump(schema))
    larger = tmp_path / "larger-run.yaml"
    larger.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"schema": str(tmp_path / "larger.yaml")}))
    accepted = f'daily.accept_changes=["field {table}.rows: begun with {5 if table == "tab" else 32768}, now {rows}"]'
    with built(larger, out, *SHORT, *wide, accepted) as job:
        load_grown(job, str(job.checkpoints.latest()))
        tensors = {"model": job.sharded.model.state_dict(), "optimizer": job.optimizer.state_dict()}
        job.checkpoints.save(11, tensors=tensors, meta=job.checkpoints.read_meta(str(job.checkpoints.latest())))
        job.checkpoints.wait()
    assert_same_bits(out, grown)
    assert len(flat(final_tensors(grown))["/model/model.sparse.bags.embedding_bags.tab.weight"]) == (
        10 if table == "tab" else 6
    )

    done = train(larger, grown, *wide, "data.validation=[]", "data.test=[]")
    assert done.code == 0, done.err
    assert_every_row_counted_once(larger, grown)
    assert "grown" not in {event["event"] for event in map(json.loads, (grown / "log.jsonl").read_text().splitlines())}


def test_a_job_accepts_the_new_schema_of_a_run_that_was_grown_in_place(tmp_path: Path) -> None:
    config, out = write_log(tmp_path), tmp_path / "run"
    train(config, out, *SHORT)
    done = genctr("ckpt", "grow", out, "--table", "item_id", "--rows", 32767, "--quiet")
    assert "say `rows: 32767` for item_id in the schema" in done.out
    schema = yaml.safe_load(Path(yaml.safe_load(config.read_text())["schema"]).read_text())
    next(field for field in schema["fields"] if field["name"] == "item_id")["rows"] = 32767
    (tmp_path / "larger.yaml").write_text(yaml.safe_dump(schema))
    run = yaml.safe_load(config.read_text()) | {"schema": str(tmp_path / "larger.yaml")}
    config.write_text(yaml.safe_dump(run))

    refused = train(config, out)
    assert refused.code == 2
    (line,) = [line.strip() for line in refused.err.splitlines() if line.strip().startswith("daily.accept_changes")]
    accepted = line.replace(": ", "=", 1)
    assert train(config, out, accepted, "data.validation=[]", "data.test=[]").code == 0
    assert [event["step"] for event in events(out, "resumed")] == [11]
    assert not events(out, "grown")
    assert_every_row_counted_once(config, out)


def test_a_run_goes_back_to_the_checkpoint_before_those_that_are_dropped(config: Path, trained: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(trained, tmp_path / "run"))
    first, *rest = marks(out)
    assert rest
    refused = genctr("ckpt", "drop", out, first)
    assert refused.code == 2
    assert f"no checkpoint would be left before {first}" in refused.err
    with Lease(str(out), seconds=30):
        assert genctr("ckpt", "drop", out, rest[0]).code == 5

    done = genctr("ckpt", "drop", out, rest[0])

    assert (done.code, marks(out)) == (0, [first])
    assert f"resumes from {first}" in done.out
    assert train(config, out, *SHORT, "tables.optimizer=lazy_adam").code == 0
    assert_same_bits(trained, out)


def test_a_daily_run_goes_back_by_backfill_alone(trained: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(trained, tmp_path / "run"))
    (out / "ledger.jsonl").touch()
    before = marks(out)
    done = genctr("ckpt", "drop", out, before[-1])
    assert (done.code, marks(out)) == (2, before)
    assert "--backfill" in done.err
