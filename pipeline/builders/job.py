"""From config to parts: the one place where a name in a file becomes an object."""

import hashlib
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import torch
from torch import nn
from torchrec.distributed.train_pipeline import PrefetchTrainPipelineSparseDist, TrainPipelineBase, TrainPipelineSparseDist
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper

from data.collate import Collate
from data.days import Day, Days, parse_days
from data.document import write_document
from data.errors import GenctrError
from data.features import Features
from data.frequencies import Frequencies
from data.paths import PATHS, below
from data.readers import Reader
from data.schema import AnyIds, NumberField, Schema, VectorField
from data.statistics import FILE, Statistics, fit, id_columns, id_kinds
from data.stream import DayStream
from models.decoders import DECODERS
from models.diffusion.candidates import CandidateSampler, TableCounts
from models.diffusion.noise import Noise
from models.losses import LOSSES
from pipeline.builders.models import META, build_denoiser, build_model, build_reader
from pipeline.builders.registry import bind, find
from pipeline.checkpoint.manager import Checkpoints
from pipeline.config.run import DataConfig, DenseConfig, ModelConfig, RunConfig, Stage, TableConfig, fit_days, load
from pipeline.distributed.comm_codecs import check_communication
from pipeline.distributed.hardware import device_here
from pipeline.distributed.managed_ids import ManagedIds
from pipeline.distributed.shard import Init, Sharded, Spread, TableOptions, device_problem, hosts_here, shard
from pipeline.distributed.sharding_plan import SavedPlan
from pipeline.distributed.world import World
from pipeline.run_folder.lease import Lease
from pipeline.run_folder.log import RunLog
from pipeline.training.callbacks import Interrupt
from pipeline.training.denoise import FieldMeters, PretrainTask
from pipeline.training.loop import Pipe
from pipeline.training.lr_schedule import Schedule
from pipeline.training.metrics import DayMeters, Meters, RunningMeters, StepMeters
from pipeline.training.objective import RankTask

MAY_CHANGE = {
    *("schema_file", "data.root", "data.lanes", "data.prefetch"),
    *("data.check", "data.bad_files", "data.bad_rows", "data.max_bad_rows_share"),  # what helps at night must not ask for more
    *("train.ranks", "train.device", "train.epochs", "train.max_steps", "train.plan", "train.pipeline"),
}
"""What a run that goes on may be told anew, beside all of `checkpoint` and `daily`, and every table's sharding and kernel."""

PIPES = {"base": TrainPipelineBase, "sparse_dist": TrainPipelineSparseDist, "prefetch": PrefetchTrainPipelineSparseDist}

STATISTICS = f"statistics/{FILE}"


@dataclass(frozen=True)
class Source:
    """The log as this run reads it: days in, batches out."""

    config: RunConfig
    schema: Schema
    days: Days
    reader: Reader
    features: Features
    collate: Collate
    rank: int = 0
    ranks: int = 1

    @property
    def train_days(self) -> list[str]:
        """The days to train, in order."""
        return parse_days(self.config.data.days)

    @property
    def validation_days(self) -> list[str]:
        """The days early stopping looks at."""
        return parse_days(self.config.data.validation)

    @property
    def test_days(self) -> list[str]:
        """The days scored once, at the end."""
        return parse_days(self.config.data.test)

    def open(self, day: str, *, known: Collection[str] = ()) -> Day:
        """One day's files, checked as far as the config says; `known`: those that were trained before, see `Days.open`."""
        columns, check = self.schema.columns(), self.config.data.check
        return self.days.open(day, columns, accept=self.schema.check, check=check, known=known)

    def stream(self, day: Day, *, epoch: int = 0, shuffle: bool = False) -> DayStream:
        """One day's batches for this rank.

        Args:
            day: what `open` found. epoch: [passes] of the training days before this one; another epoch, another shuffle.
            shuffle: as the config says; else the order of the files.
        """
        data = self.config.data
        return DayStream(
            day,
            self.reader,
            columns=self.schema.columns(),
            collate=self.collate,
            batch_rows=self.config.train.batch_rows,
            lanes=data.lanes,
            shuffle_rows=data.shuffle_rows if shuffle else 0,
            seed=self.config.seed,
            epoch=epoch,
            rank=self.rank,
            ranks=self.ranks,
            prefetch=data.prefetch,
        )


