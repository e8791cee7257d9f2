"""Spread the embedding tables over the ranks: each with its optimizer and first values, the same under any plan."""

import hashlib
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode
from torch import Tensor, nn
from torch.distributed.optim.apply_optimizer_in_backward import _apply_optimizer_in_backward
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import HardwareConfig, KernelConfig, PlannerError, TopologyFactory, TrainerConfig
from torchrec.distributed.types import ShardedTensor, ShardingPlan
from torchrec.modules.embedding_configs import BaseEmbeddingConfig, DataType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim.keyed import KeyedOptimizer
from torchrec.optim.optimizers import SGD, Adagrad, Adam, in_backward_optimizer_filter
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from data.errors import GenctrError
from models.sparse import LINEAR, SECOND
from pipeline import adam
from pipeline.half import FirstValues, Half
from pipeline.kernels import our_kernels
from pipeline.lookups import PooledSharder, UnpooledSharder

OPTIMIZERS = {"sgd": SGD, "adagrad": Adagrad, "rowwise_adagrad": RowWiseAdagrad, "adam": Adam, "lazy_adam": Adam}
WITHIN_A_ROW = ("column_wise", "table_column_wise", "grid_shard")
EVERYWHERE = ("table_wise", "row_wise", "column_wise")  # what TorchRec can do with unpooled tables as well

HALF_OPTIMIZERS = ("sgd", "rowwise_adagrad")

BLOCK_ROWS = 65_536
"""[rows] of a table that are drawn from one generator; part of what a seed means."""

MEMORY_SHARE = 0.85
"""[1] of a device's memory that tables may take; the rest is for dense weights, batches and the program."""


@dataclass(frozen=True)
class Init:
    """How a table's rows begin.

    Args:
        kind: normal is N(0, scale^2), uniform lies between -scale and scale.
        scale: the spread; None is 1/sqrt(rows), as TorchRec has it.
    """

    kind: Literal["normal", "uniform"] = "uniform"
    scale: float | None = None


@dataclass(frozen=True)
class TableOptions:
    """How one table learns and where it lives.

    Args:
        optimizer: fused into the backward pass. adam moves every row every step, as `torch.optim.Adam` does, and needs the
            memory of one more copy of the table for it; lazy_adam moves only the rows looked up, as FBGEMM's ADAM does. Both
            correct the bias by the number of steps.
        lr: learning rate, before the schedule's factor.
        weight_decay: lambda. adam adds lambda w to the gradient, lazy_adam takes lr lambda w off the row, rowwise_adagrad (CUDA
            only) adds lambda w to the gradient; sgd and adagrad have none.
        decay: the rows that decay, those looked up in the step or the whole table (adam only).
        eps: added to the denominator.
        betas: of the Adams.
        init: the first values.
        sharding: how the table is spread over ranks; auto keeps it whole if it fits, on CUDA if the planner says so. One that
            cannot give every rank a row stays whole.
        precision: of the stored numbers. fp16 is for sgd and rowwise_adagrad: see `pipeline/half.py`.
    """

    optimizer: Literal["sgd", "adagrad", "rowwise_adagrad", "adam", "lazy_adam"] = "rowwise_adagrad"
    lr: float = 0.05
    weight_decay: float = 0.0
    decay: Literal["touched", "table"] = "touched"
    eps: float = 1e-8
    betas: tuple[float, float] = (0.9, 0.999)
    init: Init = Init()
    sharding: Literal["auto", "table_wise", "row_wise", "column_wise", "table_row_wise", "table_column_wise", "grid_shard"] = (
        "auto"
    )
    precision: Literal["fp32", "fp16"] = "fp32"


