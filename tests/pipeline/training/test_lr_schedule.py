"""Learning rates and randomness follow from the step alone."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from data.cursor import Cursor
from pipeline.builders.job import Job
from pipeline.config.train import ScheduleConfig
from pipeline.training.loop import TrainState
from pipeline.training.lr_schedule import Schedule, _buffers, factor
from tests.tiny import DAYS, built, write_log

WARM = "train.schedule={warmup_steps: 4, decay: linear, decay_steps: 10, min_factor: 0.2}"
START = Cursor(0, DAYS[0], 0, 2)
RATES = ("tables.lr=0.05", "tables.overrides={item_id: {lr: 0.5}}", "train.dense.lr=0.01", WARM)


@pytest.mark.parametrize(
    ("decay", "step", "expected"),
    [
        *[(decay, step, (step + 1) / 4) for decay in ("none", "linear", "cosine") for step in range(4)],
        ("none", 4, 1.0),
        ("none", 10**9, 1.0),
        # 10 steps from 1 to .2: half-way .6, at the end and ever after .2
        ("linear", 4, 1.0),
        ("linear", 9, 0.6),
        ("linear", 14, 0.2),
        ("linear", 10**9, 0.2),
        # half a cosine: .2 + .8 (1 + cos(pi t)) / 2
        ("cosine", 4, 1.0),
        ("cosine", 6, 0.2 + 0.8 * (1 + math.cos(math.pi / 5)) / 2),
        ("cosine", 9, 0.6),
        ("cosine", 14, 0.2),
        ("cosine", 10**9, 0.2),
    ],
)
def test_the_factor_rises_then_falls_to_the_floor(decay: str, step: int, expected: float) -> None:
    config = ScheduleConfig(warmup_steps=4, decay=decay, decay_steps=10, min_factor=0.2)

    assert factor(config, step) == pytest.approx(expected)


def test_without_warm_up_the_first_step_is_a_whole_one() -> None:
    assert factor(ScheduleConfig(), 0) == factor(ScheduleConfig(decay="linear", decay_steps=10), 0) == 1.0


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("schedule"))


def rates(job: Job) -> tuple[float, list[float]]:
    """The learning rate of the dense weights, and the distinct ones of the tables."""
    dense = [group["lr"] for part, optimizer in job.optimizer.optimizers if part == "dense" for group in optimizer.param_groups]
    assert len(set(dense)) == 1
    return dense[0], sorted({group["lr"] for group in job.sharded.fused.param_groups})


def test_every_learning_rate_follows_the_factor_and_what_stale_epochs_made_of_it(config: Path, tmp_path: Path) -> None:
    with built(config, tmp_path / "run", *RATES) as job:
        seen = []
        for step, lr_factor in [(0, 1.0), (3, 1.0), (9, 1.0), (9, 0.1)]:
            job.schedule.on_step_begin(TrainState(step, 0, START, lr_factor=lr_factor))
            dense, tables = rates(job)
            seen.append((dense, *tables))

    #                                  dense, most tables, item_id
    assert seen[0] == pytest.approx((0.01 / 4, 0.05 / 4, 0.5 / 4))
    assert seen[1] == pytest.approx((0.01, 0.05, 0.5))
    assert seen[2] == pytest.approx((0.01 * 0.6, 0.05 * 0.6, 0.5 * 0.6))
    assert seen[3] == pytest.approx((0.01 * 0.06, 0.05 * 0.06, 0.5 * 0.06))


def test_a_clipped_optimizer_follows_too(config: Path, tmp_path: Path) -> None:
    with built(config, tmp_path / "run", *RATES, "train.dense.clip_norm=1") as job:
        job.schedule.on_step_begin(TrainState(0, 0, START))

        assert rates(job)[0] == pytest.approx(0.01 / 4)


def draws(job: Job, *, step: int, rank: int, seed: int = 7) -> tuple[float, ...]:
    """The random numbers a step begins with."""
    dense = torch.optim.SGD([torch.zeros(1)])
    schedule = Schedule(ScheduleConfig(), sharded=job.sharded, dense=dense, dense_lr=0.01, seed=seed, rank=rank)
    torch.rand(step)  # whatever was drawn before
    schedule.on_step_begin(TrainState(step, 0, START))
    return tuple(torch.rand(4).tolist())


def test_dropout_differs_from_step_to_step_from_rank_to_rank_and_from_seed_to_seed(config: Path, tmp_path: Path) -> None:
    with built(config, tmp_path / "run") as job:
        drawn = [draws(job, step=step, rank=rank) for step in (0, 1, 10) for rank in (0, 1, 10)]
        drawn.append(draws(job, step=0, rank=0, seed=8))

        assert len(set(drawn)) == 10
        assert draws(job, step=1, rank=10) == drawn[5], "the same step again draws the same"


def test_the_inverse_square_root_falls_for_ever_and_not_below_the_floor() -> None:
    config = ScheduleConfig(decay="inverse_sqrt", warmup_steps=10, decay_steps=100, min_factor=0.1)
    assert factor(config, 10) == 1.0
    assert factor(config, 310) == pytest.approx(0.5)
    assert factor(config, 10**9) == 0.1


@pytest.mark.parametrize(("freeze", "moves"), [(("network",), False), (("tables",), True)])
def test_the_running_statistics_of_a_frozen_network_stay(freeze: tuple[str, ...], moves: bool) -> None:
    network: Any = nn.Sequential(nn.BatchNorm1d(2))
    dense = torch.optim.SGD(network.parameters())
    tables: Any = SimpleNamespace(model=network, set_lr=lambda scale: None)
    schedule = Schedule(ScheduleConfig(), sharded=tables, dense=dense, dense_lr=0.01, seed=7, rank=0, freeze=freeze)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    nothing: Any = None

    schedule.on_step_begin(TrainState(0, 0, START))
    network(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    schedule.on_step_end(TrainState(1, 2, START), nothing)

    assert {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])} == (
        {"0.running_mean", "0.running_var", "0.num_batches_tracked"} if moves else set()
    )


def test_the_state_of_tables_is_not_taken_back_with_the_network_frozen(config: Path, tmp_path: Path) -> None:
    with built(config, tmp_path / "run", "model.encoder={kind: sfg, batch_norm: true}", "tables.optimizer=lazy_adam") as job:
        names = {id(value): name for name, value in job.sharded.model.named_buffers()}

        kept = {names[id(own)].rpartition(".")[2] for own in _buffers(job.sharded.model)}

    assert kept == {"running_mean", "running_var", "num_batches_tracked"}
