"""What a stage takes over: tables by name to any model, the network by name, and what does not fit is told."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.tables import InitConfig
from pipeline.distributed.initial_values import first_values
from pipeline.jobs.train import run
from pipeline.training.loop import TrainState
from pipeline.training.lr_schedule import Schedule
from tests.jobs import events, final_tensors, flat
from tests.tiny import built, process, some, train, write_log

FIRST = "{name: pretrain, objective: denoise, tables: {init: {kind: normal, scale: 0.05}}}"
DENOISER = "model={family: denoiser, dim: 4, hidden: 8, layers: 1}"
STAY = "train: {dense: {lr: 1e-12}}, freeze: [tables, network]"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("transfer"), rows=80)


def weights(out: Path, stage: str) -> dict[str, torch.Tensor]:
    return {name.rsplit("/", 1)[1]: value for name, value in flat(final_tensors(out, stage)["model"]).items()}


def is_table(name: str) -> bool:
    return "embedding" in name


@pytest.mark.parametrize("what", some(["none", "tables", "network", "all"], "tables"))
def test_what_is_said_is_taken_over_and_the_rest_starts_afresh(config: Path, tmp_path: Path, what: str) -> None:
    stages = f"stages=[{FIRST}, {{name: rank, load: {{stage: pretrain, parts: {what}}}, {STAY}}}]"
    done = train(config, tmp_path / "run", DENOISER, stages)
    assert done.code == 0, done.err
    before, after = weights(tmp_path / "run", "pretrain"), weights(tmp_path / "run", "rank")

    assert after.keys() < before.keys(), "the heads of the fields stay behind"
    for name, value in after.items():
        taken = what == "all" or what == ("tables" if is_table(name) else "network")
        assert torch.equal(value, before[name]) == taken, name
    (told,) = events(tmp_path / "run", "stage")
    assert (told["stage"], told["from"], told["parts"]) == ("rank", "pretrain", what)
    assert ("user_id" in told["loaded"]) == (what in ("tables", "all"))
    assert ("user_id" in told["fresh"]) == (what in ("none", "network"))


def test_tables_go_to_a_decoder_that_pools_them_and_are_rescaled(config: Path, tmp_path: Path) -> None:
    model = "model: {family: ranker, encoder: {kind: sfg}, decoder: deepfm, decoder_options: {hidden: [8]}}"
    decode = f"{model}, load: {{stage: pretrain, parts: tables, rescale: 0.5}}"
    done = train(config, tmp_path / "run", DENOISER, f"stages=[{FIRST}, {{name: decode, {decode}, {STAY}}}]")
    assert done.code == 0, done.err
    before = {name.split(".")[-2]: value for name, value in weights(tmp_path / "run", "pretrain").items() if is_table(name)}
    after = {name.split(".")[-2]: value for name, value in weights(tmp_path / "run", "decode").items() if is_table(name)}

    assert before.keys() < after.keys(), "first-order weights start from initial values"
    left = 0
    for name, value in before.items():
        begun = first_values(name, InitConfig(kind="normal", scale=0.05), value.shape, 7, 0, len(value))
        moved = (value != begun).any(1)
        left += int((~moved).sum())
        torch.testing.assert_close(after[name], value * (0.5 / value[moved].square().mean().sqrt()))
    assert left > 40_000, "rows that were never trained do not say how large a table is"
    assert "user_id_linear" in events(tmp_path / "run", "stage")[0]["fresh"]


def test_ranks_with_different_tables_rescale_together(config: Path, tmp_path: Path) -> None:
    stages = f"stages=[{FIRST}, {{name: rank, load: {{stage: pretrain, parts: tables, rescale: 0.5}}, {STAY}}}]"
    words = (word for own in (DENOISER, stages, "train.ranks=2") for word in ("--set", own))
    done = process("train", config, "--quiet", *words, "--out", tmp_path / "run", folder=tmp_path)
    assert done.code == 0, done.err
    before, after = weights(tmp_path / "run", "pretrain"), weights(tmp_path / "run", "rank")
    for name in filter(is_table, after):
        begun = first_values(
            name.split(".")[-2], InitConfig(kind="normal", scale=0.05), before[name].shape, 7, 0, len(before[name])
        )
        moved = (before[name] != begun).any(1)
        assert after[name][moved].square().mean().sqrt().item() == pytest.approx(0.5, rel=1e-4), name


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ("model: {dim: 8}, load: {stage: pretrain}", "does not fit"),
        ("fields: [user_id, nobody]", "stage rank: fields: no field 'nobody'"),
        ("fields: [history]", "stage rank: fields:"),
    ],
)
def test_what_does_not_fit_is_told(config: Path, tmp_path: Path, second: str, told: str) -> None:
    done = train(config, tmp_path / "run", DENOISER, f"stages=[{FIRST}, {{name: rank, {second}}}]")

    assert done.code == 2
    assert told in done.err


def test_a_stage_may_read_some_of_the_fields_only(config: Path, tmp_path: Path) -> None:
    stages = "stages=[{name: few, fields: [tab, user_id]}, {name: rank, load: {stage: few, parts: tables}}]"
    with built(config, tmp_path / "run", stages) as job:
        assert job.source.features.fields == ("user_id", "tab")
        results: dict[str, Any] = run(job, quiet=True)
        assert len(job.source.features.fields) == 10
        assert results["test"] is not None
    (told,) = events(tmp_path / "run", "stage")
    assert told["loaded"] == ["user_id", "tab"] or sorted(told["loaded"]) == ["tab", "user_id"]


def test_early_stopping_of_a_stage_ends_that_stage_alone(config: Path, tmp_path: Path) -> None:
    stop = "train: {epochs: 9, early_stop: {metric: loss, patience: 1, min_delta: 1000}}"  # no epoch improves by that
    done = train(config, tmp_path / "run", DENOISER, f"stages=[{{name: pretrain, objective: denoise, {stop}}}, {{name: rank}}]")
    assert done.code == 0, done.err
    validated = events(tmp_path / "run", "validated")
    trained = [event["stage"] for event in events(tmp_path / "run", "trained")]

    assert "all" in validated[0]["metrics"]
    assert trained == ["pretrain"] * 4 + ["rank"] * 2, "two epochs of two days, then one"


def test_a_stage_that_ends_before_it_was_ever_validated_is_taken_over_as_it_is(config: Path, tmp_path: Path) -> None:
    stop = "train: {max_steps: 3, early_stop: {metric: loss}}"
    stages = f"stages=[{{name: pretrain, objective: denoise, {stop}}}, {{name: rank, load: {{stage: pretrain}}}}]"
    done = train(config, tmp_path / "run", DENOISER, stages)

    assert done.code == 0, done.err
    assert not [event for event in events(tmp_path / "run", "validated") if "all" in event["metrics"]]
    assert events(tmp_path / "run", "stage")[0]["loaded"]


def test_a_stage_that_is_told_to_end_before_where_it_stands_is_taken_over_as_it_is(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Schedule, state: TrainState) -> None:
        if state.step == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Schedule, "on_step_begin", interrupted)
        assert train(config, tmp_path / "run", DENOISER).code == 130
    done = train(config, tmp_path / "run", DENOISER, "train.max_steps=5")

    assert done.code == 0, done.err
    (began,) = events(tmp_path / "run", "stage")
    assert (began["step"], began["from"]) == (6, "pretrain"), "the newest that was saved"
