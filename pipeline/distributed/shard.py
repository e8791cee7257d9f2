"""Spread the embedding tables over the ranks: each with its optimizer and initial values, the same under any plan."""

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

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
from models.table_names import owner_of, table_of
from pipeline.config.tables import TableConfig
from pipeline.distributed import cpu_adam as adam
from pipeline.distributed.comm_codecs import make_sharders
from pipeline.distributed.cpu_fp16 import FirstValues, StochasticFp16
from pipeline.distributed.cpu_kernels import our_kernels
from pipeline.distributed.hardware import total_memory
from pipeline.distributed.initial_values import BLOCK_ROWS, first_values, spread_of
from pipeline.distributed.planner import EVERYWHERE, Cluster, TableConstraints, make_plan
from pipeline.distributed.saved_plan import SavedPlan
from pipeline.distributed.sharded_embeddings import SUMMED_OVER_RANKS

OPTIMIZERS = {"sgd": SGD, "adagrad": Adagrad, "rowwise_adagrad": RowWiseAdagrad, "adam": Adam, "lazy_adam": Adam}
WITHIN_A_ROW = ("column_wise", "table_column_wise", "grid_shard")
ANYWHERE = ("table_wise", "row_wise", "table_row_wise", *WITHIN_A_ROW)
HALF_OPTIMIZERS = ("sgd", "rowwise_adagrad")
MEMORY_SHARE = 0.85
"""[1] of a device's memory that tables may take; the rest is for dense weights, batches and the program."""


@dataclass(frozen=True)
class ShardingOptions:
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
class TableShard:
    """Some rows and columns of a table, on this rank: from row `row` and column `column` on."""

    row: int
    column: int
    values: Tensor


@dataclass(frozen=True)
class ShardedTable:
    """A table, or what its optimizer keeps of its rows, as this rank has it.

    Args:
        key: in the state dict. whole: over all ranks.
    """

    key: str
    whole: ShardedTensor

    @property
    def name(self) -> str:
        """Of the table."""
        return table_of(self.key)

    @property
    def size(self) -> torch.Size:
        """[rows, columns] over all ranks; a moment may have rows alone."""
        return torch.Size(self.whole.metadata().size)

    @property
    def shards(self) -> Iterator[TableShard]:
        """What is on this rank, live: what is written to it is the table's."""
        for shard in self.whole.local_shards():
            row, *column = shard.metadata.shard_offsets
            yield TableShard(row, column[0] if column else 0, shard.tensor)


def tables_in(state: Mapping[str, Any]) -> Iterator[ShardedTable]:
    """The tables of a model's state dict."""
    return (ShardedTable(key, value) for key, value in state.items() if isinstance(value, ShardedTensor))


@dataclass(frozen=True)
class Sharded:
    """A model whose tables are spread over the ranks.

    Args:
        model: the model; its backward updates the tables.
        fused: the tables' optimizers, for checkpoints.
        dense_parameters: everything else, by name; for an optimizer of the caller's.
        plan: who holds which shard.
        rates: the tables' own learning rates, in the order of `fused.param_groups`.
        first: of the tables whose blank rows stand for their initial values, by table name.
        accumulators: what the moments of tables began with, by table name; 0 for those left out.
    """

    model: DistributedModelParallel
    fused: KeyedOptimizer
    dense_parameters: dict[str, nn.Parameter]
    plan: ShardingPlan
    rates: tuple[float, ...]
    first: Mapping[str, FirstValues]
    accumulators: Mapping[str, float]

    def tables(self) -> Iterator[ShardedTable]:
        """Every table of the model."""
        return tables_in(self.model.state_dict())

    def moments(self) -> Iterator[tuple[str, ShardedTable]]:
        """What the tables' optimizers keep: the name of the moment, and its numbers under the key of the table it is of."""
        for key, moments in self.fused.state_dict()["state"].items():
            for name, value in moments.items():
                if isinstance(value, ShardedTensor):
                    yield name, ShardedTable(key, value)

    def rows_as_read(self, table: str, part: Tensor, rows: Tensor, column: int = 0) -> Tensor:
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
    tables: Mapping[str, TableConfig],
    device: torch.device,
    batch_rows: int,
    seed: int,
    spread: ShardingOptions | None = None,
) -> Sharded:
    """Plan, spread and initialise the model's tables.

    Every rank calls it with the same arguments; the process group exists. On W ranks a table's initial values, and up to float
    rounding every later one, do not depend on W or on the plan.

    Args:
        model: holds EmbeddingBagCollections and EmbeddingCollections on `meta`, fp32; its other modules are initialised, equal
            on all ranks.
        tables: by table name. A companion, `<name>_linear` or `<name>_second`, takes what is said of `<name>` unless it is
            named itself.
        device: where this rank computes.
        batch_rows: [rows] of a step over all ranks; the planner's estimates use it.
        seed: of the tables' initial values.
        spread: what is said of all tables together.

    Raises:
        GenctrError: settings that the device or the sharding cannot keep, tables that do not fit into memory, or a saved plan
            of other tables.
    """
    spread = spread or ShardingOptions()
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
    begun = {name: own.initial_accumulator for name, own in chosen.items() if own.initial_accumulator and name not in first}
    sharded = Sharded(
        model=parallel,
        fused=fused,
        dense_parameters=dict(in_backward_optimizer_filter(parallel.named_parameters())),
        plan=plan,
        rates=tuple(group["lr"] for group in fused.param_groups),
        first=first,
        accumulators=begun,
    )
    for _, moment in sharded.moments():
        for part in moment.shards if moment.name in begun else ():
            part.values.fill_(begun[moment.name])
    return sharded


