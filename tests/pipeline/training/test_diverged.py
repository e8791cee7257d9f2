"""What is not finite is not saved, and the run can go on from what was."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data.cursor import Cursor
from pipeline.distributed.world import world
from pipeline.training.diverged import Diverged, check_finite, first_not_finite
from pipeline.training.loop import TrainState
from tests.jobs import assert_same_bits
from tests.tiny import DAYS, genctr, train, write_log


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_first_row_that_is_not_finite_is_found(kind: torch.dtype, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.training.diverged.BLOCK", 12)  # three rows
    table = torch.zeros(10, 4, dtype=kind)
    assert first_not_finite(table, 100) == ""
    table[7, 2] = value
    assert first_not_finite(table, 100) == f"{value} in row 107"
    assert first_not_finite(torch.tensor(value, dtype=kind), 0) == f"{value}"


def test_the_message_says_where_to_look_and_what_is_kept() -> None:
    before, now = TrainState(40, 640, Cursor(0, "monday", 320, 2)), TrainState(60, 960, Cursor(0, "monday", 480, 2))
    tensors = {"model": {"tables.t": torch.tensor([[1.0], [float("nan")]]), "counts": torch.tensor([3])}}
    with world("cpu") as here:
        check_finite({"model": {"a": torch.ones(2)}}, here, since=before, now=now, kept="step-0000040")
        with pytest.raises(Diverged) as caught:
            check_finite(tensors, here, since=before, now=now, kept="step-0000040")
    for said in ("model.tables.t: nan in row 1", "steps 41 to 60", "day monday, rows 640 to 960", "kept: step-0000040"):
        assert said in str(caught.value)


def test_a_number_that_is_far_too_large_costs_no_checkpoint_and_the_corrected_log_goes_on(tmp_path: Path) -> None:
    config, out, whole = write_log(tmp_path), tmp_path / "run", tmp_path / "whole"
    assert train(config, whole).code == 0
    file = sorted((tmp_path / "log" / f"day={DAYS[1]}").glob("*.parquet"))[0]
    good = file.read_bytes()
    rows = pq.ParquetFile(file).read()
    at = rows.schema.get_field_index("image")
    huge = pa.array([[3e38] * 8 if row == 20 else own for row, own in enumerate(rows["image"].to_pylist())], rows["image"].type)
    pq.write_table(rows.set_column(at, rows.schema.field(at), huge), file)

    for _ in range(2):
        done = train(config, out)
        assert done.code == 2
        assert "has diverged" in done.err
        assert f"in day {DAYS[1]}" in done.err
    kept = sorted(own.name for own in (out / "checkpoints").glob("step-*"))
    assert kept
    assert "not finite" not in genctr("ckpt", "verify", out, "--quiet").out

    file.write_bytes(good)
    assert train(config, out).code == 0
    assert_same_bits(whole, out)
    newest = max((out / "checkpoints").glob("step-*"))
    assert json.loads((newest / "checkpoint.json").read_text())["step"] > int(kept[-1].split("-")[1])
