"""Everything a run can be told. One YAML file in, frozen objects out."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from data.days import goes_on_to, parse_days
from data.document import BadValue, Section, nearest, read_document
from data.errors import BadDocument
from data.schema import AnyField, AnyIds, NumberField, Schema
from pipeline.config.daily import DailyConfig
from pipeline.config.data import DataConfig
from pipeline.config.model import ModelConfig
from pipeline.config.stages import PRETRAIN_TABLES, PRETRAIN_TRAIN, LoadConfig, StageConfig
from pipeline.config.tables import TablesConfig, merged
from pipeline.config.train import CheckpointConfig, TrainConfig


@dataclass(frozen=True)
class Stage:
    """A stage with nothing left unsaid.

    Args:
        config: the run's config with the stage's settings on top. The others: see `StageConfig`.
    """

    name: str
    task: Literal["pretrain", "rank"]
    config: "RunConfig"
    fields: tuple[str, ...] = ()
    load: LoadConfig | None = None
    freeze: tuple[str, ...] = ()


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

    daily: DailyConfig = DailyConfig()
    """The daily job; `genctr train` does not read it."""

    stages: tuple[StageConfig, ...] = ()
    """The phases of training, in order. Empty: one stage called `rank`; before it, for a denoiser, one called `pretrain`,
    whose tables and network it takes over."""

    def resolved(self) -> tuple[Stage, ...]:
        """The stages, each with its whole config."""
        stages = self.stages
        if not stages and self.model.denoises:
            load = LoadConfig(stage="pretrain")
            before = StageConfig(name="pretrain", task="pretrain", tables=PRETRAIN_TABLES, train=PRETRAIN_TRAIN)
            stages = (before, StageConfig(name="rank", load=load))
        if not stages:
            return (Stage("rank", "rank", self),)
        return tuple(
            Stage(stage.name, stage.task, self._with(stage, at), stage.fields, stage.load, stage.freeze)
            for at, stage in enumerate(stages)
        )

    def _with(self, stage: StageConfig, at: int) -> "RunConfig":
        values = self.model_dump(by_alias=True, exclude={"stages"})
        for section in ("data", "model", "tables", "train"):
            values[section] = merged(values[section], getattr(stage, section))
        if stage.task == "pretrain":
            values["train"]["early_stop"] = stage.train.get("early_stop")  # the run's own looks at clicks
        try:
            return _OneStage.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            place = first["ctx"]["error"].place if isinstance(first.get("ctx", {}).get("error"), BadValue) else ()
            raise BadValue(f"{first['msg']}, got {first['input']!r}"[:300], "stages", at, *first["loc"], *place) from error

    @model_validator(mode="after")
    def _stages_fit_together(self) -> "RunConfig":
        trained: dict[str, str] = {}
        earlier: dict[str, TablesConfig] = {}
        for at, stage in enumerate(self.resolved() if type(self) is RunConfig else ()):
            here = ("stages", at) if self.stages else ()
            if stage.name in earlier:
                raise BadValue(f"two stages are called {stage.name!r}", *here, "name")
            if stage.load is not None and stage.load.stage not in earlier:
                raise BadValue(f"no stage before this one; {nearest(stage.load.stage, list(earlier))}", *here, "load", "stage")
            _check_task(stage, *here)
            _check_days(stage, trained, *here)
            if stage.load is not None and stage.load.what in ("tables", "all"):
                _check_precision(stage.config.tables, earlier[stage.load.stage], stage.load, *here)
            if at + 1 < len(self.stages) and self.stages[at].data.get("test"):
                raise BadValue("no model but the last stage's is tested: set it there", *here, "data", "test")
            trained |= dict.fromkeys(parse_days(stage.config.data.days), stage.name)
            earlier[stage.name] = stage.config.tables
        return self

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
        for table in self.daily.row_decay:
            if self.tables.of(table).precision == "fp16":
                told = "fp16 rounds small decays away: leave it out, or set tables.precision to fp32"
                raise BadValue(told, "daily", "row_decay", table)
        if self.daily.row_decay and self.stages and "tables" in self.stages[-1].freeze:
            raise BadValue("the last stage freezes the tables: they cannot forget, leave it out", "daily", "row_decay")
        if self.train.early_stop and not self.data.validation:
            raise BadValue("there are no days to look at: set data.validation", "train", "early_stop")
        return self


class _OneStage(RunConfig):
    """The config of one stage: has no stages itself."""


def _check_task(stage: Stage, *here: str | int) -> None:
    """The model can do the stage's task, and is judged by what the task gives."""
    train, pretrains = stage.config.train, stage.task == "pretrain"
    if pretrains and not stage.config.model.denoises:
        raise BadValue(f"paradigm {stage.config.model.paradigm} restores nothing: set diffusion or hetegen", *here, "task")
    if pretrains and train.score_first:
        raise BadValue("a pre-training gives no click scores: set it to false", *here, "train", "score_first")
    if train.early_stop is not None and (train.early_stop.metric == "loss") != pretrains:
        allowed = "loss" if pretrains else "auc, gauc, logloss or ne"
        raise BadValue(f"a {stage.task} stage is judged by {allowed}", *here, "train", "early_stop", "metric")


