"""Diagnostics of a run: live in the log, on demand as numbers and pictures, the same on two ranks as on one."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.metadata import ShardedTensorMetadata, TensorProperties
from torch.distributed._shard.sharded_tensor.shard import Shard

import pipeline.jobs.diagnose
import pipeline.training.collapse_monitor
from pipeline.builders.job import Job, build_checkpoints
from pipeline.config.run import load
from pipeline.distributed.shard import tables_in
from pipeline.distributed.world import World, world
from pipeline.jobs.diagnose import days_to_show
from pipeline.training.collapse_monitor import RepresentationStats, set_watch, tables_told
from tests.helpers import on_ranks
from tests.jobs import events, finish, start
from tests.tiny import DAYS, built, genctr, train, write_log

SFG = ("model.encoder.kind=sfg", "model.decoder=dcnv2", "train.diagnose_every_steps=5")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("diagnose"))


@pytest.fixture(scope="module")
def out(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diagnosed") / "run"
    done = train(config, folder, *SFG)
    assert done.code == 0, done.err
    return folder


def test_every_so_many_steps_the_log_says_how_the_representations_are(out: Path) -> None:
    looks = events(out, "diagnosed")

    assert [look["step"] for look in looks] == [5, 10, 15]
    for look in looks:
        for name in ("emb", "generated", "raw"):
            assert 0 < look[name]["rankme_share"] <= 1
        assert 0 <= look["correlation"]["mean_r"] <= 1
        assert len(look["fields"]) == 10
        assert look["bands"].keys() <= {"low", "mid", "high"}
        assert look["tables"]["user_id"]["rms"] > 0
        assert 0 < look["tables"]["user_id"]["moved"] < 0.1, "40 users of 32768 rows"


def test_looking_changes_no_bit_of_the_training(config: Path, out: Path, tmp_path: Path) -> None:
    done = train(config, tmp_path / "run", *SFG[:2], "train.diagnose_every_steps=0")
    assert done.code == 0, done.err

    assert events(tmp_path / "run", "diagnosed") == []
    assert events(tmp_path / "run", "tested")[0]["metrics"] == events(out, "tested")[0]["metrics"]


def test_on_demand_there_are_numbers_and_pictures(out: Path) -> None:
    done = genctr("diagnose", out, "--days", DAYS[3], "--quiet")
    folder = out / "diagnosis"

    assert done.code == 0, done.err
    assert "rankme" in done.out
    assert "correlation of the two sides" in done.out
    told = json.loads((folder / "diagnosis.json").read_text())
    assert told["days"] == [DAYS[3]]
    assert told["emb"]["rankme"] > 1
    assert told["findings"].keys() >= {"spectrum", "correlation", "fields"}
    assert told["findings"]["spectrum"] in done.out
    assert "tiny, 2026-11-04: " in re.sub(r"\s+", " ", (folder / "spectrum.svg").read_text())
    for name in ("spectrum", "correlation", "fields", "history"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (folder / f"{name}.svg").read_text()


def test_days_after_the_last_row_that_is_looked_at_are_left(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.jobs.diagnose, "ROWS", 50)
    done = genctr("diagnose", out, "--days", f"{DAYS[0]}..{DAYS[3]}", "--quiet")

    assert done.code == 0, done.err
    [line] = [line for line in done.err.splitlines() if line.startswith("look at")]
    assert line.startswith(f"look at {DAYS[0]}: 50/50 rows, ")
    assert json.loads((out / "diagnosis" / "diagnosis.json").read_text())["days"] == [DAYS[0]]


def health(*shards: tuple[int, int, int, int]) -> dict[str, float]:
    """What is told of a table in these shards, each its first row and column, rows and columns."""
    metas = [ShardMetadata([top, left], [rows, columns], "rank:0/cpu") for top, left, rows, columns in shards]
    size = torch.Size([max(own.shard_offsets[at] + own.shard_sizes[at] for own in metas) for at in (0, 1)])
    whole = ShardedTensorMetadata(metas, size, TensorProperties(dtype=torch.float32))
    table = ShardedTensor._init_from_local_shards_and_global_metadata(
        [Shard(torch.ones(*own.shard_sizes), own) for own in metas], whole
    )
    sharded: Any = SimpleNamespace(
        tables=lambda: tables_in({"model.embedding_bags.t.weight": table}),
        moments=lambda: iter(()),
        rows_as_read=lambda name, part, rows, column: part,
    )
    return tables_told(sharded)["t"]


def test_of_a_shard_no_more_rows_are_looked_at_than_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.training.collapse_monitor, "TABLE_ROWS", 100)
    with world("cpu"):
        told = health((0, 0, 190, 4), (190, 0, 100, 4))

    assert (told["rows"], told["of_rows"]) == (95 + 100, 290)


def test_a_row_whose_columns_are_in_two_shards_is_one_row() -> None:
    with world("cpu"):
        whole, halves = health((0, 0, 90, 8)), health((0, 0, 90, 4), (0, 4, 90, 4))

    assert halves == pytest.approx({name: own for name, own in whole.items() if name != "rankme"}, nan_ok=True)
    assert halves["rows"] == halves["of_rows"] == 90


def test_without_validation_days_the_last_day_that_was_trained_is_looked_at(config: Path, tmp_path: Path) -> None:
    with built(config, tmp_path / "run", f"data.days={DAYS[0]}..", "data.validation=[]", "data.test=[]") as job:
        assert days_to_show(job) == [DAYS[0]]
        for day in (DAYS[0], DAYS[1], f"{DAYS[0]}+1"):  # rows that came late are not a day
            job.log.write("trained", 1, {"day": day})

        assert days_to_show(job) == [DAYS[1]]


def test_what_an_optimizer_without_memory_cannot_tell_is_null(config: Path, tmp_path: Path) -> None:
    train(config, tmp_path / "run", "tables.optimizer=sgd", "train.diagnose_every_steps=0")
    done = genctr("diagnose", tmp_path / "run", "--quiet")

    assert done.code == 0, done.err
    text = (tmp_path / "run" / "diagnosis" / "diagnosis.json").read_text()
    told = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert {own["moved"] for own in told["tables"].values()} == {None}


def test_all_ranks_look_at_the_day_that_the_first_found_last(config: Path, tmp_path: Path) -> None:
    class Second(World):
        def from_rank_zero(self, work: object, kind: object) -> Any:
            return [DAYS[1]]  # the first rank reads the log after the night has gone on

    with built(config, tmp_path / "run", f"data.days={DAYS[0]}..", "data.validation=[]", "data.test=[]") as job:
        job.world = Second(1, 2, torch.device("cpu"))
        assert days_to_show(job) == [DAYS[1]]


def test_a_model_that_has_diverged_is_told(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.training.callbacks.check_finite", lambda *_, **__: None)  # as versions before it saved one
    train(config, tmp_path / "run", "tables.lr=1e30", "train.dense.lr=1e30", "train.diagnose_every_steps=0")
    done = genctr("diagnose", tmp_path / "run", "--days", DAYS[3], "--quiet")

    assert done.code == 2
    assert "emb: vectors of the model are not finite\n  next: start again from an earlier checkpoint" in done.err


def test_a_run_without_a_checkpoint_is_told(config: Path, tmp_path: Path) -> None:
    with built(config, tmp_path / "run"):
        pass
    done = genctr("diagnose", tmp_path / "run", "--quiet")

    assert done.code == 2
    assert "train it first" in done.err


def seen(rank: int, config: str, out: str, ranks: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the ranks have seen of one day, and of the tables."""
    run, schema = load(config, SFG)
    job = Job(run, schema, out, World(rank=rank, ranks=ranks, device=torch.device("cpu")), build_checkpoints(run, out))
    stream = job.source.stream(job.source.open(DAYS[0]))
    job.sharded.model.eval()
    set_watch(job.objective.model, on=True)
    sight = RepresentationStats(job.observed)
    with torch.no_grad():
        for batch in stream.batches(stream.start()):
            _, output = job.sharded.model(batch)
            sight.add(output.observed)
    return sight.summary(), tables_told(job.sharded)


