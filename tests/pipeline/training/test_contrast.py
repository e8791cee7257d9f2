"""Contrastive pre-training as a job: it learns, hands its tables on bit for bit, and is one on any number of ranks."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from data.frequencies import Frequencies
from models.table_names import table_of
from pipeline.builders.job import Job, build_checkpoints
from pipeline.config.run import load
from pipeline.distributed.world import World
from pipeline.training.inputs import inputs_of
from pipeline.training.objective import StepOutput
from pipeline.training.objectives.contrast import PairMeters
from tests.helpers import on_ranks
from tests.jobs import final_tensors, flat
from tests.tiny import DAYS, built, genctr, train, write_log

PAIRS = "{name: pairs, objective: contrast, fields: [user_id, item_id], tables: {init: {kind: normal, scale: 0.05}}"
STAGES = f"stages=[{PAIRS}}}, {{name: rank, load: {{stage: pairs, parts: tables}}, freeze: [tables]}}]"
ALONE = f"stages=[{PAIRS}}}]"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("contrast"))


@pytest.fixture(scope="module")
def run(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pre-trained for eight passes, then ranked with frozen tables."""
    out = tmp_path_factory.mktemp("trained") / "run"
    done = train(config, out, STAGES, "stages.pairs.train.epochs=8", "train.global_batch_rows=64")
    assert done.code == 0, done.err
    return out


