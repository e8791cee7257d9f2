"""Law 4: one rank, two ranks, table-wise, row-wise: the same losses, and a run goes on under another sharding."""

from pathlib import Path

import pytest
import torch

from tests.jobs import assert_every_row_once, events, final_tensors, finish, flat, start
from tests.tiny import some

STEADY = ("train.log_every_steps=1", "model.decoder_options.dropout=0", "train.max_steps=8")


def losses(out: Path) -> list[float]:
    return [event["metrics"]["is_click"]["logloss"] for event in events(out, "train")]


@pytest.mark.parametrize("optimizer", some(["rowwise_adagrad", "lazy_adam"], "lazy_adam"))
def test_ranks_and_sharding_change_no_loss(config: Path, tmp_path: Path, optimizer: str) -> None:
    steady = (*STEADY, f"tables.optimizer={optimizer}", "tables.lr=0.01")
    finish(start(config, tmp_path / "one", 1, *steady))
    for sharding in ["table_wise", "row_wise"]:
        finish(start(config, tmp_path / sharding, 2, *steady, f"tables.sharding={sharding}"))
        assert len(losses(tmp_path / sharding)) == 8
        torch.testing.assert_close(losses(tmp_path / sharding), losses(tmp_path / "one"), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_under_another_sharding_and_number_of_ranks(config: Path, tmp_path: Path) -> None:
    finish(start(config, tmp_path / "one", 1))
    moved = tmp_path / "moved"
    plan = [(1, "table_wise", 12), (2, "row_wise", 24), (2, "table_wise", 36), (1, "row_wise", 48)]
    for ranks, sharding, steps in plan:
        finish(start(config, moved, ranks, f"tables.sharding={sharding}", f"train.max_steps={steps}"))
    finish(start(config, moved, 2))
    assert_every_row_once(config, moved)
    expected, got = flat(final_tensors(tmp_path / "one")), flat(final_tensors(moved))
    compared = 0
    for name, value in expected.items():
        if torch.is_tensor(value) and value.is_floating_point():
            torch.testing.assert_close(got[name], value, rtol=2e-3, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}")
            compared += 1
    assert compared > 10
