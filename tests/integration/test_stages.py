"""Stages keep the laws: killed inside one or between two, resumed, on more or fewer ranks, each row once a pass, same bits."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from data.batch import Tally
from pipeline.builders.source import build_source
from pipeline.config.run import load
from pipeline.run_folder.claim import stage_schema
from tests.jobs import (
    assert_same_bits,
    events,
    final_tensors,
    finish,
    flat,
    kill_after_lines,
    killed_within,
    start,
)
from tests.tiny import some

PARADIGMS = ("diffusion", "hetegen", "sfg_tf", "contrast")


def write(config: Path, folder: Path, paradigm: str) -> Path:
    """Two or three stages over the small log: pre-train, fine-tune, and tables handed to another decoder."""
    run = yaml.safe_load(config.read_text())
    run["data"] |= {"days": "2026-11-01..2026-11-02", "test": ["2026-11-03"]}
    run["train"] |= {"progressive_validation": False, "global_batch_rows": 64}
    if paradigm == "sfg_tf":
        run["model"] |= {
            "decoder": "tf",
            "losses": [{"name": "tf"}],
            "decoder_options": {"ssem": "ser", "hidden": [16]},
            "head_options": {"fusion": "moef"},
        }
        run["stages"] = [
            {"name": "first", "data": {"days": ["2026-11-01"]}},
            {"name": "second", "load": {"stage": "first"}, "train": {"dense": {"lr": 0.0005}}},
        ]
    elif paradigm == "contrast":
        run["stages"] = [
            {
                **{"name": "pairs", "objective": "contrast", "fields": ["user_id", "item_id"]},
                **{"model": {"contrast": {"project": "linear", "symmetric": True}}, "train": {"epochs": 2}},
                "tables": {"init": {"kind": "normal", "scale": 0.05}},
            },
            {"name": "rank", "load": {"stage": "pairs", "parts": "tables", "rescale": 0.05}},
        ]
    else:
        balance = {"diffusion": "uniform", "hetegen": "progress"}[paradigm]
        run["model"] = {"family": "denoiser", "balance": balance, "dim": 8, "hidden": 16, "layers": 1}
        run["model"] |= {"full_softmax_max_rows": 100, "sampled_negatives": 16}
        run["stages"] = [
            {"name": "pretrain", "objective": "denoise"},
            {"name": "tune", "load": {"stage": "pretrain"}},
            {
                "name": "decode",
                "model": {
                    **{"family": "ranker", "encoder": {"kind": "sfg"}, "decoder": "dcnv2"},
                    "decoder_options": {"layers": 1, "hidden": [16]},
                },
                "load": {"stage": "pretrain", "parts": "tables", "rescale": 0.05},
                "freeze": ["tables"],
            },
        ]
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


@pytest.fixture(scope="module", params=some(PARADIGMS, "hetegen"))
def staged(request: pytest.FixtureRequest, config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run file, and an unbroken run of it."""
    folder = tmp_path_factory.mktemp(request.param)
    path = write(config, folder, request.param)
    finish(start(path, folder / "run", 1))
    return path, folder / "run"


def assert_every_row_once_a_stage(out: Path) -> None:
    config, schema = load(str(out / "config.yaml"))
    stages = config.resolved()
    trained = {(event["stage"], event["day"]): event["files"] for event in events(out, "trained")}
    wanted = {}
    for stage in stages:
        source = build_source(stage.config, stage_schema(schema, stage, stages), str(out))
        for day in source.train_days:
            opened = source.open(day)
            stream = source.stream(opened)
            tally = sum((batch.tally for batch in stream.batches(stream.start())), Tally.zeros(len(opened.files)))
            rows, hashes = tally.rows.tolist(), tally.hashes.tolist()
            files = zip(opened.files, rows, hashes, strict=True)
            wanted[stage.name, day] = {file.path: {"rows": r, "hash": h, "skipped": 0} for file, r, h in files}
    assert trained == wanted


def test_every_stage_trains_every_row_of_its_days_once(staged: tuple[Path, Path]) -> None:
    assert_every_row_once_a_stage(staged[1])