@dataclass(frozen=True)
class Sharded:
    """A model whose tables are spread over the ranks.

    Args:
        model: the model; its backward updates the tables.
        fused: the tables' optimizers, for checkpoints.
        dense_parameters: everything else, by name; for an optimizer of the caller's.
        plan: who holds which shard.
        rates: the tables' own learning rates, in the order of `fused.param_groups`.
        first: of the tables whose blank rows stand for their first values, by table name.
    """

    model: DistributedModelParallel
    fused: KeyedOptimizer
    dense_parameters: dict[str, nn.Parameter]
    plan: ShardingPlan
    rates: tuple[float, ...]
    first: Mapping[str, FirstValues]

    def seen(self, table: str, part: Tensor, rows: Tensor, column: int = 0) -> Tensor:
        """Some stored rows of a table as its look-ups see them, in fp32 on CPU.

        Args:
            part: the rows, or some columns of them from `column` on. rows: their numbers in the whole table.
        """
        part = part.detach().cpu()
        return self.first[table].filled(part, table, rows, column) if table in self.first else part.float()

    def set_lr(self, scale: float) -> None:
        """Multiply every table's own learning rate by `scale`, from the next backward on."""
        for group, rate in zip(self.fused.param_groups, self.rates, strict=True):
            group["lr"] = rate * scale
        self.fused.zero_grad()  # hands the rates to the kernels; a fused optimizer has no gradients to clear


def shard(model: nn.Module, *, tables: Mapping[str, TableOptions], device: torch.device, batch_rows: int, seed: int) -> Sharded:
    """Plan, spread and initialise the model's tables.

    Every rank calls it with the same arguments; the process group exists. On W ranks a table's first values, and up to float
    rounding every later one, do not depend on W or on the plan.

    Args:
        model: holds EmbeddingBagCollections and EmbeddingCollections on `meta`, fp32; its other modules are initialised, equal
            on all ranks.
        tables: by table name. A companion, `<name>_linear` or `<name>_second`, takes what is said of `<name>` unless it is
            named itself.
        device: where this rank computes.
        batch_rows: [rows] of a step over all ranks; the planner's estimates use it.
        seed: of the tables' first values.

    Raises:
        GenctrError: settings that the device or the sharding cannot keep, or tables that do not fit into memory.
    """
    chosen: dict[str, TableOptions] = {}
    first: dict[str, FirstValues] = {}
    for collection in _collections(model):
        for config, _ in _tables(collection):
            options = _options(config.name, tables)
            _check(config, options, device, pooled=isinstance(collection, EmbeddingBagCollection))
            config.init_fn = _leave  # TorchRec's own, which would write every row
            if options.precision == "fp16":
                _halve(collection, config)
                first[config.name] = FirstValues(options.init.kind, _scale(options.init, config.num_embeddings), seed)
            chosen[config.name] = options
        for config, parameter in _tables(collection):
            options = chosen[config.name]
            settings = _settings(config, options, device, first.get(config.name))
            _apply_optimizer_in_backward(OPTIMIZERS[options.optimizer], [parameter], settings, register_hook=False)

    sharders = [PooledSharder(), UnpooledSharder()]
    plan = _plan(model, sharders, chosen, device, batch_rows)
    with our_kernels(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="torchrec")  # of torchrec's own use of torch
        spread = DistributedModelParallel(model, device=device, plan=plan, sharders=sharders)
    _initialise(spread, {name: options for name, options in chosen.items() if name not in first}, seed)
    fused = spread.fused_optimizer
    return Sharded(
        model=spread,
        fused=fused,
        dense_parameters=dict(in_backward_optimizer_filter(spread.named_parameters())),
        plan=plan,
        rates=tuple(group["lr"] for group in fused.param_groups),
        first=first,
    )


def _collections(model: nn.Module) -> Iterator[EmbeddingBagCollection | EmbeddingCollection]:
    for module in model.modules():
        if isinstance(module, EmbeddingBagCollection | EmbeddingCollection):
            yield module


def _tables(collection: EmbeddingBagCollection | EmbeddingCollection) -> Iterator[tuple[BaseEmbeddingConfig, nn.Parameter]]:
    pooled = isinstance(collection, EmbeddingBagCollection)
    configs = collection.embedding_bag_configs() if pooled else collection.embedding_configs()
    holders = collection.embedding_bags if pooled else collection.embeddings
    for config in configs:
        yield config, holders[config.name].weight


def _leave(weight: Tensor) -> Tensor:
    return weight


def _halve(collection: EmbeddingBagCollection | EmbeddingCollection, config: BaseEmbeddingConfig) -> None:
    """Have a table, still on `meta`, stored as fp16."""
    config.data_type = DataType.FP16
    holders = collection.embedding_bags if isinstance(collection, EmbeddingBagCollection) else collection.embeddings
    holders[config.name].weight = nn.Parameter(holders[config.name].weight.detach().half())


