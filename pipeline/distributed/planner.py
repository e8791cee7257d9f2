"""TorchRec's planner for a job or on paper: who holds which shard."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints
from torchrec.distributed.planner.constants import DEFAULT_PERF_ESTIMATOR
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.estimator import EmbeddingPerfEstimatorFactory
from torchrec.distributed.planner.shard_estimators import EmbeddingStorageEstimator
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    HardwareConfig,
    KernelConfig,
    PlannerError,
    ShardingOption,
    Storage,
    Topology,
    TopologyFactory,
    TrainerConfig,
)
from torchrec.distributed.types import (
    CacheParams,
    ModuleSharder,
    ShardingPlan,
)
from torchrec.modules.embedding_configs import DataType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from data.errors import GenctrError

MIB = 2**20
EVERYWHERE = ("table_wise", "row_wise", "column_wise")
"""What TorchRec can do with unpooled tables as well."""

BETWEEN_HOSTS = ("table_row_wise", "table_column_wise", "grid_shard")
"""What differs from its part only where there are several hosts."""

NARROWEST = 32
"""[columns] of the narrowest shard that a CUDA table is cut into without being told: narrower ones are slow to look up."""


@dataclass(frozen=True)
class Cluster:
    """The ranks, and what a plan has to go by.

    Args:
        device: what torch calls it, cpu or cuda.
        ranks, hosts: as many on every host.
        memory: [bytes] of a rank that tables may take, where they are computed with: the GPU's, or a CPU's.
        ddr: [bytes] of a rank's main memory that CUDA tables may take besides.
        bandwidths: [bytes/ms] by TorchRec's names; none: what it assumes by itself.
    """

    device: str
    ranks: int
    hosts: int
    memory: int
    ddr: int = 0
    bandwidths: Mapping[str, float] = field(default_factory=dict)

    def topology(self) -> Topology:
        """The same in TorchRec's words."""
        cuda = self.device == "cuda"
        return TopologyFactory.create_topology(
            TrainerConfig(world_size=self.ranks, local_world_size=self.ranks // self.hosts),
            HardwareConfig(
                hbm_cap_bytes=self.memory if cuda else None,
                ddr_cap_bytes=self.ddr if cuda else self.memory,
                **self.bandwidths,
            ),
            KernelConfig(compute_device=self.device, use_hardware_based_bandwidth=bool(self.bandwidths)),
        )


@dataclass(frozen=True)
class TableConstraints:
    """What is asked of one table.

    Args:
        optimizer: its name, for the record.
        width: [columns] stored. precision: fp32 or fp16.
        shardings, kernels: what may be chosen; the first kernels are preferred.
        cache: [1] share of it kept on the GPU, where it lives elsewhere. prefetch: whether that is fetched a step ahead.
        lookups: [ids] a row has of each of its fields.
    """

    optimizer: str
    width: int
    precision: str
    shardings: tuple[str, ...]
    kernels: tuple[str, ...]
    cache: float
    prefetch: bool
    lookups: tuple[float, ...]


class DoesNotFit(GenctrError):
    """The tables do not fit, or cannot be spread as asked."""


@dataclass(frozen=True)
class PlannedShards:
    """A plan, and what TorchRec expects of it.

    Args:
        plan: as DistributedModelParallel takes it. options: every table's shards with their storage and times.
    """

    plan: ShardingPlan
    options: list[ShardingOption]


def make_plan(
    model: nn.Module,
    sharders: list[ModuleSharder[nn.Module]],
    wishes: Mapping[str, TableConstraints],
    cluster: Cluster,
    batch_rows: int,
) -> PlannedShards:
    """TorchRec's plan. The same arguments give the same plan, on every rank of a job and on paper.

    Args:
        model: with its collections on meta. wishes: by table name. batch_rows: [rows] of a step over all ranks.

    Raises:
        DoesNotFit: there is none.
    """
    problem: PlannerError | None = None
    for allowed in _ladder(wishes, cluster):
        planner = _planner(model, allowed, cluster, batch_rows)
        try:
            plan = planner.plan(model, sharders)
        except PlannerError as error:
            problem = error
        else:
            return PlannedShards(plan, planner._best_plan or [])  # none without tables
    raise DoesNotFit(f"the tables cannot be spread over {cluster.ranks} ranks\n{problem}")


def _ladder(wishes: Mapping[str, TableConstraints], cluster: Cluster) -> Iterator[dict[str, TableConstraints]]:
    """What may be chosen, from the best on: the planner is asked again only if nothing of it fits.

    On CPU tables stay whole if they fit: there row-wise is 1.4 to 1.9 times slower, which TorchRec's estimates do not know.
    On CUDA they stay on the GPU if they fit: a plan with every kernel in it takes longer to find and is not better.
    """
    if cluster.device == "cpu":
        whole = {
            name: replace(wish, shardings=("table_wise",)) for name, wish in wishes.items() if "table_wise" in wish.shardings
        }
        if any(len(wishes[name].shardings) > 1 for name in whole):
            yield {**wishes, **whole}
        yield dict(wishes)
        return
    for kernels in range(1, max((len(wish.kernels) for wish in wishes.values()), default=1) + 1):
        yield {name: replace(wish, kernels=wish.kernels[:kernels]) for name, wish in wishes.items()}


def _planner(
    model: nn.Module, wishes: Mapping[str, TableConstraints], cluster: Cluster, batch_rows: int
) -> EmbeddingShardingPlanner:
    rows = {name: parameter.shape[0] for _, name, parameter in tables_of(model)}
    topology, batch_size = cluster.topology(), math.ceil(batch_rows / cluster.ranks)
    constraints = {name: _constraints(wish, cluster, rows[name]) for name, wish in wishes.items()}
    estimators = [EmbeddingPerfEstimatorFactory.create(DEFAULT_PERF_ESTIMATOR, topology=topology, constraints=constraints)]
    return EmbeddingShardingPlanner(
        topology=topology,
        batch_size=batch_size,
        enumerator=EmbeddingEnumerator(topology, batch_size, constraints, [*estimators, _Bytes(topology, constraints, wishes)]),
        constraints=constraints,
        storage_reservation=FixedPercentageStorageReservation(percentage=0.0),  # the caller has left room already
        stats=[],
    )


def remembered(optimizer: str, columns: int) -> int:
    """[numbers] of fp32 that an optimizer keeps of a row; adam's third ones are the copy of the table with which it moves."""
    return {"sgd": 0, "rowwise_adagrad": 1, "adagrad": columns, "lazy_adam": 2 * columns, "adam": 3 * columns}[optimizer]


class _Bytes(EmbeddingStorageEstimator):
    """TorchRec's estimate of every shard's bytes, but with what its optimizer remembers as FBGEMM has it.

    TorchRec takes moments for as wide as the rows and puts them where these are. They are fp32, and of a table in main memory
    those with one number a row are on the GPU. It does not know adam's copy.
    """

    def __init__(
        self, topology: Topology, constraints: dict[str, ParameterConstraints], wishes: Mapping[str, TableConstraints]
    ) -> None:
        super().__init__(topology, constraints)
        self._wishes, self._cuda = wishes, topology.compute_device == "cuda"

    def estimate(self, sharding_options: list[ShardingOption], sharder_data_map: Any) -> None:
        """Say every shard its bytes."""
        super().estimate(sharding_options, sharder_data_map)
        for option in sharding_options:
            for shard in option.shards:
                shard.storage += self._moved(self._wishes[option.name], option.compute_kernel, *shard.size)

    def _moved(self, wish: TableConstraints, kernel: str, rows: int, columns: int) -> Storage:
        numbers = rows * remembered(wish.optimizer, columns)
        theirs = min(numbers, 2 * rows * columns) * (2 if wish.precision == "fp16" else 4)
        on_card = self._cuda and (kernel == "fused" or wish.optimizer == "rowwise_adagrad")
        share = {"fused": float(self._cuda), "fused_uvm_caching": wish.cache}.get(kernel, 0.0)
        in_main = not self._cuda or kernel in ("fused_uvm", "fused_uvm_caching")
        return Storage(
            hbm=4 * numbers * on_card - round(share * theirs),
            ddr=4 * numbers * (not on_card) - theirs * in_main,
        )


def _constraints(wish: TableConstraints, cluster: Cluster, rows: int) -> ParameterConstraints:
    several = cluster.hosts > 1 or len(wish.shardings) == 1
    narrow = math.ceil(wish.width / cluster.ranks)
    if cluster.device == "cuda":
        narrow = max(narrow, min(NARROWEST, wish.width))
    possible = possible_shardings(wish, rows, cluster.ranks, cluster.hosts)
    constraints = ParameterConstraints(
        sharding_types=[kind for kind in possible if several or kind not in BETWEEN_HOSTS],
        compute_kernels=list(wish.kernels),
        min_partition=narrow,
        pooling_factors=list(wish.lookups),
        output_dtype=DataType.FP32 if wish.precision == "fp16" else None,
    )
    if "fused_uvm_caching" in wish.kernels:
        constraints.cache_params = CacheParams(load_factor=wish.cache, prefetch_pipeline=wish.prefetch)
    return constraints


def possible_shardings(wish: TableConstraints, rows: int, ranks: int, hosts: int) -> tuple[str, ...]:
    """The shardings a table may have. FBGEMM's kernels fail without a row, so one too small to be split by rows is not."""
    split = {"row_wise": ranks, "table_row_wise": ranks // hosts, "grid_shard": ranks // hosts}

    def fills(parts: int) -> bool:
        return (parts - 1) * math.ceil(rows / parts) < rows

    return tuple(kind for kind in wish.shardings if fills(split.get(kind, 1))) or ("table_wise",)


def tables_of(model: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Every table of a model: the path of its collection, its name, its weights."""
    for path, module in model.named_modules():
        if isinstance(module, EmbeddingBagCollection | EmbeddingCollection):
            pooled = isinstance(module, EmbeddingBagCollection)
            configs = module.embedding_bag_configs() if pooled else module.embedding_configs()
            holders = module.embedding_bags if pooled else module.embeddings
            for config in configs:
                yield path, config.name, holders[config.name].weight


Shard = tuple[int, int, int, int, int]
"""Of a table: rank, first row, first column, rows, columns."""


@dataclass(frozen=True)
class TablePlan:
    """Where one table is. The first five are what it is, the others where.

    Args:
        rows: [rows]. width: [columns]. precision, optimizer: by name.
        sharding, kernel: by TorchRec's names. cache: [1] share of it on the GPU, if it lives elsewhere.
        shards: each with its place.
    """

    rows: int
    width: int
    precision: str
    optimizer: str
    sharding: str
    kernel: str
    cache: float | None
    prefetch: bool
    shards: tuple[Shard, ...]

    def differences(self, name: str, rows: int, wish: TableConstraints, *, ranks: int, hosts: int) -> list[str]:
        """What a job's table is other than this one, a line each."""
        shardings = possible_shardings(wish, rows, ranks, hosts)
        job = {"rows": rows, "width": wish.width, "precision": wish.precision, "optimizer": wish.optimizer}
        return [
            f"table {name}, {key}: the plan has {getattr(self, key)}, this job {value}"
            for key, value in job.items()
            if getattr(self, key) != value
        ] + [
            f"table {name}, {key}: the plan has {chosen}, this job allows {', '.join(allowed)}"
            for key, chosen, allowed in (("sharding", self.sharding, shardings), ("kernel", self.kernel, wish.kernels))
            if chosen not in allowed
        ]


def table_plans(options: list[ShardingOption], wishes: Mapping[str, TableConstraints]) -> dict[str, TablePlan]:
    """What is kept of a plan."""
    kept = {}
    for option in options:
        wish, (rows, width) = wishes[option.name], option.tensor.shape
        cached = option.compute_kernel == "fused_uvm_caching"
        kept[option.name] = TablePlan(
            rows=rows,
            width=width,
            precision=wish.precision,
            optimizer=wish.optimizer,
            sharding=option.sharding_type,
            kernel=option.compute_kernel,
            cache=wish.cache if cached else None,
            prefetch=cached and wish.prefetch,
            shards=tuple((shard.rank, *shard.offset, *shard.size) for shard in option.shards),
        )
    return kept


def table_plan(values: Mapping[str, Any]) -> TablePlan:
    """A table's plan from JSON."""
    return TablePlan(**{**values, "shards": tuple((*map(int, shard),) for shard in values["shards"])})
