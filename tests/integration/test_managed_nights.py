"""Managed tables night after night: in the ledger, in bundles and their scores, in tables that grow, from stage to stage."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from data.ids import NO_ID
from models.id_table import UNSEEN
from pipeline.daily.challenger import load_bundle_weights
from pipeline.jobs.reshape import fits, load_grown
from pipeline.jobs.restore import load, restore
from pipeline.serving.bundle import Bundle, BundleError
from pipeline.serving.scorer import Scorer
from tests.integration.nightly import LENIENT, Nightly, ledger
from tests.integration.test_managed import USERS, write_managed
from tests.jobs import final_tensors, flat
from tests.tiny import built, genctr, train

DAYS = ("2026-11-01", "2026-11-02", "2026-11-03")


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log, its run.yaml and, in `run`, the three nights that took it up."""
    folder = tmp_path_factory.mktemp("nights")
    path = write_managed(folder, rows=300)
    nightly(path)
    assert genctr("daily", path, "--out", folder / "run", "--quiet").code == 0
    return folder


def nightly(path: Path, **daily: Any) -> None:
    run = yaml.safe_load(path.read_text())
    run["data"]["days"] = f"{DAYS[0]}.."
    run["train"]["progressive_validation"] = True
    run["daily"] = {"gates": LENIENT, "first_gates": {}, **daily}
    path.write_text(yaml.safe_dump(run, sort_keys=False))


def bundles(folder: Path) -> list[Bundle]:
    return [Bundle(str(path)) for path in sorted((folder / "run" / "published").glob("20*"))]


def held(tensors: dict[str, Any], table: str) -> dict[int, int]:
    """The ids of a checkpoint's map and the place of each."""
    ids, seen = (tensors[f"/ids/{table}/{name}"] for name in ("id", "seen"))
    return {int(ids[at]): int(at) for at in (seen >= 0).nonzero().flatten()}


def test_the_ledger_says_what_each_day_made_of_the_maps(nights: Path) -> None:
    told = [entry["ids"] for entry in ledger(nights / "run") if entry["event"] == "trained"]
    users = held(flat(final_tensors(nights / "run")), "user_id")
    assert told[2]["user_id"]["held"] == len(users)
    assert sum(day["user_id"]["admitted"] - day["user_id"]["evicted"] for day in told) == len(users)
    assert told[2]["user_id"]["occupancy"] == len(users) / 80
    assert told[2]["user_id"]["churn"] == told[2]["user_id"]["evicted"] / len(users)
    assert told[2]["item_id"]["expired"] > 0


def test_prometheus_reads_the_same_numbers(nights: Path) -> None:
    told = [entry["ids"] for entry in ledger(nights / "run") if entry["event"] == "trained"][-1]["user_id"]
    lines = (nights / "run" / "metrics.prom").read_text().splitlines()
    assert f'genctr_ids{{table="user_id",kind="evicted"}} {told["evicted"]}' in lines
    assert f'genctr_ids_share{{table="user_id",kind="hit_rate"}} {told["hit_rate"]:.10g}' in lines


def test_a_bundle_has_the_ids_with_their_rows_and_those_that_left(nights: Path) -> None:
    own = bundles(nights)
    assert len(own) == 3
    final = flat(final_tensors(nights / "run"))
    for table, reserved in (("user_id", 2), ("item_id", 10)):
        maps = [dict(zip(*(values.tolist() for values in bundle.held(table)), strict=True)) for bundle in own]
        assert maps[2] == {word: place + reserved for word, place in held(final, table).items()}
        assert sorted(own[0].left(table).tolist()) == []
        assert sorted(own[2].left(table).tolist()) == sorted(maps[1].keys() - maps[2].keys())
    assert len(own[2].left("user_id")) > 10


def test_a_bundle_scores_what_the_trainer_scores(nights: Path, tmp_path: Path) -> None:
    assert [Scorer(bundle).parity() for bundle in bundles(nights)] == pytest.approx([0, 0, 0], abs=1e-6)
    assert genctr("evaluate", nights / "run", "--days", DAYS[2], "--predictions", tmp_path / "trainer", "--quiet").code == 0
    day = nights / "log" / f"day={DAYS[2]}"
    assert genctr("score", nights / "run" / "published", "--data", day, "--out", tmp_path / "bundle").code == 0
    trainer = pq.read_table(tmp_path / "trainer" / f"day={DAYS[2]}" / "rank-00000.parquet").to_pydict()
    told = zip(*(trainer[key] for key in ("file", "row", "is_click_logit")), strict=True)
    logits = {(Path(file).name, row): logit for file, row, logit in told}
    compared = 0
    for path in (tmp_path / "bundle").glob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            assert row["is_click_logit"] == pytest.approx(
                logits[path.name.removesuffix(".scores.parquet"), row["row"]], abs=1e-6
            )
            compared += 1
    assert compared == len(logits) > 200


