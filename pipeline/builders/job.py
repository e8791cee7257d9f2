"""From config to parts: the one place where a name in a file becomes an object."""

import json
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torchrec.distributed.train_pipeline import PrefetchTrainPipelineSparseDist, TrainPipelineBase, TrainPipelineSparseDist
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer

from data.days import Day
from data.errors import GenctrError
from data.paths import PATHS, below
from data.schema import Schema
from pipeline.builders.fit import prepare
from pipeline.builders.objectives import build_objective, check_stage
from pipeline.builders.optimizers import build_dense_optimizers
from pipeline.builders.source import Source, build_source
from pipeline.builders.tables import build_ids, build_spread, build_table_configs
from pipeline.checkpoint.manager import Checkpoints
from pipeline.config.family import Observed
from pipeline.config.run import RunConfig, Stage, run_section
from pipeline.distributed.hardware import device_here
from pipeline.distributed.managed_ids import ManagedIds
from pipeline.distributed.saved_plan import SavedPlan
from pipeline.distributed.shard import Sharded, ShardingOptions, hosts_here, shard
from pipeline.distributed.world import World
from pipeline.run_folder.claim import claim, stage_schema
from pipeline.run_folder.lease import Lease
from pipeline.run_folder.log import RunLog
from pipeline.training.callbacks import Interrupt
from pipeline.training.loop import Pipe
from pipeline.training.lr_schedule import Schedule
from pipeline.training.objective import Objective

PIPES = {"base": TrainPipelineBase, "sparse_dist": TrainPipelineSparseDist, "prefetch": PrefetchTrainPipelineSparseDist}