def prepare(
    model: nn.Module, *, tables: Mapping[str, TableConfig], device: torch.device, spread: ShardingOptions, seed: int
) -> tuple[dict[str, TableConfig], dict[str, TableConstraints], dict[str, FirstValues]]:
    """Give every table its optimizer and precision, as a plan has to know them; needs no process group.

    Args:
        model, tables, device, spread, seed: as of `shard`; the device may be one that this machine has not.

    Returns:
        the options of every table, what a plan may do with it, and how rows begin that are not drawn before they are needed.

    Raises:
        GenctrError: settings that the device or the sharding cannot keep.
    """
    chosen: dict[str, TableConfig] = {}
    wishes: dict[str, TableConstraints] = {}
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
                    "  next: set sharding to auto, or train.comm_precision to fp16"
                )
            config.init_fn = _leave  # TorchRec's own, which would write every row
            if options.precision == "fp16":
                config.data_type = DataType.FP16
                holder.weight = nn.Parameter(holder.weight.half())
                if device.type == "cpu":
                    first[config.name] = FirstValues(options.init.kind, spread_of(options.init, config.num_embeddings), seed)
            settings = _settings(config, options, device, first.get(config.name))
            _apply_optimizer_in_backward(OPTIMIZERS[options.optimizer], [holder.weight], settings, register_hook=False)
            chosen[config.name] = options
            wishes[config.name] = TableConstraints(
                optimizer=options.optimizer,
                width=config.embedding_dim,
                precision=options.precision,
                shardings=_shardings(options, device, pooled=pooled, averaged=averaged, spread=spread),
                kernels=_kernels(options, device),
                cache=options.cache_load_factor,
                prefetch=spread.prefetch,
                lookups=tuple(spread.lookups.get(name, 1.0) for name in config.feature_names),
            )
    return chosen, wishes, first


def _shardings(
    options: TableConfig, device: torch.device, *, pooled: bool, averaged: bool, spread: ShardingOptions
) -> tuple[str, ...]:
    """How a table may be spread. Splitting columns would change row-wise Adagrad and cut int8's parts, and slows a CPU down."""
    if options.sharding != "auto":
        return (options.sharding,)
    if options.gradient_clip_value is not None and averaged:
        return ("table_wise",)
    if device.type == "cpu":
        return ("table_wise", "row_wise")
    kinds = ANYWHERE if pooled else EVERYWHERE
    whole = options.optimizer == "rowwise_adagrad" or spread.communication == "int8"
    return tuple(kind for kind in kinds if not (whole and kind in WITHIN_A_ROW))


def _kernels(options: TableConfig, device: torch.device) -> tuple[str, ...]:
    if options.compute_kernel != "auto":
        return (options.compute_kernel,)
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


def _options(name: str, tables: Mapping[str, TableConfig]) -> TableConfig:
    owner = owner_of(name, tables)
    if owner not in tables:
        raise GenctrError(f"table {name!r} has no settings\n  expected: one of {sorted(tables)}")
    return tables[owner]