def test_an_id_file_of_a_bundle_that_was_altered_is_told(nights: Path) -> None:
    (bundle, *_) = bundles(nights)
    (name,) = bundle.ids["user_id"]
    file = Path(bundle.path) / name
    content = file.read_bytes()
    file.write_bytes(content[:-9] + b"!" + content[-8:])
    try:
        with pytest.raises(BundleError, match="cut short or altered"):
            Scorer(Bundle(bundle.path))
    finally:
        file.write_bytes(content)


def test_a_bundle_that_was_altered_does_not_end_the_nights_after_it(tmp_path: Path) -> None:
    path = write_managed(tmp_path, days=2, rows=200)
    nightly(path, gates={})
    words = ("daily", path, "--out", tmp_path / "run", "--quiet", "--set", "tables.lr=0.01")
    assert genctr(*words, "--until", DAYS[0]).code == 0
    (bundle,) = bundles(tmp_path)
    file = Path(bundle.path) / bundle.ids["user_id"][0]
    file.write_bytes(file.read_bytes()[:-9])
    done = genctr(*words, "--until", DAYS[1])
    assert done.code == 0, done.err
    assert "the new model is not compared with the serving model" in done.err
    assert len(bundles(tmp_path)[1].left("user_id")) == 0


def test_every_night_is_proved_and_compared_with_what_served(nights: Path) -> None:
    assert genctr("verify", nights / "run").code == 0
    judged = [entry for entry in ledger(nights / "run") if entry["event"] == "judged"]
    assert "difference" in judged[2]["holdout"]


def test_a_job_that_takes_a_bundle_over_has_its_maps_and_finds_its_own_again(nights: Path) -> None:
    bundle = bundles(nights)[1]
    with built(nights / "run.yaml", nights / "run") as job:
        restore(job)
        assert job.ids is not None
        before = {table.name: {name: own.clone() for name, own in table.map.state.items()} for table in job.ids.tables}
        load_bundle_weights(job, bundle)
        for table in job.ids.tables:
            maps = [
                dict(zip(*(own.tolist() for own in pair), strict=True)) for pair in (table.map.held(), bundle.held(table.name))
            ]
            assert maps[0] == maps[1] != {}
        mark = job.checkpoints.latest()
        assert mark is not None
        load(job, mark)
        for table in job.ids.tables:
            for name, own in table.map.state.items():
                assert torch.equal(own, before[table.name][name]), name