def logged(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_the_log_says_how_it_gets_better_than_chance(run: Path) -> None:
    passes = [own["metrics"]["all"] for own in logged(run) if own["event"] == "trained" and own["stage"] == "pairs"]

    assert len(passes) == 8 * 2
    first, last = passes[0], passes[-2]  # of the same day
    assert first["reference"] == pytest.approx(last["reference"], abs=0.3), "as many candidates"
    assert last["loss"] < last["reference"] - 0.3
    assert last["hit@10"] > first["hit@10"]


def test_the_tables_are_handed_over_bit_for_bit(run: Path) -> None:
    before, after = (
        {table_of(name): own for name, own in flat(final_tensors(run, stage)["model"]).items() if table_of(name)}
        for stage in ("pairs", "rank")
    )

    assert before.keys() == {"user_id", "item_id"}
    for name, own in before.items():
        assert torch.equal(after[name], own)


def test_only_positive_rows_are_counted(config: Path, run: Path) -> None:
    counts = Frequencies.load(str(run / "statistics" / "frequencies.pairs.npz")).counts

    _, clicks = counts["is_click"]
    assert 0 < clicks < counts["is_click"].sum()
    assert counts["user_id"].sum() == counts["item_id"].sum() == clicks


def test_a_model_may_be_tables_alone_or_have_a_layer_behind_each(config: Path, tmp_path: Path) -> None:
    with built(config, tmp_path / "tables", ALONE) as job:
        assert list(job.sharded.dense_parameters) == []
    with built(config, tmp_path / "project", ALONE, "model.contrast.project=linear") as job:
        names = {name.removeprefix("model.project.") for name in job.sharded.dense_parameters}
        assert names == {"user_id.weight", "user_id.bias", "item_id.weight", "item_id.bias"}


@pytest.mark.parametrize("fields", ["[user_id, item_id]", "[item_id, user_id]"])
def test_a_step_is_the_loss_of_its_positive_rows(config: Path, tmp_path: Path, fields: str) -> None:
    """The first of the fields chooses among the values of the second, whatever their order in the schema."""
    with built(config, tmp_path / "run", ALONE.replace("[user_id, item_id]", fields), "train.global_batch_rows=64") as job:
        stream = job.source.stream(job.open(DAYS[0], 0))
        batch = next(iter(stream.batches(stream.start())))
        loss, output = job.sharded.model(batch)
        first, second = yaml.safe_load(fields)
        found = job.objective.model(inputs_of(batch)).representations
        clicked = batch.labels[:, 0] > 0
        ids = [batch.bags[name].values()[clicked] for name in (first, second)]
        counts = torch.from_numpy(Frequencies.load(f"{tmp_path}/run/statistics/frequencies.pairs.npz").counts[second])

    log_q = ((counts[ids[1]] + 0.5) / (counts.sum() + 0.5 * (len(counts) - 1))).log().float()
    logits = (
        torch.nn.functional.cosine_similarity(found[first][clicked, None], found[second][None, clicked], dim=2) / 0.1 - log_q
    )
    taken = set(zip(*(own.tolist() for own in ids), strict=True))
    known = torch.tensor([[(one, other) in taken for other in ids[1].tolist()] for one in ids[0].tolist()])
    logits = logits.masked_fill(known & ~torch.eye(len(known), dtype=torch.bool), -torch.inf)
    assert len(known) > 5
    assert known.sum() > len(known), "some pair is there twice, or its user twice"
    torch.testing.assert_close(loss, -logits.log_softmax(1).diagonal().mean())
    assert output.observed["sums"][-1] == len(known)


def test_ids_may_travel_a_step_ahead(config: Path, tmp_path: Path) -> None:
    """TorchRec's pipeline traces the step symbolically: what chooses rows must not be entered."""
    losses = []
    for pipeline in ("base", "sparse_dist"):
        words = (ALONE, "model.contrast={symmetric: true, project: linear}", f"train.pipeline={pipeline}")
        with built(config, tmp_path / pipeline, *words) as job:
            stream = job.source.stream(job.open(DAYS[0], 0))
            with job.pipe() as pipe, closing(stream.batches(stream.start())) as batches:
                losses.append([pipe.progress(batches).losses["contrast"].item() for _ in range(4)])

    assert losses[0] == losses[1]


def one_pass(rank: int, ranks: int, config: str, out: str) -> tuple[list[float], list[int], dict[str, float]]:
    """The losses of a day's steps, this rank's rows, and the metrics of all ranks."""
    run, schema = load(config, [ALONE])
    job = Job(run, schema, out, World(rank=rank, ranks=ranks, device=torch.device("cpu")), build_checkpoints(run, out))
    stream, metrics = job.source.stream(job.open(DAYS[0], 0)), PairMeters()
    losses, rows = [], []
    for batch in stream.batches(stream.start()):
        loss, output = job.sharded.model(batch)
        loss.backward()
        metrics.update(output)
        losses.append(loss.item()), rows.append(len(batch.labels))
    return losses, rows, metrics.compute()["all"]


def test_two_ranks_are_one_and_a_rank_without_rows_holds_nobody_up(tmp_path: Path) -> None:
    config = write_log(tmp_path)
    said = yaml.safe_load(config.read_text())
    said["train"]["global_batch_rows"] = 2  # the days have a prime number of rows: one is left for the last step
    config.write_text(yaml.safe_dump(said))
    with built(config, tmp_path / "run", ALONE):
        pass
    [(alone, _, metrics)] = on_ranks(1, one_pass, 1, str(config), str(tmp_path / "run"))
    both = on_ranks(2, one_pass, 2, str(config), str(tmp_path / "run"))

    assert sorted(rows[-1] for _, rows, _ in both) == [0, 1]
    assert [sum(own) / 2 for own in zip(*(losses for losses, _, _ in both), strict=True)] == pytest.approx(alone, abs=1e-4)
    for _, _, own in both:
        assert own == pytest.approx(metrics, abs=1e-4)


def test_a_meter_goes_on_from_what_it_has_said() -> None:
    output = StepOutput(None, {}, {}, {"sums": torch.tensor([6.0, 8.0, 3.0, 4.0], dtype=torch.float64)})  # type: ignore[arg-type]
    straight, stopped, resumed = PairMeters(), PairMeters(), PairMeters()
    straight.update(output), straight.update(output)
    stopped.update(output)
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    resumed.update(output)

    assert resumed.compute() == straight.compute() == {"all": {"loss": 1.5, "reference": 2.0, "hit@10": 0.75, "rows": 8.0}}


@pytest.mark.parametrize(
    ("stages", "words", "why"),
    [
        (
            "[{name: pairs, objective: contrast}]",
            (),
            "contrast reads two id fields with a table each, the user's and the item's, ",
        ),
        ("[{name: pairs, objective: contrast, fields: [user_id]}]", (), "and not user_id\n  next: name them in the stage"),
        ("[{name: pairs, objective: contrast, fields: [user_id, price]}]", (), "and not user_id, price"),
        (f"[{PAIRS}, train: {{progressive_validation: true}}}}]", (), "contrast scores no rows: set it to false"),
        (f"[{PAIRS}}}]", ("schema.fields.item_id.dim=8",), "vectors of user_id and item_id are [4, 8] wide"),
        (f"[{PAIRS}}}]", ("model.contrast.temprature=1",), "did you mean 'temperature'?"),
    ],
)
def test_what_cannot_be_is_refused(config: Path, tmp_path: Path, stages: str, words: tuple[str, ...], why: str) -> None:
    settings = [word for setting in (f"stages={stages}", *words) for word in ("--set", setting)]
    done = genctr("train", config, "--out", tmp_path / "run", "--quiet", *settings)

    assert done.code == 2
    assert why in done.err


def test_shares_of_managed_rows_are_refused_and_without_them_it_trains(tmp_path: Path) -> None:
    config = write_log(tmp_path)
    managed = "schema.fields.item_id.ids=managed", "schema.fields.item_id.rows=200"
    assert "model.contrast.logq: rows of managed tables change hands" in train(config, tmp_path / "no", ALONE, *managed).err
    done = train(config, tmp_path / "run", ALONE, *managed, "model.contrast.logq=none")

    assert done.code == 0, done.err