def _check(config: BaseEmbeddingConfig, options: TableConfig, device: torch.device, *, pooled: bool, averaged: bool) -> None:
    """Refuse what would be silently ignored or would change with the plan."""
    assert config.embedding_dim % 4 == 0, "FBGEMM's tables are multiples of 4 wide"
    optimizer, sharding = options.optimizer, options.sharding
    if options.initial_accumulator and optimizer not in ("adagrad", "rowwise_adagrad"):
        problem = f"{optimizer} sums no squared gradients: set initial_accumulator to 0, or optimizer to rowwise_adagrad"
        raise GenctrError(f"table {config.name!r}: {problem}")
    problem = ""
    if options.weight_decay_rows == "table" and options.weight_decay and optimizer != "adam":
        problem = f"{optimizer} decays the rows it looks up only: set weight_decay_rows to touched, or optimizer to adam"
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
    elif options.gradient_clip_value is not None and averaged and sharding in SUMMED_OVER_RANKS:
        problem = (
            f"gradient_clip_value and a mean do not go together under {sharding}: set sharding to table_wise, "
            "or gradient_clip_value to null"
        )
    problem = problem or device_problem(options, device)
    if problem:
        raise GenctrError(f"table {config.name!r}: {problem}")


def device_problem(options: TableConfig, device: torch.device) -> str:
    """What a device cannot keep of where and how a table is, or nothing."""
    if device.type != "cpu":
        return ""
    if options.compute_kernel not in ("auto", "fused"):
        return f"compute_kernel {options.compute_kernel} needs a CUDA device: on a CPU set it to auto"
    if options.precision == "fp16" and options.optimizer not in HALF_OPTIMIZERS:
        wanted = " or ".join(HALF_OPTIMIZERS)
        return f"{options.optimizer} has no fp16 tables on a CPU: set precision to fp32, or optimizer to {wanted}"
    return ""


def _settings(
    config: BaseEmbeddingConfig, options: TableConfig, device: torch.device, first: FirstValues | None
) -> dict[str, Any]:
    """What TorchRec hands to the table's kernel; tables whose settings differ are never in one kernel."""
    settings: dict[str, Any] = {"lr": options.lr}
    if options.optimizer != "sgd":
        settings["eps"] = options.eps
    if options.gradient_clip_value is not None:
        settings |= {"gradient_clipping": True, "max_gradient": options.gradient_clip_value}
    if options.optimizer == "rowwise_adagrad" and options.weight_decay:
        settings |= {"weight_decay": options.weight_decay, "weight_decay_mode": WeightDecayMode.L2}
    if first is not None:
        assert options.optimizer == "sgd" or options.optimizer == "rowwise_adagrad", "checked before"
        return settings | {
            "rule": StochasticFp16(
                options.optimizer, options.eps, first, options.gradient_clip_value, options.initial_accumulator
            ),
            "width": config.embedding_dim,
        }
    if OPTIMIZERS[options.optimizer] is not Adam:
        return settings
    if device.type != "cpu":
        return settings | {"beta1": options.beta1, "beta2": options.beta2, "weight_decay": options.weight_decay}
    rule = adam.Adam(
        beta1=options.beta1,
        beta2=options.beta2,
        eps=options.eps,
        weight_decay=options.weight_decay,
        moves="all" if options.optimizer == "adam" else "touched",
        decays="all" if options.weight_decay_rows == "table" else "touched",
        clip=options.gradient_clip_value,
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
def _initialise(model: DistributedModelParallel, tables: Mapping[str, TableConfig], seed: int) -> None:
    """Give every local shard its part of the tables' initial values.

    A shard draws the blocks it overlaps, one at a time, and keeps its rows and columns of them. What is not among `tables`
    draws its own.
    """
    for table in tables_in(model.state_dict()):
        if table.name not in tables:
            continue
        init = tables[table.name].init
        for shard in table.shards:
            top, (height, columns) = shard.row, shard.values.shape
            for start in range(top // BLOCK_ROWS * BLOCK_ROWS, top + height, BLOCK_ROWS):
                first, last = max(start, top), min(start + BLOCK_ROWS, top + height)
                block = first_values(table.name, init, table.size, seed, first, last)
                shard.values[first - top : last - top] = block[:, shard.column : shard.column + columns]