def test_a_row_of_zeros_in_an_int8_bundle_is_one_in_a_job_of_fp16_tables_too(tmp_path: Path) -> None:
    path = write_managed(tmp_path, days=1, rows=50)
    nightly(path, bundle_precision="int8")
    half = "tables.precision=fp16"
    assert genctr("daily", path, "--out", tmp_path / "run", "--quiet", "--set", half).code == 0
    (bundle,) = bundles(tmp_path)
    there = torch.ones(USERS["rows"], 4)
    bundle.fill(next(name for name in bundle.tables if name.endswith(".user_id.weight")), there)
    with built(path, tmp_path / "run", half) as job:
        load_bundle_weights(job, bundle)
        assert job.ids is not None
        (own,) = [part for part in job.ids.tables[0]._parts if part.table == "user_id" and part.is_weight]
        seen = job.sharded.rows_as_read("user_id", own.values, torch.arange(len(own.values)))
    assert there[UNSEEN].eq(0).all()
    torch.testing.assert_close(seen, there, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_job_killed_at_night_leaves_the_same_ledger_and_bundles(nights: Path, tmp_path: Path, ranks: int) -> None:
    """On two ranks the maps come in two files; what they say is the same."""
    for kill_at in ("after replace */checkpoints/step-*/checkpoint.json", "before replace */published/current.json", ""):
        night = Nightly(nights / "run.yaml", tmp_path / "run", ranks=ranks, kill_at=kill_at)
        assert night.ended() == (-9 if kill_at else 0), night.text
    again, first = bundles(tmp_path), bundles(nights)
    assert [bundle.name for bundle in again] == [bundle.name for bundle in first]
    for one, other in zip(again, first, strict=True):
        for table in ("user_id", "item_id"):
            assert len(one.ids[table]) == ranks
            maps = [dict(zip(*(values.tolist() for values in own.held(table)), strict=True)) for own in (one, other)]
            assert maps[0] == maps[1]
            assert sorted(one.left(table).tolist()) == sorted(other.left(table).tolist())
    told = [[entry["ids"] for entry in ledger(out / "run") if entry["event"] == "trained"] for out in (tmp_path, nights)]
    assert told[0] == told[1]


# --- tables that grow ---


def grown(path: Path, **users: Any) -> tuple[str, ...]:
    """Another schema of the users' table, and the settings that confirm it."""
    schema = yaml.safe_load((path.parent / "schema.yaml").read_text())
    managed = users.pop("managed", {})
    for field in schema["fields"]:
        if field["name"] == "user_id":
            field |= users
            field["managed"] = {**field["managed"], **managed}
    (path.parent / "schema.yaml").write_text(yaml.safe_dump(schema, sort_keys=False))
    told = [f"field user_id.{key}: begun with {USERS.get(key)!r}, now {value!r}" for key, value in users.items()]
    was = USERS["managed"]
    told += [f"field user_id.managed.{key}: begun with {was.get(key)!r}, now {value!r}" for key, value in managed.items()]
    return (f"daily.accept_changes={told}",)


def vectors(tensors: dict[str, Any], table: str, reserved: int) -> dict[int, list[torch.Tensor]]:
    """All that belongs to every id: weights, first-order weights, their optimizers' states, what its map knows of it."""
    rows = [
        value
        for name, value in sorted(tensors.items())
        if table in name and not name.startswith("/ids") and torch.is_tensor(value) and value.dim()
    ]
    assert len(rows) == 4
    known = [tensors[f"/ids/{table}/{name}"] for name in ("seen", "count")]
    return {
        word: [own[place + reserved] for own in rows] + [own[place] for own in known]
        for word, place in held(tensors, table).items()
    }


def test_a_table_that_loses_rows_of_no_bucket_keeps_all_its_ids(tmp_path: Path) -> None:
    path = write_managed(tmp_path, days=1, rows=200, user_id=USERS | {"rows": 82 + 5})
    day = f"data.days=[{DAYS[0]}]"
    assert train(path, tmp_path / "run", day).code == 0
    before = flat(final_tensors(tmp_path / "run"))
    grown(path, rows=82)
    with built(path, tmp_path / "run", day, "daily.accept_changes=['field user_id.rows: begun with 87, now 82']") as job:
        mark = job.checkpoints.latest()
        assert mark is not None
        load_grown(job, mark)
        job.checkpoints.save(1000, tensors=job.tensors(), meta={})
        job.checkpoints.wait()
    old, new = vectors(before, "user_id", 2), vectors(flat(final_tensors(tmp_path / "run")), "user_id", 2)
    assert old.keys() == new.keys() != set()
    for word, parts in old.items():
        assert all(torch.equal(*pair) for pair in zip(parts, new[word], strict=True)), word


def test_a_table_grows_between_nights_and_every_id_keeps_all_that_is_known_of_it(tmp_path: Path) -> None:
    path = write_managed(tmp_path, days=1, rows=700)
    assert train(path, tmp_path / "run", f"data.days=[{DAYS[0]}]", "data.statistics_days=[2026-11-01]").code == 0
    before = flat(final_tensors(tmp_path / "run"))
    words = grown(path, rows=2 + 3 * 80 + 5)
    with built(path, tmp_path / "run", f"data.days=[{DAYS[0]}]", "data.statistics_days=[2026-11-01]", *words) as job:
        mark = job.checkpoints.latest()
        assert mark is not None
        assert not fits(job, mark)
        load_grown(job, mark)
        assert job.ids is not None
        job.checkpoints.save(1000, tensors=job.tensors(), meta={})
        job.checkpoints.wait()
        assert job.ids.tables[0].counted()["held"] == 80
    after = flat(final_tensors(tmp_path / "run"))
    for table, reserved in (("user_id", 2), ("item_id", 10)):
        old, new = vectors(before, table, reserved), vectors(after, table, reserved)
        assert old.keys() == new.keys()
        for word, parts in old.items():
            assert all(torch.equal(*pair) for pair in zip(parts, new[word], strict=True)), word
    assert len(vectors(after, "user_id", 2)) == 80
    users = [name for name in before if name.endswith(("embedding_bags.user_id.weight", "user_id.momentum1"))]
    assert users
    for name in users:
        assert torch.equal(before[name][:2], after[name][:2]), "the rows that no id owns"
    waiting = [{int(w) for w, s in zip(own["/ids/user_id/waiting_id"], own["/ids/user_id/waiting_seen"], strict=True) if s >= 0}
               for own in (before, after)]  # fmt: skip
    assert waiting[0] == waiting[1] != set()


@pytest.mark.slow
def test_a_night_goes_on_with_a_grown_table_and_all_its_ids(tmp_path: Path) -> None:
    path = write_managed(tmp_path, rows=300)
    nightly(path)
    assert genctr("daily", path, "--out", tmp_path / "run", "--quiet", "--until", DAYS[1]).code == 0
    (words,) = grown(path, rows=2 + 2 * 80)
    assert genctr("daily", path, "--out", tmp_path / "run", "--quiet").code == 2
    assert genctr("daily", path, "--out", tmp_path / "run", "--quiet", "--set", words).code == 0
    told = [entry["ids"]["user_id"] for entry in ledger(tmp_path / "run") if entry["event"] == "trained"]
    assert told[2]["held"] > 80
    assert told[2]["occupancy"] == told[2]["held"] / 160
    assert Scorer(bundles(tmp_path)[2]).parity() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("users", "told"),
    [
        ({"rows": 2 + 8 * 16}, "cannot go from 5 buckets to 8: some ids might find no room\n  next: give it 82 or 162 rows"),
        ({"rows": 2 + 3 * 16}, "cannot go from 5 buckets to 3: some ids might find no room\n  next: give it 82 rows"),
        ({"managed": {"bucket_size": 8}}, "was begun with buckets of 16 rows after 2 reserved ones, and now has 8 after 2"),
        ({"managed": {"on_unseen": "hashed", "unseen_rows": 1}}, "after 2 reserved ones, and now has 16 after 3"),
    ],
)
def test_what_a_managed_table_cannot_become_is_told(nights: Path, tmp_path: Path, users: dict[str, Any], told: str) -> None:
    for name in ("run.yaml", "schema.yaml"):
        shutil.copy(nights / name, tmp_path)
    shutil.copytree(nights / "run", tmp_path / "run")
    path = tmp_path / "run.yaml"
    done = genctr("daily", path, "--out", tmp_path / "run", "--quiet", "--set", *grown(path, **users))
    assert done.code == 2
    assert told in done.err


