"""From config to the optimizers of everything but the tables."""

from functools import partial

import torch
from torch import nn
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import KeyedOptimizer, KeyedOptimizerWrapper

from pipeline.config.run import RunConfig
from pipeline.config.train import DenseConfig
from pipeline.distributed.shard import Sharded


class PresentAdam(torch.optim.Adam):
    """Adam that leaves a coordinate without a gradient, and its moments, as they are. torch's takes zero for a gradient, and
    goes on moving what a step has not seen; its SparseAdam wants sparse gradients, which ranks cannot sum."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step."""
        names = ("exp_avg", "exp_avg_sq")
        before = []
        for parameter in (parameter for group in self.param_groups for parameter in group["params"]):
            if parameter.grad is not None:
                absent = parameter.grad == 0
                kept = [parameter, *(self.state[parameter][name] for name in names if name in self.state[parameter])]
                before.append((absent, kept, [own.clone() for own in kept]))
        super().step()
        for absent, kept, were in before:
            for own, was in zip(kept, were, strict=True):
                own.copy_(torch.where(absent, was, own))


def build_dense_optimizers(config: RunConfig, sharded: Sharded) -> tuple[KeyedOptimizer, list[tuple[str, KeyedOptimizer]]]:
    """The optimizer of everything but the tables; and apart from it, named, those of parameters with a learning rate of their
    own.

    These do not decay, and their gradients are not clipped together with the network's.
    """
    network: dict[str, nn.Parameter] = dict(sharded.dense_parameters)
    others: list[tuple[str, KeyedOptimizer]] = []
    for end, rate in config.family.learning_rates(config.model).items():
        apart = {name: network.pop(name) for name in list(network) if name.endswith(end)}
        if apart:
            learn = KeyedOptimizerWrapper(apart, partial(PresentAdam, lr=rate))
            others.append((end.partition(".")[0], _with_state(learn)))
    return build_dense_optimizer(config.train.dense, network), others


def build_dense_optimizer(config: DenseConfig, parameters: dict[str, nn.Parameter]) -> KeyedOptimizer:
    """Adam of the network, clipped if the config says so."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    betas = (config.beta1, config.beta2)
    make = partial(kind, lr=config.lr, betas=betas, eps=config.eps, weight_decay=config.weight_decay)
    # One group and not a list: that may be empty, where a model is tables alone.
    optimizer: KeyedOptimizer = _with_state(KeyedOptimizerWrapper(parameters, lambda own: make([{"params": own}])))
    if config.clip_norm is not None:
        optimizer = GradientClippingOptimizer(optimizer, clipping=GradientClipping.NORM, max_gradient=config.clip_norm)
    return optimizer


def _with_state(optimizer: KeyedOptimizerWrapper) -> KeyedOptimizerWrapper:
    """Give Adam or AdamW the state that torch would make in its first step: a checkpoint is loaded into what is there.

    TorchRec's `init_state` takes a step with zero gradients for it: the counter would start at 1, so the first real step would
    be .744 of torch's (with the default betas), and weight decay would move every weight before the first batch.
    """
    for parameter in optimizer.params.values():
        moments = {name: torch.zeros_like(parameter, memory_format=torch.preserve_format) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}
    return optimizer
