"""Spread the embedding tables over the ranks: each with its optimizer and first values, the same under any plan."""

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode
from torch import Tensor, nn
from torch.distributed.optim.apply_optimizer_in_backward import _apply_optimizer_in_backward
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.types import ShardedTensor, ShardingPlan
from torchrec.modules.embedding_configs import BaseEmbeddingConfig, DataType, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim.keyed import KeyedOptimizer
from torchrec.optim.optimizers import SGD, Adagrad, Adam, in_backward_optimizer_filter
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from data.errors import GenctrError
from models.sparse import owner_of
from pipeline.distributed import cpu_adam as adam
from pipeline.distributed.comm_codecs import make_sharders
from pipeline.distributed.cpu_fp16 import FirstValues, Half
from pipeline.distributed.cpu_kernels import our_kernels
from pipeline.distributed.hardware import total_memory
from pipeline.distributed.initial_values import BLOCK_ROWS, Init, _scale, first_values
from pipeline.distributed.planner import EVERYWHERE, Cluster, Wish, make_plan
from pipeline.distributed.saved_plan import SavedPlan
from pipeline.distributed.sharded_embeddings import SUMMED_OVER_RANKS

OPTIMIZERS = {"sgd": SGD, "adagrad": Adagrad, "rowwise_adagrad": RowWiseAdagrad, "adam": Adam, "lazy_adam": Adam}
WITHIN_A_ROW = ("column_wise", "table_column_wise", "grid_shard")
ANYWHERE = ("table_wise", "row_wise", "table_row_wise", *WITHIN_A_ROW)
HALF_OPTIMIZERS = ("sgd", "rowwise_adagrad")
MEMORY_SHARE = 0.85
"""[1] of a device's memory that tables may take; the rest is for dense weights, batches and the program."""


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
        kernel: where the table lives; auto: with the computation if it fits, on CUDA else partly in main memory.
        cache: [1] share of it kept on the card, if it lives elsewhere.
        precision: of the stored numbers. fp16 is rounded at random, by FBGEMM on CUDA; on CPU see `cpu_fp16.py`.
        clip: largest absolute value of a coordinate of the gradient of a looked-up vector.
    """

    optimizer: Literal["sgd", "adagrad", "rowwise_adagrad", "adam", "lazy_adam"] = "rowwise_adagrad"
    lr: float = 0.05
    weight_decay: float = 0.0
    decay: Literal["touched", "table"] = "touched"
    eps: float = 1e-8
    betas: tuple[float, float] = (0.9, 0.999)
    init: Init = field(default_factory=Init)
    sharding: Literal["auto", "table_wise", "row_wise", "column_wise", "table_row_wise", "table_column_wise", "grid_shard"] = (
        "auto"
    )
    kernel: Literal["auto", "fused", "fused_uvm", "fused_uvm_caching", "key_value"] = "auto"
    cache: float = 0.2
    precision: Literal["fp32", "fp16"] = "fp32"
    clip: float | None = None


@dataclass(frozen=True)
class Spread:
    """What is said of all tables together.

    Args:
        lookups: [ids] a row has, by field; 1 where it is not said. The planner's estimates use it.
        communication: what vectors and gradients travel in.
        prefetch: whether rows of tables in main memory are fetched a step ahead.
        bandwidths: [bytes/ms] of the device by TorchRec's names; none: what it assumes by itself.
        saved: a plan to keep to; None makes one. path: where it was read from. stage: which of its stages.
    """

    lookups: Mapping[str, float] = field(default_factory=dict)
    communication: str = "fp32"
    prefetch: bool = False
    bandwidths: Mapping[str, float] = field(default_factory=dict)
    saved: SavedPlan | None = None
    path: str = ""
    stage: str = ""


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


def shard(
    model: nn.Module,
    *,
    tables: Mapping[str, TableOptions],
    device: torch.device,
    batch_rows: int,
    seed: int,
    spread: Spread | None = None,
) -> Sharded:
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
        spread: what is said of all tables together.

    Raises:
        GenctrError: settings that the device or the sharding cannot keep, tables that do not fit into memory, or a saved plan
            of other tables.
    """
    spread = spread or Spread()
    chosen, wishes, first = prepare(model, tables=tables, device=device, spread=spread, seed=seed)
    sharders = make_sharders(spread.communication, batch_rows, {name: wish.width for name, wish in wishes.items()})
    if spread.saved is not None:
        plan = spread.saved.tables(spread.path, spread.stage, model, wishes)
    else:
        plan = make_plan(model, sharders, wishes, _cluster(device, spread.bandwidths), batch_rows).plan
    with our_kernels(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="torchrec")  # of torchrec's own use of torch
        parallel = DistributedModelParallel(model, device=device, plan=plan, sharders=sharders)
    _initialise(parallel, {name: options for name, options in chosen.items() if name not in first}, seed)
    fused = parallel.fused_optimizer
    return Sharded(
        model=parallel,
        fused=fused,
        dense_parameters=dict(in_backward_optimizer_filter(parallel.named_parameters())),
        plan=plan,
        rates=tuple(group["lr"] for group in fused.param_groups),
        first=first,
    )