class Job:
    """Everything a run is made of. It stands in one stage at a time; what belongs to the stage is built when it is entered.

    Args:
        config, schema: the run's. folder: where it lives. world: its ranks.
        checkpoints: in the folder. at: the stage to stand in, counted from 0.
        planned: keep to the stage's saved plan, if it has one; it is of the training's ranks.

    Attributes:
        stages: all stages. at: the index of the one it stands in. stage: that one; config: its config.
        source: the log as the stage reads it. sharded, optimizer, schedule: what the stage trains, built when it is entered.
        ids: the maps of its managed tables; None if it has none.
        interrupt, checkpoints, log: the run's own.
    """

    source: Source
    sharded: Sharded
    optimizer: KeyedOptimizer
    schedule: Schedule
    ids: ManagedIds | None

    def __init__(
        self,
        config: RunConfig,
        schema: Schema,
        folder: str,
        world: World,
        checkpoints: Checkpoints,
        at: int = 0,
        *,
        planned: bool = True,
        log: RunLog | None = None,
    ) -> None:
        self.stages = config.resolved()
        self._planned = planned
        self.schema, self.folder, self.world, self.seed = schema, folder, world, config.seed
        self.interrupt = Interrupt()
        self.checkpoints = checkpoints
        self.log = log or RunLog(folder, silent=not world.is_rank_zero)
        self.enter_stage(at)

    @property
    def stage(self) -> Stage:
        """The stage it stands in."""
        return self.stages[self.at]

    @property
    def config(self) -> RunConfig:
        """The config of the stage it stands in."""
        return self.stage.config

    def enter_stage(self, at: int) -> None:
        """Build what stage `at` trains, with initial values; what the stage before trained is let go."""
        self.at = at
        for own in ("sharded", "optimizer", "schedule", "ids"):  # tables as large as memory are not held twice
            self.__dict__.pop(own, None)
        config, world = self.config, self.world
        self.source = build_source(
            config, stage_schema(self.schema, self.stage, self.stages), self.folder, world.rank, world.ranks
        )
        torch.manual_seed(config.seed)
        tables = build_table_configs(config, self.source.features)
        self.sharded = shard(
            build_objective(self.stage, self.source, self.folder, world),
            tables=tables,
            device=world.device,
            batch_rows=config.train.global_batch_rows,
            seed=config.seed,
            spread=self._spread(),
        )
        self.ids = None
        if self.source.schema.managed:
            self.ids = build_ids(self.source.schema, self.sharded, tables, seed=config.seed, freeze=self.stage.freeze)
            self.objective.ids = self.ids
        dense, others = build_dense_optimizers(config, self.sharded)
        self.optimizer = CombinedOptimizer([("tables", self.sharded.fused), ("dense", dense), *others])
        self.schedule = Schedule(
            config.train.schedule,
            sharded=self.sharded,
            dense=dense,
            dense_lr=config.train.dense.lr,
            seed=config.seed,
            rank=world.rank,
            freeze=self.stage.freeze,
        )

    def _spread(self) -> ShardingOptions:
        """What the stage says of all its tables together; a saved plan is read once, for all ranks."""
        train = self.config.train
        path = (train.sharding_plan or "") if self._planned else ""
        saved = self.world.from_rank_zero(lambda: SavedPlan.load(path), SavedPlan) if path else None
        spread = build_spread(self.config, self.source.features)
        # Every rank makes the plan by itself, and hosts may have other GPUs.
        bandwidths = self.world.from_rank_zero(self._bandwidths, dict[str, float])
        return replace(spread, bandwidths=bandwidths, saved=saved, path=path, stage=self.stage.name)

    def _bandwidths(self) -> dict[str, float]:
        """[bytes/ms] of this rank's device; none if it is not known."""
        device = device_here(self.world.device, self.config.train.hardware)
        return device.bandwidths if device is not None else {}

    @contextmanager
    def pipe(self) -> Iterator[Pipe]:
        """A train pipeline for one day's batches: by itself, overlapping on a GPU, where there is something to overlap.

        The look-ups of some families depend on the step, those of managed tables on the step before: no pipeline can know them
        a batch ahead.
        Without tables nothing travels.
        A pipeline that reads ahead puts itself into the model, which nothing else can call before it is taken out.
        """
        name = self.config.train.pipeline if self.source.features.tables else "base"
        if name == "auto":
            knows = self.config.family.reads.ahead and self.ids is None
            name = "sparse_dist" if self.world.device.type == "cuda" and knows else "base"
        pipe = PIPES[name](self.sharded.model, self.optimizer, self.world.device)
        try:
            yield pipe
        finally:
            if isinstance(pipe, TrainPipelineSparseDist):
                pipe.detach()

    @property
    def observed(self) -> Observed | None:
        """What the collapse monitor looks at, of the stage's model."""
        return self.config.family.observe(self.objective.model, self.source.features)

    def tensors(self) -> dict[str, Any]:
        """All that a checkpoint holds of the stage, by part, live: `model`, `optimizer`, and `ids` if tables are managed."""
        tensors = {"model": self.sharded.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return tensors | ({"ids": self.ids.state_dict()} if self.ids is not None else {})

    @property
    def objective(self) -> Objective:
        """What one step computes, inside its sharding."""
        objective: Objective = self.sharded.model.module
        return objective

    def open(self, day: str, step: int, *, known: Collection[str] = ()) -> Day:
        """One day's files as rank 0 finds them, so that all ranks read the same; what is left out is printed and logged."""
        opened = Day.from_json(self.world.from_rank_zero(lambda: self.source.open(day, known=known).to_json(), dict[str, Any]))
        for path, why in opened.quarantined.items():
            self.log.write("quarantined", step, {"day": day, "file": path, "why": why})
            if self.world.is_rank_zero:
                sys.stderr.write(f"genctr: day {day} is read without {path}: {why}\n")
        return opened

    def close(self) -> None:
        """Finish the save in the background, and write what the log holds back."""
        try:
            self.checkpoints.wait()
        finally:
            self.log.close()

    def best_reachable(self) -> dict[str, float]:
        """The best AUC any model could have on each day, where the log is synthetic and knows; else nothing."""
        path = below(self.config.data.root, "synthetic.json")
        if not PATHS.exists(path):
            return {}
        with PATHS.open(path, "r") as file:
            days = json.load(file)["days"]
        return {day: values["auc"] for day, values in days.items()}


def build(
    config: RunConfig,
    schema: Schema,
    folder: str,
    world: World,
    *,
    at: int | None = None,
    planned: bool = True,
    looks: bool = False,
    trains: bool = False,
) -> Job:
    """Everything of a run, in a new run folder or in the one it was begun in, standing in stage `at`: see `Job`.

    Args:
        looks: at a run that was trained, perhaps next to the job that writes there: nothing is written but lines of the log,
            when all is done, see `RunLog`.
        trains: the job will write the folder: what is damaged among its checkpoints is set aside first, with a message.

    Raises:
        GenctrError: the folder was begun with another config or schema, or a part has no such name or option; or there is
            nothing to look at.
    """
    for stage in config.resolved():
        check_stage(stage, world.device)
        if planned:
            _check_plan(stage, world)
    if not looks:
        config = world.from_rank_zero(lambda: claim(folder, config, schema), run_section())
    checkpoints = build_checkpoints(config, folder)
    if looks and checkpoints.latest() is None:
        raise GenctrError(f"{folder}: no checkpoint to load: train it first")
    for message in checkpoints.sift() if trains else ():
        if world.is_rank_zero:
            sys.stderr.write(f"genctr: {message}\n")
    here = _under_way(checkpoints) if at is None else at
    if not looks:
        world.from_rank_zero(lambda: prepare(folder, config, schema, world, here), None)
    log = RunLog(folder, Lease(folder, seconds=config.daily.lease_seconds) if looks else None, silent=not world.is_rank_zero)
    return Job(config, schema, folder, world, checkpoints, here, planned=planned, log=log)


def build_checkpoints(config: RunConfig, folder: str) -> Checkpoints:
    """The checkpoints of a run. Collective."""
    own = config.checkpoint
    return Checkpoints(f"{folder}/checkpoints", keep=own.keep_last, asynchronous=own.asynchronous)


def _under_way(checkpoints: Checkpoints) -> int:
    """The stage that the newest checkpoint stands in, or the first."""
    mark = checkpoints.latest()
    return 0 if mark is None else int(checkpoints.read_meta(mark)["state"]["stage"])


def _check_plan(stage: Stage, world: World) -> None:
    """See that the ranks are those of the stage's saved plan, if it has one."""
    path = stage.config.train.sharding_plan
    if path is not None:
        saved = world.from_rank_zero(lambda: SavedPlan.load(path), SavedPlan)
        saved.check_cluster(path, device=world.device.type, ranks=world.ranks, hosts=hosts_here())