def _options(name: str, tables: Mapping[str, TableOptions]) -> TableOptions:
    owner = name if name in tables else name.removesuffix(LINEAR).removesuffix(SECOND)
    if owner not in tables:
        raise GenctrError(f"table {name!r} has no settings\n  expected: one of {sorted(tables)}")
    return tables[owner]


def _check(config: BaseEmbeddingConfig, options: TableOptions, device: torch.device, *, pooled: bool) -> None:
    """Refuse what would be silently ignored or would change with the plan."""
    assert config.embedding_dim % 4 == 0, "FBGEMM's tables are multiples of 4 wide"
    optimizer, sharding = options.optimizer, options.sharding
    problem = ""
    if options.decay == "table" and options.weight_decay and optimizer != "adam":
        problem = f"{optimizer} decays the rows it looks up only: set decay to touched, or optimizer to adam"
    elif options.weight_decay and optimizer in ("sgd", "adagrad"):
        problem = f"FBGEMM's {optimizer} has no weight decay: set weight_decay to 0, or optimizer to adam or lazy_adam"
    elif options.weight_decay and optimizer == "rowwise_adagrad" and device.type == "cpu":
        problem = "rowwise_adagrad ignores weight decay on CPU: set weight_decay to 0, or optimizer to adam or lazy_adam"
    elif optimizer == "adam" and device.type != "cpu":
        problem = "adam over whole tables is for CPU: on CUDA set optimizer to lazy_adam"
    elif options.precision == "fp16" and optimizer not in HALF_OPTIMIZERS:
        problem = f"{optimizer} has no fp16 tables: set precision to fp32, or optimizer to {' or '.join(HALF_OPTIMIZERS)}"
    elif options.precision == "fp16" and device.type != "cpu":
        problem = "fp16 tables are for CPU: on CUDA set precision to fp32"
    elif optimizer == "rowwise_adagrad" and sharding in WITHIN_A_ROW:
        problem = f"rowwise_adagrad keeps one moment per row, which {sharding} would split: set sharding to row_wise"
    elif not pooled and sharding not in ("auto", *EVERYWHERE):
        problem = f"attention reads its rows unpooled, which {sharding} cannot: choose from {', '.join(EVERYWHERE)}"
    if problem:
        raise GenctrError(f"table {config.name!r}: {problem}")


def _settings(
    config: BaseEmbeddingConfig, options: TableOptions, device: torch.device, first: FirstValues | None
) -> dict[str, Any]:
    """What TorchRec hands to the table's kernel; tables whose settings differ are never in one kernel."""
    settings: dict[str, Any] = {"lr": options.lr}
    if options.optimizer != "sgd":
        settings["eps"] = options.eps
    if options.optimizer == "rowwise_adagrad" and options.weight_decay:
        settings |= {"weight_decay": options.weight_decay, "weight_decay_mode": WeightDecayMode.L2}
    if first is not None:
        assert options.optimizer == "sgd" or options.optimizer == "rowwise_adagrad", "checked before"
        return settings | {"rule": Half(options.optimizer, options.eps, first), "width": config.embedding_dim}
    if OPTIMIZERS[options.optimizer] is not Adam:
        return settings
    beta1, beta2 = options.betas
    if device.type != "cpu":
        return settings | {"beta1": beta1, "beta2": beta2, "weight_decay": options.weight_decay}
    rule = adam.Adam(
        beta1=beta1,
        beta2=beta2,
        eps=options.eps,
        weight_decay=options.weight_decay,
        moves="all" if options.optimizer == "adam" else "touched",
        decays="all" if options.decay == "table" else "touched",
    )
    return settings | {"rule": rule, "width": config.embedding_dim}


def _plan(
    model: nn.Module, sharders: list[Any], tables: Mapping[str, TableOptions], device: torch.device, batch_rows: int
) -> ShardingPlan:
    """TorchRec's plan, made on every rank alike: one rank planning for all would leave the others waiting if it fails.

    Tables on auto stay whole or are split by rows; splitting columns would change row-wise Adagrad. On CPU they are split only
    if they do not fit whole: there row-wise is 1.4 to 1.9 times slower, which TorchRec's estimates do not know.
    """
    for auto in (["table_wise"], ["table_wise", "row_wise"]) if device.type == "cpu" else (["table_wise", "row_wise"],):
        try:
            return _planner(model, tables, device, batch_rows, auto).plan(model, sharders)
        except PlannerError as error:
            problem = error
    raise GenctrError(f"the tables cannot be spread over {dist.get_world_size()} ranks\n{problem}")


