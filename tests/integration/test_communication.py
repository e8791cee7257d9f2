"""What travels in fewer bytes teaches the same to three digits; what a device cannot send or overlap is refused at once."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from torchrec.distributed import comm_ops
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from data.errors import GenctrError
from models.inputs import Payload
from models.options import options_of
from models.registries import DECODERS
from models.sparse import JaggedEvents
from pipeline.builders.job import build
from pipeline.config.run import load
from pipeline.distributed.world import World
from pipeline.jobs.train import run
from tests.helpers import on_ranks
from tests.tiny import DAYS, SCHEMA, built, some, write_log

STEADY = ("model.decoder_options.dropout=0", "model.dim=16", "train.log_every_steps=1000", "train.diagnose_every_steps=0")
PLANS = ("table_wise", "row_wise")
SENT = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Days whose rows do not divide by batches, and a history that is read unpooled."""
    folder = tmp_path_factory.mktemp("sent")
    path = write_log(folder, rows=60)
    values = yaml.safe_load(path.read_text())
    values["model"] = values.get("model", {}) | {"sequences": {"history": {"encoder": "target_attention"}}}
    path.write_text(yaml.safe_dump(values))
    return path


def trained(rank: int, config: str, out: str, overrides: list[str]) -> tuple[float, int]:
    """The loss on the test day after a training, and the bytes this rank sent of pooled vectors in one of its messages."""
    sent: list[int] = []
    theirs = dist.all_to_all_single

    def watched(output: torch.Tensor, input: torch.Tensor, *rest: Any, **more: Any) -> Any:
        if input.dtype != torch.int64:
            sent.append(input.numel() * input.element_size())
        return theirs(output, input, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comm_ops.dist, "all_to_all_single", watched)
        job = build(*load(config, overrides), out, World(rank, dist.get_world_size(), torch.device("cpu")))
        loss = run(job, quiet=True)["test"]["metrics"]["is_click"]["logloss"]
        job.close()
    return loss, sum(sent)


def all_trained(rank: int, config: str, out: str, plan: str) -> dict[str, tuple[float, int]]:
    steady = [*STEADY, f"tables.sharding={plan}"]
    return {name: trained(rank, config, f"{out}/{name}", [*steady, f"train.comm_precision={name}"]) for name in SENT} | {
        "pipelined": trained(rank, config, f"{out}/pipelined", [*steady, "train.pipeline=sparse_dist"])
    }


