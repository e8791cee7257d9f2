"""A TorchX component is a function: call it and look at the job; then let TorchX write the job of two real schedulers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from torchx.components.component_test_base import ComponentTestCase
from torchx.specs.finder import ModuleComponentsFinder, get_components

from launch import components

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def command(app):
    """The command line of the job, from `-m launch` on: of `launch.ranks` on one node, and how many ranks it starts."""
    return app.roles[0].args[-1].partition(" -m launch")[2]


class TestTorchxParsesTheComponents(ComponentTestCase):
    def test_train(self) -> None:
        self.validate(components, "train")

    def test_evaluate(self) -> None:
        self.validate(components, "evaluate")

    def test_daily(self) -> None:
        self.validate(components, "daily")

    def test_score(self) -> None:
        self.validate(components, "score")


def test_train_runs_the_command_of_that_name_on_every_rank():
    app = components.train(
        "train.epochs=2", "model.decoder_options={layers: 3}", config="run.yaml", out="s3://a/b", ranks=4, nnodes=2
    )

    assert command(app) == " train run.yaml --out s3://a/b --set train.epochs=2 --set 'model.decoder_options={layers: 3}'"
    assert " --nnodes 2 --nproc_per_node 4 " in app.roles[0].args[-1]
    assert app.roles[0].num_replicas == 2


def test_daily_runs_the_command_of_that_name_on_every_rank():
    app = components.daily("daily.keep=3", config="run.yaml", out="s3://a/b", until="2026-11-20", ranks=4)

    assert command(app) == ".ranks 4 daily run.yaml --out s3://a/b --until 2026-11-20 --set daily.keep=3"
    assert command(components.daily(config="run.yaml")) == ".ranks 1 daily run.yaml"


def test_score_runs_the_command_of_that_name_once():
    app = components.score(bundle="s3://models/feed", data="s3://logs/day=2026-11-20", out="s3://scores")

    assert command(app) == ".ranks 1 score s3://models/feed --data s3://logs/day=2026-11-20 --out s3://scores"


def test_without_a_folder_train_leaves_it_to_the_run_file():
    assert command(components.train(config="run.yaml")) == ".ranks 1 train run.yaml"


def test_evaluate_runs_the_command_of_that_name_on_every_rank():
    app = components.evaluate(run="runs/a b", days="2026-11-01..2026-11-02", ranks=2)

    assert command(app) == ".ranks 2 evaluate 'runs/a b' --days 2026-11-01..2026-11-02"


def test_on_one_node_no_store_is_opened_to_the_network():
    assert "torchrun" not in components.train(config="run.yaml", ranks=2).roles[0].args[-1]


@pytest.mark.parametrize("nodes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_file_of_the_folder_a_job_is_started_in_is_not_taken_for_ours(nodes: int, tmp_path: Path):
    (tmp_path / "launch.py").write_text("raise SystemExit('theirs')")
    variables = components.evaluate(run="none", days="d", nnodes=nodes).roles[0].env

    line = [sys.executable, "-m", "launch", "status", "none"]
    done = subprocess.run(line, cwd=tmp_path, env=ENVIRONMENT | variables, capture_output=True, text=True, check=False)

    assert "none: no config.yaml there" in done.stderr


@pytest.mark.parametrize(
    "app",
    [
        components.train(config="c", cpu=3, gpu=4, memMB=5, image="i", max_retries=6),
        components.evaluate(run="r", days="d", cpu=3, gpu=4, memMB=5, image="i", max_retries=6),
        components.daily(config="c", cpu=3, gpu=4, memMB=5, image="i", max_retries=6),
    ],
    ids=["train", "evaluate", "daily"],
)
def test_resources_image_and_retries_are_what_was_asked_for(app):
    (role,) = app.roles

    assert (role.resource.cpu, role.resource.gpu, role.resource.memMB) == (3, 4, 5)
    assert (role.image, role.max_retries) == ("i", 6)
    assert role.env["OMP_NUM_THREADS"] == "1"
    assert role.env["OMP_WAIT_POLICY"] == "passive"


def dryrun(scheduler: str, *arguments: str) -> str:
    """What `torchx run --dryrun` would send to a scheduler."""
    line = ["-m", "torchx.cli.main", "run", "-s", scheduler, "--workspace", "", "--dryrun"]
    run = subprocess.run([sys.executable, *line, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.partition("=== SCHEDULER REQUEST ===")[2]


TRAIN = [
    *["--config", "launch/configs/demo.yaml", "--out", "runs/x", "--ranks", "2", "--nnodes", "2"],
    *["--cpu", "3", "--gpu", "2", "--memMB", "16000", "--image", "registry/genctr:1", "--", "train.epochs=2"],
]


def test_slurm_gets_the_job():
    script = dryrun("slurm", "launch/components.py:train", *TRAIN)

    asked = [line for line in script.splitlines() if "--job-name" in line]
    assert len(asked) == 2, "one group a node"
    assert all("--requeue --ntasks-per-node=1 --cpus-per-task=3 --mem=16000 --gpus-per-task=2" in line for line in asked)
    assert script.count("OMP_NUM_THREADS=1,OMP_WAIT_POLICY=passive,PYTHONSAFEPATH=1") == 2
    assert script.count("-m launch train launch/configs/demo.yaml --out runs/x --set train.epochs=2") == 2
    assert "export TORCHX_MAX_RETRIES=3" in script
    assert "scontrol requeue" in script


def test_kubernetes_gets_the_job():
    job = yaml.safe_load(dryrun("kubernetes", "launch/components.py:train", *TRAIN))

    first, second = job["spec"]["tasks"]
    (container,) = first["template"]["spec"]["containers"]
    env = {variable["name"]: variable["value"] for variable in container["env"]}
    assert job["spec"]["queue"] == "default"
    assert job["spec"]["maxRetry"] == first["maxRetry"] == second["maxRetry"] == 3
    assert {"action": "RestartJob", "event": "PodFailed"} in first["policies"]
    assert container["image"] == "registry/genctr:1"
    assert container["resources"]["limits"] == {"cpu": "3000m", "memory": "16000M", "nvidia.com/gpu": "2"}
    assert (env["OMP_NUM_THREADS"], env["OMP_WAIT_POLICY"]) == ("1", "passive")
    assert container["command"][-1].endswith("-m launch train launch/configs/demo.yaml --out runs/x --set train.epochs=2")


DAILY = ["--config", "launch/configs/demo.yaml", "--out", "runs/x", "--ranks", "2", "--until", "2026-11-20"]


def test_slurm_and_kubernetes_get_the_daily_job():
    line = "-m launch.ranks 2 daily launch/configs/demo.yaml --out runs/x --until 2026-11-20"
    script = dryrun("slurm", "launch/components.py:daily", *DAILY)
    assert line in script
    assert "scontrol requeue" in script
    job = yaml.safe_load(dryrun("kubernetes", "launch/components.py:daily", *DAILY))
    (task,) = job["spec"]["tasks"]
    assert task["template"]["spec"]["containers"][0]["command"][-1].endswith(line)
    assert task["maxRetry"] == 3


def test_the_named_component_is_the_same_one():
    assert dryrun("slurm", "genctr.train", *TRAIN) == dryrun("slurm", "launch/components.py:train", *TRAIN)


def test_registering_ours_hides_none_of_torchx_own_components():
    own = {
        component.name
        for component in ModuleComponentsFinder("torchx.components", "").find()
        if not component.validation_errors
    }

    assert set(get_components()) == own | {f"genctr.{name}" for name in ("train", "daily", "evaluate", "score")}
