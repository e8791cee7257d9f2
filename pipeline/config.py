"""Everything a run can be told. One YAML file in, frozen objects out."""

import posixpath
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, PositiveInt, ValidationError, model_validator

from data.days import parse_days
from data.document import BadValue, Section, nearest, read_document
from data.errors import BadDocument, GenctrError
from data.schema import AnyField, AnyIds, NumberField, Schema


class DataConfig(Section):
    """Where the log is, which days are for what, and how they are read."""

    root: str
    """Folder or URI (file, s3, or a scheme a company registered) that holds the days."""

    days: str | tuple[str, ...]
    """The days to train, in order: `2026-11-01..2026-11-20`, or a list of day names."""

    validation: str | tuple[str, ...] = ()
    """The days early stopping looks at; never trained."""

    test: str | tuple[str, ...] = ()
    """The days scored once, with the final model; nothing else ever looks at them."""

    fit: str | tuple[str, ...] = ()
    """The days vocabularies and statistics are built from; empty means the training days, or, if train.score_first, the first
    of them: a day that is scored is not looked at before."""

    layout: str = "day={day}"
    """Where a day lies under the root: a folder per day, or one file per day such as `{day}.parquet`."""

    success: str | None = "_SUCCESS"
    """The file that marks a day's folder as complete; null takes every folder for complete."""

    format: str = "parquet"
    """Name of the reader: parquet, csv, or one that an installed package adds."""

    reader_options: dict[str, Any] = {}
    """Settings of the reader, by its argument names."""

    shuffle_rows: int = Field(default=65_536, ge=0)
    """[rows] shuffled together, over all lanes; 0 reads in file order."""

    lanes: PositiveInt = 4
    """[lanes] a day is cut into; the most ranks that can share it, and a divisor of batch_rows."""

    prefetch: int = Field(default=2, ge=0)
    """[batches] made ahead by a background thread; 0 makes them in the loop."""

    check: Literal["footer", "full"] = "footer"
    """What is read of a day's files before its first row trains: their footers, or every page."""

    bad_files: Literal["stop", "quarantine"] = "stop"
    """What a file that cannot be read does: stop the run, or be left out and named in the log."""

    bad_rows: Literal["stop", "skip"] = "stop"
    """What a row that is not what the schema says does: stop the run, or be left out and counted."""

    @model_validator(mode="after")
    def _every_day_is_for_one_thing(self) -> "DataConfig":
        uses: dict[str, str] = {}
        for use in ("fit", "days", "validation", "test"):
            try:
                names = parse_days(getattr(self, use))
            except GenctrError as error:
                raise BadValue(str(error), use) from error
            if use == "days" and not names:
                raise BadValue("no day to train", use)
            for day in names if use != "fit" else ():
                if day in uses:
                    raise BadValue(f"{day} is in {uses[day]} already: no score would be honest", use)
                uses[day] = use
        return self


class EncoderConfig(Section):
    """The SFG encoder: generated = gamma * activation(flat(emb) @ W.T), plus emb if residual."""

    activation: Literal["relu", "linear", "tanh", "sigmoid", "silu"] = "relu"
    """The non-linearity of the generated embeddings."""

    gamma: float = 1.0
    """[1] fixed scale of the generated embeddings; tune it per log, grid .005 to 36."""

    residual: bool = False
    """Whether the raw embeddings are added to the generated ones."""


class ModelConfig(Section):
    """The click model."""

    paradigm: Literal["plain", "sfg"] = "plain"
    """Raw embeddings on both sides of every product, or one side generated from all the fields."""

    decoder: str = "dcnv2"
    """Name of the interaction decoder."""

    dim: PositiveInt = 16
    """[columns] width of every field's embedding inside the model, and of tables that name no width."""

    options: dict[str, Any] = {}
    """Settings of the decoder, by its argument names."""

    encoder: EncoderConfig = EncoderConfig()
    """The SFG encoder; only read when paradigm is sfg."""

    loss: str = "bce"
    """Name of the loss on each task's logits."""