def prepare(
    model: nn.Module, *, tables: Mapping[str, TableOptions], device: torch.device, spread: Spread, seed: int
) -> tuple[dict[str, TableOptions], dict[str, Wish], dict[str, FirstValues]]:
    """Give every table its optimizer and precision, as a plan has to know them; needs no process group.

    Args:
        model, tables, device, spread, seed: as of `shard`; the device may be one that this machine has not.

    Returns:
        the options of every table, what a plan may do with it, and how rows begin that are not drawn before they are needed.

    Raises:
        GenctrError: settings that the device or the sharding cannot keep.
    """
    chosen: dict[str, TableOptions] = {}
    wishes: dict[str, Wish] = {}
    first: dict[str, FirstValues] = {}
    for collection in _collections(model):
        pooled = isinstance(collection, EmbeddingBagCollection)
        for config, holder in _tables(collection):
            options = _options(config.name, tables)
            averaged = pooled and config.pooling == PoolingType.MEAN
            _check(config, options, device, pooled=pooled, averaged=averaged)
            if spread.communication == "int8" and options.sharding in WITHIN_A_ROW:
                raise GenctrError(
                    f"table {config.name!r}: int8 has a scale for every part of a vector, which {options.sharding} would cut\n"
                    "  next: set sharding to auto, or train.communication to fp16"
                )
            config.init_fn = _leave  # TorchRec's own, which would write every row
            if options.precision == "fp16":
                config.data_type = DataType.FP16
                holder.weight = nn.Parameter(holder.weight.half())
                if device.type == "cpu":
                    first[config.name] = FirstValues(options.init.kind, _scale(options.init, config.num_embeddings), seed)
            settings = _settings(config, options, device, first.get(config.name))
            _apply_optimizer_in_backward(OPTIMIZERS[options.optimizer], [holder.weight], settings, register_hook=False)
            chosen[config.name] = options
            wishes[config.name] = Wish(
                optimizer=options.optimizer,
                width=config.embedding_dim,
                precision=options.precision,
                shardings=_shardings(options, device, pooled=pooled, averaged=averaged, spread=spread),
                kernels=_kernels(options, device),
                cache=options.cache,
                prefetch=spread.prefetch,
                lookups=tuple(spread.lookups.get(name, 1.0) for name in config.feature_names),
            )
    return chosen, wishes, first


def _shardings(options: TableOptions, device: torch.device, *, pooled: bool, averaged: bool, spread: Spread) -> tuple[str, ...]:
    """How a table may be spread. Splitting columns would change row-wise Adagrad and cut int8's parts, and slows a CPU down."""
    if options.sharding != "auto":
        return (options.sharding,)
    if options.clip is not None and averaged:
        return ("table_wise",)
    if device.type == "cpu":
        return ("table_wise", "row_wise")
    kinds = ANYWHERE if pooled else EVERYWHERE
    whole = options.optimizer == "rowwise_adagrad" or spread.communication == "int8"
    return tuple(kind for kind in kinds if not (whole and kind in WITHIN_A_ROW))


def _kernels(options: TableOptions, device: torch.device) -> tuple[str, ...]:
    if options.kernel != "auto":
        return (options.kernel,)
    return ("fused",) if device.type == "cpu" else ("fused", "fused_uvm_caching", "fused_uvm")


def _collections(model: nn.Module) -> Iterator[EmbeddingBagCollection | EmbeddingCollection]:
    for module in model.modules():
        if isinstance(module, EmbeddingBagCollection | EmbeddingCollection):
            yield module


class Holder(Protocol):
    """What holds the weight of one table."""

    weight: nn.Parameter


def _tables(collection: EmbeddingBagCollection | EmbeddingCollection) -> Iterator[tuple[BaseEmbeddingConfig, "Holder"]]:
    """Every table's config, and the module that holds its weight."""
    pooled = isinstance(collection, EmbeddingBagCollection)
    configs = collection.embedding_bag_configs() if pooled else collection.embedding_configs()
    holders = collection.embedding_bags if pooled else collection.embeddings
    for config in configs:
        yield config, holders[config.name]


def _leave(weight: Tensor) -> Tensor:
    return weight