def _check_precision(tables: TablesConfig, loaded: TablesConfig, load: LoadConfig, *here: str | int) -> None:
    """Tables are stored as in the stage they come from: blank rows of fp16 tables mean something, those of fp32 ones do not."""
    for name in ("", *tables.only, *loaded.only):
        before, now = loaded.of(name).precision, tables.of(name).precision
        place = ("tables", "only", name, "precision") if name else ("tables", "precision")
        if before != now:
            raise BadValue(f"stage {load.stage}, whose tables are loaded, stores them as {before}", *here, *place)
        if now == "fp16" and load.rescale is not None:
            told = "rows of fp16 tables that are not there yet cannot be scaled: leave it out"
            raise BadValue(told, *here, "load", "rescale")


def _check_days(stage: Stage, trained: Mapping[str, str], *here: str | int) -> None:
    """No day is scored that an earlier stage has trained."""
    for place, days in _scored(stage.config).items():
        for day in days:
            if day in trained:
                raise BadValue(f"{day} was trained by stage {trained[day]}: no score would be honest", *here, *place)
    own = stage.config.data.days
    for day in trained if stage.config.train.score_first else ():
        if goes_on_to(own, day):
            told = f"{day}, which is scored, was trained by stage {trained[day]}: begin with the last such day, or later"
            raise BadValue(told, *here, "data", "days")


def _scored(config: RunConfig) -> dict[tuple[str, str], list[str]]:
    """The days that a stage scores, by what says so."""
    data = config.data
    first = {("train", "score_first"): parse_days(data.days)[1:]} if config.train.score_first else {}
    return {("data", use): parse_days(getattr(data, use)) for use in ("validation", "test")} | first


def fit_days(config: RunConfig) -> list[str]:
    """The days that vocabularies and statistics are built from: none that a stage scores, unless the config names it."""
    days, stages = parse_days(config.data.days), [stage.config for stage in config.resolved()]
    scored = {day for stage in stages for names in _scored(stage).values() for day in names}
    unseen = [day for day in (days[:1] if config.train.score_first else days) if day not in scored]
    return parse_days(config.data.fit) or unseen or parse_days(stages[0].data.days)[:1]


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
    for name in config.daily.row_decay:
        if name not in tables and name.removesuffix("_linear").removesuffix("_second") not in tables:
            raise BadDocument(f"{path}: daily.row_decay.{name}: {schema_path} makes no such table\n  {nearest(name, tables)}")
    if schema.managed and any(stage.config.model.denoises for stage in config.resolved()):
        raise BadDocument(
            f"{path}: model.paradigm: a denoiser cannot have managed tables, and {schema_path} says ids: managed of "
            f"{schema.managed[0].name}\n  it restores ids among all the rows of a table, and these change hands: say ids: hash "
            "there, or set plain or sfg"
        )
    ahead = [
        train.pipeline for stage in config.resolved() if (train := stage.config.train).pipeline in ("sparse_dist", "prefetch")
    ]
    if schema.managed and ahead:
        raise BadDocument(
            f"{path}: train.pipeline: {ahead[0]} looks ids up a step ahead, and which rows those of {schema.managed[0].name} "
            "have (ids: managed) depends on the step before\n  set it to auto"
        )
    return config, schema


def _has_table(field: AnyField) -> bool:
    """Whether a field has an embedding table of its own, called as the field."""
    return (isinstance(field, AnyIds) and field.table is None) or (isinstance(field, NumberField) and field.buckets is not None)
