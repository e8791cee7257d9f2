"""A schema that changes between two nights: listed, confirmed, and the rest of the state kept."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from pipeline.jobs.reshape import load_grown
from tests.integration.nightly import (
    FIRST,
    FOURTH,
    SECOND,
    THIRD,
    After,
    Nightly,
    Nights,
    daily,
    ledger,
    states,
    write_daily,
)
from tests.jobs import assert_same_bits, events, final_tensors, flat
from tests.tiny import SCHEMA, Done, built, genctr, some


def write_begun(folder: Path) -> Path:
    """A log of four days, and a run of a small table of users that does not read the category yet."""
    path = write_daily(folder, days=4)
    schema = yaml.safe_load(SCHEMA.read_text())
    schema["fields"] = [own for own in schema["fields"] if own["name"] != "category"]
    next(own for own in schema["fields"] if own["name"] == "user_id")["rows"] = 101
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema, sort_keys=False))
    run = yaml.safe_load(path.read_text()) | {"schema": "schema.yaml"}
    path.write_text(yaml.safe_dump(run, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    return Nights(write_begun(tmp_path_factory.mktemp("begun")))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_begun(tmp_path)


@pytest.fixture
def after(config: Path, tmp_path: Path, nights: Nights) -> After:
    """`after(day)`: `run` becomes a run that has trained this test's log until that day."""
    return lambda day: nights.copy(day, config, tmp_path / "run")


def change(config: Path, alter: Any) -> None:
    path = config.parent / "schema.yaml"
    schema = yaml.safe_load(path.read_text())
    alter({own["name"]: own for own in schema["fields"]}, schema)
    path.write_text(yaml.safe_dump(schema, sort_keys=False))


def confirmed(done: Done) -> list[str]:
    """What the refusal asks to be confirmed, as `--set`."""
    assert done.code == 2
    line = next(line for line in done.err.splitlines() if line.startswith("  daily.accept_changes: "))
    return ["--set", f"daily.accept_changes={line.partition(': ')[2]}"]


def tables(out: Path) -> dict[str, torch.Tensor]:
    return {
        name.split("/")[-1].split(".")[-2]: value
        for name, value in flat(final_tensors(out)).items()
        if name.startswith("/model") and ".embedding" in name and torch.is_tensor(value)
    }


@dataclass(frozen=True)
class Grown:
    """A run before and after a change between two nights: its tables, what the log says of it, what was to be confirmed."""

    out: Path
    before: dict[str, torch.Tensor]
    told: dict[str, Any]
    refused: list[str]


def grow(config: Path, out: Path, nights: Nights, alter: Any) -> Grown:
    """Two days, a change, and two more."""
    nights.copy(SECOND, config, out)
    before = tables(out)
    change(config, alter)
    refused = daily(config, out)
    assert daily(config, out, *confirmed(refused)).code == 0
    assert list(states(out)) == [FIRST, SECOND, THIRD, FOURTH]
    (told,) = events(out, "grown")
    assert genctr("verify", out).code == 0
    return Grown(out, before, told, refused.err.splitlines())


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, nights: Nights) -> Grown:
    """Many changes in one night: a larger table, a field that is new and one that goes, two that share a vocabulary."""
    folder = tmp_path_factory.mktemp("grown")
    config = write_begun(folder)

    def alter(fields: dict, schema: dict) -> None:
        fields["user_id"].update(rows=301)
        place = schema["fields"].index(fields["price"])
        schema["fields"][place] = {"name": "category", "kind": "id", "ids": "vocab"}
        seen = {"name": "seen", "kind": "sequence", "column": "history", "time": "history_time_ms", "length": 20}
        seen |= {"ids": "vocab"}
        run = yaml.safe_load(config.read_text())
        run["model"]["sequences"] = {"seen": {"encoder": "target_attention"}}
        config.write_text(yaml.safe_dump(run, sort_keys=False))
        schema["fields"] += [seen, {"name": "shown", "kind": "id", "column": "item_id", "table": "seen"}]

    return grow(config, folder / "run", nights, alter)


def test_a_new_field_and_a_removed_one(grown: Grown) -> None:
    assert "  field category: new" in grown.refused
    assert "  field price: gone" in grown.refused
    assert any("category" in name for name in grown.told["fresh"])
    assert any("item_id" in name for name in grown.told["kept"])
    assert len({entry["schema"] for entry in ledger(grown.out) if entry["event"] == "trained"}) == 2
    assert "category" in tables(grown.out)