class Job:
    """Everything a run is made of. It stands in one stage at a time; what belongs to the stage is built when it is entered.

    Args:
        config, schema: the run's. folder: where it lives. world: its ranks.
        checkpoints: in the folder. at: the stage to stand in, counted from 0.
        planned: keep to the stage's saved plan, if it has one; it is of the training's ranks.

    Attributes:
        stages: all stages. at: the index of the one it stands in. stage: that one; config: its config.
        source: the log as the stage reads it. sharded, optimizer, schedule: what the stage trains, afresh when it is entered.
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
        self.log = log or RunLog(folder)
        self.enter(at)

    @property
    def stage(self) -> Stage:
        """The stage it stands in."""
        return self.stages[self.at]

    @property
    def config(self) -> RunConfig:
        """The config of the stage it stands in."""
        return self.stage.config

    def enter(self, at: int) -> None:
        """Build what stage `at` trains, with first values; what the stage before trained is let go."""
        self.at = at
        for own in ("sharded", "optimizer", "schedule", "ids"):  # tables as large as memory are not held twice
            self.__dict__.pop(own, None)
        config, world = self.config, self.world
        self.source = build_source(
            config, stage_schema(self.schema, self.stage, self.stages), self.folder, world.rank, world.ranks
        )
        torch.manual_seed(config.seed)
        tables = build_table_options(config, self.source.features)
        self.sharded = shard(
            build_task(self.stage, self.source, self.folder, world),
            tables=tables,
            device=world.device,
            batch_rows=config.train.batch_rows,
            seed=config.seed,
            spread=self._spread(),
        )
        self.ids = None
        if self.source.schema.managed:
            self.ids = build_ids(self.source.schema, self.sharded, tables, seed=config.seed, freeze=self.stage.freeze)
            self.task.ids = self.ids
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

    def _spread(self) -> Spread:
        """What the stage says of all its tables together; a saved plan is read once, for all ranks."""
        train = self.config.train
        path = (train.plan or "") if self._planned else ""
        saved = self.world.agree(lambda: SavedPlan.load(path), SavedPlan) if path else None
        spread = build_spread(self.config, self.source.features)
        # Every rank makes the plan by itself, and hosts may have other GPUs.
        bandwidths = self.world.agree(self._bandwidths, dict[str, float])
        return replace(spread, bandwidths=bandwidths, saved=saved, path=path, stage=self.stage.name)

    def _bandwidths(self) -> dict[str, float]:
        """[bytes/ms] of this rank's device; none if it is not known."""
        device = device_here(self.world.device, self.config.train.hardware)
        return device.bandwidths if device is not None else {}

    @contextmanager
    def pipe(self) -> Iterator[Pipe]:
        """A train pipeline for one day's batches: by itself, overlapping on a GPU, where there is something to overlap.

        A denoiser's look-ups depend on what it hides, those of managed tables on the step before: no pipeline can know them a
        batch ahead.
        Without tables nothing travels.
        A pipeline that reads ahead puts itself into the model, which nothing else can call before it is taken out.
        """
        name = self.config.train.pipeline if self.source.features.tables else "base"
        if name == "auto":
            knows = not self.config.model.denoises and self.ids is None
            name = "sparse_dist" if self.world.device.type == "cuda" and knows else "base"
        pipe = PIPES[name](self.sharded.model, self.optimizer, self.world.device)
        try:
            yield pipe
        finally:
            if isinstance(pipe, TrainPipelineSparseDist):
                pipe.detach()

    def day_meters(self) -> DayMeters:
        """New meters of scored days: what the stage's task is judged by."""
        return FieldMeters(self.task.names) if isinstance(self.task, PretrainTask) else Meters(self.schema.task_names)

    def step_meters(self) -> StepMeters:
        """The same for rows in training, of constant size."""
        return FieldMeters(self.task.names) if isinstance(self.task, PretrainTask) else RunningMeters(self.schema.task_names)

    def tensors(self) -> dict[str, Any]:
        """All that a checkpoint holds of the stage, by part, live: `model`, `optimizer`, and `ids` if tables are managed."""
        tensors = {"model": self.sharded.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return tensors | ({"ids": self.ids.state_dict()} if self.ids is not None else {})

    @property
    def task(self) -> RankTask | PretrainTask:
        """What one step computes, inside its sharding."""
        task: RankTask | PretrainTask = self.sharded.model.module
        return task

    def open(self, day: str, step: int, *, known: Collection[str] = ()) -> Day:
        """One day's files as rank 0 finds them, so that all ranks read the same; what is left out is told and logged."""
        opened = Day.from_json(self.world.agree(lambda: self.source.open(day, known=known).to_json(), dict[str, Any]))
        for path, why in opened.quarantined.items():
            self.log.write("quarantined", step, {"day": day, "file": path, "why": why})
            if self.world.first:
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


def load_run(folder: str) -> tuple[RunConfig, Schema]:
    """The config and schema a run folder was made with.

    Raises:
        GenctrError: the folder holds no run.
    """
    if not PATHS.exists(f"{folder}/config.yaml"):
        raise GenctrError(f"{folder}: no config.yaml there, so this is no run folder: give the --out of a `genctr train`")
    return load(f"{folder}/config.yaml")


def build_source(config: RunConfig, schema: Schema, folder: str, rank: int = 0, ranks: int = 1) -> Source:
    """The log, with the vocabularies and statistics stored in the run folder."""
    reader = build_reader(config.data.format, config.data.reader_options)
    days = build_days(config.data, reader)
    features = Features(schema, Statistics.load(f"{folder}/statistics"), pooled=not config.model.denoises)
    collate = Collate(features, bad_rows=config.data.bad_rows)
    return Source(config, schema, days, reader, features, collate, rank, ranks)


def build_days(config: DataConfig, reader: Reader) -> Days:
    """The days of the log."""
    return Days(config.root, reader=reader, layout=config.layout, success=config.success, bad_files=config.bad_files)


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
        looks: at a run that was trained, perhaps beside the job that writes there: nothing is written but lines of the log,
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
        config = world.agree(lambda: _claim(folder, config, schema), RunConfig)
    checkpoints = build_checkpoints(config, folder)
    if looks and checkpoints.latest() is None:
        raise GenctrError(f"{folder}: no checkpoint to load: train it first")
    for message in checkpoints.sift() if trains else ():
        if world.first:
            sys.stderr.write(f"genctr: {message}\n")
    here = _under_way(checkpoints) if at is None else at
    if not looks:
        world.agree(lambda: _prepare(folder, config, schema, world, here), None)
    log = RunLog(folder, Lease(folder, seconds=config.daily.lease_seconds) if looks else None)
    return Job(config, schema, folder, world, checkpoints, here, planned=planned, log=log)


def build_checkpoints(config: RunConfig, folder: str) -> Checkpoints:
    """The checkpoints of a run. Collective."""
    own = config.checkpoint
    return Checkpoints(f"{folder}/checkpoints", keep=own.keep, asynchronous=own.asynchronous)


def _under_way(checkpoints: Checkpoints) -> int:
    """The stage that the newest checkpoint stands in, or the first."""
    mark = checkpoints.latest()
    return 0 if mark is None else int(checkpoints.read_meta(mark)["state"]["stage"])


def check_stage(stage: Stage, device: torch.device) -> None:
    """Refuse what a device cannot do, and what a loss cannot read, before a row is read.

    Raises:
        GenctrError: it cannot.
    """
    config, here = stage.config, f"stage {stage.name}: " if stage.name != "rank" else ""
    train, denoises = config.train, config.model.denoises
    check_communication(train.communication, device)
    for name in ("", *config.tables.only):
        if problem := device_problem(_options(config.tables.of(name)), device):
            raise GenctrError(f"{here}{f'tables.only.{name}' if name else 'tables'}: {problem}")
    problem = ""
    if train.dense.precision == "bf16" and device.type == "cpu":
        problem = "train.dense.precision: bf16 is 40 times slower than fp32 on a CPU\n  next: set it to fp32"
    elif train.dense.precision == "bf16" and stage.task == "pretrain":
        problem = "train.dense.precision: a pre-training computes its softmaxes in fp32\n  next: set it to fp32 for this stage"
    elif train.pipeline == "prefetch" and device.type == "cpu":
        problem = "train.pipeline: prefetch fetches rows from main memory to a card\n  next: on a CPU set it to auto"
    elif train.pipeline in ("sparse_dist", "prefetch") and denoises:
        problem = (
            f"train.pipeline: a denoiser's look-ups depend on what it hides, which {train.pipeline} cannot know a step ahead\n"
            "  next: set it to auto"
        )
    elif stage.task == "rank" and find("genctr.losses", config.model.loss, LOSSES).branches and not _branches(config.model):
        problem = f"model.loss: {config.model.loss} reads two encoders, and the model has one\n  next: set model.decoder to tf"
    if problem:
        raise GenctrError(here + problem)


def _branches(config: ModelConfig) -> bool:
    """Whether the model says what two encoders say on their own."""
    return not config.denoises and find("genctr.decoders", config.decoder, DECODERS).branches


def _check_plan(stage: Stage, world: World) -> None:
    """See that the ranks are those of the stage's saved plan, if it has one."""
    path = stage.config.train.plan
    if path is not None:
        saved = world.agree(lambda: SavedPlan.load(path), SavedPlan)
        saved.check_cluster(path, device=world.device.type, ranks=world.ranks, hosts=hosts_here())


def build_table_options(config: RunConfig, features: Features) -> dict[str, TableOptions]:
    """How every table learns and where it lives.

    Raises:
        GenctrError: a managed table is to be kept on the card in part: what is written to a row that another id gets would pass
            by the part that is there.
    """
    options = {spec.name: _options(config.tables.of(spec.name)) for spec in features.tables}
    for name in (field.name for field in features.schema.managed):
        if options[name].kernel == "fused_uvm_caching":
            raise GenctrError(
                f"table {name!r}: ids: managed cannot be with kernel fused_uvm_caching\n  next: set it to fused or fused_uvm"
            )
        if options[name].kernel == "auto":
            options[name] = replace(options[name], kernel="fused")
    return options


def build_spread(config: RunConfig, features: Features) -> Spread:
    """What the config says of all tables together."""
    train = config.train
    return Spread(lookups=features.lengths, communication=train.communication, prefetch=train.pipeline == "prefetch")


def build_task(stage: Stage, source: Source, folder: str, world: World) -> RankTask | PretrainTask:
    """What one step of a stage computes."""
    config, features, tasks = stage.config.model, source.features, source.schema.task_names
    if stage.task == "pretrain":
        frequencies = Frequencies.load(_frequencies(folder, stage))
        return build_pretrain_task(config, features, tasks, frequencies, ranks=world.ranks)
    bf16 = world.device.type if stage.config.train.dense.precision == "bf16" else None
    return build_rank_task(config, features, tasks, ranks=world.ranks, bf16=bf16)


def build_rank_task(
    config: ModelConfig,
    features: Features,
    tasks: tuple[str, ...],
    *,
    ranks: int,
    bf16: str | None = None,
    device: torch.device = META,
) -> RankTask:
    """What one step of a ranking computes.

    Args:
        bf16: see `RankTask`. device: of the tables.
    """
    make_loss = find("genctr.losses", config.loss, LOSSES)
    loss = bind(f"loss {config.loss}", make_loss, config.loss_options)
    return RankTask(build_model(config, features, tasks, device=device), tasks=tasks, loss=loss, ranks=ranks, bf16=bf16)


def build_pretrain_task(
    config: ModelConfig,
    features: Features,
    tasks: tuple[str, ...],
    frequencies: Frequencies,
    *,
    ranks: int,
    device: torch.device = META,
) -> PretrainTask:
    """What one step of a pre-training computes; `device`: of the tables."""
    own = config.denoiser
    counts = [
        TableCounts(
            spec.name, spec.rows, spec.reserved, torch.from_numpy(sum(frequencies.counts[name] for name in spec.fields))
        )
        for spec in features.tables
    ]
    model = build_denoiser(config, features, tasks, restores=True, device=device)
    shares = {task: torch.from_numpy((frequencies.counts[task] + 1) / (frequencies.counts[task].sum() + 2)) for task in tasks}
    return PretrainTask(
        model,
        candidates=CandidateSampler(counts, full_rows=own.full_rows, extra=own.extra_candidates, most=own.most_candidates),
        shares=shares,
        noise=Noise(own.sampler, own.ratio, own.time_weight, own.finetune_share),
        replace=own.noise == "replace",
        logq=own.logq,
        ranks=ranks,
    )


def build_dense_optimizers(config: RunConfig, sharded: Sharded) -> tuple[KeyedOptimizer, list[tuple[str, KeyedOptimizer]]]:
    """The optimizer of everything but the tables; and apart from it, named, that of a balance's difficulties.

    These learn at a rate of their own, do not decay, and their gradients are not clipped together with the network's.
    """
    balance = {name: own for name, own in sharded.dense_parameters.items() if name.endswith("balance.s")}
    network = {name: own for name, own in sharded.dense_parameters.items() if name not in balance}
    others = []
    if balance:
        learn = KeyedOptimizerWrapper(balance, partial(torch.optim.Adam, lr=config.model.denoiser.balance_lr))
        others = [("balance", _with_state(learn))]
    return build_dense_optimizer(config.train.dense, network), others


def build_dense_optimizer(config: DenseConfig, parameters: dict[str, nn.Parameter]) -> KeyedOptimizer:
    """Adam of the network, clipped if the config says so."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    betas = (config.beta1, config.beta2)
    make = partial(kind, lr=config.lr, betas=betas, eps=config.eps, weight_decay=config.weight_decay)
    optimizer: KeyedOptimizer = _with_state(KeyedOptimizerWrapper(parameters, make))
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


def build_ids(
    schema: Schema, sharded: Sharded, tables: Mapping[str, TableOptions], *, seed: int, freeze: Sequence[str]
) -> ManagedIds:
    """The maps of managed tables, empty."""
    inits = {name: options.init for name, options in tables.items()}
    return ManagedIds(schema, sharded, inits=inits, seed=seed, device=sharded.model.device, frozen="tables" in freeze)


def _options(config: TableConfig) -> TableOptions:
    return TableOptions(
        optimizer=config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        decay=config.decay,
        eps=config.eps,
        betas=(config.beta1, config.beta2),
        init=Init(config.init.kind, config.init.scale),
        sharding=config.sharding,
        kernel=config.kernel,
        cache=config.cache,
        precision=config.precision,
        clip=config.clip,
    )


def _fit(config: RunConfig, schema: Schema, names: Sequence[str]) -> Statistics:
    """What has to be known of the log before training, from these days; what kind of ids a table has, from the first."""
    reader = build_reader(config.data.format, config.data.reader_options)
    days = build_days(config.data, reader)
    kinds = id_kinds(schema, days.open(names[0], id_columns(schema), accept=schema.check).schema)
    return replace(fit(schema, _batches(days, reader, names, schema), seed=config.seed), kinds=kinds)


def _batches(days: Days, reader: Reader, names: Sequence[str], schema: Schema) -> Iterator[pa.RecordBatch]:
    columns = Statistics.columns(schema)
    if not columns:
        return
    for name in names:
        for file in days.open(name, columns, accept=schema.check).files:
            for unit in range(len(file.units)):
                yield from reader.read(file.path, unit, columns, 0)


def stage_schema(schema: Schema, stage: Stage, stages: Sequence[Stage]) -> Schema:
    """The schema as a stage reads it: its fields, and numbers as buckets if any stage of the run denoises.

    Raises:
        GenctrError: the stage names a field that is not there, or not its table.
    """
    schema = _bucketed(schema, stages)
    try:
        return schema.reading(stage.fields) if stage.fields else schema
    except ValueError as error:
        raise GenctrError(f"stage {stage.name}: fields: {error}") from error


def _bucketed(schema: Schema, stages: Sequence[Stage]) -> Schema:
    buckets = [stage.config.model.denoiser.buckets for stage in stages if stage.config.model.denoises]
    return schema.bucketed(buckets[0]) if buckets else schema


def _prepare(folder: str, config: RunConfig, schema: Schema, world: World, at: int) -> None:
    """What is done once for all ranks: the folder holds what has to be counted before stage `at` trains."""
    stages = config.resolved()
    if not PATHS.exists(f"{folder}/{STATISTICS}"):
        _fit(config, _bucketed(schema, stages), fit_days(config)).save(f"{folder}/statistics")
    elif not Statistics.has_digests(f"{folder}/statistics"):
        Statistics.load(f"{folder}/statistics").save(f"{folder}/statistics")
        sys.stderr.write(
            f"genctr: {folder}/statistics was written before statistics carried digests: it has them from now on\n"
        )
    _fit_what_is_new(folder, config, _bucketed(schema, stages))
    for stage in stages[at:]:  # days of those before may be gone by now, or lack what the schema has since
        source = build_source(stage.config, stage_schema(schema, stage, stages), folder)
        if stage.task == "pretrain":
            _count(source, _frequencies(folder, stage))
        if stage is not stages[0]:  # what is wrong with it is to be known before hours of those before it
            try:
                build_task(stage, source, folder, world)
            except GenctrError as error:
                raise GenctrError(f"stage {stage.name}: {error}") from error


def _count(source: Source, path: str) -> None:
    """Count the ids of a stage's days, unless that was done."""
    if PATHS.exists(path) and Frequencies.load(path).are_of(source.features):
        return
    streams = (source.stream(source.open(day)) for day in source.train_days)
    rows = (batch for stream in streams for batch in stream.batches(stream.start()))
    Frequencies.count(source.features, rows).save(path)


def _fit_what_is_new(folder: str, config: RunConfig, schema: Schema) -> None:
    """Fit what a grown schema has and the stored statistics have not, on the newest day: no other may have it."""
    known = Statistics.load(f"{folder}/statistics")
    if known.are_enough_for(schema):
        return
    days = build_days(config.data, build_reader(config.data.format, config.data.reader_options)).list()
    if not days:
        raise GenctrError(
            f"{config.data.root} has no complete day, and what is new in the schema has to be fitted on one\n"
            "  next: write a day, or take back what is new"
        )
    new = _fit(config, schema, days[-1:])
    merged = Statistics(
        new.vocabularies | known.vocabularies,
        new.moments | known.moments,
        new.edges | known.edges,
        new.kinds | known.kinds,
        known.labels,  # the newest day is scored before it is trained: its labels are not counted before
    )
    merged.save(f"{folder}/statistics")


def _frequencies(folder: str, stage: Stage) -> str:
    return f"{folder}/statistics/frequencies.{stage.name}.npz"


def check_changes(folder: str, config: RunConfig, schema: Schema) -> bool:
    """Whether anything would change what the folder was begun with before it has saved something.

    Raises:
        GenctrError: it has, and what changes was not accepted, or would have the saved model take one thing for another.
    """
    if not PATHS.exists(f"{folder}/config.yaml"):
        return False
    changed = _changes(folder, config, schema)
    trained = PATHS.exists(f"{folder}/checkpoints")
    begun, begun_schema = load_run(folder)
    mistaken = [*_moved_stages(begun, config), *_mistaken(begun_schema, schema)]
    if mistaken and trained:
        told = "\n".join(f"  {line}" for line in mistaken)
        raise GenctrError(
            f"{folder} has a model that would take one thing for another:\n{told}\n  next: set these back (what is new goes to "
            "the end, or where something is gone; a field with a new name begins anew), or give a new --out"
        )
    refused = [line for line in changed if line not in config.daily.accept]
    if refused and trained:
        told = "\n".join(f"  {line}" for line in refused)
        raise GenctrError(
            f"{folder} was begun with another config:\n{told}\n  next: set these back, give a new --out, "
            f"or confirm them and keep what fits:\n  daily.accept: {json.dumps(refused, ensure_ascii=False)}"
        )
    return bool(changed) and not trained


def _claim(folder: str, config: RunConfig, schema: Schema) -> RunConfig:
    """Store the resolved config, and return it; where a run has saved something, refuse what would make it another run.

    What was accepted once stays accepted: checkpoints from before may still be there to go on from.
    """
    try:
        if check_changes(folder, config, schema):
            counted = [f"{folder}/{STATISTICS}", *(_frequencies(folder, stage) for stage in config.resolved())]
            for path in filter(PATHS.exists, counted):
                PATHS.rm(path)
        if PATHS.exists(f"{folder}/config.yaml"):
            accept = dict.fromkeys([*load_run(folder)[0].daily.accept, *config.daily.accept])
            config = config.model_copy(update={"daily": config.daily.model_copy(update={"accept": tuple(accept)})})
        stages = config.resolved()
        read = stage_schema(schema, stages[-1], stages)
        PATHS.mkdirs(folder)
        PATHS.mkdirs(f"{folder}/schemas/")
        write_document(f"{folder}/schemas/{digest(read)}.yaml", read)  # what days before a change were read with
        write_document(f"{folder}/schema.yaml", schema)
        write_document(f"{folder}/config.yaml", config.model_copy(update={"schema_file": "schema.yaml"}))
    except OSError as error:
        raise GenctrError(f"the run folder cannot be written: {error}\n  next: mend {folder}, or give another --out") from error
    return config


def _changes(folder: str, config: RunConfig, schema: Schema) -> list[str]:
    """What would make this another run than the one the folder was begun with, a line each."""
    begun, begun_schema = load_run(folder)
    before, now = _flat(begun.model_dump()), _flat(config.model_dump())
    changed = sorted(
        key
        for key in before.keys() | now.keys()
        if before.get(key) != now.get(key)
        and key not in MAY_CHANGE
        and not key.startswith(("checkpoint.", "daily.", "train.hardware."))
        and not key.endswith((".sharding", ".kernel", ".cache"))
    )
    lines = [f"{key}: begun with {before.get(key)!r}, now {now.get(key)!r}" for key in changed]
    return [*lines, *_schema_changes(begun_schema, schema)]


def _schema_changes(before: Schema, now: Schema) -> list[str]:
    """What is new, gone or other in a schema, a line each."""
    lines = []
    for kind, old, new in (
        ("field", {own.name: own for own in before.fields}, {own.name: own for own in now.fields}),
        ("label", {own.task: own for own in before.targets}, {own.task: own for own in now.targets}),
    ):
        lines += [f"{kind} {name}: new" for name in new if name not in old]
        lines += [f"{kind} {name}: gone" for name in old if name not in new]
        for name in (own for own in new if own in old):
            left, right = _flat(old[name].model_dump(mode="json")), _flat(new[name].model_dump(mode="json"))
            keys = sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))
            lines += [f"{kind} {name}.{key}: begun with {left.get(key)!r}, now {right.get(key)!r}" for key in keys]
        if [name for name in old if name in new] != [name for name in new if name in old]:
            lines.append(f"schema: {kind}s in another order")
    rest = [schema.model_dump(mode="json", exclude={"fields", "label", "labels"}) for schema in (before, now)]
    lines += [
        f"schema {key}: begun with {rest[0].get(key)!r}, now {own!r}" for key, own in rest[1].items() if rest[0].get(key) != own
    ]
    return lines or ([] if before == now else ["schema: the same in other words"])