def test_two_ranks_see_what_one_does(config: Path) -> None:
    folder = config.parent / "untrained"
    with built(config, folder, *SFG):
        pass
    (one,) = on_ranks(1, seen, str(config), str(folder), 1)
    two, same = on_ranks(2, seen, str(config), str(folder), 2)

    assert two == same
    for ours, theirs in zip(one, two, strict=True):
        flat_one, flat_two = _flat(ours), _flat(theirs)
        assert flat_one.keys() == flat_two.keys()
        for name, value in flat_one.items():
            assert flat_two[name] == pytest.approx(value, rel=1e-3, nan_ok=True), name


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in tree.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


@pytest.mark.slow
def test_a_denoiser_is_looked_at_too(tmp_path: Path) -> None:
    config = write_log(tmp_path)
    words = ("model={family: denoiser, balance: progress, dim: 4, hidden: 8, layers: 1}", "train.diagnose_every_steps=4")
    finish(start(config, tmp_path / "run", 1, *words, "train.log_every_steps=3"))
    done = genctr("diagnose", tmp_path / "run", "--days", DAYS[3], "--quiet")

    assert done.code == 0, done.err
    assert {look["step"] for look in events(tmp_path / "run", "diagnosed")} >= {4, 8}
    assert (tmp_path / "run" / "diagnosis" / "history.png").exists()
