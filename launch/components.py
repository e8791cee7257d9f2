"""The TorchX components: what a scheduler is asked to run.

Installed, they are called `genctr.train`, `genctr.daily`, `genctr.evaluate` and `genctr.score`; in a checkout also
`launch/components.py:train`.

    torchx run -s local_cwd genctr.train --config run.yaml --ranks 2 -- train.epochs=2

The scheduler starts a job that failed again, up to `max_retries` times; training then goes on from its last checkpoint.
The `local_cwd` scheduler of TorchX never does: there, run the same line again.
"""

from torchx import specs
from torchx.components import dist

# Threads that spin while they wait make two ranks on two cores up to 20 times slower.
OPENMP = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


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
        settings: path=value, overrides one value of the run file
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
    folder = ["--out", out] if out else []
    overrides = [word for setting in settings for word in ("--set", setting)]
    return dist.ddp(
        "train",
        config,
        *folder,
        *overrides,
        m="launch",
        name="genctr/train",
        j=f"{nnodes}x{ranks}",
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        image=image,
        env=dict(OPENMP),
        max_retries=max_retries,
    )


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
    was held back, is no failure here: the ledger says it.

    Args:
        settings: path=value, overrides one value of the run file
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
    folder = ["--out", out] if out else []
    last = ["--until", until] if until else []
    overrides = [word for setting in settings for word in ("--set", setting)]
    return dist.ddp(
        "daily",
        config,
        *folder,
        *last,
        *overrides,
        m="launch",
        name="genctr/daily",
        j=f"{nnodes}x{ranks}",
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        image=image,
        env=dict(OPENMP),
        max_retries=max_retries,
    )


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
    return dist.ddp(
        "evaluate",
        run,
        "--days",
        days,
        m="launch",
        name="genctr/evaluate",
        j=f"{nnodes}x{ranks}",
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        image=image,
        env=dict(OPENMP),
        max_retries=max_retries,
    )


def score(
    *,
    bundle: str,
    data: str,
    out: str,
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
        cpu: processors
        memMB: memory in MB
        image: a container image with this project installed, for schedulers that run containers
        max_retries: how often the scheduler may start the job again
    """
    return dist.ddp(
        "score",
        bundle,
        "--data",
        data,
        "--out",
        out,
        m="launch",
        name="genctr/score",
        j="1x1",
        cpu=cpu,
        gpu=0,
        memMB=memMB,
        image=image,
        env=dict(OPENMP),
        max_retries=max_retries,
    )
