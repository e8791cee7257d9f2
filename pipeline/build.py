"""From config to parts: the one place where a name in a file becomes an object."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import torch
import torch.distributed as dist
from torch import nn
from torchrec.distributed.train_pipeline import TrainPipelineBase, TrainPipelineSparseDist
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper

from data.collate import Collate
from data.days import Day, Days, parse_days
from data.document import read_document, write_document
from data.errors import GenctrError
from data.features import Features
from data.paths import PATHS
from data.readers import READERS, Reader
from data.schema import Schema
from data.statistics import FILE, Statistics, fit
from data.stream import DayStream
from models.decoders import DECODERS
from models.embed import Field, FieldEmbedding
from models.encoders import ENCODERS
from models.heads import Head
from models.losses import LOSSES
from models.ranker import Ranker
from models.sparse import SparseArch, Table
from pipeline.checkpoint import Checkpoints
from pipeline.config import DenseConfig, ModelConfig, RunConfig, TableConfig, load
from pipeline.plugins import bind, find
from pipeline.runlog import RunLog
from pipeline.schedule import Schedule
from pipeline.shard import Init, Sharded, TableOptions, shard
from pipeline.task import RankTask
from pipeline.trainer import Pipe
from pipeline.world import World

PARADIGM_ENCODERS = {"plain": "identity", "sfg": "sfg"}
MAY_CHANGE = {"data.prefetch", "data.lanes", "data.root", "train.ranks", "train.epochs", "train.max_steps", "train.device"}


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

    def open(self, day: str) -> Day:
        """One day's files, checked as far as the config says."""
        return self.days.open(day, self.schema.columns(), accept=self.schema.check, check=self.config.data.check)

    def stream(self, day: Day, *, epoch: int = 0, shuffle: bool = False, lanes: int | None = None) -> DayStream:
        """One day's batches for this rank.

        Args:
            day: what `open` found. epoch: [passes] of the training days before this one; another epoch, another shuffle.
            lanes: [lanes] the day was begun with, if it was.
        """
        data = self.config.data
        return DayStream(
            day,
            self.reader,
            columns=self.schema.columns(),
            collate=self.collate,
            batch_rows=self.config.train.batch_rows,
            lanes=lanes or data.lanes,
            shuffle_rows=data.shuffle_rows if shuffle else 0,
            seed=self.config.seed,
            epoch=epoch,
            rank=self.rank,
            ranks=self.ranks,
            prefetch=data.prefetch,
        )


@dataclass(frozen=True)
class Job:
    """Everything a run is made of, built once."""

    config: RunConfig
    schema: Schema
    folder: str
    world: World
    source: Source
    sharded: Sharded
    optimizer: KeyedOptimizer
    schedule: Schedule
    checkpoints: Checkpoints
    log: RunLog

    def pipe(self) -> Pipe:
        """A train pipeline for one day's batches: overlapping copies and id exchange on a GPU, nothing to overlap on a CPU."""
        kind = TrainPipelineSparseDist if self.world.device.type == "cuda" else TrainPipelineBase
        pipe: Pipe = kind(self.sharded.model, self.optimizer, self.world.device)
        return pipe

    def best_reachable(self) -> dict[str, float]:
        """The best AUC any model could have on each day, where the log is synthetic and knows; else nothing."""
        path = f"{self.config.data.root}/synthetic.json"
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


def build_source(config: RunConfig, schema: Schema, folder: str, *, rank: int = 0, ranks: int = 1) -> Source:
    """The log, with the vocabularies and statistics stored in the run folder; rank 0 makes them if they are not there."""
    data = config.data
    reader: Reader = bind(f"reader {data.format}", find("genctr.readers", data.format, READERS), data.reader_options)
    days = Days(data.root, reader=reader, layout=data.layout, bad_files=data.bad_files)
    statistics = f"{folder}/statistics"
    if rank == 0 and not PATHS.exists(f"{statistics}/{FILE}"):
        names = parse_days(data.fit) or parse_days(data.days)
        fit(schema, _batches(days, reader, names, schema), seed=config.seed).save(statistics)
    if ranks > 1:
        dist.barrier()
    features = Features(schema, Statistics.load(statistics))
    collate = Collate(features, bad_rows=data.bad_rows)
    return Source(config, schema, days, reader, features, collate, rank, ranks)


def build(config: RunConfig, schema: Schema, folder: str, world: World) -> Job:
    """Everything of a run, in a new run folder or in the one it was begun in.

    Raises:
        GenctrError: the folder was begun with another config or schema, or a part has no such name or option.
    """
    if world.first:
        _claim(folder, config, schema)
    source = build_source(config, schema, folder, rank=world.rank, ranks=world.ranks)
    torch.manual_seed(config.seed)
    ranker = build_ranker(config.model, source.features, schema.task_names)
    task = RankTask(ranker, tasks=schema.task_names, loss=find("genctr.losses", config.model.loss, LOSSES), ranks=world.ranks)
    sharded = shard(
        task,
        tables={spec.name: _options(config.tables.of(spec.name)) for spec in source.features.tables},
        device=world.device,
        batch_rows=config.train.batch_rows,
        seed=config.seed,
    )
    dense = build_dense_optimizer(config.train.dense, sharded)
    optimizer = CombinedOptimizer([("tables", sharded.fused), ("dense", dense)])
    return Job(
        config=config,
        schema=schema,
        folder=folder,
        world=world,
        source=source,
        sharded=sharded,
        optimizer=optimizer,
        schedule=Schedule(
            config.train.schedule,
            sharded=sharded,
            dense=dense,
            dense_lr=config.train.dense.lr,
            seed=config.seed,
            rank=world.rank,
        ),
        checkpoints=Checkpoints(
            f"{folder}/checkpoints", keep=config.checkpoint.keep, asynchronous=config.checkpoint.asynchronous
        ),
        log=RunLog(folder),
    )