def _planner(
    model: nn.Module, tables: Mapping[str, TableOptions], device: torch.device, batch_rows: int, auto: list[str]
) -> EmbeddingShardingPlanner:
    ranks, memory = dist.get_world_size(), _memory(device)
    configs = {config.name: config for found in _collections(model) for config, _ in _tables(found)}
    # TorchRec takes the fp32 moment of a fp16 row for fp16.
    memory -= sum(2 * configs[name].num_embeddings for name, own in tables.items() if _is_half_adagrad(own)) // ranks
    constraints = {
        name: ParameterConstraints(
            sharding_types=_shardings(options.sharding, configs[name].num_embeddings, auto),
            compute_kernels=[EmbeddingComputeKernel.FUSED.value],
            min_partition=math.ceil(configs[name].embedding_dim / ranks),
        )
        for name, options in tables.items()
    }
    topology = TopologyFactory.create_topology(
        TrainerConfig(world_size=ranks, local_world_size=_ranks_here()),
        HardwareConfig(ddr_cap_bytes=memory) if device.type == "cpu" else HardwareConfig(hbm_cap_bytes=memory),
        KernelConfig(compute_device=device.type),
    )
    return EmbeddingShardingPlanner(
        topology=topology,
        batch_size=math.ceil(batch_rows / ranks),
        constraints=constraints,
        storage_reservation=FixedPercentageStorageReservation(percentage=0.0),  # MEMORY_SHARE already leaves room
        stats=[],
    )


def _is_half_adagrad(options: TableOptions) -> bool:
    return options.precision == "fp16" and options.optimizer == "rowwise_adagrad"


def _shardings(said: str, rows: int, auto: list[str]) -> list[str]:
    """The shardings a table may have. FBGEMM's kernels fail without a row, so one too small to be split by rows is not."""
    if said == "auto":
        return auto
    ranks = {"row_wise": dist.get_world_size(), "table_row_wise": _ranks_here(), "grid_shard": _ranks_here()}.get(said, 1)
    return [said] if (ranks - 1) * math.ceil(rows / ranks) < rows else ["table_wise"]


def _ranks_here() -> int:
    """How many ranks share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size()))


def _memory(device: torch.device) -> int:
    """[bytes] a rank's tables may take: of the poorest rank, so that all ranks make the same plan."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    else:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _ranks_here()
    poorest = torch.tensor(int(total * MEMORY_SHARE), device=device)
    dist.all_reduce(poorest, dist.ReduceOp.MIN)
    return int(poorest)


@torch.no_grad()
def _initialise(model: DistributedModelParallel, tables: Mapping[str, TableOptions], seed: int) -> None:
    """Give every local shard its part of the tables' first values.

    A table's values are drawn in blocks of BLOCK_ROWS whole rows, each from a generator seeded by (seed, table, block); a shard
    draws the blocks it overlaps, one at a time, and keeps its rows and columns of them. What is not among `tables` draws its
    own.
    """
    for key, value in model.state_dict().items():
        if not isinstance(value, ShardedTensor):
            continue
        name = key.split(".")[-2]  # ….embedding_bags.<name>.weight or ….embeddings.<name>.weight
        if name not in tables:
            continue
        rows, width = value.metadata().size
        init = tables[name].init
        for local in value.local_shards():
            (top, left), (height, columns) = local.metadata.shard_offsets, local.metadata.shard_sizes
            for start in range(top // BLOCK_ROWS * BLOCK_ROWS, top + height, BLOCK_ROWS):
                stop = min(start + BLOCK_ROWS, rows)
                block = _drawn(init, f"{seed}/{name}/{start}", stop - start, width, rows)
                first, last = max(start, top), min(stop, top + height)
                local.tensor[first - top : last - top] = block[first - start : last - start, left : left + columns]


def _drawn(init: Init, key: str, height: int, width: int, rows: int) -> Tensor:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    scale = _scale(init, rows)
    block = torch.empty(height, width)
    if init.kind == "normal":
        return block.normal_(0.0, scale, generator=generator)
    return block.uniform_(-scale, scale, generator=generator)


def _scale(init: Init, rows: int) -> float:
    return float(rows**-0.5) if init.scale is None else init.scale
