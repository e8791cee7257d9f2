"""Learning rates and randomness, each a function of the step alone, so that resuming needs no state."""

import hashlib
import math
from collections.abc import Container

import torch

from pipeline.config.train import ScheduleConfig
from pipeline.distributed.shard import Sharded
from pipeline.training.loop import Callback, TrainState


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
    """Sets every learning rate before each step (0 for what the stage freezes), and seeds dropout from (seed, step, rank)."""

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

    def on_step_begin(self, state: TrainState) -> None:
        """Set the step's learning rates and seed."""
        scale = factor(self._config, state.step - state.began) * state.lr_factor
        for group in self._dense.param_groups:
            group["lr"] = 0.0 if "network" in self._freeze else self._dense_lr * scale
        self._sharded.set_lr(0.0 if "tables" in self._freeze else scale)
        digest = hashlib.blake2b(f"{self._seed}/{state.step}/{self._rank}".encode(), digest_size=8).digest()
        torch.manual_seed(int.from_bytes(digest, "little") >> 1)