class InitConfig(Section):
    """How a table's rows begin; the same values for any sharding and number of ranks."""

    kind: Literal["normal", "uniform"] = "uniform"
    """normal: N(0, scale^2). uniform: between -scale and scale."""

    scale: float | None = Field(default=None, gt=0)
    """[1] spread of the first values; null is 1/sqrt(rows) as TorchRec has it."""


class TableConfig(Section):
    """How embedding tables learn and where they live."""

    optimizer: Literal["sgd", "adagrad", "rowwise_adagrad", "adam", "lazy_adam"] = "rowwise_adagrad"
    """Fused into the backward pass. adam moves every row every step, lazy_adam only those looked up."""

    lr: float = Field(default=0.05, gt=0)
    """[1] learning rate after warm-up."""

    weight_decay: float = Field(default=0.0, ge=0)
    """[1] lambda. adam adds lambda * weight to the gradient, lazy_adam takes lr * lambda * weight off the rows it looks up;
    on a CPU the others have none."""

    decay: Literal["touched", "table"] = "touched"
    """Which rows decay: those looked up in the step, or the whole table (adam only)."""

    eps: float = Field(default=1e-8, gt=0)
    """[1] added to the denominator of adaptive optimizers."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    """[1] decay of the first moment."""

    beta2: float = Field(default=0.999, ge=0, lt=1)
    """[1] decay of the second moment."""

    init: InitConfig = InitConfig()
    """The first values."""

    sharding: Literal["auto", "table_wise", "row_wise", "column_wise", "table_row_wise", "table_column_wise", "grid_shard"] = (
        "auto"
    )
    """How the table is spread over ranks; auto leaves it to TorchRec's planner."""


class TablesConfig(TableConfig):
    """The settings of all tables, and of single ones."""

    only: dict[str, dict[str, Any]] = {}
    """Settings of single tables, by table name; what is not said is taken from above."""

    @model_validator(mode="after")
    def _single_tables_are_valid(self) -> "TablesConfig":
        for name, settings in self.only.items():
            for key in settings:
                if key not in TableConfig.model_fields:
                    raise BadValue(f"unknown key; {nearest(key, list(TableConfig.model_fields))}", "only", name, key)
            try:
                self.of(name)
            except ValidationError as error:
                first = error.errors()[0]
                raise BadValue(f"{first['msg']}, got {first['input']!r}", "only", name, *first["loc"]) from error
        return self

    def of(self, name: str) -> TableConfig:
        """The settings of one table."""
        common = self.model_dump(exclude={"only"})
        return TableConfig.model_validate(common | self.only.get(name, {}))


class DenseConfig(Section):
    """The optimizer of everything but the embedding tables."""

    optimizer: Literal["adam", "adamw"] = "adam"
    """adamw decays weights apart from the gradient."""

    lr: float = Field(default=1e-3, gt=0)
    """[1] learning rate after warm-up."""

    weight_decay: float = Field(default=0.0, ge=0)
    """[1] L2 of adam, decoupled decay of adamw."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    """[1] decay of the first moment."""

    beta2: float = Field(default=0.999, ge=0, lt=1)
    """[1] decay of the second moment."""

    eps: float = Field(default=1e-8, gt=0)
    """[1] added to the denominator."""

    clip_norm: float | None = Field(default=None, gt=0)
    """[1] largest norm of the dense gradient; null does not clip."""


class ScheduleConfig(Section):
    """How the learning rates of tables and dense weights move, as a factor of the step alone."""

    warmup_steps: int = Field(default=0, ge=0)
    """[steps] over which the factor rises from 0 to 1."""

    decay: Literal["none", "linear", "cosine"] = "none"
    """The fall from 1 to `floor` over `decay_steps` after the warm-up."""

    decay_steps: PositiveInt = 100_000
    """[steps] the fall takes; the factor stays at `floor` after it."""

    floor: float = Field(default=0.0, ge=0, le=1)
    """[1] the factor at the end of the fall."""


class EarlyStopConfig(Section):
    """Stop when the validation days no longer improve; the best epoch is kept."""

    metric: Literal["auc", "gauc", "logloss", "ne"] = "auc"
    """What is compared, of the first task."""

    patience: PositiveInt = 2
    """[epochs] without improvement before stopping."""

    min_delta: float = Field(default=1e-6, gt=0)
    """[1] least improvement that counts."""

    lr_factor: float = Field(default=1.0, gt=0, le=1)
    """[1] learning rates are multiplied by this after each epoch without improvement."""


class TrainConfig(Section):
    """How long, how fast, on how many ranks."""

    ranks: PositiveInt = 1
    """[ranks] processes on this machine; a launcher's WORLD_SIZE wins."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where tensors live; auto is cuda if there is one."""

    batch_rows: PositiveInt = 4096
    """[rows] one step trains, over all ranks together: the same step for any number of ranks."""

    epochs: PositiveInt = 1
    """[passes] over the training days."""

    max_steps: PositiveInt | None = None
    """[steps] after which to stop early; null trains every row."""

    score_first: bool = False
    """Whether every day but the first is scored before one of its rows trains (first epoch)."""

    dense: DenseConfig = DenseConfig()
    """The dense optimizer."""

    schedule: ScheduleConfig = ScheduleConfig()
    """The learning rates over time."""

    early_stop: EarlyStopConfig | None = None
    """Needs validation days; null trains all epochs."""

    log_every_steps: PositiveInt = 50
    """[steps] between two lines of training metrics in the log."""


