"""Learning rates and randomness, each a function of the step alone, so that resuming needs no state."""

import hashlib
import math
from collections.abc import Container, Iterator

import torch
from torch import nn
from torchrec.distributed.types import ShardedModule

from pipeline.config.train import ScheduleConfig
from pipeline.distributed.shard import Sharded
from pipeline.training.loop import Callback, TrainState
from pipeline.training.objective import StepOutput


def factor(config: ScheduleConfig, step: int) -> float:
    """What the learning rates are multiplied by in the step with this number, counted from 0.

    Rises as (step + 1) / warmup_steps, then falls from 1 to `min_factor` over `decay_steps`, on a line or half a cosine; or as
    1 / sqrt(1 + steps / decay_steps), not below `min_factor`.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.decay == "none":
        return 1.0
    if config.decay == "inverse_sqrt":
        return max(config.min_factor, 1.0 / math.sqrt(1.0 + (step - config.warmup_steps) / config.decay_steps))
    done = min((step - config.warmup_steps) / config.decay_steps, 1.0)
    left = 1.0 - done if config.decay == "linear" else (1.0 + math.cos(math.pi * done)) / 2.0
    return config.min_factor + (1.0 - config.min_factor) * left


class Schedule(Callback):
    """Sets every learning rate before each step (0 for what the stage freezes), and seeds dropout from (seed, step, rank).

    What a frozen network keeps that is no parameter, such as the running statistics of a batch norm or the difficulties of a
    balance, is after each step what it was before.
    """

    def __init__(
        self,
        config: ScheduleConfig,
        *,
        sharded: Sharded,
        dense: torch.optim.Optimizer,
        dense_lr: float,
        seed: int,
        rank: int,
        freeze: Container[str] = (),
    ) -> None:
        self._config, self._sharded, self._dense, self._dense_lr = config, sharded, dense, dense_lr
        self._seed, self._rank, self._freeze = seed, rank, freeze
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_step_begin(self, state: TrainState) -> None:
        """Set the step's learning rates and seed."""
        scale = factor(self._config, state.step - state.began) * state.lr_factor
        for group in self._dense.param_groups:
            group["lr"] = 0.0 if "network" in self._freeze else self._dense_lr * scale
        if "network" in self._freeze:
            self._kept = [(own, own.clone()) for own in _buffers(self._sharded.model)]
        self._sharded.set_lr(0.0 if "tables" in self._freeze else scale)
        digest = hashlib.blake2b(f"{self._seed}/{state.step}/{self._rank}".encode(), digest_size=8).digest()
        torch.manual_seed(int.from_bytes(digest, "little") >> 1)

    @torch.no_grad()
    def on_step_end(self, state: TrainState, output: StepOutput) -> None:
        """Take back what the step made of a frozen network's state."""
        for own, before in self._kept:
            own.copy_(before)
        self._kept = []


def _buffers(module: nn.Module) -> Iterator[torch.Tensor]:
    """The state of the network: every buffer that is saved, but those of the tables and their optimizers."""
    if isinstance(module, ShardedModule):
        return
    own = dict(module.named_buffers(recurse=False))
    yield from (buffer for name, buffer in own.items() if name not in module._non_persistent_buffers_set)
    for child in module.children():
        yield from _buffers(child)
