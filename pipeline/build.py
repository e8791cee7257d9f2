"""From config to parts: the one place where a name in a file becomes an object."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import torch
from torchrec.distributed.train_pipeline import TrainPipelineBase, TrainPipelineSparseDist
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper

from data.collate import Collate
from data.days import Day, Days, parse_days
from data.document import Section, write_document
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
from pipeline.config import DataConfig, DenseConfig, ModelConfig, RunConfig, TableConfig, load
from pipeline.parts import Interrupt
from pipeline.plugins import bind, find
from pipeline.runlog import RunLog
from pipeline.schedule import Schedule
from pipeline.shard import Init, Sharded, TableOptions, shard
from pipeline.task import RankTask
from pipeline.trainer import Pipe
from pipeline.world import World

PARADIGM_ENCODERS = {"plain": "identity", "sfg": "sfg"}
MAY_CHANGE = {
    *("schema_file", "data.root", "data.lanes", "data.prefetch"),
    *("train.ranks", "train.device", "train.epochs", "train.max_steps"),
}
"""What a run that goes on may be told anew, beside all of `checkpoint` and every table's sharding."""

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

    def open(self, day: str) -> Day:
        """One day's files, checked as far as the config says."""
        return self.days.open(day, self.schema.columns(), accept=self.schema.check, check=self.config.data.check)

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
    interrupt: Interrupt
    checkpoints: Checkpoints
    log: RunLog

    def pipe(self) -> Pipe:
        """A train pipeline for one day's batches: overlapping copies and id exchange on a GPU, nothing to overlap on a CPU."""
        kind = TrainPipelineSparseDist if self.world.device.type == "cuda" else TrainPipelineBase
        pipe: Pipe = kind(self.sharded.model, self.optimizer, self.world.device)
        return pipe

    def open(self, day: str, step: int) -> Day:
        """One day's files as rank 0 finds them, so that all ranks read the same; what is left out is told and logged."""
        opened = self.world.agree(lambda: self.source.open(day))
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
    """The log, with the vocabularies and statistics stored in the run folder."""
    reader = build_reader(config.data)
    days = build_days(config.data, reader)
    features = Features(schema, Statistics.load(f"{folder}/statistics"))
    collate = Collate(features, bad_rows=config.data.bad_rows)
    return Source(config, schema, days, reader, features, collate, rank, ranks)


def build_reader(config: DataConfig) -> Reader:
    """How the files of the log are read."""
    reader: Reader = bind(f"reader {config.format}", find("genctr.readers", config.format, READERS), config.reader_options)
    return reader


def build_days(config: DataConfig, reader: Reader) -> Days:
    """The days of the log."""
    return Days(config.root, reader=reader, layout=config.layout, success=config.success, bad_files=config.bad_files)


def build(config: RunConfig, schema: Schema, folder: str, world: World) -> Job:
    """Everything of a run, in a new run folder or in the one it was begun in.

    Raises:
        GenctrError: the folder was begun with another config or schema, or a part has no such name or option.
    """
    world.agree(lambda: _prepare(folder, config, schema))
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
        interrupt=Interrupt(),
        checkpoints=Checkpoints(
            f"{folder}/checkpoints", keep=config.checkpoint.keep, asynchronous=config.checkpoint.asynchronous
        ),
        log=RunLog(folder),
    )


def build_ranker(config: ModelConfig, features: Features, tasks: tuple[str, ...]) -> Ranker:
    """The click model; tables on the meta device, for sharding to fill.

    Raises:
        GenctrError: no such decoder or option, or fields that cannot be embedded.
    """
    make_decoder = find("genctr.decoders", config.decoder, DECODERS)
    options = {} if config.paradigm == "plain" else config.encoder.model_dump()
    make_encoder = ENCODERS[PARADIGM_ENCODERS[config.paradigm]]
    fields = build_fields(features, config.dim)
    shape = {"fields": len(fields), "width": config.dim}
    generate = partial(make_encoder, **shape, **options)
    decoder = bind(f"decoder {config.decoder}", make_decoder, config.options, given={**shape, "generate": generate})
    linear = decoder.needs_linear
    tables = [
        Table(spec.name, spec.rows, spec.dim or config.dim, spec.fields, spec.pool if spec.pooled else "none", linear)
        for spec in features.tables
    ]
    try:
        sparse = SparseArch(tables, device=torch.device("meta"))
        embed = FieldEmbedding(fields, width=config.dim, linear=linear)
    except ValueError as error:
        raise GenctrError(f"the schema's fields: {error}") from error
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


def _prepare(folder: str, config: RunConfig, schema: Schema) -> None:
    """What is done once for all ranks: the folder is this run's, and holds its vocabularies and statistics."""
    try:
        _claim(folder, config, schema)
    except OSError as error:
        raise GenctrError(f"the run folder cannot be written: {error}\n  next: mend {folder}, or give another --out") from error
    if not PATHS.exists(f"{folder}/{STATISTICS}"):
        reader = build_reader(config.data)
        train_days = parse_days(config.data.days)
        names = parse_days(config.data.fit) or (train_days[:1] if config.train.score_first else train_days)
        batches = _batches(build_days(config.data, reader), reader, names, schema)
        fit(schema, batches, seed=config.seed).save(f"{folder}/statistics")


def _claim(folder: str, config: RunConfig, schema: Schema) -> None:
    """Store the resolved config; where a run has saved something, refuse what would make it another run."""
    if PATHS.exists(f"{folder}/config.yaml"):
        changed = _changes(folder, config, schema)
        if changed and PATHS.exists(f"{folder}/checkpoints"):
            told = "\n".join(f"  {line}" for line in changed)
            raise GenctrError(f"{folder} was begun with another config:\n{told}\n  next: set these back, or give a new --out")
        if changed and PATHS.exists(f"{folder}/{STATISTICS}"):
            PATHS.rm(f"{folder}/{STATISTICS}")
    PATHS.mkdirs(folder)
    _store(f"{folder}/schema.yaml", schema)
    _store(f"{folder}/config.yaml", config.model_copy(update={"schema_file": "schema.yaml"}))


def _changes(folder: str, config: RunConfig, schema: Schema) -> list[str]:
    """What would make this another run than the one the folder was begun with, a line each."""
    begun, begun_schema = load_run(folder)
    before, now = _flat(begun.model_dump()), _flat(config.model_dump())
    changed = sorted(
        key
        for key in before.keys() | now.keys()
        if before.get(key) != now.get(key)
        and key not in MAY_CHANGE
        and not key.startswith("checkpoint.")
        and not key.endswith(".sharding")
    )
    lines = [f"{key}: begun with {before.get(key)!r}, now {now.get(key)!r}" for key in changed]
    return lines if begun_schema == schema else [*lines, "the schema: see schema.yaml there"]


def _store(path: str, document: Section) -> None:
    """Write a document whole or not at all. A store behind a scheme puts it whole by itself."""
    if "://" in path:
        write_document(path, document)
        return
    write_document(f"{path}.tmp", document)
    os.replace(f"{path}.tmp", path)


def _flat(tree: object, prefix: str = "") -> dict[str, object]:
    if isinstance(tree, dict):
        return {k: v for name, branch in tree.items() for k, v in _flat(branch, f"{prefix}.{name}" if prefix else name).items()}
    return {prefix: tree}
