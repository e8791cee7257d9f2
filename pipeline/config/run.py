"""All settings of a run. One YAML file in, frozen objects out."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Union

from pydantic import Field, ValidationError, ValidationInfo, create_model, model_validator

from data.day_names import goes_on_to, parse_days
from data.errors import BadDocument
from data.schema import AnyField, AnyIds, NumberField, Schema
from data.yaml_document import BadValue, Section, nearest, read_document
from pipeline.config.daily import DailyConfig
from pipeline.config.data import DataConfig
from pipeline.config.family import Family, ModelSection, family_of
from pipeline.config.registry import find, names
from pipeline.config.renamed import RENAMED
from pipeline.config.stages import LoadConfig, StageConfig
from pipeline.config.tables import TablesConfig, merged
from pipeline.config.train import CheckpointConfig, TrainConfig

SCHEMA = "schema"
"""What an override of the schema begins with."""


@dataclass(frozen=True)
class Stage:
    """A stage with nothing left unsaid.

    Args:
        config: the run's config with the stage's settings on top. The others: see `StageConfig`.
    """

    name: str
    objective: str
    config: "RunConfig"
    fields: tuple[str, ...] = ()
    load: LoadConfig | None = None
    freeze: tuple[str, ...] = ()


class RunConfig(Section):
    """A whole run. What a file may say of `model` depends on the families there are: files are read as `run_section()`."""

    renamed: ClassVar[Mapping[str, str]] = RENAMED

    name: str = "run"
    """What the run is called in tables and logs."""

    schema_file: str = Field(alias="schema")
    """Path or URI of the schema; a relative one starts at this file's folder."""

    seed: int = Field(default=2026, ge=0)
    """[1] of shuffling, first weights and dropout."""

    data: DataConfig
    """The log."""

    model: ModelSection
    """The model, of one of the families; of the ranker family unless it says another."""

    tables: TablesConfig = TablesConfig()
    """The embedding tables."""

    train: TrainConfig = TrainConfig()
    """The training."""

    checkpoint: CheckpointConfig = CheckpointConfig()
    """The saves."""

    daily: DailyConfig = DailyConfig()
    """The daily job; `genctr train` does not read it."""

    stages: tuple[StageConfig, ...] = ()
    """The phases of training, in order. Empty: those of the model's family. Of a ranker one called `rank`; of a denoiser
    before it one called `pretrain`, whose tables and network it takes over."""

    @property
    def family(self) -> Family:
        """The kind of model."""
        return family_of(self.model)

    def resolved(self) -> tuple[Stage, ...]:
        """The stages, each with its whole config."""
        stages = self.stages or self.family.stages()
        return tuple(self._resolved(stage, at, last=stages[-1]) for at, stage in enumerate(stages))

    def _resolved(self, stage: StageConfig, at: int, *, last: StageConfig) -> Stage:
        values = self.model_dump(by_alias=True, exclude={"stages"})
        for section in ("data", "tables", "train"):
            values[section] = merged(values[section], getattr(stage, section))
        values["model"] = _merged_model(values["model"], stage.model)
        if stage.objective != last.objective:
            values["train"]["early_stop"] = stage.train.get("early_stop")  # the run's own is about what the last stage computes
        try:
            config = type(self).model_validate(values, context={"stage": stage.name})
        except ValidationError as error:
            first = error.errors()[0]
            place = first["ctx"]["error"].place if isinstance(first.get("ctx", {}).get("error"), BadValue) else ()
            loc = [step for step in first["loc"] if step != values["model"]["family"]]  # pydantic's name of the union's member
            raise BadValue(_text(first), "stages", at, *loc, *place) from error
        objective = stage.objective or next(iter(config.family.objectives))
        return Stage(stage.name, objective, config, stage.fields, stage.load, stage.freeze)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return _unpickled, (self.__getstate__(),)  # its class is made again in every process

    @model_validator(mode="before")
    @classmethod
    def _is_a_ranker_unless_it_says_otherwise(cls, values: Any) -> Any:
        model = values.get("model", {}) if isinstance(values, dict) else None
        return values | {"model": {"family": "ranker"} | model} if isinstance(model, dict) else values

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "RunConfig":
        if self.train.global_batch_rows % self.data.lanes:
            below = self.train.global_batch_rows // self.data.lanes * self.data.lanes
            near = [rows for rows in (below, below + self.data.lanes) if rows]
            raise BadValue(
                f"{self.train.global_batch_rows} is not a multiple of data.lanes, {self.data.lanes}: "
                f"choose {' or '.join(map(str, near))}",
                *("train", "global_batch_rows"),
            )
        for table in self.daily.table_decay:
            if self.tables.of(table).precision == "fp16":
                told = "fp16 rounds small decays away: leave it out, or set tables.precision to fp32"
                raise BadValue(told, "daily", "table_decay", table)
        if self.daily.table_decay and self.stages and "tables" in self.stages[-1].freeze:
            raise BadValue("the last stage freezes the tables: they cannot decay, leave it out", "daily", "table_decay")
        if self.train.early_stop and not self.data.validation:
            raise BadValue("there are no days to look at: set data.validation", "train", "early_stop")
        return self

    @model_validator(mode="after")
    def _stages_fit_together(self, info: ValidationInfo) -> "RunConfig":
        trained: dict[str, str] = {}
        earlier: dict[str, TablesConfig] = {}
        for at, stage in enumerate(self.resolved() if not info.context else ()):  # the config of a stage has none
            here = ("stages", at) if self.stages else ()
            if stage.name in earlier:
                raise BadValue(f"two stages are called {stage.name!r}", *here, "name")
            if stage.load is not None and stage.load.stage not in earlier:
                raise BadValue(f"no stage before this one; {nearest(stage.load.stage, list(earlier))}", *here, "load", "stage")
            _check_objective(stage, *here)
            _check_days(stage, trained, *here)
            if stage.load is not None and stage.load.parts in ("tables", "all"):
                _check_precision(stage.config.tables, earlier[stage.load.stage], stage.load, *here)
            if at + 1 < len(self.stages) and self.stages[at].data.get("test"):
                raise BadValue("only the last stage may set data.test", *here, "data", "test")
            trained |= dict.fromkeys(parse_days(stage.config.data.days), stage.name)
            earlier[stage.name] = stage.config.tables
        return self


