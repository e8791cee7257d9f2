"""Plan before you pay: a run on ranks that are not there, who would hold what, what a step would take, and what would fit."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torchrec.distributed.planner.stats import _calculate_critical_path

from data.errors import GenctrError
from data.schema import Schema
from pipeline.builders.models import META
from pipeline.builders.objectives import check_stage
from pipeline.builders.tables import build_spread, build_table_configs
from pipeline.config.run import RunConfig, Stage
from pipeline.distributed.comm_codecs import make_sharders
from pipeline.distributed.hardware import Device
from pipeline.distributed.planner import (
    Cluster,
    DoesNotFit,
    PlannedShards,
    TableConstraints,
    TablePlan,
    make_plan,
    remembered,
    table_plans,
    tables_of,
)
from pipeline.distributed.saved_plan import SavedPlan
from pipeline.distributed.shard import HALF_OPTIMIZERS, MEMORY_SHARE, prepare
from pipeline.planning.dense_cost import Network, features_of, measure, objective_of
from pipeline.planning.vocabularies import check_guesses, sized
from pipeline.run_folder.claim import stage_schema
from pipeline.training.objective import Objective

PROGRAM = 0.05
"""[1] of a device's memory that is neither tables nor network: libraries, buffers, gaps."""

REACHED = {"cpu": 0.7, "fp32": 0.8, "bf16": 0.4}
"""[1] share of their peak that a network's matrix products reach: of a CPU measured, of GPUs by precision assumed. Without
tensor cores products are bound by arithmetic; with them, at a network's sizes, by memory."""

MOST_HOSTS = 64
"""[1] times as many hosts as were asked for are looked at, to find how many it takes."""


@dataclass(frozen=True)
class ClusterSpec:
    """The ranks that a plan is for.

    Args:
        device: what every rank has. ranks, hosts: as many on every host.
        vocabularies: [rows] of tables with `ids: vocab`, by name; "" is any other.
    """

    device: Device
    ranks: int
    hosts: int
    vocabularies: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Times:
    """[ms] of a step, as TorchRec and the device's facts have it; nothing of it overlaps.

    Args:
        lookup: reading rows and updating them, on the rank that takes longest. communication: vectors and gradients of rows
            between ranks. network: its matrix products. gradients: adding those of the network up. fixed: starting it all.
    """

    lookup: float
    communication: float
    network: float
    gradients: float
    fixed: float

    @property
    def step(self) -> float:
        """All of it."""
        return self.lookup + self.communication + self.network + self.gradients + self.fixed


@dataclass(frozen=True)
class RankLine:
    """[bytes] that one rank's tables take on the GPU (or a CPU's memory) and in main memory; [ms] of its look-ups."""

    memory: int
    ddr: int
    lookup: float


@dataclass(frozen=True)
class Advice:
    """A change, and what came of it.

    Args:
        what: in words. settings: for the command line. fits: whether it does then.
        most: [bytes] of the fullest rank. step: [ms].
    """

    what: str
    settings: str
    fits: bool
    most: int = 0
    step: float = 0.0