def _mistaken(before: Schema, now: Schema) -> list[str]:
    """What nobody can confirm, a line each: rows of a table that were other ids', weights of a place that was another's.

    A network and its heads know fields and labels by their places; with another number of fields it begins anew.
    """
    old, new = ({field.name: field.ids for field in own.fields if isinstance(field, AnyIds)} for own in (before, now))
    both = [(name, old[name], new[name]) for name in new if name in old and old[name] and new[name]]
    lines = [f"field {name}.ids: begun with {left!r}, now {right!r}" for name, left, right in both if left != right]
    places = []
    for kinds in ((AnyIds, NumberField, VectorField), NumberField, VectorField):
        first, second = ([field.name for field in own.fields if isinstance(field, kinds)] for own in (before, now))
        places += [("field", first, second)] if len(first) == len(second) else []
    first, second = ([label.task for label in own.targets] for own in (before, now))
    places += [("label", first, second)] if len(first) <= len(second) else []
    for kind, first, second in places:
        moved = [name for name in second if name in first and first.index(name) != second.index(name)]
        lines += [f"{kind} {name}: in another place" for name in moved]
    return list(dict.fromkeys(lines))


def _moved_stages(begun: RunConfig, config: RunConfig) -> list[str]:
    """What nobody can confirm of the stages, a line each: a checkpoint knows its own by its place."""
    old, new = ([stage.name for stage in own.resolved()] for own in (begun, config))
    moved = [name for name in new if name in old and old.index(name) != new.index(name)]
    gone = [name for name in old[len(new) :] if name not in new]
    return [*(f"stage {name}: in another place" for name in moved), *(f"stage {name}: gone" for name in gone)]


def digest(schema: Schema) -> str:
    """A name for what a schema says."""
    return hashlib.sha256(json.dumps(schema.model_dump(mode="json", by_alias=True), sort_keys=True).encode()).hexdigest()[:16]


def _flat(tree: object, prefix: str = "") -> dict[str, object]:
    if isinstance(tree, dict):
        return {k: v for name, branch in tree.items() for k, v in _flat(branch, f"{prefix}.{name}" if prefix else name).items()}
    return {prefix: tree}
