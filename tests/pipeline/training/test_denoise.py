"""Pre-training as a job: the loss is what the noise and the balance say, and restoring gets better than guessing."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml

from data.synthetic import write
from pipeline.builders.job import Job, build_checkpoints
from pipeline.config.run import load
from pipeline.distributed.world import World
from pipeline.training.denoise import DenoiseObjective
from pipeline.training.field_metrics import FieldMeters
from pipeline.training.objective import StepOutput
from tests.helpers import on_ranks
from tests.jobs import events
from tests.tiny import DAYS, built, some, train, write_log

DENOISER = "model={family: denoiser, balance: progress, dim: 4, hidden: 8, layers: 1, dropout: 0.0}"
SMALL = (DENOISER, "data.prefetch_batches=0")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("pretrain"))


def steps(job: Job, count: int = 3) -> list[tuple[float, StepOutput]]:
    """The first steps' losses and outputs, without training."""
    stream, found = job.source.stream(job.source.open(DAYS[0])), []
    for batch, _ in zip(stream.batches(stream.start()), range(count), strict=False):
        torch.manual_seed(7)
        loss, output = job.sharded.model(batch)
        found.append((loss.item(), output))
    return found


def test_balance_uniform_is_the_loss_of_the_plain_diffusion_bit_for_bit(config: Path, tmp_path: Path) -> None:
    losses = []
    for name, words in {
        "diffusion": ("model={family: denoiser, dim: 4, hidden: 8, layers: 1, dropout: 0.0}",),
        "uniform": ("model.balance=uniform",),
    }.items():
        with built(config, tmp_path / name, *SMALL, *words) as job:
            losses.append([loss for loss, _ in steps(job)])

    assert losses[0] == losses[1]


def test_the_loss_is_the_sum_over_hidden_values_weighted_by_row_field_and_noise(config: Path, tmp_path: Path) -> None:
    with built(config, tmp_path / "run", *SMALL, "model.balance=uniform", "model.time_weight=one") as job:
        task = job.objective
        assert isinstance(task, DenoiseObjective)
        for loss, output in steps(job):
            assert loss == pytest.approx(output.observed["loss"].sum().item() / output.batch.rows, rel=1e-5)
            assert torch.equal(output.observed["weight"], torch.ones(len(task.names)))


@pytest.mark.parametrize("balance", some(["progress", "literal"], "progress"))
def test_difficulties_move_the_way_of_their_formula_and_labels_weigh_1(config: Path, tmp_path: Path, balance: str) -> None:
    done = train(config, tmp_path / "run", *SMALL, f"model.balance={balance}", LONG)
    assert done.code == 0, done.err
    fields = [event for event in events(tmp_path / "run", "trained") if "all" in event["metrics"]][-1]["metrics"]
    assert fields.pop("is_click")["weight"] == 1
    del fields["all"]
    hardness = {name: own["loss"] / (own["reference"] if balance == "progress" else 1) for name, own in fields.items()}
    easiest, hardest = min(fields, key=hardness.__getitem__), max(fields, key=hardness.__getitem__)

    if balance == "progress":
        assert fields[hardest]["weight"] > fields[easiest]["weight"]
    else:
        assert fields[hardest]["weight"] < fields[easiest]["weight"]


LONG = "stages=[{name: pretrain, objective: denoise, train: {epochs: 6, dense: {lr: 0.01}}, model: {balance_lr: 0.2}}]"