def run_section() -> type[RunConfig]:
    """What a run file is read as: `RunConfig`, whose `model` is a section of one of the families that are installed."""
    return _run_section(tuple(names("genctr.families")))


def _unpickled(state: dict[Any, Any]) -> RunConfig:
    section = run_section()
    config = section.__new__(section)
    config.__setstate__(state)
    return config


@cache
def _run_section(families: tuple[str, ...]) -> type[RunConfig]:
    sections = tuple(find("genctr.families", name).options for name in families)
    said = RunConfig.model_fields["model"].description
    model: Any = Annotated[Union[sections], Field(discriminator="family", description=said)]  # noqa: UP007
    return create_model("RunConfig", __base__=RunConfig, __module__=__name__, model=(model, ...))


def _merged_model(model: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's model on top of the run's. One of another family says all of its own keys, and so does another kind of
    encoder."""
    if over.get("family", model["family"]) != model["family"]:
        return {"dim": model["dim"], **over}
    replaced = {
        key: value
        for key, value in over.items()
        if isinstance(value, dict) and "kind" in value and value["kind"] != (model.get(key) or {}).get("kind")
    }
    return merged(model, over) | replaced


def _text(mistake: Any) -> str:
    """What pydantic has to say of a stage's value."""
    if mistake["type"] == "value_error":
        return str(mistake["ctx"]["error"])
    return f"{mistake['msg']}, got {mistake['input']!r}"[:300]


def _check_objective(stage: Stage, *here: str | int) -> None:
    """The family has the stage's objective, and the stage is judged by what that gives."""
    model, train = stage.config.model, stage.config.train
    objectives = list(stage.config.family.objectives)
    if stage.objective not in objectives:
        told = f"the family {model.family} has no objective {stage.objective!r}; {nearest(stage.objective, objectives)}"
        raise BadValue(told, *here, "objective")
    metric = train.early_stop.metric if train.early_stop is not None else None
    if not train.progressive_validation and metric is None:
        return
    objective = find("genctr.objectives", stage.objective)
    if train.progressive_validation and not objective.scores_rows:
        raise BadValue(f"{stage.objective} scores no rows: set it to false", *here, "train", "progressive_validation")
    if metric is not None and metric not in objective.higher_is_better:
        known = list(objective.higher_is_better)
        told = f"{stage.objective} is judged by {', '.join(known)}; {nearest(metric, known)}"
        raise BadValue(told, *here, "train", "early_stop", "metric")


def _check_precision(tables: TablesConfig, loaded: TablesConfig, load: LoadConfig, *here: str | int) -> None:
    """Tables are stored as in the stage they come from: blank rows of fp16 tables mean something, those of fp32 ones do not."""
    for name in ("", *tables.overrides, *loaded.overrides):
        before, now = loaded.of(name).precision, tables.of(name).precision
        place = ("tables", "overrides", name, "precision") if name else ("tables", "precision")
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
    for day in trained if stage.config.train.progressive_validation else ():
        if goes_on_to(own, day):
            told = f"{day}, which is scored, was trained by stage {trained[day]}: begin with the last such day, or later"
            raise BadValue(told, *here, "data", "days")


def _scored(config: RunConfig) -> dict[tuple[str, str], list[str]]:
    """The days that a stage scores, by what says so."""
    data = config.data
    first = {("train", "progressive_validation"): parse_days(data.days)[1:]} if config.train.progressive_validation else {}
    return {("data", use): parse_days(getattr(data, use)) for use in ("validation", "test")} | first


def fit_days(config: RunConfig) -> list[str]:
    """The days that vocabularies and statistics are built from: none that a stage scores, unless the config names it."""
    days, stages = parse_days(config.data.days), [stage.config for stage in config.resolved()]
    scored = {day for stage in stages for names in _scored(stage).values() for day in names}
    unseen = [day for day in (days[:1] if config.train.progressive_validation else days) if day not in scored]
    return parse_days(config.data.statistics_days) or unseen or parse_days(stages[0].data.days)[:1]


def load(path: str, overrides: Sequence[str] = ()) -> tuple[RunConfig, Schema]:
    """Read a run file and the schema it names.

    Args:
        path: path or URI of the run file.
        overrides: `section.key=value` each, value in YAML; `schema.key=value` changes the schema, whose fields and labels go by
            name: `schema.fields.user_id.dim=32`.

    Raises:
        BadDocument: names the file, the line, the key and the nearest valid one.
    """
    of_schema = [override for override in overrides if override.partition("=")[0].startswith(f"{SCHEMA}.")]
    config = read_document(path, run_section(), [override for override in overrides if override not in of_schema])
    schema_path = config.schema_file
    if "://" not in schema_path:
        schema_path = posixpath.join(posixpath.dirname(path), schema_path)  # a path from / stays as it is
    schema = read_document(schema_path, Schema, of_schema, below=SCHEMA)
    tables = [field.name for field in schema.fields if _has_table(field)]
    for name in config.tables.overrides:
        if name not in tables:
            raise BadDocument(f"{path}: tables.overrides.{name}: {schema_path} makes no such table\n  {nearest(name, tables)}")
    for name in config.daily.table_decay:
        if name not in tables and name.removesuffix("_linear").removesuffix("_second") not in tables:
            raise BadDocument(f"{path}: daily.table_decay.{name}: {schema_path} makes no such table\n  {nearest(name, tables)}")
    stages = [stage.config for stage in config.resolved()]
    if schema.managed and (unfit := [own.model.family for own in stages if not own.family.reads.managed_ids]):
        raise BadDocument(
            f"{path}: model.family: a {unfit[0]} cannot have managed tables, and {schema_path} says ids: managed of "
            f"{schema.managed[0].name}\n  their rows change hands, and the model needs them to stay: say ids: hash there, or "
            "choose another family"
        )
    ahead = [own.train.pipeline for own in stages if own.train.pipeline in ("sparse_dist", "prefetch")]
    if schema.managed and ahead:
        raise BadDocument(
            f"{path}: train.pipeline: {ahead[0]} looks ids up a step ahead, and which rows those of {schema.managed[0].name} "
            "have (ids: managed) depends on the step before\n  set it to auto"
        )
    return config, schema


def _has_table(field: AnyField) -> bool:
    """Whether a field has an embedding table of its own, called as the field."""
    return (isinstance(field, AnyIds) and field.table is None) or (isinstance(field, NumberField) and field.buckets is not None)