@dataclass(frozen=True)
class StageEstimate:
    """The plan of one stage.

    Args:
        stage: its name. ask: the ranks. batch_rows: [rows] of a step. network: the rest of the model.
        budget: [bytes] of a rank that tables may take. needed: [bytes] of all tables and what their optimizers remember.
        tables: by name, where they are; empty if they do not fit. bytes: [bytes] of each, all ranks together.
        ranks: what each one holds. times: of a step; None if they do not fit.
        problem: why they do not fit, or nothing. advice: what would. warnings: what else a person should know.
    """

    stage: str
    ask: ClusterSpec
    batch_rows: int
    network: Network
    budget: int
    needed: int
    tables: dict[str, TablePlan]
    bytes: dict[str, int]
    ranks: list[RankLine]
    times: Times | None
    problem: str
    advice: list[Advice]
    warnings: list[str]

    @property
    def fits(self) -> bool:
        """Whether there is a plan."""
        return self.times is not None

    @property
    def rows_per_second(self) -> float:
        """[rows/s] over all ranks."""
        return self.batch_rows / self.times.step * 1e3 if self.times else 0.0

    def usd_per_billion(self, usd_per_hour: float) -> float:
        """[USD] of a billion rows, if a host costs so much an hour."""
        return 1e9 / self.rows_per_second / 3600 * self.ask.hosts * usd_per_hour

    def to_json(self, usd_per_hour: float | None = None) -> dict[str, Any]:
        """The same for programs."""
        times = None if self.times is None else {**self.times.__dict__, "step": self.times.step}
        price = {} if usd_per_hour is None or not self.fits else {"usd_per_billion_rows": self.usd_per_billion(usd_per_hour)}
        return {
            "stage": self.stage,
            "fits": self.fits,
            "device": self.ask.device.name,
            "ranks": self.ask.ranks,
            "hosts": self.ask.hosts,
            "batch_rows": self.batch_rows,
            "network": {"weights": self.network.weights, "bytes": self.network.bytes, "row_flop": self.network.row_flop},
            "budget_bytes": self.budget,
            "needed_bytes": self.needed,
            "tables": {
                name: {
                    **{key: getattr(own, key) for key in ("rows", "width", "precision", "optimizer", "sharding", "kernel")},
                    "bytes": self.bytes[name],
                    "ranks": sorted({shard[0] for shard in own.shards}),
                }
                for name, own in self.tables.items()
            },
            "per_rank": [line.__dict__ for line in self.ranks],
            "milliseconds": times,
            "rows_per_second": self.rows_per_second if self.fits else None,
            **price,
            "problem": self.problem,
            "advice": [own.__dict__ for own in self.advice],
            "warnings": self.warnings,
        }


def estimate(
    config: RunConfig, schema: Schema, ask: ClusterSpec, known: Mapping[str, int], network: Network | None = None
) -> list[StageEstimate]:
    """Plan every stage of a run.

    Args:
        known: [ids] of vocabularies that are fitted, by table.
        network: what is next to the tables; None measures the config's own.

    Raises:
        GenctrError: ranks that no job could have, settings that the device cannot keep, or tables whose size nobody has said.
    """
    _check_ranks(config, ask)
    check_guesses(schema, ask.vocabularies)
    stages = config.resolved()
    papers = []
    for stage in stages:
        check_stage(stage, torch.device(ask.device.kind))
        own = sized(stage_schema(schema, stage, stages), known, ask.vocabularies)
        papers.append(_Planner(config, stage, own, ask, network or measure(stage, own)).paper())
    return papers


def saved_plan(papers: list[StageEstimate]) -> SavedPlan:
    """The plans of all stages, for a job to keep to."""
    ask = papers[0].ask
    return SavedPlan(ask.device.kind, ask.device.name, ask.ranks, ask.hosts, {own.stage: own.tables for own in papers})