def test_new_fields_that_share_a_vocabulary_are_counted_together(grown: Grown) -> None:
    """It belongs to a sequence with attention, which cannot be read without the other."""
    newest = pq.read_table(grown.out.parent / "log" / f"day={FOURTH}", columns=["item_id"], partitioning=None)
    vocabulary = pq.read_table(grown.out / "statistics" / "vocabulary.seen.parquet")["id"].to_pylist()
    assert set(newest["item_id"].to_pylist()) <= set(vocabulary)


def test_a_hashed_table_grows_and_every_id_keeps_its_vector(grown: Grown) -> None:
    assert any("user_id.rows: begun with 101, now 301" in line for line in grown.refused)
    assert any("user_id" in name for name in grown.told["enlarged"])
    assert tables(grown.out)["user_id"].shape[0] == 301
    assert grown.before["user_id"].shape[0] == 101


@pytest.mark.parametrize("name", some(["model", "tables"], "tables"))
def test_every_id_keeps_its_vector_and_its_moment_whatever_other_fields_are_called(
    config: Path, tmp_path: Path, name: str
) -> None:
    out, words = tmp_path / "run", ("--set", "tables.lr=1e-30")

    def begin(fields: dict, schema: dict) -> None:
        fields["user_id"].update(rows=11)
        schema["fields"].insert(0, {"name": name, "column": "device", "kind": "id", "ids": "vocab"})

    change(config, begin)
    assert daily(config, out, "--until", FIRST, *words).code == 0
    before = final_tensors(out)
    change(config, lambda fields, _: fields["user_id"].update(rows=21))
    again = confirmed(daily(config, out, *words))
    with built(config, out, *words[1:], again[1]) as job:
        load_grown(job, str(job.checkpoints.latest()))
        job.checkpoints.save(99, tensors=job.tensors(), meta={})
    after, rows = final_tensors(out), torch.tensor([0, *(1 + row // 2 for row in range(20))])
    weight = "model.sparse.bags.embedding_bags.user_id.weight"
    moments = [tensors["optimizer"]["state"][f"tables.{weight}"]["user_id.momentum1"] for tensors in (before, after)]
    assert torch.equal(after["model"][weight], before["model"][weight][rows])
    assert moments[0].count_nonzero() > 5
    assert torch.equal(moments[1], moments[0][rows])


@pytest.mark.slow
def test_a_table_grows_on_two_ranks_alike(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = Nightly(config, out, "--until", FIRST, ranks=2)
    assert first.ended() == 0, first.text
    change(config, lambda fields, _: fields["user_id"].update(rows=301))
    words = ["--until", SECOND, "--set", 'daily.accept_changes=["field user_id.rows: begun with 101, now 301"]']
    second = Nightly(config, out, *words, ranks=2)
    assert second.ended() == 0, second.text
    assert Nightly(config, out, *words, ranks=2).ended() == 0  # nothing to do, which is not a failure to a launcher
    assert len(events(out, "grown")) == 1
    assert list(states(out)) == [FIRST, SECOND]
    assert genctr("verify", out).code == 0


def test_enlarging_copies_each_row_to_where_its_ids_go() -> None:
    import pyarrow as pa

    from data.ids import HashIds

    ids = pa.array(range(5000))
    small, large = HashIds(rows=101, seed=3)(ids), HashIds(rows=301, seed=3)(ids)
    assert (1 + (large - 1) // 3 == small).all()


def test_a_hashed_table_cannot_grow_by_half(config: Path, tmp_path: Path, after: After) -> None:
    out = tmp_path / "run"
    after(FIRST)
    change(config, lambda fields, _: fields["user_id"].update(rows=150))
    done = daily(config, out, *confirmed(daily(config, out)))
    assert done.code == 2
    assert "choose 201 rows" in done.err


@pytest.mark.slow
def test_a_new_label_has_a_head_of_its_own(config: Path, tmp_path: Path, nights: Nights) -> None:
    def alter(_: dict, schema: dict) -> None:
        label = schema.pop("label")
        schema["labels"] = [{"target": "is_click", **label}, {"target": "again", **label}]

    grown = grow(config, tmp_path / "run", nights, alter)
    assert "  label again: new" in grown.refused
    assert any("head" in name for name in grown.told["enlarged"])
    judged = [entry for entry in ledger(grown.out) if entry["event"] == "scored" and entry["day"] == FOURTH]
    assert judged[0]["metrics"].keys() == {"is_click", "again"}


@pytest.mark.slow
def test_tables_of_half_precision_do_not_become_whole_ones_whose_untrained_rows_are_zeros(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    half, whole = (["--set", f"tables.precision={precision}"] for precision in ("fp16", "fp32"))
    assert daily(config, out, "--until", FIRST, *half).code == 0
    done = daily(config, out, *whole, *confirmed(daily(config, out, *whole)))
    assert done.code == 2
    assert "was begun in fp16" in done.err
    assert "set tables.precision to fp16" in done.err
    assert daily(config, out, "--until", SECOND, *half, *confirmed(daily(config, out, *half))).code == 0


def test_other_settings_are_confirmed_alike(config: Path, tmp_path: Path, after: After) -> None:
    out = tmp_path / "run"
    after(FIRST)
    words = ["--set", "tables.lr=0.01"]
    refused = daily(config, out, *words)
    assert "tables.lr: begun with 0.05, now 0.01" in refused.err
    assert daily(config, out, *words, *confirmed(refused), "--until", SECOND).code == 0


@pytest.mark.slow
def test_another_network_is_not_compared_with_what_serves_and_a_table_may_have_another_optimizer(
    config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert daily(config, out, "--until", FIRST, "--set", "daily.gates={}").code == 0
    assert daily(config, out, "--until", SECOND, "--set", "daily.gates={auc_floor: 1.0}").code == 3  # it serves no more
    words = ["--set", "model.decoder_options.hidden=[16]", "--set", "tables.optimizer=sgd", "--set", "daily.gates={auc: -1.0}"]
    refused = daily(config, out, *words)
    done = daily(config, out, *words, *confirmed(refused), "--until", THIRD)
    assert done.code == 0, done.err
    assert "not compared with the serving model: it has another schema or model" in done.err
    judged = [entry for entry in ledger(out) if entry["event"] == "judged"]
    assert "difference" not in judged[-1]["holdout"]
    assert daily(config, out, *words, *confirmed(refused)).code == 0
    assert "difference" in [entry for entry in ledger(out) if entry["event"] == "judged"][-1]["holdout"]
    assert len(events(out, "grown")) == 1, "once, though the config still says so"


@pytest.mark.slow
def test_a_day_after_a_change_is_compared_with_what_serves_and_trains_what_it_would_without(
    config: Path, tmp_path: Path
) -> None:
    out, alone = tmp_path / "run", tmp_path / "alone"
    assert daily(config, out, "--until", FIRST, "--set", "daily.gates={}").code == 0
    assert daily(config, out, "--until", SECOND, "--set", "daily.gates={auc_floor: 1.0}").code == 3  # FIRST's goes on serving
    shutil.copytree(out, alone)
    shutil.rmtree(alone / "published")
    words = ["--set", "tables.optimizer=sgd", "--set", "daily.gates={}", "--until", THIRD]
    words += confirmed(daily(config, out, *words))
    for folder, compared in ((out, True), (alone, False)):
        done = daily(config, folder, *words)
        assert done.code == 0, done.err
        fresh = [entry for entry in ledger(folder) if entry["event"] == "judged"][-1]["holdout"]
        assert ("difference" in fresh) == compared
    assert_same_bits(out, alone)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["reset_dense", "reset_all"])
def test_optimizers_may_forget_when_a_day_begins(config: Path, tmp_path: Path, optimizer: str) -> None:
    assert daily(config, tmp_path / "kept", "--until", SECOND).code == 0
    words = ["--set", f"daily.optimizer={optimizer}"]
    assert daily(config, tmp_path / "reset", "--until", SECOND, *words).code == 0
    kept, reset = (flat(final_tensors(tmp_path / name)) for name in ("kept", "reset"))
    moved = {name for name, value in kept.items() if torch.is_tensor(value) and not torch.equal(value, reset[name])}
    assert any(name.startswith("/model") for name in moved)


@pytest.mark.parametrize("optimizer", some(["reset_dense", "reset_all"], "reset_dense"))
def test_steps_are_forgotten_with_the_moments_that_they_correct(config: Path, tmp_path: Path, optimizer: str) -> None:
    words = ["--set", f"daily.optimizer={optimizer}", "--set", "tables.optimizer=lazy_adam"]
    assert daily(config, tmp_path / "run", "--until", SECOND, *words).code == 0
    tensors = flat(final_tensors(tmp_path / "run"))
    steps = {
        kind: {int(value) for name, value in tensors.items() if name.startswith(f"/optimizer/state/{kind}.") and "step" in name}
        for kind in ("tables", "dense")
    }
    first, second = (entry["step"] for entry in ledger(tmp_path / "run") if entry["event"] == "trained")
    assert steps == {"tables": {second if optimizer == "reset_dense" else second - first}, "dense": {second - first}}


def test_rows_of_a_table_may_decay_when_a_day_begins(config: Path, tmp_path: Path) -> None:
    words = ["--set", "daily.table_decay={user_id: 0.5}", "--set", "tables.lr=1e-30"]
    assert daily(config, tmp_path / "run", "--until", FIRST, *words).code == 0
    first = tables(tmp_path / "run")["user_id"].clone()
    assert daily(config, tmp_path / "run", "--until", SECOND, *words).code == 0
    assert torch.allclose(tables(tmp_path / "run")["user_id"], first / 2, atol=1e-12)


def test_a_stage_reads_other_fields_later_and_days_are_proven_with_those_of_then(config: Path, tmp_path: Path) -> None:
    out, fields = tmp_path / "run", ["user_id", "item_id", "price"]
    words = ["--set", f"stages=[{{name: rank, fields: [{', '.join(fields)}]}}]"]
    done = daily(config, out, "--until", FIRST, *words)
    assert done.code == 0, done.err
    assert genctr("verify", out).code == 0
    words = ["--set", f"stages=[{{name: rank, fields: [{', '.join(fields)}, tab]}}]"]
    done = daily(config, out, "--until", SECOND, *words, *confirmed(daily(config, out, *words)))
    assert done.code == 0, done.err
    done = genctr("verify", out)
    assert done.code == 0, done.err


@pytest.mark.slow
def test_a_field_that_days_of_a_finished_pre_training_lack(config: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "run", ["--set", "model={family: denoiser, dim: 4}"]
    assert daily(config, out, "--until", FIRST, *words).code == 0
    for file in (config.parent / "log").glob("day=*/*.parquet"):
        if FIRST not in str(file):
            table = pq.read_table(file, partitioning=None)
            pq.write_table(table.append_column("extra", table["category"]), file)
    change(config, lambda _, schema: schema["fields"].append({"name": "extra", "kind": "id", "ids": "vocab"}))
    done = daily(config, out, "--until", SECOND, *words, *confirmed(daily(config, out, *words)))
    assert done.code == 0, done.err
    assert states(out).keys() == {FIRST, SECOND}


def test_what_a_night_without_a_day_has_accepted_stays_accepted(config: Path, tmp_path: Path, after: After) -> None:
    out, words = tmp_path / "run", ["--set", "model.decoder_options.hidden=[16]"]
    after(FIRST)
    assert daily(config, out, "--until", FIRST, *words, *confirmed(daily(config, out, *words))).code == 75
    assert "is not trained yet\n  next: train it first" in genctr("evaluate", out, "--days", FIRST, "--quiet").err
    done = daily(config, out, "--until", SECOND, *words)
    assert done.code == 0, done.err


@pytest.mark.slow
def test_early_stopping_judges_a_model_of_another_shape_anew(config: Path, tmp_path: Path) -> None:
    """The best so far cannot be loaded into it."""
    out = tmp_path / "run"
    words = [f"data.days=[{FIRST}]", f"data.validation=[{SECOND}]", f"data.test=[{THIRD}]", "train.epochs=1"]
    words += ["train.early_stop={metric: auc, patience: 9, min_delta: 1.0}", "train.progressive_validation=false"]
    settings = [word for own in words for word in ("--set", own)]
    assert genctr("train", config, "--out", out, "--quiet", *settings).code == 0
    settings += ["--set", "train.epochs=2", "--set", "model.decoder_options.hidden=[16]"]
    accept = confirmed(genctr("train", config, "--out", out, "--quiet", *settings))
    done = genctr("train", config, "--out", out, "--quiet", *settings, *accept)
    assert done.code == 0, done.err


def test_stages_at_other_places_cannot_be_confirmed(config: Path, tmp_path: Path, after: After) -> None:
    out, words = tmp_path / "run", ["--set", "stages=[{name: before, data: {days: [2026-11-01]}}, {name: rank}]"]
    after(FIRST)
    done = daily(config, out, *words)
    assert done.code == 2
    assert "stage rank: in another place" in done.err


def test_the_day_that_a_run_stands_in_cannot_be_left_out(config: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "run", ["--set", "train.max_steps=2", "--set", f"data.days=[{FIRST}, {SECOND}]"]
    assert genctr("train", config, "--out", out, "--quiet", *words).code == 0
    words = ["--set", "train.max_steps=null", "--set", f"data.days=[{SECOND}]"]
    accept = confirmed(genctr("train", config, "--out", out, "--quiet", *words))
    done = genctr("train", config, "--out", out, "--quiet", *words, *accept)
    assert done.code == 2
    assert f"stands in day {FIRST}, which data.days has no longer" in done.err
