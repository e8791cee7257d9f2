"""The TorchX components: what a scheduler is asked to run.

Installed, they are called `genctr.train`, `genctr.daily`, `genctr.evaluate` and `genctr.score`; in a checkout also
`launch/components.py:train`.

    torchx run -s local_cwd genctr.train --config run.yaml --ranks 2 -- train.epochs=2

The scheduler starts a job that failed again, up to `max_retries` times; training then goes on from its last checkpoint.
The `local_cwd` scheduler of TorchX never does: there, run the same line again.
"""

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from torchx import specs
from torchx.components import dist

ENVIRONMENT = {
    # Threads that spin while they wait make two ranks on two cores up to 20 times slower.
    **{"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
    # Python's -m looks into the job's folder first: a file `launch.py` there is not ours.
    "PYTHONSAFEPATH": "1",
}


class Resources(NamedTuple):
    """What a component asks a scheduler for.

    TorchX reads a component's arguments from its source, one by one: those stay in every signature, and meet here.

    Args:
        nodes: machines. ranks: processes on each. cpu, gpu: of each node. memory: [MB] of each node.
        image: a container image. max_retries: how often the scheduler may start the job again.
    """

    nodes: int
    ranks: int
    cpu: int
    gpu: int
    memory: int
    image: str
    max_retries: int


def train(
    *settings: str,
    config: str,
    out: str = "",
    ranks: int = 1,
    nnodes: int = 1,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 8192,
    image: str = "genctr",
    max_retries: int = 3,
) -> specs.AppDef:
    """Train the days a run file names; an existing run folder goes on where it stood.

    Args:
        settings: path=value, overrides one value of the run file, or schema.path=value, one of its schema
        config: the run file
        out: the run folder, the same for every node and every retry; if empty, runs/NAME
        ranks: processes on each node
        nnodes: nodes
        cpu: processors of each node
        gpu: GPUs of each node
        memMB: memory of each node in MB
        image: a container image with this project installed, for schedulers that run containers
        max_retries: how often the scheduler may start the job again
    """
    words = ["train", config, *_folder(out), *_overrides(settings)]
    return _job(words, Resources(nnodes, ranks, cpu, gpu, memMB, image, max_retries))


def daily(
    *settings: str,
    config: str,
    out: str = "",
    until: str = "",
    ranks: int = 1,
    nnodes: int = 1,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 8192,
    image: str = "genctr",
    max_retries: int = 3,
) -> specs.AppDef:
    """Bring a model up to date with its log; a retry goes on where it stood. That there is nothing to do yet, or that a model
    was held back, is not a failure here: the ledger says it.

    Args:
        settings: path=value, overrides one value of the run file, or schema.path=value, one of its schema
        config: the run file
        out: the run folder, the same for every node and every retry; if empty, runs/NAME
        until: the last day to take up; if empty, all there are
        ranks: processes on each node
        nnodes: nodes
        cpu: processors of each node
        gpu: GPUs of each node
        memMB: memory of each node in MB
        image: a container image with this project installed, for schedulers that run containers
        max_retries: how often the scheduler may start the job again
    """
    last = ["--until", until] if until else []
    words = ["daily", config, *_folder(out), *last, *_overrides(settings)]
    return _job(words, Resources(nnodes, ranks, cpu, gpu, memMB, image, max_retries))


def evaluate(
    *,
    run: str,
    days: str,
    ranks: int = 1,
    nnodes: int = 1,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 8192,
    image: str = "genctr",
    max_retries: int = 3,
) -> specs.AppDef:
    """Score days with a trained run.

    Args:
        run: the run folder
        days: the days to score, each on its own: A..B
        ranks: processes on each node
        nnodes: nodes
        cpu: processors of each node
        gpu: GPUs of each node
        memMB: memory of each node in MB
        image: a container image with this project installed, for schedulers that run containers
        max_retries: how often the scheduler may start the job again
    """
    words = ["evaluate", run, "--days", days]
    return _job(words, Resources(nnodes, ranks, cpu, gpu, memMB, image, max_retries))


def score(
    *,
    bundle: str,
    data: str,
    out: str,
    keys: str = "",
    cpu: int = 2,
    memMB: int = 8192,
    image: str = "genctr",
    max_retries: int = 3,
) -> specs.AppDef:
    """Score raw rows with a published bundle, in one process.

    Args:
        bundle: a bundle, or the folder of all of them: then the current one
        data: a file, or a folder of files such as a day's
        out: the folder for the scores
        keys: columns of the rows to write next to their scores, with commas between them; if empty, none
        cpu: processors
        memMB: memory in MB
        image: a container image with this project installed, for schedulers that run containers
        max_retries: how often the scheduler may start the job again
    """
    words = ["score", bundle, "--data", data, "--out", out, *(["--keys", keys] if keys else [])]
    return _job(words, Resources(1, 1, cpu, 0, memMB, image, max_retries))


def _folder(out: str) -> list[str]:
    return ["--out", out] if out else []


def _overrides(settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def _job(words: Sequence[str], asked: Resources) -> specs.AppDef:
    """The command `words`, on so many nodes and ranks of each.

    On one node our own launcher starts the ranks, and nothing listens on its network. On several torchrun does, and its
    TCPStore believes whoever reaches port 29500 of the first node: see docs/daily.md.
    """
    name = words[0]
    resource = specs.resource(cpu=asked.cpu, gpu=asked.gpu, memMB=asked.memory)
    if asked.nodes > 1:
        shape = f"{asked.nodes}x{asked.ranks}"
        app = dist.ddp(*words, m="launch", name=f"genctr/{name}", j=shape, image=asked.image, env=dict(ENVIRONMENT))
        (role,) = app.roles
        role.resource, role.max_retries = resource, asked.max_retries
        return app
    line = shlex.join(["python3", "-u", "-m", "launch.ranks", str(asked.ranks), *words])
    role = specs.Role(
        name="launch",
        image=asked.image,
        entrypoint="bash",
        args=["-c", f"exec {line}"],
        env=dict(ENVIRONMENT),
        resource=resource,
        max_retries=asked.max_retries,
    )
    return specs.AppDef(name=name, roles=[role])