@pytest.fixture(scope="module", params=some(PLANS, "table_wise"))
def plan(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def results(config: Path, tmp_path_factory: pytest.TempPathFactory, plan: str) -> dict[str, tuple[float, int]]:
    first, second = on_ranks(2, all_trained, str(config), str(tmp_path_factory.mktemp("runs")), plan)
    assert {key: own[0] for key, own in first.items()} == {key: own[0] for key, own in second.items()}
    return first


@pytest.mark.parametrize(("name", "apart"), [("fp16", 2e-4), ("int8", 2e-3)])
def test_fewer_bytes_teach_the_same(results, name: str, apart: float) -> None:
    full, fewer = results["fp32"][0], results[name][0]

    assert 0 < abs(fewer - full) < apart, "as near, but not the same: something else did travel"


@pytest.mark.parametrize("plan", ["table_wise"], indirect=True, scope="module")
def test_table_wise_vectors_and_gradients_travel_in_the_bytes_that_were_asked_for(results) -> None:
    """A vector of 16 numbers: 64 bytes, 32, or 16 and 8 for its scale; its gradient 64, 32 and 32."""
    full = results["fp32"][1]

    assert results["fp16"][1] == full / 2
    assert results["int8"][1] < full / 2


def test_ids_that_travel_a_step_ahead_change_no_bit(results) -> None:
    assert results["pipelined"][0] == results["fp32"][0]


def test_the_pipeline_that_was_asked_for_is_made(config: Path, tmp_path: Path) -> None:
    with built(config, tmp_path, "train.pipeline=sparse_dist") as job, job.pipe() as pipe:
        assert isinstance(pipe, TrainPipelineSparseDist)


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_can_be_read_ahead_of(config: Path, tmp_path: Path, decoder: str) -> None:
    """TorchRec traces the whole step: a loop over what a network returns would end it."""
    options = {"hidden": [6]} if "hidden" in options_of(DECODERS[decoder]) and decoder != "tf" else {}
    losses = [{"name": "tf" if decoder == "tf" else "bce"}]
    model = {"decoder": decoder, "encoder": {"kind": "sfg"}, "dim": 4, "decoder_options": options, "losses": losses}
    with built(config, tmp_path, f"model={json.dumps(model)}", "train.pipeline=sparse_dist") as job:
        stream = job.source.stream(job.source.open(DAYS[0]))
        with job.pipe() as pipe, closing(stream.batches(stream.start())) as batches:
            steps = [pipe.progress(batches).batch.cursor.row for _ in range(2)]
        assert steps == [8, 16]  # of two lanes, 16 rows a step
        with torch.no_grad(), closing(stream.batches(stream.start())) as batches:
            model, batch = job.sharded.model.eval(), next(batches)
            once, again = (model(batch)[1].logits["is_click"] for _ in range(2))
        assert torch.equal(once, again), "a pipeline that is over leaves the model as it was, and no ids of its own in it"


@pytest.mark.parametrize("pipeline", ["base", "sparse_dist"])
def test_what_events_carry_reaches_the_sequence_encoder_of_a_sharded_model(config: Path, tmp_path: Path, pipeline: str) -> None:
    schema = yaml.safe_load(SCHEMA.read_text())
    history = next(field for field in schema["fields"] if field["name"] == "history")
    history["payload"] = {"time": "history_time_ms", "ids": {"item": "history"}}
    path = tmp_path / "schema.yaml"
    path.write_text(yaml.safe_dump(schema))
    sequences = "model.sequences={history: {encoder: target_attention}}"
    seen: list[tuple[JaggedEvents, Payload, torch.Tensor]] = []
    with built(config, tmp_path / "run", f"schema={path}", sequences, f"train.pipeline={pipeline}") as job:
        encoder = job.objective.model.embed.sequences[0]
        attend = encoder.forward
        encoder.forward = lambda query, events, payload, time: (
            seen.append((events, payload, time)) or attend(query, events, payload, time)
        )
        stream = job.source.stream(job.source.open(DAYS[0]))
        with job.pipe() as pipe, closing(stream.batches(stream.start())) as batches:
            trained = [pipe.progress(batches).batch for _ in range(3)]
    for batch, (events, payload, time_B) in zip(trained, seen, strict=True):
        assert batch.sequences is not None
        assert payload.times_N is not None
        assert len(events.values) == len(payload.times_N) == len(payload.ids["item"]) > 0
        assert torch.equal(events.lengths, batch.sequences["history"].lengths())
        assert torch.equal(time_B, batch.times)
        assert (payload.times_N < time_B.repeat_interleave(events.lengths)).all(), "an event is before its row"
        pairs = torch.stack([payload.ids["item"], batch.sequences["history"].values()], dim=1).unique(dim=0)
        assert len(pairs) == len(pairs[:, 0].unique()), "one row of the table for every item"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["train.comm_precision=bf16"],
            "train.comm_precision: gloo cannot add bf16 numbers up\n  next: on a CPU set it to fp16",
        ),
        (
            ["train.dense.precision=bf16"],
            "train.dense.precision: bf16 is 40 times slower than fp32 on a CPU\n  next: set it to fp32",
        ),
        (["train.pipeline=prefetch"], "train.pipeline: prefetch fetches rows from main memory to a GPU\n  next: on a CPU"),
        (["tables.compute_kernel=fused_uvm"], "tables: compute_kernel fused_uvm needs a CUDA device: on a CPU set it to auto"),
        (
            ["tables.overrides={item_id: {compute_kernel: fused_uvm_caching}}"],
            "tables.overrides.item_id: compute_kernel fused_uvm_caching needs a CUDA",
        ),
        (["tables.precision=fp16", "tables.optimizer=adagrad"], "tables: adagrad has no fp16 tables on a CPU: set precision"),
        (
            ["model={family: denoiser, dim: 4}", "train.pipeline=sparse_dist"],
            "what a denoiser looks up depends on the step",
        ),
    ],
)
def test_what_a_cpu_cannot_do_is_refused_before_a_row_is_read(config: Path, tmp_path: Path, overrides, told: str) -> None:
    with pytest.raises(GenctrError) as error, built(config, tmp_path / "run", "data.root=/nowhere", *overrides):
        pass

    assert told in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["model.dim=4"], "int8 has a scale for every 16 numbers, and table 'user_id' is 4 wide\n  next: set it to fp16"),
        (["model.dim=16", "tables.sharding=column_wise", "tables.optimizer=adagrad"], "which column_wise would cut"),
    ],
)
def test_vectors_that_int8_cannot_carry_are_refused(config: Path, tmp_path: Path, overrides, told: str) -> None:
    with pytest.raises(GenctrError) as error, built(config, tmp_path, "train.comm_precision=int8", *overrides):
        pass

    assert told in str(error.value)