def _options(name: str, tables: Mapping[str, TableOptions]) -> TableOptions:
    owner = owner_of(name, tables)
    if owner not in tables:
        raise GenctrError(f"table {name!r} has no settings\n  expected: one of {sorted(tables)}")
    return tables[owner]


def _check(config: BaseEmbeddingConfig, options: TableOptions, device: torch.device, *, pooled: bool, averaged: bool) -> None:
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
    elif optimizer == "rowwise_adagrad" and sharding in WITHIN_A_ROW:
        problem = f"rowwise_adagrad keeps one moment per row, which {sharding} would split: set sharding to row_wise"
    elif not pooled and sharding not in ("auto", *EVERYWHERE):
        problem = f"attention reads its rows unpooled, which {sharding} cannot: choose from {', '.join(EVERYWHERE)}"
    elif options.clip is not None and averaged and sharding in SUMMED_OVER_RANKS:
        problem = f"clip and a mean do not go together under {sharding}: set sharding to table_wise, or clip to null"
    problem = problem or device_problem(options, device)
    if problem:
        raise GenctrError(f"table {config.name!r}: {problem}")


def device_problem(options: TableOptions, device: torch.device) -> str:
    """What a device cannot keep of where and how a table is, or nothing."""
    if device.type != "cpu":
        return ""
    if options.kernel not in ("auto", "fused"):
        return f"kernel {options.kernel} needs a CUDA device: on a CPU set it to auto"
    if options.precision == "fp16" and options.optimizer not in HALF_OPTIMIZERS:
        wanted = " or ".join(HALF_OPTIMIZERS)
        return f"{options.optimizer} has no fp16 tables on a CPU: set precision to fp32, or optimizer to {wanted}"
    return ""


def _settings(
    config: BaseEmbeddingConfig, options: TableOptions, device: torch.device, first: FirstValues | None
) -> dict[str, Any]:
    """What TorchRec hands to the table's kernel; tables whose settings differ are never in one kernel."""
    settings: dict[str, Any] = {"lr": options.lr}
    if options.optimizer != "sgd":
        settings["eps"] = options.eps
    if options.clip is not None:
        settings |= {"gradient_clipping": True, "max_gradient": options.clip}
    if options.optimizer == "rowwise_adagrad" and options.weight_decay:
        settings |= {"weight_decay": options.weight_decay, "weight_decay_mode": WeightDecayMode.L2}
    if first is not None:
        assert options.optimizer == "sgd" or options.optimizer == "rowwise_adagrad", "checked before"
        return settings | {"rule": Half(options.optimizer, options.eps, first, options.clip), "width": config.embedding_dim}
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
        clip=options.clip,
    )
    return settings | {"rule": rule, "width": config.embedding_dim}


def _ranks_here() -> int:
    """How many ranks share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size()))


def hosts_here() -> int:
    """How many machines the ranks are on, as many on each."""
    return dist.get_world_size() // _ranks_here()


def _cluster(device: torch.device, bandwidths: Mapping[str, float]) -> Cluster:
    """The ranks of this job, and what each of them has."""
    ddr = _memory(torch.device("cpu")) if device.type == "cuda" else 0
    return Cluster(device.type, dist.get_world_size(), hosts_here(), _memory(device), ddr, bandwidths=bandwidths)


def _memory(device: torch.device) -> int:
    """[bytes] a rank's tables may take: of the poorest rank, so that all ranks make the same plan."""
    on_card = device.type == "cuda"
    total = torch.cuda.get_device_properties(device).total_memory if on_card else total_memory() // _ranks_here()
    poorest = torch.tensor(int(total * MEMORY_SHARE), device=device)
    dist.all_reduce(poorest, dist.ReduceOp.MIN)
    return int(poorest)


@torch.no_grad()
def _initialise(model: DistributedModelParallel, tables: Mapping[str, TableOptions], seed: int) -> None:
    """Give every local shard its part of the tables' first values.

    A shard draws the blocks it overlaps, one at a time, and keeps its rows and columns of them. What is not among `tables`
    draws its own.
    """
    for key, value in model.state_dict().items():
        if not isinstance(value, ShardedTensor):
            continue
        name = key.split(".")[-2]  # ….embedding_bags.<name>.weight or ….embeddings.<name>.weight
        if name not in tables:
            continue
        for local in value.local_shards():
            (top, left), (height, columns) = local.metadata.shard_offsets, local.metadata.shard_sizes
            for start in range(top // BLOCK_ROWS * BLOCK_ROWS, top + height, BLOCK_ROWS):
                first, last = max(start, top), min(start + BLOCK_ROWS, top + height)
                block = first_values(name, tables[name].init, value.metadata().size, seed, first, last)
                local.tensor[first - top : last - top] = block[:, left : left + columns]
