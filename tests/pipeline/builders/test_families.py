"""Every family with every objective it has, for one step: a new one is tried by being there."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchrec.distributed.types import ShardedTensor

from pipeline.builders.families import FAMILIES
from pipeline.builders.job import Job, build_checkpoints
from pipeline.config.run import load
from pipeline.distributed.world import World
from pipeline.jobs.restore import start
from pipeline.training.loop import TrainState
from tests.helpers import on_ranks
from tests.tiny import built, write_log

SMALL = {
    "ranker": "model={family: ranker, dim: 4, encoder: {kind: sfg}, decoder: deepfm, decoder_options: {hidden: [8]}}",
    "denoiser": "model={family: denoiser, dim: 4, hidden: 8, layers: 1, dropout: 0.0, readout: [8]}",
}
PLAIN = "family: ranker, dim: 4, decoder: mlp, decoder_options: {hidden: [8]}"
SYSTEMS = {
    "experts": f"""model={{{PLAIN}, losses: [{{name: focal}}],
        head: ple, head_options: {{expert_hidden: [8], layers: 2, hidden: [8]}},
        sequences: {{history: {{encoder: din, join: [history_category]}}}}}}""",
    "time": f"""model={{{PLAIN}, head: mmoe, head_options: {{expert_hidden: [8], hidden: [8]}},
        sequences: {{history: {{encoder: time_aware, join: [history_category]}}}},
        next_action: {{sequence: history, actions: 3, options: {{dropout: 0.0}}}}}}""",
    "groups": f"""model={{{PLAIN}, head: two_logits, losses: [{{name: jrc}}],
        sequences: {{history: {{encoder: transact, options: {{actions: 3, dropout: 0.0}}}}}}}}""",
    "esmm": f"""model={{{PLAIN}, head: esmm, head_options: {{given: {{long_view: click}}, hidden: [4]}},
        losses: [{{name: bce}}, {{name: bpr, weight: 0.5}}],
        sequences: {{history: {{encoder: hstu, options: {{actions: 3, dropout: 0.0}}}}}}}}""",
    "towers": f"""model={{{PLAIN}, head: towers, head_options: {{hidden: [4]}},
        sequences: {{history: {{encoder: bst, options: {{dropout: 0.0}}}}}}}}""",
}
"""Rankers of a log with histories and several targets."""

CASES = [(name, objective) for name, family in FAMILIES.items() for objective in family.objectives]
CASES += [(name, "rank") for name in SYSTEMS]
UNUSED = {("denoiser", "rank"): {"model.masks.4"}}
"""Parameters that a step does not read: ranking hides no field, and what hides them goes to the next pre-training as it is."""

FIELDS = {"contrast": "[user_id, item_id]"}
"""The fields that an objective has to be told."""

DRAWS_PER_RANK = {"denoise"}
"""What these hide is drawn by (seed, step, rank): two ranks hide other values than one."""

pytestmark = pytest.mark.parametrize(("family", "objective"), CASES, ids=["-".join(case) for case in CASES])


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A log as in all tests, and one with histories and several targets."""
    plain, rich = (write_log(tmp_path_factory.mktemp("families"), events=events) for events in (False, True))
    return {False: plain, True: rich}


@pytest.fixture
def config(logs: dict[bool, Path], family: str) -> Path:
    return logs[family in SYSTEMS]


def words(family: str, objective: str) -> tuple[str, ...]:
    stage = f"{{name: only, objective: {objective}, fields: {FIELDS.get(objective, '[]')}}}"
    return (SMALL | SYSTEMS)[family], f"stages=[{stage}]", "train.global_batch_rows=32"


def forward(job: Job, *, learns: bool) -> tuple[Tensor, Any]:
    """What the first step computes of this rank's rows."""
    cursor = start(job)
    job.schedule.on_step_begin(TrainState(0, 0, cursor))
    stream = job.source.stream(job.open(cursor.day, 0))
    batch = next(iter(stream.batches(cursor)))
    loss, output = job.sharded.model(replace(batch, learns=learns))
    return loss, output


def numbers(state: Any) -> dict[str, Tensor]:
    """Every tensor of nested state dicts, by its path; of a sharded one what is on this rank."""
    if isinstance(state, Mapping):
        return {f"{key}.{name}": own for key, value in state.items() for name, own in numbers(value).items()}
    if isinstance(state, ShardedTensor):
        return {str(at): shard.tensor.detach().clone() for at, shard in enumerate(state.local_shards())}
    return {"": state.detach().clone()} if isinstance(state, Tensor) else {}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_gradients_reach_every_parameter_and_every_table(config: Path, tmp_path: Path, family: str, objective: str) -> None:
    with built(config, tmp_path / "run", *words(family, objective)) as job:
        before = numbers(job.sharded.model.state_dict())
        loss, _ = forward(job, learns=True)
        loss.backward()

        still = {name for name, own in job.sharded.dense_parameters.items() if own.grad is None or not own.grad.any()}
        after = numbers({table.key: table.whole for table in job.sharded.tables()})
        still |= {name for name, own in after.items() if torch.equal(own, before[name])}
        assert still == UNUSED.get((family, objective), set())


def test_evaluating_twice_gives_the_same_bits(config: Path, tmp_path: Path, family: str, objective: str) -> None:
    with built(config, tmp_path / "run", *words(family, objective)) as job, torch.no_grad():
        job.sharded.model.eval()
        before = numbers(job.tensors())
        (one, first), (two, second) = (forward(job, learns=False) for _ in range(2))

        assert torch.equal(one, two)
        assert same(numbers(first.logits), numbers(second.logits))
        assert same(numbers(job.tensors()), before), "evaluating learns nothing"


def test_what_is_saved_comes_back(config: Path, tmp_path: Path, family: str, objective: str) -> None:
    with built(config, tmp_path / "run", *words(family, objective), "checkpoint.asynchronous=false") as job:
        for step in range(2):
            loss, _ = forward(job, learns=True)
            loss.backward()
            job.optimizer.step()
            if step == 0:
                saved = numbers(job.tensors())
                mark = job.checkpoints.save(1, tensors=job.tensors(), meta={})
        assert not same(numbers(job.tensors()), saved)

        tensors = job.tensors()
        job.checkpoints.restore(mark, tensors)
        job.sharded.model.load_state_dict(tensors["model"])
        job.optimizer.load_state_dict(tensors["optimizer"])
        assert same(numbers(job.tensors()), saved)


def stepped(rank: int, ranks: int, config: str, out: str, words: tuple[str, ...]) -> tuple[float, dict[str, Tensor]]:
    run, schema = load(config, words)
    world = World(rank=rank, ranks=ranks, device=torch.device("cpu"))
    job = Job(run, schema, out, world, build_checkpoints(run, out))
    loss, _ = forward(job, learns=True)
    loss.backward()
    return loss.item(), {name: own.grad for name, own in job.sharded.dense_parameters.items() if own.grad is not None}


def test_two_ranks_are_one(config: Path, tmp_path: Path, family: str, objective: str) -> None:
    if objective in DRAWS_PER_RANK:
        pytest.skip("what it hides is drawn for every rank")
    said = words(family, objective)
    with built(config, tmp_path / "run", *said):
        pass
    [(alone, gradients)] = on_ranks(1, stepped, 1, str(config), str(tmp_path / "run"), said)
    both = on_ranks(2, stepped, 2, str(config), str(tmp_path / "run"), said)

    assert sum(loss for loss, _ in both) / 2 == pytest.approx(alone, rel=1e-5)
    for _, own in both:
        torch.testing.assert_close(own, gradients, rtol=1e-4, atol=1e-6)
