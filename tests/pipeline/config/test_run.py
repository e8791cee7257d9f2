"""Every setting says what it is, every mistake is told with its line, and the ready configs are whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import BaseModel, Field

from data.day_names import open_end, parse_days
from data.days import write_day
from data.errors import BadDocument, GenctrError
from data.schema import IdField, IdsField, NumberField, Schema, SequenceField, VectorField
from data.yaml_document import Section
from pipeline.config.run import RunConfig, fit_days, load
from pipeline.config.tables import TableConfig, TablesConfig
from pipeline.jobs.train import run
from pipeline.run_folder.claim import check_changes, claim, load_run
from tests.tiny import ROOT, SCHEMA, built

MINIMAL = f"schema: {SCHEMA}\ndata:\n  root: /log\n  days: 2026-11-01..2026-11-03\n"


def settings(model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """Every setting below a model, as its JSON schema has it, by dotted path."""
    document = model.model_json_schema()

    def below(section: dict[str, Any], path: str) -> dict[str, dict[str, Any]]:
        found = {}
        for name, setting in section["properties"].items():
            found[path + name] = setting
            for part in [setting, *setting.get("anyOf", [])]:
                if "$ref" in part:
                    found |= below(document["$defs"][part["$ref"].rsplit("/", 1)[-1]], f"{path}{name}.")
        return found

    return below(document, "")


def is_number(setting: dict[str, Any]) -> bool:
    return any(part.get("type") in {"integer", "number"} for part in [setting, *setting.get("anyOf", [])])


def is_told(setting: dict[str, Any]) -> bool:
    """Whether a setting says what it is, and a number its unit first."""
    words = setting.get("description", "")
    return words.startswith("[") and "] " in words if is_number(setting) else bool(words)


def bad(folder: Path, text: str, *overrides: str) -> str:
    """What is said of a run file, without the name of its folder."""
    path = folder / "run.yaml"
    path.write_text(text)
    with pytest.raises(BadDocument) as error:
        load(str(path), overrides)
    return str(error.value).replace(f"{folder}/", "")


ALL = settings(RunConfig)


def test_every_setting_says_what_it_is_and_every_number_its_unit() -> None:
    assert [name for name, setting in ALL.items() if not is_told(setting)] == []


def test_the_settings_are_found_at_every_depth() -> None:
    assert {"schema", "data.lanes", "tables.init.scale", "train.early_stop.patience", "train.dense.clip_norm"} <= set(ALL)
    assert sum(map(is_number, ALL.values())) > 30


class Silent(Section):
    """Settings that the guard must not let through."""

    mute: str = ""
    unitless: int = 1
    """How many."""
    optional: float | None = Field(default=None)
    """How much."""


def test_the_guard_bites() -> None:
    assert [name for name, setting in settings(Silent).items() if is_told(setting)] == []


def test_an_unknown_key_is_told_with_its_line_and_the_nearest_one(tmp_path: Path) -> None:
    told = bad(tmp_path, MINIMAL + "train:\n  epochs: 2\n  global_batch_row: 16\n")

    assert told == "run.yaml, line 7: train.global_batch_row: unknown key\n  did you mean 'global_batch_rows'?"


def test_overrides_win_and_may_name_what_the_file_does_not(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(MINIMAL + "train: {epochs: 2}\n")

    config, _ = load(str(tmp_path / "run.yaml"), ["train.epochs=3", "model.decoder_options={hidden: [8, 4]}", "tables.lr=1e-3"])

    assert (config.train.epochs, config.model.decoder_options, config.tables.lr) == (3, {"hidden": [8, 4]}, 0.001)


def test_a_wrong_override_is_told_as_it_was_written(tmp_path: Path) -> None:
    assert bad(tmp_path, MINIMAL, "train.epoch=3") == (
        "override 'train.epoch=3': train.epoch: unknown key\n  did you mean 'epochs'?"
    )


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        TableConfig().lr = 1.0


def test_a_relative_schema_lies_beside_the_run_file(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("name: own\nlabel: {column: y}\nfields: [{name: x, kind: number}]\n")
    (tmp_path / "run.yaml").write_text(MINIMAL.replace(str(SCHEMA), "own.yaml"))

    assert load(str(tmp_path / "run.yaml"))[1].name == "own"


@pytest.mark.parametrize(
    ("added", "told"),
    [
        (
            "train: {global_batch_rows: 30}\n",
            "line 5: train.global_batch_rows: 30 is not a multiple of data.lanes, 4: choose 28 or 32",
        ),
        ("train: {global_batch_rows: 3}\n", "line 5: train.global_batch_rows: 3 is not a multiple of data.lanes, 4: choose 4"),
        (
            "train:\n  early_stop: {patience: 1}\n",
            "line 6: train.early_stop: there are no days to look at: set data.validation",
        ),
        ("train: {global_batch_rows: 0}\n", "line 5: train.global_batch_rows: Input should be greater than 0, got 0"),
        ("model: {encoder: {kind: sgf}}\n", "line 5: model.encoder.kind: no 'sgf'\n  did you mean 'sfg'?"),
        (
            "tables: {precision: fp16}\ndaily: {table_decay: {item_id: 0.99}}\n",
            "line 6: daily.table_decay.item_id: fp16 rounds small decays away: leave it out, or set tables.precision to fp32",
        ),
        (
            "stages:\n  - {name: rank, freeze: [tables]}\ndaily: {table_decay: {item_id: 0.99}}\n",
            "line 7: daily.table_decay: the last stage freezes the tables: they cannot decay, leave it out",
        ),
        (
            "stages:\n  - {name: rank}\n  - {name: day-2}\n",
            "line 7: stages.1.name: names that begin with day- are those of checkpoints at a day's end: choose another",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, added: str, told: str) -> None:
    assert bad(tmp_path, MINIMAL + added) == f"run.yaml, {told}"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.days=2026-11-31", "data.days: '2026-11-31' is not a date"),
        ("data.days=2026-11-05..2026-11-01", "data.days: days '2026-11-05..2026-11-01': the range ends before it begins"),
        ("data.days=[2026-11-01, 2026-11-01]", "data.days: days named twice: 2026-11-01"),
        ("data.days=[]", "data.days: no day to train"),
        ("data.validation=2026-02-29", "data.validation: '2026-02-29' is not a date"),
        ("data.test=2026-13-01", "data.test: '2026-13-01' is not a date"),
        ("data.statistics_days=2026-00-01", "data.statistics_days: '2026-00-01' is not a date"),
        ("data.validation=[2026-11-03]", "data.validation: 2026-11-03 is in days already: no score would be honest"),
        ("data.test=2026-11-03..2026-11-04", "data.test: 2026-11-03 is in days already: no score would be honest"),
    ],
)
def test_impossible_days_and_days_of_two_uses_are_refused_before_anything_is_read(
    tmp_path: Path, override: str, told: str
) -> None:
    assert bad(tmp_path, MINIMAL, override).startswith(f"override {override!r}: {told}")


@pytest.mark.parametrize("use", ["validation", "test"])
def test_a_day_that_days_without_an_end_will_come_to_is_one_of_them(tmp_path: Path, use: str) -> None:
    days = 'data.days=[2026-11-01..2026-11-03, "2026-11-08.."]'

    assert f"data.{use}: 2026-11-10 is in days already" in bad(tmp_path, MINIMAL, days, f"data.{use}=[2026-11-10]")
    assert load(str(tmp_path / "run.yaml"), [days, f"data.{use}=[2026-11-06]"]), "a day that is left out is free"


@pytest.mark.parametrize("use", ["statistics_days", "validation", "test"])
def test_only_the_days_to_train_may_go_on_without_an_end(tmp_path: Path, use: str) -> None:
    told = bad(tmp_path, MINIMAL, f"data.{use}=2026-11-04..")

    assert told.endswith(f"data.{use}: only days may go on without an end: name the last one")


def test_the_validation_days_are_not_tested_on(tmp_path: Path) -> None:
    told = bad(tmp_path, MINIMAL, "data.validation=[2026-11-04]", "data.test=[2026-11-04]")

    assert "data.test: 2026-11-04 is in validation already" in told


def test_the_days_of_a_vocabulary_may_be_any() -> None:
    config = RunConfig.model_validate({"schema": "s", "data": {"root": "r", "days": ["a", "b"], "statistics_days": ["b", "c"]}})

    assert parse_days(config.data.statistics_days) == ["b", "c"]


def test_a_single_table_takes_from_the_others_what_is_not_said_of_it() -> None:
    tables = TablesConfig(lr=0.3, eps=1e-4, overrides={"item_id": {"lr": 0.1, "init": {"kind": "normal"}}})

    assert (tables.of("item_id").lr, tables.of("item_id").eps, tables.of("item_id").init.kind) == (0.1, 1e-4, "normal")
    assert (tables.of("user_id").lr, tables.of("user_id").init.kind) == (0.3, "uniform")


def test_of_a_single_tables_first_values_too_what_is_not_said_is_that_of_the_others() -> None:
    tables = TablesConfig(init={"kind": "normal", "scale": 0.01}, overrides={"item_id": {"init": {"scale": 0.5}}})

    assert (tables.of("item_id").init.kind, tables.of("item_id").init.scale) == ("normal", 0.5)


@pytest.mark.parametrize(
    ("only", "told"),
    [
        ("{item_id: {lrr: 1}}", "run.yaml, line 7: tables.overrides.item_id.lrr: unknown key; did you mean 'lr'?"),
        ("{item_id: {lr: -1}}", "run.yaml, line 7: tables.overrides.item_id.lr: Input should be greater than 0, got -1"),
        ("{item: {lr: 1}}", "makes no such table\n  did you mean 'item_id'?"),
        # It looks its ids up in another field's table, so what is said of it would be said to nobody.
        ("{history: {lr: 1}}", "tables.overrides.history: "),
        ("{price: {lr: 1}}", "tables.overrides.price: "),
    ],
)
def test_tables_that_are_not_there_and_settings_they_do_not_have(tmp_path: Path, only: str, told: str) -> None:
    assert told in bad(tmp_path, f"{MINIMAL}tables:\n  lr: 1\n  overrides: {only}\n")


# --- the ready configs ---

READY = sorted(path for path in (ROOT / "launch" / "configs").glob("*.yaml") if ".schema." not in path.name)


def column(field: Any, rows: int, rng: np.random.Generator) -> pa.Array:
    """Random values that suit a field."""

    def ids(shape: int) -> Any:
        return rng.integers(0, 5, shape)

    match field:
        case NumberField():
            return pa.array(rng.random(rows))
        case VectorField():
            return pa.array(list(rng.random((rows, field.dim), dtype=np.float32)))
        case IdsField() | SequenceField():
            return pa.array([ids(2) for _ in range(rows)])
        case IdField():
            return pa.array(ids(rows))
    raise AssertionError(field)


def random_log(schema: Schema, root: Path, days: list[str], rows: int = 20) -> None:
    """Days with the columns of a schema and random values."""
    rng = np.random.default_rng(0)
    for day in days:
        columns = {field.column: column(field, rows, rng) for field in schema.fields}
        columns |= {label.column: pa.array(np.arange(rows) % 2) for label in schema.targets}
        for field in schema.fields:
            if isinstance(field, SequenceField) and field.time is not None:
                columns[field.time] = columns[field.column]
        columns |= {schema.time.column: pa.array(np.full(rows, 9))} if schema.time is not None else {}
        write_day(str(root / f"day={day}"), [pa.table(columns)])


TRAINED_BY_DOCS = ("daily", "demo", "hetegen", "managed")
"""Configs that tests of the pages train, on a log that suits them."""


def test_pages_train_the_other_ready_configs() -> None:
    pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))

    assert [name for name in TRAINED_BY_DOCS if f"launch/configs/{name}.yaml" not in pages] == []


@pytest.mark.parametrize("path", [path for path in READY if path.stem not in TRAINED_BY_DOCS], ids=lambda path: path.stem)
def test_a_ready_config_loads_builds_and_trains(path: Path, tmp_path: Path) -> None:
    config, schema = load(str(path))
    overrides = [f"data.root={tmp_path / 'log'}", "train.epochs=1"]
    if open_end(config.data.days):  # a daily job's: one shot of it needs a last day
        overrides.append("data.days=2026-11-01..2026-11-02")
        config, schema = load(str(path), overrides)
    stages = config.resolved()
    parts = [part for own in stages for part in (own.config.data.days, own.config.data.validation, own.config.data.test)]
    days = sorted({day for part in parts for day in parse_days(part)})
    random_log(schema, tmp_path / "log", days)

    with built(path, tmp_path / "run", *overrides) as job:
        results = run(job, quiet=True)

    assert results["rows"] == 20 * sum(len(parse_days(own.config.data.days)) for own in stages)
    assert (results["test"] is not None) == bool(config.data.test)


# --- stages ---

HETEGEN = "model:\n  family: denoiser\n  balance: progress\n"


def test_a_run_without_stages_ranks(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    (stage,) = load(str(path))[0].resolved()

    assert (stage.name, stage.objective, stage.load) == ("rank", "rank", None)


def test_a_denoiser_is_pre_trained_first_and_all_of_it_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL + HETEGEN + "tables: {weight_decay: 0.1, optimizer: adam}\ntrain: {epochs: 5}\n")
    before, after = load(str(path))[0].resolved()

    assert (before.name, before.objective, after.name, after.objective) == ("pretrain", "denoise", "rank", "rank")
    assert after.load is not None
    assert (after.load.stage, after.load.parts) == ("pretrain", "all")
    assert (before.config.tables.weight_decay, after.config.tables.weight_decay) == (0.0, 0.1), "a cosine knows no scale"
    assert (before.config.tables.optimizer, before.config.train.epochs, after.config.train.epochs) == ("adam", 1, 5)


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("", ["2026-11-01", "2026-11-02", "2026-11-03"]),
        ("train: {progressive_validation: true}\n", ["2026-11-01"]),
        ("stages: [{name: a, train: {progressive_validation: true}}]\n", ["2026-11-01"]),
        (
            "stages: [{name: a, data: {days: [2026-11-01, 2026-11-02], test: [2026-11-03]}}]\n",
            ["2026-11-01", "2026-11-02"],
        ),
        ("stages: [{name: a, data: {days: [2026-10-31], test: 2026-11-01..2026-11-03}}]\n", ["2026-10-31"]),
    ],
)
def test_vocabularies_are_of_no_day_that_a_stage_scores(tmp_path: Path, text: str, days: list[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL + text)

    assert fit_days(load(str(path))[0]) == days


def test_a_stage_says_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    stages = "stages:\n  - {name: a, train: {dense: {lr: 0.5}}}\n  - {name: b, data: {days: [2026-11-03]}, freeze: [tables]}\n"
    path.write_text(MINIMAL + "train: {global_batch_rows: 64, dense: {lr: 0.1, clip_norm: 3}}\n" + stages)
    first, second = load(str(path))[0].resolved()

    assert (first.config.train.dense.lr, first.config.train.dense.clip_norm, first.config.train.global_batch_rows) == (
        0.5,
        3,
        64,
    )
    assert second.config.train.dense.lr == 0.1
    assert (parse_days(second.config.data.days), second.freeze) == (["2026-11-03"], ("tables",))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stages: [{name: a, objective: denoise}]\n", "stages.0.objective: the family ranker has no objective 'denoise'"),
        ("stages: [{name: a, train: {epoch: 3}}]\n", "stages.0.train.epoch"),
        ("stages: [{name: a, train: {epochs: many}}]\n", "stages.0.train.epochs"),
        (
            "stages: [{name: a, data: {statistics_days: 2026-11-01}}]\n",
            "stages.0.data.statistics_days: data.statistics_days applies to all stages",
        ),
        (
            "stages: [{name: a, data: {test: 2026-11-09}}, {name: b}]\n",
            "stages.0.data.test: only the last stage may set data.test",
        ),
        ("stages: [{name: a, train: {ranks: 2}}]\n", "stages.0.train.ranks: train.ranks applies to all stages"),
        ("stages: [{name: a}, {name: a}]\n", "stages.1.name: two stages are called 'a'"),
        ("stages: [{name: a}, {name: b, load: {stage: c}}]\n", "stages.1.load.stage: no stage before this one"),
        ("stages: [{name: a, load: {stage: a}}]\n", "stages.0.load.stage: no stage before this one"),
        (
            "stages: [{name: a}, {name: b, data: {days: [2026-11-04], validation: [2026-11-03]}}]\n",
            "stages.1.data.validation: 2026-11-03 was trained by stage a",
        ),
        (
            "stages: [{name: a, tables: {precision: fp16}}, {name: b, load: {stage: a}}]\n",
            "stages.1.tables.precision: stage a, whose tables are loaded, stores them as fp16",
        ),
        (
            "stages: [{name: a}, {name: b, tables: {overrides: {item_id: {precision: fp16}}}, load: {stage: a}}]\n",
            "stages.1.tables.overrides.item_id.precision: stage a, whose tables are loaded, stores them as fp32",
        ),
        (
            "tables: {precision: fp16}\nstages: [{name: a}, {name: b, load: {stage: a, rescale: 0.1}}]\n",
            "stages.1.load.rescale: rows of fp16 tables that are not there yet cannot be scaled",
        ),
        (
            HETEGEN + "train: {progressive_validation: true}\n",
            "train.progressive_validation: 2026-11-02 was trained by stage pretrain",
        ),
        (
            "train: {progressive_validation: true}\nstages: [{name: a, data: {days: 2026-11-01..2026-11-02}}, "
            "{name: b, data: {days: 2026-11-01..}}]\n",
            "stages.1.data.days: 2026-11-02, which is scored, was trained by stage a: begin with the last such day, or later",
        ),
        (
            "model: {family: denoiser, balance: dro, attention: query}\n",
            "model.attention: balance dro learns no difficulties to guide it",
        ),
        ("model: {family: denoiser, balance: progress, hidden: 9}\n", "model.hidden: 9 is not a multiple of heads, 2"),
        (
            HETEGEN + "stages: [{name: a, objective: denoise, train: {progressive_validation: true}}]\n",
            "stages.0.train.progressive_validation: denoise scores no rows",
        ),
        (
            HETEGEN
            + "stages: [{name: a, objective: denoise, data: {validation: [2026-11-09]}, train: {early_stop: {metric: auc}}}]\n",
            "stages.0.train.early_stop.metric: denoise is judged by loss",
        ),
    ],
)
def test_a_mistake_in_a_stage_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    assert told in bad(tmp_path, MINIMAL + text)


# --- overrides of the schema ---


def test_an_override_reaches_the_schema_by_the_names_of_its_fields_or_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(MINIMAL)
    words = ["schema.fields.user_id.dim=32", "schema.fields.1.min_count=2", "schema.fields.1.ids=vocab"]
    words += ["schema.fields.1.rows=null", "schema.weight=w", "train.epochs=2"]

    config, schema = load(str(tmp_path / "run.yaml"), words)

    user, item = schema.fields[:2]
    assert isinstance(user, IdField)
    assert isinstance(item, IdField)
    assert (config.train.epochs, user.dim, item.min_count, item.ids, schema.weight) == (2, 32, 2, "vocab", "w")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("schema.fields.user_id.dimm=3", "fields.0.dimm: unknown key\n  did you mean 'dim'?"),
        ("schema.fields.user_id.dim=none", "fields.0.dim: Input should be a valid integer"),
        ("schema.fields.usr_id.dim=3", "fields is a list of 10: expected a number from 0 to 9 or a name, got 'usr_id'\n"),
        ("schema.fields.usr_id.dim=3", "did you mean 'user_id'?"),
        ("schema.fields.99.dim=3", "fields is a list of 10: expected a number from 0 to 9 or a name, got '99'"),
        ("schema.feilds.user_id.dim=3", "feilds: unknown key\n  did you mean 'fields'?"),
        ("schema.fields.item_id.admit=3", "fields.1.admit is now managed: {admit_after: …} of the field"),
        ("schema.fields.history.pool=sum", "fields.8.pool: the run file says it now"),
    ],
)
def test_a_wrong_override_of_the_schema_is_told_as_it_was_written(tmp_path: Path, override: str, told: str) -> None:
    said = bad(tmp_path, MINIMAL, override)
    assert said.startswith(f"override '{override}': ")
    assert told in said


def test_a_label_goes_by_its_target(tmp_path: Path) -> None:
    labels = "labels: [{column: a, target: click}, {column: b, target: buy}]"
    (tmp_path / "own.yaml").write_text(f"name: own\n{labels}\nfields: [{{name: x, kind: number}}]\n")
    (tmp_path / "run.yaml").write_text(MINIMAL.replace(str(SCHEMA), "own.yaml"))

    schema = load(str(tmp_path / "run.yaml"), ["schema.labels.buy.valid_where=a"])[1]

    assert [label.valid_where for label in schema.targets] == [None, "a"]


def test_a_run_folder_keeps_the_schema_as_the_overrides_made_it(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "name: own\nlabel: {column: y}\nfields:\n  - {name: x, kind: number}\n  - {name: z, kind: id, ids: hash, rows: 9}\n"
    )
    (tmp_path / "run.yaml").write_text(MINIMAL.replace(str(SCHEMA), "own.yaml"))
    config, schema = load(str(tmp_path / "run.yaml"), ["schema.fields.z.dim=2"])

    claim(str(tmp_path / "run"), config, schema)
    (tmp_path / "run" / "checkpoints").mkdir()

    assert load_run(str(tmp_path / "run"))[1] == schema
    with pytest.raises(GenctrError, match=r"field z.dim: begun with 2, now None"):
        check_changes(str(tmp_path / "run"), *load(str(tmp_path / "run.yaml")))