def _check_ranks(config: RunConfig, ask: ClusterSpec) -> None:
    if ask.ranks < 1 or ask.hosts < 1 or ask.ranks % ask.hosts:
        below = max(ask.ranks // max(ask.hosts, 1), 1) * max(ask.hosts, 1)
        raise GenctrError(
            f"{ask.ranks} ranks do not divide by {ask.hosts} hosts\n"
            f"  expected: as many ranks on every host, such as {below} or {below + max(ask.hosts, 1)}"
        )
    for stage in config.resolved():
        if stage.config.data.lanes < ask.ranks:
            raise GenctrError(
                f"{ask.ranks} ranks cannot share {stage.config.data.lanes} lanes: some would never have a row\n"
                f"  next: --set data.lanes={ask.ranks}, and train.global_batch_rows a multiple of it"
            )


class _Planner:
    """Plans one stage, as it is and with changes."""

    def __init__(self, run: RunConfig, stage: Stage, schema: Schema, ask: ClusterSpec, network: Network) -> None:
        self._run, self._stage, self._ask, self._network = run, stage, ask, network
        self._features = features_of(schema, stage.config.model)

    def paper(self) -> StageEstimate:
        """The plan, or what would make one."""
        config, ask = self._stage.config, self._ask
        budget = self._cluster(ask).memory
        needed = self._needed(config)
        made: PlannedShards | None = None
        wishes: dict[str, TableConstraints] = {}
        problem, advice = "", []
        try:
            made, wishes = self._make(config, ask)
        except DoesNotFit as error:
            problem, advice = str(error), list(self._advice())
        lines = _lines(made, ask) if made else []
        times = self._times(made, config, ask) if made else None
        tables = table_plans(made.options, wishes) if made else {}
        return StageEstimate(
            stage=self._stage.name,
            ask=ask,
            batch_rows=config.train.global_batch_rows,
            network=self._network,
            budget=budget,
            needed=sum(needed.values()),
            tables=tables,
            bytes=needed,
            ranks=lines,
            times=times,
            problem=problem,
            advice=advice,
            warnings=_warnings(tables, lines, times, ask),
        )

    def _cluster(self, ask: ClusterSpec) -> Cluster:
        device = ask.device
        rows = math.ceil(self._stage.config.train.global_batch_rows / ask.ranks)
        network = self._network.bytes + rows * self._network.row_bytes
        memory = int(min(MEMORY_SHARE * device.memory, (1 - PROGRAM) * device.memory - network))
        return Cluster(
            device.kind,
            ask.ranks,
            ask.hosts,
            max(memory, 0),
            int(MEMORY_SHARE * device.ddr) if device.kind == "cuda" else 0,
            device.bandwidths,
        )

    def _prepared(self, config: RunConfig) -> tuple[Objective, dict[str, TableConstraints]]:
        """The stage's model with its tables on meta, as a job of this config makes it, and what a plan may do with them."""
        objective = objective_of(self._stage, self._features, META)
        tables, spread = build_table_configs(config, self._features), build_spread(config, self._features)
        _, wishes, _ = prepare(objective, tables=tables, device=torch.device(self._ask.device.kind), spread=spread, seed=0)
        return objective, wishes

    def _make(self, config: RunConfig, ask: ClusterSpec) -> tuple[PlannedShards, dict[str, TableConstraints]]:
        objective, wishes = self._prepared(config)
        batch_rows = config.train.global_batch_rows
        sharders = make_sharders(config.train.comm_precision, batch_rows, {name: wish.width for name, wish in wishes.items()})
        return make_plan(objective, sharders, wishes, self._cluster(ask), batch_rows), wishes

    def _needed(self, config: RunConfig) -> dict[str, int]:
        """[bytes] of every table with what its optimizer remembers."""
        objective, wishes = self._prepared(config)
        found = {}
        for _, name, weight in tables_of(objective):
            rows, width = weight.shape
            found[name] = weight.numel() * weight.element_size() + 4 * remembered(wishes[name].optimizer, width) * rows
        return found

    def _times(self, made: PlannedShards, config: RunConfig, ask: ClusterSpec) -> Times:
        device, network = ask.device, self._network
        path = _calculate_critical_path(made.options)
        rows = math.ceil(config.train.global_batch_rows / ask.ranks)
        precision = config.train.dense.precision
        rate = device.bf16_flops if precision == "bf16" else device.flops
        reached = REACHED["cpu" if device.kind == "cpu" else precision]
        slowest = device.inter_bw if ask.hosts > 1 else device.intra_bw
        return Times(
            lookup=path.comp_estimate,
            communication=path.comms_estimate if ask.ranks > 1 else 0.0,
            network=1e3 * rows * network.row_flop / (rate * reached),
            gradients=1e3 * 2 * (ask.ranks - 1) / ask.ranks * 4 * network.weights / slowest,
            fixed=device.fixed * 1e3,
        )

    def _advice(self) -> Iterator[Advice]:
        """What would fit, each change by itself."""
        config, ask = self._stage.config, self._ask
        for what, key, value in _changes(config, ask.device):
            settings = " ".join(f"--set {place}={value}" for place in _places(self._run, key))
            yield self._try(what, settings, _with(config, key, value), ask)
        for hosts in self._more_hosts(config):
            more = ClusterSpec(ask.device, ask.ranks // ask.hosts * hosts, hosts, ask.vocabularies)
            settings = f"--ranks {more.ranks} --hosts {hosts}{_lanes(config, more.ranks)}"
            found = self._try(f"{hosts} hosts", settings, config, more)
            if found.fits:
                yield found
                return

    def _more_hosts(self, config: RunConfig) -> Iterator[int]:
        """Numbers of hosts that may be enough, from the fewest that could be."""
        ask = self._ask
        per_host = max(self._cluster(ask).memory * (ask.ranks // ask.hosts), 1)
        least = max(ask.hosts + 1, math.ceil(sum(self._needed(config).values()) / per_host))
        for share in (1.0, 1.1, 1.25, 1.5, 2.0):
            if math.ceil(least * share) <= MOST_HOSTS * ask.hosts:
                yield math.ceil(least * share)

    def _try(self, what: str, settings: str, config: RunConfig, ask: ClusterSpec) -> Advice:
        try:
            made, _ = self._make(config, ask)
        except GenctrError:
            return Advice(what, settings, fits=False)
        most = max(line.memory for line in _lines(made, ask))
        return Advice(what, settings, fits=True, most=most, step=self._times(made, config, ask).step)


def _changes(config: RunConfig, device: Device) -> Iterator[tuple[str, str, str]]:
    """Changes of all tables that may make them fit: in words, the key, the value."""
    tables = [config.tables, *(config.tables.of(name) for name in config.tables.overrides)]
    if any(own.sharding != "auto" for own in tables):
        yield "tables spread as the planner likes", "sharding", "auto"
    if any(own.optimizer in ("adam", "lazy_adam", "adagrad") for own in tables):
        yield "one moment per row instead of one per number", "optimizer", "rowwise_adagrad"
    halves = device.kind != "cpu" or all(own.optimizer in HALF_OPTIMIZERS for own in tables)
    if halves and any(own.precision == "fp32" for own in tables):
        yield "tables in half precision", "precision", "fp16"
    if device.kind == "cpu":
        return
    if any(own.compute_kernel not in ("auto", "fused_uvm_caching") for own in tables):
        yield "tables in main memory, a part of them on the GPU", "compute_kernel", "fused_uvm_caching"
    if any(own.compute_kernel != "fused_uvm" for own in tables):
        yield "tables in main memory", "compute_kernel", "fused_uvm"


def _places(run: RunConfig, key: str) -> Iterator[str]:
    """Where a run says `key` of all its tables, and where of the tables of one stage or of a single one."""
    yield f"tables.{key}"
    said: list[tuple[str, Mapping[str, Any]]] = [("tables", {"overrides": run.tables.overrides})]
    said += [(f"stages.{at}.tables", stage.tables) for at, stage in enumerate(run.stages)]
    for place, tables in said:
        if key in tables:
            yield f"{place}.{key}"
        yield from (f"{place}.overrides.{name}.{key}" for name, own in tables.get("overrides", {}).items() if key in own)


def _lanes(config: RunConfig, ranks: int) -> str:
    """What gives every rank a lane, for the command line."""
    if ranks <= config.data.lanes:
        return ""
    rows = config.train.global_batch_rows
    return f" --set data.lanes={next((lanes for lanes in range(ranks, rows + 1) if rows % lanes == 0), ranks)}"


def _with(config: RunConfig, key: str, value: str) -> RunConfig:
    """The config with one setting of all tables changed, single ones too."""
    overrides = {name: {k: v for k, v in own.items() if k != key} for name, own in config.tables.overrides.items()}
    return config.model_copy(update={"tables": config.tables.model_copy(update={key: value, "overrides": overrides})})


def _lines(made: PlannedShards, ask: ClusterSpec) -> list[RankLine]:
    lines = [[0, 0, 0.0] for _ in range(ask.ranks)]
    for option in made.options:
        for shard in option.shards:
            line = lines[shard.rank]
            on_cpu = ask.device.kind == "cpu"
            line[0] += shard.storage.ddr if on_cpu else shard.storage.hbm
            line[1] += 0 if on_cpu else shard.storage.ddr
            line[2] += shard.perf.fwd_compute + shard.perf.bwd_compute
    return [RankLine(int(memory), int(ddr), float(lookup)) for memory, ddr, lookup in lines]


def _warnings(tables: Mapping[str, TablePlan], lines: list[RankLine], times: Times | None, ask: ClusterSpec) -> list[str]:
    """What a person should know of a plan that fits."""
    found: list[str] = []
    if times is None:
        return found
    kernels = sorted({own.kernel for own in tables.values()} - {"fused"})
    for kernel in kernels:
        names = [name for name, own in tables.items() if own.kernel == kernel]
        found.append(f"{', '.join(names)}: {kernel}, so look-ups wait for main memory")
    if idle := sum(line.lookup == 0 for line in lines):
        found.append(f"{idle} of {ask.ranks} ranks hold no table")
    mean = sum(line.lookup for line in lines) / len(lines)
    most = max(line.lookup for line in lines)
    if mean and most > 1.5 * mean:
        found.append(f"the busiest rank looks up {most / mean:.1f} times as long as the mean one")
    if times.communication > times.step / 2:
        found.append("more than half of a step is communication: try train.comm_precision fp16, or larger batches")
    return found