# --- stages, and what is refused ---


def test_a_stage_that_loads_tables_takes_their_ids_over(tmp_path: Path) -> None:
    path = write_managed(tmp_path, days=2, rows=200)
    run = yaml.safe_load(path.read_text())
    run["stages"] = [
        {"name": "first", "data": {"days": [DAYS[0]]}},
        {"name": "second", "data": {"days": [DAYS[1]]}, "load": {"stage": "first"}, "freeze": ["tables"]},
    ]
    path.write_text(yaml.safe_dump(run, sort_keys=False))
    assert train(path, tmp_path / "run").code == 0
    first, second = flat(final_tensors(tmp_path / "run", "first")), flat(final_tensors(tmp_path / "run"))
    for name, value in first.items():
        if name.startswith("/ids") and not name.endswith("/clock"):
            assert torch.equal(value, second[name]), f"frozen tables have frozen maps: {name}"
    assert len(held(second, "user_id")) > 30


def test_a_denoiser_refuses_managed_tables(tmp_path: Path) -> None:
    done = train(write_managed(tmp_path, days=1, rows=50), tmp_path / "run", "model={family: denoiser, dim: 4}")
    assert done.code == 2
    assert "a denoiser cannot have managed tables" in done.err
    assert "ids: managed of user_id" in done.err


def test_missing_ids_read_row_0(tmp_path: Path) -> None:
    with built(write_managed(tmp_path, days=1, rows=50), tmp_path / "run") as job:
        assert job.ids is not None
        rows = job.ids.tables[0].rows_of(torch.tensor([NO_ID, 5, NO_ID, 5]), None, -1, learn=True)
        assert rows.tolist()[::2] == [0, 0]
        assert rows[1] == rows[3] != 0
