"""Which modules a command loads: counted, not timed. What only looks, decides or prints waits for no library of training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config.run import load
from pipeline.run_folder.claim import claim
from tests.tiny import ROOT, write_log

HEAVY = ("torch", "torchrec", "fbgemm_gpu", "torchx", "tensorboard", "matplotlib", "ray", "pandas", "scipy")
TRAINING = (
    "pipeline.training",
    "pipeline.jobs",
    "pipeline.distributed",
    "pipeline.builders.job",
    "pipeline.builders.objectives",
)

LOADED = """
import json, sys
from launch import cli
try:
    code = cli.main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print("\\n" + json.dumps([code, sorted(sys.modules)]))
"""


def loaded(*words: object) -> tuple[int, list[str]]:
    """A command's exit code, and the modules there are when it ends."""
    line = [sys.executable, "-c", LOADED, *map(str, words)]
    done = subprocess.run(
        line, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, modules


def among(modules: list[str], names: tuple[str, ...]) -> list[str]:
    """Those of the modules that are, or are inside of, one of these."""
    return [own for own in modules if own.startswith(tuple(f"{name}." for name in names)) or own in names]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("imports"))


@pytest.fixture(scope="module")
def run(config: Path) -> Path:
    """A run folder in which nothing has happened yet."""
    claim(str(config.parent / "run"), *load(str(config)))
    return config.parent / "run"


@pytest.mark.parametrize(
    ("words", "ends"),
    [
        (["--help"], 0),
        (["status", "RUN"], 0),
        (["schedule", "CONFIG", "--as", "cron"], 0),
        (["approve", "RUN", "2026-11-01", "--reason", "why"], 2),  # not held
        (["rollback", "RUN", "--reason", "why"], 2),  # nothing was published
        (["daily", "CONFIG", "--out", "RUN", "--dry-run"], 0),
        (["evaluate", "RUN", "--days", "2026-12-24"], 2),  # not in the log
        (["diagnose", "RUN", "--days", "2026-12-24"], 2),
        (["verify", "/nowhere"], 2),
    ],
    ids=lambda own: own[0] if isinstance(own, list) else "",
)
def test_a_command_that_trains_nothing_loads_no_torch(words: list[str], ends: int, config: Path, run: Path) -> None:
    code, modules = loaded(*({"RUN": run, "CONFIG": config}.get(word, word) for word in words))

    assert code == ends
    assert among(modules, HEAVY) == []
    assert among(modules, TRAINING) == []


def test_score_loads_no_training_code(config: Path, tmp_path: Path) -> None:
    # torch and torchrec are needed to score; torchrec imports its own pipelines, whatever is asked of it.
    code, modules = loaded("score", tmp_path, "--data", config.parent / "log", "--out", tmp_path / "scores")

    assert code == 2, "there is no bundle"
    assert among(modules, ("torchx", "tensorboard", "matplotlib", "ray")) == []
    # How a batch becomes what a model reads is the same for who trains and for who serves.
    assert among(modules, TRAINING) == ["pipeline.training", "pipeline.training.inputs"]
    rooms = [own.split(".") for own in modules if own.startswith("pipeline.") and own.count(".") == 2]
    others = [".".join(own) for own in rooms if own[1] not in ("config", "serving")]
    assert others == [
        "pipeline.builders.days",
        "pipeline.builders.losses",
        "pipeline.builders.models",
        "pipeline.training.inputs",
    ]


def test_what_loads_torch_is_found_out() -> None:
    modules = ["os", "torch.nn", "torchy", "pipeline.training", "pipeline.jobs.train", "pipeline.builders"]

    assert among(modules, HEAVY) == ["torch.nn"]
    assert among(modules, TRAINING) == ["pipeline.training", "pipeline.jobs.train"]
