"""Drawn rows: they look like the log once the denoiser has learnt it, what is given stays, and distances are what they say."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from pipeline.jobs.sample import CLASSES, SampleReport, compare, frequency_classes, sample, total_variation
from pipeline.run_folder.claim import load_run
from tests.tiny import DAYS, built, genctr, train, write_log

DENOISER = "model={family: denoiser, dim: 4, hidden: 16, layers: 1, dropout: 0.0}"
PRETRAIN = (
    "stages=[{name: pretrain, objective: denoise, train: {epochs: %d, dense: {lr: 0.01}}}, "
    "{name: rank, load: {stage: pretrain}, train: {max_steps: 1}}]"
)


EPOCHS = 4


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("sample"))


def report(config: Path, out: Path, epochs: int, *given: str, steps: int = 4) -> SampleReport:
    with built(config, out, DENOISER, PRETRAIN % epochs) as job:
        job.enter_stage(0)
        return sample(job, [DAYS[0]], rows=100, given=given, steps=steps, quiet=True)


@pytest.fixture(scope="module")
def out(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "run"
    done = train(config, folder, DENOISER, PRETRAIN % EPOCHS)
    assert done.code == 0, done.err
    return folder


def test_rows_come_nearer_to_the_log_with_training(config: Path, out: Path, tmp_path: Path) -> None:
    done = train(config, tmp_path / "run", DENOISER, PRETRAIN % 1)
    assert done.code == 0, done.err
    early, late = report(config, tmp_path / "run", 1), report(config, out, EPOCHS)

    assert late.rows == early.rows == 100
    means = [sum(own.drawn for own in found.fields.values()) / len(found.fields) for found in (early, late)]
    assert means[1] < means[0]
    assert early.pairs is not None
    assert late.pairs is not None
    assert late.pairs.drawn < early.pairs.drawn


def test_what_is_given_is_not_drawn(config: Path, out: Path) -> None:
    found = report(config, out, EPOCHS, "user_id", "is_click")

    assert not {"user_id", "is_click"} & found.fields.keys()
    assert found.fields.keys() >= {"item_id", "tab", "history"}


def test_a_plan_of_more_ranks_keeps_nobody_from_drawing(config: Path, out: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(out, run)
    words = [word for setting in (DENOISER, PRETRAIN % EPOCHS) for word in ("--set", setting)]
    plan = genctr("plan", config, *words, "--out", out, "--ranks", 2, "--save", tmp_path / "plan.json")
    assert plan.code == 0, plan.err
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["train"]["sharding_plan"] = str(tmp_path / "plan.json")
    (run / "config.yaml").write_text(yaml.safe_dump(settings))

    done = genctr("sample", run, "--rows", 40, "--days", DAYS[1], "--steps", 2, "--quiet")

    assert done.code == 0, done.err
    assert load_run(str(run))[0].train.sharding_plan == str(tmp_path / "plan.json"), "training goes on with it"


def test_the_command_prints_a_line_per_field(out: Path) -> None:
    done = genctr("sample", out, "--rows", 40, "--days", DAYS[1], "--steps", 2, "--quiet")

    assert done.code == 0, done.err
    for name in ("user_id", "price", "is_click", "pairs of fields"):
        assert name in done.out
    assert "40 rows" in done.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--given", "nobody"), "no such field or target"),
        (("--days", "2026-12-01"), "2026-12-01"),
        (("--rows", "1"), "--rows 1, --steps 0: expected 2 rows or more"),
        (("--steps", "-1"), "--steps -1: expected"),
    ],
)
def test_what_cannot_be_drawn_is_told(out: Path, words: tuple[str, ...], told: str) -> None:
    done = genctr("sample", out, *words, "--quiet")

    assert done.code == 2
    assert told in done.err


def test_a_run_that_pre_trained_nothing_draws_nothing(config: Path, tmp_path: Path) -> None:
    train(config, tmp_path / "run", "train.max_steps=1")
    done = genctr("sample", tmp_path / "run", "--quiet")

    assert done.code == 2
    assert "no stage of this run pre-trains" in done.err


def test_the_distance_is_the_total_variation() -> None:
    one, other = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 2])

    assert total_variation(one, other) == pytest.approx(0.25)
    assert total_variation(one, one) == 0
    assert total_variation(one, other + 9) == 1


def test_values_are_compared_by_the_most_frequent_ones_and_the_rest() -> None:
    real = torch.cat([torch.arange(CLASSES).repeat(2), torch.tensor([900, 901])]).unsqueeze(1)
    classes = frequency_classes(torch.tensor([[0], [5], [900], [77777], [-1]]), real)

    assert classes.squeeze(1).tolist() == [0, 5, CLASSES, CLASSES, -1]


def test_a_perfect_generator_is_as_far_from_the_log_as_its_other_half() -> None:
    torch.manual_seed(0)
    real, drawn = torch.randint(0, 40, (2, 4000, 2)).unbind(0)
    model = SimpleNamespace(names=("a", "b"), tables=("a", "b"), layout=SimpleNamespace(field_S=torch.tensor([0, 1])))
    found = compare(model, real, drawn, ())  # type: ignore[arg-type]  # of the model only its slots are read

    for distance in (*found.fields.values(), found.pairs):
        assert distance is not None
        assert distance.drawn == pytest.approx(distance.log, rel=0.25)
    assert not compare(model, real, drawn, (), left_out=["b"]).fields.keys() & {"b"}  # type: ignore[arg-type]