@pytest.mark.parametrize("noise", some(["mask", "replace"], "mask"))
def test_restoring_gets_better_than_knowing_the_frequencies(noise: str, tmp_path: Path) -> None:
    """In this log two fields say the same, so that each can be restored from the other."""
    folder = tmp_path / "log"
    write(str(folder), days=1, rows=1500, seed=3)
    schema = {"name": "twice", "label": {"column": "is_click"}}
    fields = [{"name": name, "kind": "id", "ids": "vocab", "column": "category"} for name in ("one", "other")]
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump({**schema, "fields": fields}))
    run = {
        "schema": str(tmp_path / "schema.yaml"),
        "data": {"root": str(folder), "days": ["2026-11-01"]},
        "model": {
            "family": "denoiser",
            "dim": 8,
            **{"hidden": 16, "layers": 1, "noise": noise},
        },
        "tables": {"optimizer": "adam", "lr": 0.02, "init": {"kind": "normal", "scale": 0.05}},
        "train": {"global_batch_rows": 128, "device": "cpu", "dense": {"lr": 0.01}},
        "stages": [{"name": "pretrain", "objective": "denoise", "train": {"epochs": 12}}],
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    done = train(tmp_path / "run.yaml", tmp_path / "run")
    assert done.code == 0, done.err
    fields_seen = events(tmp_path / "run", "trained")[-1]["metrics"]

    # Hidden together with the other nothing can be known; alone everything, unless it has to be told from a replaced value.
    for name in ("one", "other"):
        bound = {"mask": 0.75, "replace": 0.99}[noise] * fields_seen[name]["reference"]
        assert fields_seen[name]["loss"] < bound, fields_seen


def meters(names: tuple[str, ...], *steps: tuple[float, ...]) -> FieldMeters:
    made = FieldMeters(names)
    for values in steps:
        seen = {"loss": torch.tensor(values), "reference": torch.tensor(values) * 2, "rows": torch.ones(len(values))}
        seen |= {"weight": torch.full((len(values),), 0.5), "difficulty": torch.tensor([0.25])}
        made.update(StepOutput(None, {}, {}, seen))  # type: ignore[arg-type]  # meters look at what was seen alone
    return made


def test_the_meters_are_means_over_hidden_values_and_those_of_all_fields_together() -> None:
    found = meters(("item", "click"), (4.0, 1.0), (2.0, 1.0)).compute()

    assert found["item"] == {"loss": 3, "reference": 6, "rows": 2, "weight": 0.5, "difficulty": 0.25}
    assert found["click"] == {"loss": 1, "reference": 2, "rows": 2, "weight": 0.5}
    assert found["all"] == {"loss": 2, "reference": 4}


def test_the_meters_of_a_field_that_was_never_hidden_are_not_defined() -> None:
    found = FieldMeters(("item",)).compute()

    assert math.isnan(found["item"]["loss"])
    assert math.isnan(found["all"]["loss"])


def shared(rank: int) -> dict[str, Any]:
    made = meters(("item", "click"), (4.0, 1.0)) if rank == 0 else meters(("item", "click"), (2.0, 3.0), (6.0, 5.0))
    resumed = FieldMeters(("item", "click"))
    resumed.load_state_dict(made.state_dict())
    assert {k: v for k, v in made.compute()["item"].items() if k in ("loss", "rows")} == {"loss": 4.0, "rows": 3.0}
    assert dist.get_world_size() == 2
    return resumed.compute()


def test_the_meters_add_up_over_ranks_and_go_on_where_they_were() -> None:
    one, two = on_ranks(2, shared)

    assert one == two
    assert one["item"] == {"loss": 4, "reference": 8, "rows": 3}


def balanced(rank: int, config: str, out: str) -> list[list[float]]:
    run, schema = load(config, (*SMALL, "train.global_batch_rows=32"))
    job = Job(run, schema, out, World(rank=rank, ranks=2, device=torch.device("cpu")), build_checkpoints(run, out))
    return [output.observed["weight"].tolist() for _, output in steps(job)]


def test_ranks_agree_on_the_weights(config: Path, tmp_path: Path) -> None:
    with built(config, tmp_path / "run", *SMALL, "train.global_batch_rows=32"):
        pass
    one, two = on_ranks(2, balanced, str(config), str(tmp_path / "run"))

    assert one == two


def test_a_label_that_does_not_count_tells_nothing_and_costs_nothing(config: Path, tmp_path: Path) -> None:
    """What is hidden, and so what is seen of it, may not depend on which labels count: that would give away another label."""
    with built(config, tmp_path / "run", *SMALL, "model.balance=uniform") as job:
        stream = job.source.stream(job.source.open(DAYS[0]))
        batch = next(stream.batches(stream.start()))
        seen = []
        for weights in (batch.weights, torch.zeros_like(batch.weights)):
            torch.manual_seed(7)
            _, output = job.sharded.model(replace(batch, weights=weights))
            seen.append(output.observed)

    assert torch.equal(seen[0]["loss"][:-1], seen[1]["loss"][:-1])
    assert seen[0]["rows"][-1] > 0
    assert seen[1]["rows"][-1] == seen[1]["loss"][-1] == 0


def test_labels_weigh_what_is_said(config: Path, tmp_path: Path) -> None:
    found = []
    for name, weight in (("one", 1.0), ("ten", 10.0)):
        words = ("model.balance=uniform", "model.time_weight=one", f"model.label_weight={weight}")
        with built(config, tmp_path / name, *SMALL, *words) as job:
            [(loss, output)] = steps(job, 1)
            found.append(loss)
            assert output.observed["weight"][-1] == weight
    label = output.observed["loss"][-1].item() / output.batch.rows
    assert found[1] - found[0] == pytest.approx(9 * label, rel=1e-4)


def test_a_list_weighs_as_much_as_a_field_however_long_it_is(config: Path, tmp_path: Path) -> None:
    with built(config, tmp_path / "run", *SMALL, "model.balance=uniform") as job:
        task = job.objective
        assert isinstance(task, DenoiseObjective)
        at = task.names.index("history")
        slots = task.model.layout.field_S == at
        hidden_BS = torch.ones(3, len(slots), dtype=torch.bool)
        hidden_BS[1, slots.nonzero()[5:, 0]] = False
        hidden_BS[2, slots] = False
        shares_BF = (task._shares(hidden_BS) * hidden_BS)[:, slots].sum(1)
        torch.testing.assert_close(shares_BF, torch.tensor([1.0, 1.0, 0.0]))
        for _, output in steps(job):
            rows = dict(zip(task.names, output.observed["rows"].tolist(), strict=True))
            assert 0 < rows["history"] <= output.batch.rows + 1e-4, "not one for every value"


def test_of_long_lists_no_more_is_restored_than_a_table_chooses_from(config: Path, tmp_path: Path) -> None:
    words = ("model.balance=uniform", "model.full_softmax_max_rows=1", "model.max_candidates=8")
    with built(config, tmp_path / "run", *SMALL, *words) as job:
        task = job.objective
        assert isinstance(task, DenoiseObjective)
        for _, output in steps(job):
            restored = dict(zip(task.names, output.observed["rows"].tolist(), strict=True))
            assert 0 < restored["item_id"] <= 4, "item_id and history share a table"
            assert 0 < restored["history"] <= 4
            assert restored["is_click"] > 4