class CheckpointConfig(Section):
    """How often a run is saved and how much of it is kept. A day's end is always saved."""

    every_steps: PositiveInt = 1000
    """[steps] between two saves inside a day."""

    keep: PositiveInt = 2
    """[checkpoints] newest ones kept; the best epoch's is kept besides."""

    asynchronous: bool = True
    """Whether training goes on while a save is written."""


class RunConfig(Section):
    """A whole run."""

    name: str = "run"
    """What the run is called in tables and logs."""

    schema_file: str = Field(alias="schema")
    """Path or URI of the schema; a relative one starts at this file's folder."""

    seed: int = Field(default=2026, ge=0)
    """[1] of shuffling, first weights and dropout."""

    data: DataConfig
    """The log."""

    model: ModelConfig = ModelConfig()
    """The model."""

    tables: TablesConfig = TablesConfig()
    """The embedding tables."""

    train: TrainConfig = TrainConfig()
    """The training."""

    checkpoint: CheckpointConfig = CheckpointConfig()
    """The saves."""

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "RunConfig":
        if self.train.batch_rows % self.data.lanes:
            below = self.train.batch_rows // self.data.lanes * self.data.lanes
            near = [rows for rows in (below, below + self.data.lanes) if rows]
            raise BadValue(
                f"{self.train.batch_rows} is not a multiple of data.lanes, {self.data.lanes}: "
                f"choose {' or '.join(map(str, near))}",
                *("train", "batch_rows"),
            )
        if self.train.early_stop and not self.data.validation:
            raise BadValue("there are no days to look at: set data.validation", "train", "early_stop")
        return self


def load(path: str, overrides: Sequence[str] = ()) -> tuple[RunConfig, Schema]:
    """Read a run file and the schema it names.

    Args:
        path: path or URI of the run file.
        overrides: `section.key=value` each, value in YAML.

    Raises:
        BadDocument: names the file, the line, the key and the nearest valid one.
    """
    config = read_document(path, RunConfig, overrides)
    schema_path = config.schema_file
    if "://" not in schema_path:
        schema_path = posixpath.join(posixpath.dirname(path), schema_path)  # a path from / stays as it is
    schema = read_document(schema_path, Schema)
    tables = [field.name for field in schema.fields if _has_table(field)]
    for name in config.tables.only:
        if name not in tables:
            raise BadDocument(f"{path}: tables.only.{name}: {schema_path} makes no such table\n  {nearest(name, tables)}")
    return config, schema


def _has_table(field: AnyField) -> bool:
    """Whether a field has an embedding table of its own, called as the field."""
    return (isinstance(field, AnyIds) and field.table is None) or (isinstance(field, NumberField) and field.buckets is not None)
