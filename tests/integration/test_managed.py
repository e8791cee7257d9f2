"""Managed tables in whole jobs: every id has the same row and vector on one rank and on two, after kills and between days."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from data.synthetic import write
from pipeline.distributed.managed_ids import CLOCK
from tests.jobs import (
    assert_every_row_once,
    assert_same_bits,
    events,
    final_tensors,
    finish,
    flat,
    kill_after_lines,
    start,
)
from tests.tiny import SCHEMA, built, genctr, some, train

USERS: dict[str, Any] = {"ids": "managed", "rows": 82}
USERS["managed"] = {"bucket_size": 16, "evict": "distance_lfu", "admit_after": 2, "on_unseen": "zero"}
ITEMS: dict[str, Any] = {"ids": "managed", "rows": 170}
ITEMS["managed"] = {"bucket_size": 32, "evict": "lru", "ttl_days": 1, "on_unseen": "hashed", "unseen_rows": 8}


def write_managed(folder: Path, *, days: int = 3, rows: int = 500, users: int = 300, **tables: dict[str, Any]) -> Path:
    """A log with more users than rows for them, and a run that trains all of it with first-order weights next to the tables."""
    write(str(folder / "log"), days=days, rows=rows, seed=5, users=users, items=120)
    schema = yaml.safe_load(SCHEMA.read_text())
    own = {"user_id": USERS, "item_id": ITEMS} | tables
    schema["fields"] = [field | own.get(field["name"], {}) for field in schema["fields"]]
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema, sort_keys=False))
    run = {
        "name": "managed",
        "schema": "schema.yaml",
        "data": {"root": str(folder / "log"), "days": f"2026-11-01..2026-11-0{days}", "lanes": 2, "shuffle_buffer_rows": 128},
        "model": {"decoder": "deepfm", "dim": 4, "decoder_options": {"hidden": [8], "dropout": 0.0}},
        "train": {"global_batch_rows": 32, "device": "cpu", "log_every_steps": 3},
        "checkpoint": {"every_steps": 4},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_managed(tmp_path_factory.mktemp("managed"))


@pytest.fixture(scope="module")
def unbroken(managed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    finish(start(managed, out, 1))
    return out


def maps(out: Path) -> dict[str, torch.Tensor]:
    return {name: value for name, value in flat(final_tensors(out)).items() if name.startswith("/ids")}


def clock(out: Path, table: str) -> dict[str, int]:
    return dict(zip(CLOCK, maps(out)[f"/ids/{table}/clock"].tolist(), strict=True))


def assert_same_ids_and_vectors(one: Path, other: Path) -> None:
    """The maps are the same bits; so every id has the same row, and there the tables are the same but for rounding."""
    first, second = maps(one), maps(other)
    assert len(first) == len(second) == 8 + 6
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    expected, got = flat(final_tensors(one)), flat(final_tensors(other))
    tables = [name for name in expected if ("user_id" in name or "item_id" in name) and not name.startswith("/ids")]
    assert sum("linear" in name for name in tables) >= 4
    for name in tables:
        torch.testing.assert_close(
            got[name], expected[name], rtol=2e-3, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_the_log_of_these_tests_makes_ids_come_and_go(unbroken: Path) -> None:
    days = [event["ids"] for event in events(unbroken, "trained")]
    assert all(day["user_id"]["evicted"] > 10 for day in days)
    assert days[2]["item_id"]["expired"] > 0
    assert 0 < days[2]["user_id"]["hit_rate"] < 1
    assert days[2]["user_id"]["held"] == clock(unbroken, "user_id")["held"] > 60


@pytest.mark.parametrize("sharding", ["table_wise", pytest.param("row_wise", marks=pytest.mark.slow)])
def test_two_ranks_give_every_id_the_row_and_vector_that_one_gives(
    managed: Path, unbroken: Path, tmp_path: Path, sharding: str
) -> None:
    finish(start(managed, tmp_path / "run", 2, f"tables.sharding={sharding}"))
    assert_same_ids_and_vectors(unbroken, tmp_path / "run")
    assert events(tmp_path / "run", "trained")[2]["ids"] == events(unbroken, "trained")[2]["ids"]
    losses = [
        [event["metrics"]["is_click"]["logloss"] for event in events(out, "train")] for out in (unbroken, tmp_path / "run")
    ]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kills", [(5,), pytest.param((2, 2, 3, 2), marks=pytest.mark.slow)])
def test_kills_while_ids_come_and_go_leave_the_same_bits(
    managed: Path, unbroken: Path, tmp_path: Path, kills: tuple[int, ...]
) -> None:
    out = tmp_path / "run"
    for lines in kills:
        kill_after_lines(start(managed, out, 1), out, lines)
    finish(start(managed, out, 1))
    assert len(events(out, "resumed")) >= min(len(kills), 3)
    assert_every_row_once(managed, out)
    assert_same_bits(unbroken, out)
    assert events(out, "trained")[-1]["ids"] == events(unbroken, "trained")[-1]["ids"]


@pytest.mark.slow
def test_one_rank_then_two_then_one_leave_every_id_where_it_was(managed: Path, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for ranks, steps in ((1, 17), (2, 40)):
        finish(start(managed, out, ranks, f"train.max_steps={steps}"))
    finish(start(managed, out, 1))
    assert_every_row_once(managed, out)
    assert_same_ids_and_vectors(unbroken, out)


def test_scoring_changes_no_map(managed: Path, tmp_path: Path) -> None:
    plain, scored = tmp_path / "plain", tmp_path / "scored"
    days = ("data.days=[2026-11-01, 2026-11-02]", "data.statistics_days=[2026-11-01]")
    assert train(managed, plain, *days).code == 0
    words = (*days, "train.progressive_validation=true", "data.test=[2026-11-03]")
    assert train(managed, scored, *words).code == 0
    assert_same_bits(plain, scored)


def test_a_row_that_changes_hands_begins_anew_with_its_first_order_weights_and_optimizer_state(
    managed: Path, tmp_path: Path
) -> None:
    with built(managed, tmp_path / "run") as job:
        assert job.ids is not None
        (users,) = [table for table in job.ids.tables if table.name == "user_id"]
        parts = {(part.table, part.is_weight): part for part in users._parts}
        assert len(parts) == len(users._parts) == 4
        for part in parts.values():
            part.values.fill_(7.0)
        users.begin_anew(torch.tensor([40, 41, 42]), torch.tensor([10**15, -3, 10**15]))
        weights = parts["user_id", True].values
        assert torch.equal(weights[40], weights[42])
        assert not torch.equal(weights[40], weights[41])
        assert weights[40:43].abs().max() <= 82**-0.5
        for (table, is_weight), part in parts.items():
            assert part.values[39].eq(7).all(), table
            assert part.values[43].eq(7).all(), table
            assert part.values[40].ne(7).all(), table
            assert is_weight or part.values[40:43].eq(0).all(), table


def test_a_field_that_is_called_like_a_companion_of_a_managed_table_keeps_its_rows(tmp_path: Path) -> None:
    path = write_managed(tmp_path, days=1, rows=50)
    schema = yaml.safe_load((tmp_path / "schema.yaml").read_text())
    schema["fields"].append({"name": "user_id_second", "column": "item_id", "kind": "id", "ids": "hash", "rows": 82})
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(schema, sort_keys=False))
    with built(path, tmp_path / "run") as job:
        assert job.ids is not None
        assert {part.table for part in job.ids.tables[0]._parts} == {"user_id", "user_id_linear"}


def test_what_unseen_ids_read_stays_zero(managed: Path, unbroken: Path) -> None:
    tensors = flat(final_tensors(unbroken))
    (table,) = [value for name, value in tensors.items() if name.endswith("embedding_bags.user_id.weight")]
    assert table[1].eq(0).all()
    assert table[0].ne(0).all()


def test_a_step_with_more_ids_than_rows_is_told(tmp_path: Path) -> None:
    path = write_managed(tmp_path, user_id={"ids": "managed", "rows": 18, "managed": {"bucket_size": 16}})
    done = train(path, tmp_path / "run")
    assert done.code == 2
    assert "table 'user_id' has room for 16 ids, and one step has" in done.err
    assert "next: give it well over" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["lazy_adam", "adagrad"])
@pytest.mark.parametrize("sharding", ["row_wise", "column_wise"])
def test_attention_over_a_managed_table_and_a_rank_without_buckets(tmp_path: Path, optimizer: str, sharding: str) -> None:
    path = write_managed(tmp_path, rows=400, user_id={"ids": "managed", "rows": 66})  # one bucket: the second rank has none
    attention = "model.sequences={history: {encoder: target_attention}}"
    words = (attention, f"tables.optimizer={optimizer}", "model.encoder.kind=sfg", "tables.lr=0.01")
    finish(start(path, tmp_path / "one", 1, *words))
    finish(start(path, tmp_path / "two", 2, *words, f"tables.sharding={sharding}", "train.max_steps=20"))
    finish(start(path, tmp_path / "two", 1, *words))
    first, second = maps(tmp_path / "one"), maps(tmp_path / "two")
    assert len(first) > 8
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    expected, got = flat(final_tensors(tmp_path / "one")), flat(final_tensors(tmp_path / "two"))
    for name in (own for own in expected if own.endswith((".user_id.weight", ".item_id.weight"))):
        torch.testing.assert_close(got[name], expected[name], rtol=2e-3, atol=2e-4)


# --- checkpoints that move ---


def vectors_by_id(out: Path, table: str, file: Path) -> dict[int, list[float]]:
    done = genctr("ckpt", "export-table", out, "--table", table, "--out", file, "--quiet")
    assert done.code == 0, done.err
    rows = pq.read_table(file)
    return {
        own: vector for own, vector in zip(rows["id"].to_pylist(), rows["vector"].to_pylist(), strict=True) if own is not None
    }


@pytest.mark.parametrize("precision", some(["fp32", "fp16"], "fp16"))
def test_a_checkpoint_moves_to_two_ranks_and_every_raw_id_keeps_its_vector(
    managed: Path, unbroken: Path, tmp_path: Path, precision: str
) -> None:
    out = tmp_path / "run"
    train(managed, out, "train.max_steps=30", f"tables.precision={precision}")
    before = {table: vectors_by_id(out, table, tmp_path / "before.parquet") for table in ("user_id", "item_id")}
    assert genctr("ckpt", "reshard", out, "--ranks", 2, "--quiet").code == 0
    assert genctr("ckpt", "verify", out, "all").code == 0
    assert {table: vectors_by_id(out, table, tmp_path / "after.parquet") for table in before} == before
    assert len(before["user_id"]) == clock(out, "user_id")["held"] > 0
    assert any(any(vector) for vector in before["item_id"].values())
    finish(start(managed, out, 2, "train.max_steps=null", f"tables.precision={precision}"))
    if precision == "fp32":
        assert_same_ids_and_vectors(unbroken, out)
    else:
        assert all(torch.equal(value, maps(unbroken)[name]) for name, value in maps(out).items())


def test_a_stage_begins_the_maps_of_tables_that_the_one_it_loads_did_not_read(tmp_path: Path) -> None:
    config, out = write_managed(tmp_path, days=2, rows=150), tmp_path / "run"
    run = yaml.safe_load(config.read_text())
    others = ["user_id", "tab", "hour", "device", "category", "price", "tags", "image"]
    run["stages"] = [
        {"name": "first", "data": {"days": ["2026-11-01"]}, "fields": others},
        {"name": "second", "data": {"days": ["2026-11-02"]}, "load": {"stage": "first", "parts": "tables"}},
    ]
    config.write_text(yaml.safe_dump(run))
    done = train(config, out)
    assert done.code == 0, done.err
    (told,) = events(out, "stage")
    assert "user_id" in told["loaded"]
    assert "item_id" in told["fresh"]
    assert clock(out, "user_id")["step"] > clock(out, "item_id")["step"] > 0