def build_ranker(config: ModelConfig, features: Features, tasks: tuple[str, ...]) -> Ranker:
    """The click model; tables on the meta device, for sharding to fill.

    Raises:
        GenctrError: no such decoder, or not such an option.
    """
    make_decoder = find("genctr.decoders", config.decoder, DECODERS)
    options = {} if config.paradigm == "plain" else config.encoder.model_dump()
    make_encoder = ENCODERS[PARADIGM_ENCODERS[config.paradigm]]
    fields = build_fields(features, config.dim)
    shape = {"fields": len(fields), "width": config.dim}
    generate = partial(make_encoder, **shape, **options)
    decoder = bind(f"decoder {config.decoder}", partial(make_decoder, **shape, generate=generate), config.options)
    linear = decoder.needs_linear
    tables = [
        Table(spec.name, spec.rows, spec.dim or config.dim, spec.fields, spec.pool if spec.pooled else "none", linear)
        for spec in features.tables
    ]
    sparse = SparseArch(tables, device=torch.device("meta"))
    embed = FieldEmbedding(fields, width=config.dim, linear=linear)
    head = Head(features=decoder.out_features, tasks=tasks)
    return Ranker(sparse=sparse, embed=embed, decoder=decoder, head=head)


def build_fields(features: Features, width: int) -> list[Field]:
    """The fields as the model sees them, in schema order."""
    of_table = {field: spec for spec in features.tables for field in spec.fields}
    fields = []
    for name in features.fields:
        if name in of_table:
            spec = of_table[name]
            query = features.queries.get(name)
            pool = "attention" if query else spec.pool
            fields.append(Field(name, "table", dim=spec.dim or width, pool=pool, query=query))
        elif name in features.vector_fields:
            fields.append(Field(name, "vector", dim=features.vector_fields[name]))
        else:
            fields.append(Field(name, "number"))
    return fields


def build_dense_optimizer(config: DenseConfig, sharded: Sharded) -> KeyedOptimizer:
    """The optimizer of everything but the tables, clipped if the config says so."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    betas = (config.beta1, config.beta2)
    make = partial(kind, lr=config.lr, betas=betas, eps=config.eps, weight_decay=config.weight_decay)
    optimizer: KeyedOptimizer = KeyedOptimizerWrapper(sharded.dense_parameters, make)
    optimizer.init_state()  # a checkpoint is loaded into what is there
    if config.clip_norm is not None:
        optimizer = GradientClippingOptimizer(optimizer, clipping=GradientClipping.NORM, max_gradient=config.clip_norm)
    return optimizer


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
    )


def _batches(days: Days, reader: Reader, names: list[str], schema: Schema) -> Iterator[pa.RecordBatch]:
    columns = Statistics.columns(schema)
    if not columns:
        return
    for name in names:
        for file in days.open(name, columns, accept=schema.check).files:
            for unit in range(len(file.units)):
                yield from reader.read(file.path, unit, columns, 0)


def _claim(folder: str, config: RunConfig, schema: Schema) -> None:
    """Store the resolved config in a new run folder; in an old one, refuse what would make it another run."""
    if not PATHS.exists(f"{folder}/config.yaml"):
        PATHS.mkdirs(folder)
        write_document(f"{folder}/schema.yaml", schema)
        write_document(f"{folder}/config.yaml", config.model_copy(update={"schema_file": "schema.yaml"}))
        return
    begun, begun_schema = load_run(folder)
    before, now = _flat(begun.model_dump()), _flat(config.model_dump())
    changed = sorted(
        key
        for key in before.keys() | now.keys()
        if before.get(key) != now.get(key)
        and key not in MAY_CHANGE | {"schema_file"}
        and not key.startswith("checkpoint.")
        and not key.endswith(".sharding")
    )
    if changed:
        told = "\n".join(f"  {key}: begun with {before.get(key)!r}, now {now.get(key)!r}" for key in changed)
        raise GenctrError(f"{folder} was begun with another config:\n{told}\n  next: set these back, or give a new --out")
    if begun_schema != schema:
        raise GenctrError(f"{folder} was begun with another schema (see its schema.yaml)\n  next: set it back, or a new --out")


def _flat(tree: object, prefix: str = "") -> dict[str, object]:
    if isinstance(tree, dict) and tree:
        return {k: v for name, branch in tree.items() for k, v in _flat(branch, f"{prefix}.{name}" if prefix else name).items()}
    return {prefix: tree}