def test_a_kill_between_two_stages_leaves_the_same_bits(staged: tuple[Path, Path], tmp_path: Path) -> None:
    path, unbroken = staged
    out = tmp_path / "run"
    stage = load(str(path))[0].resolved()[0].name
    (process,) = start(path, out, 1, kill_at=f"after replace */checkpoints/{stage}.json")
    process.join()
    assert process.exitcode == -9
    finish(start(path, out, 1))
    assert_every_row_once_a_stage(out)
    assert_same_bits(unbroken, out)


@pytest.mark.slow
def test_kills_inside_and_between_stages_leave_the_same_bits(staged: tuple[Path, Path], tmp_path: Path) -> None:
    path, unbroken = staged
    rng, kills, out = random.Random(3), 0, tmp_path / "run"
    while killed_within(start(path, out, 1), out, rng.randint(2, 5), rng.uniform(0, 0.2)):
        kills += 1
    assert_every_row_once_a_stage(out)
    assert_same_bits(unbroken, out)
    assert kills > 2


@pytest.mark.slow
def test_ranks_change_across_stages_and_every_row_is_trained_once(staged: tuple[Path, Path], tmp_path: Path) -> None:
    path, _ = staged
    out = tmp_path / "run"
    for ranks, lines in [(2, 2), (1, 4), (2, 4)]:
        kill_after_lines(start(path, out, ranks), out, lines)
    finish(start(path, out, 1))
    assert {1, 2} <= {event["ranks"] for event in events(out, "resumed")}
    assert_every_row_once_a_stage(out)


def test_a_frozen_table_stays_as_it_was_loaded_but_for_its_scale(staged: tuple[Path, Path]) -> None:
    path, out = staged
    if yaml.safe_load(path.read_text())["stages"][-1].get("freeze") != ["tables"]:
        pytest.skip("this one freezes nothing")
    before, after = (by_table(final_tensors(out, stage)) for stage in ("pretrain", "decode"))
    assert {"user_id", "item_id"} <= before.keys() & after.keys()
    for name in before.keys() & after.keys():
        scale = after[name].norm() / before[name].norm()
        torch.testing.assert_close(after[name], before[name] * scale)
        moments = flat(final_tensors(out, "pretrain")["optimizer"])
        [moment] = [own for key, own in moments.items() if key.rpartition("/")[2] == f"{name}.momentum1"]
        assert after[name][moment > 0].square().mean().sqrt().item() == pytest.approx(0.05, rel=1e-4)


def by_table(tensors: dict[str, Any]) -> dict[str, torch.Tensor]:
    names = {name: value for name, value in flat(tensors["model"]).items() if "embedding" in name}
    return {name.split(".")[-2]: value for name, value in names.items()}


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["table_wise", "row_wise"])
def test_the_ranks_and_shards_of_a_stage_change_nothing(config: Path, tmp_path: Path, sharding: str) -> None:
    """Fine-tuning draws no noise: from one pre-training, one rank and two end alike, whatever the shards."""
    path = write(config, tmp_path, "hetegen")
    run = yaml.safe_load(path.read_text())
    run["model"]["dropout"] = 0.0
    run["stages"] = run["stages"][:2]
    path.write_text(yaml.safe_dump(run))
    one, two = tmp_path / "one", tmp_path / "two"
    finish(start(path, one, 1))
    shutil.copytree(one, two)
    kept = json.loads((two / "checkpoints" / "pretrain.json").read_text())["mark"]
    for entry in (two / "checkpoints").iterdir():
        if entry.name.startswith("step-") and entry.name != kept:
            shutil.rmtree(entry)
        elif entry.name == "tune.json":
            entry.unlink()
    finish(start(path, two, 2, f"tables.sharding={sharding}"))

    scores = [events(out, "tested")[-1]["metrics"]["is_click"] for out in (one, two)]
    assert scores[1]["logloss"] == pytest.approx(scores[0]["logloss"], abs=1e-4)
    ours, theirs = (flat(final_tensors(out, "tune")["model"]) for out in (one, two))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, atol=2e-3, rtol=0, msg=name)
