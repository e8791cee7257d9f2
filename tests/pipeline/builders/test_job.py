"""A name in a file becomes the right object, what is not there is told, and a run folder holds what made it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from torch import nn
from torchrec.distributed.train_pipeline import TrainPipelineBase
from torchrec.optim.clipping import GradientClippingOptimizer

from data.errors import BadInput, GenctrError
from data.features import Features
from data.schema import Schema
from data.statistics import Statistics
from data.yaml_document import read_document
from models.encoders import FeatureGenerator
from models.options import options_of
from models.ranker import Ranker
from models.registries import DECODERS
from pipeline.builders.models import build_fields, build_ranker, pools_of
from pipeline.builders.optimizers import build_dense_optimizer
from pipeline.builders.source import build_source
from pipeline.builders.tables import build_table_configs
from pipeline.config.model import RankerConfig, SequenceConfig
from pipeline.config.run import load
from pipeline.config.train import DenseConfig
from pipeline.distributed.world import World
from pipeline.jobs.train import run
from pipeline.run_folder.claim import changes_of_meaning, load_run, schema_changes
from tests.tiny import DAYS, SCHEMA, Done, built, genctr, train, write_log

FIELDS = [
    {"name": "price", "kind": "number"},
    {"name": "user", "kind": "id", "ids": "hash", "rows": 10},
    {"name": "image", "kind": "vector", "dim": 3},
    {"name": "item", "kind": "id", "ids": "hash", "rows": 20, "dim": 8},
    {"name": "tags", "kind": "ids", "ids": "hash", "rows": 30},
    {"name": "history", "kind": "sequence", "table": "item", "length": 5},
]
ATTENTION = {"history": {"encoder": "target_attention"}}


def features(*fields: dict[str, Any]) -> Features:
    schema = Schema.model_validate({"name": "s", "label": {"column": "y"}, "fields": fields or FIELDS})
    return Features(schema, Statistics.nothing(), pools={} if fields else {"history": "events"})


def small(decoder: str, **encoder: Any) -> RankerConfig:
    options = {"hidden": [6]} if "hidden" in options_of(DECODERS[decoder]) else {}
    settings = {"decoder": decoder, "dim": 4, "decoder_options": options, "encoder": encoder or {"kind": "none"}}
    return RankerConfig.model_validate(settings)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("build"))


# --- the model ---


def test_the_fields_are_those_of_the_schema_in_its_order() -> None:
    fields = build_fields(features(), width=4)

    assert [(field.name, field.source, field.dim, field.pool, field.encoder, field.query) for field in fields] == [
        ("price", "number", 1, "sum", None, None),
        ("user", "table", 4, "sum", None, None),
        ("image", "vector", 3, "sum", None, None),
        ("item", "table", 8, "sum", None, None),
        ("tags", "table", 4, "mean", None, None),
        ("history", "table", 8, "sum", "target_attention", "item"),
    ]


def test_tables_of_another_width_than_the_model_and_vectors_are_projected_and_the_rest_is_not() -> None:
    ranker = build_ranker(small("fm"), features(), ("y",))

    shapes = [tuple(layer.weight.shape) for layer in ranker.embed.projections]
    #                  image   item    history
    assert shapes == [(4, 3), (4, 8), (4, 8)]


@pytest.mark.parametrize("kind", ["none", "sfg"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_is_built_with_every_encoder_and_only_sfg_generates(decoder: str, kind: str) -> None:
    settings = {"gamma": 3.0, "activation": "silu", "residual": True} if kind == "sfg" else {}
    config = small(decoder, kind=kind, **settings)

    ranker = build_ranker(config, features(), ("click", "buy"))

    generators = [module for module in ranker.modules() if isinstance(module, FeatureGenerator)]
    assert type(ranker.decoder) is DECODERS[decoder]
    assert bool(generators) == (kind == "sfg")
    assert all((part.gamma, part.activate, part.residual) == (3.0, nn.functional.silu, True) for part in generators)
    assert ranker.head.targets == ("click", "buy")
    assert ranker.embed.linear == ranker.decoder.needs_linear


def test_tables_wait_on_the_meta_device_and_have_first_order_weights_only_where_a_decoder_wants_them() -> None:
    def tables(decoder: str) -> dict[str, torch.Size]:
        sparse = build_ranker(small(decoder), features(), ("y",)).sparse
        return {name.split(".")[-2]: weight.shape for name, weight in sparse.named_parameters() if weight.device.type == "meta"}

    assert tables("mlp") == {"user": (10, 4), "tags": (30, 4), "item": (20, 8)}
    assert tables("fm").keys() == {"user", "tags", "item", "user_linear", "tags_linear", "item_linear"}


def test_the_same_seed_builds_the_same_weights(config: Path, tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> list[torch.Tensor]:
        with built(config, tmp_path / name, f"seed={seed}") as job:
            return [weight.detach().clone() for weight in job.sharded.dense_parameters.values()]

    one, same, other = weights("one", 3), weights("same", 3), weights("other", 4)
    assert all(map(torch.equal, one, same))
    assert not all(map(torch.equal, one, other))


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            {"decoder": "mlp", "decoder_options": {"hiden": [4]}},
            "decoder mlp: unknown option 'hiden', nearest 'hidden'; it has ['batch_norm', 'dropout', 'hidden']",
        ),
        # What the schema and the model's width decide is not an option.
        ({"decoder": "fm", "decoder_options": {"width": 8}}, "decoder fm: unknown option 'width'; it has []"),
        (
            {"decoder": "crossnet", "decoder_options": {"layers": 0}},
            "decoder crossnet: crossnet: layers is 0; expected 1 or more",
        ),
        ({"decoder": "mlp", "decoder_options": {"hidden": 4}}, "decoder mlp: 'int' object is not iterable"),
    ],
)
def test_a_model_that_cannot_be_is_told(model: dict[str, Any], told: str) -> None:
    with pytest.raises(GenctrError) as error:
        build_ranker(RankerConfig.model_validate(model), features(), ("y",))
    assert str(error.value) == told


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ([{"name": "type", "kind": "id", "ids": "hash", "rows": 9}], r"the schema's fields: .*cannot name tables \['type'\]"),
    ],
)
def test_fields_that_no_model_can_have_are_told(fields: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(GenctrError, match=told):
        build_ranker(small("fm"), features(*fields), ("y",))


# --- the job ---


def test_every_table_learns_as_the_config_says_of_it(config: Path, tmp_path: Path) -> None:
    only = "tables.overrides={item_id: {optimizer: lazy_adam, lr: 0.5, init: {kind: normal, scale: 3}}}"
    with built(config, tmp_path / "run", "tables.lr=0.25", "tables.init={scale: 0.125}", only) as job:
        rates = {group["lr"] for group in job.sharded.fused.param_groups}
        state = job.sharded.model.state_dict()

    first = {
        key.split(".")[-2]: value.local_shards()[0].tensor for key, value in state.items() if hasattr(value, "local_shards")
    }
    assert sorted(rates) == pytest.approx([0.25, 0.5])
    assert first["item_id"].std().item() == pytest.approx(3, rel=0.02)
    assert first["user_id"].abs().max().item() == pytest.approx(0.125, rel=0.02)


def test_a_managed_table_is_never_in_part_on_the_card(config: Path) -> None:
    user = {"name": "user", "kind": "id", "ids": "managed", "rows": 4096}
    for kernel, expected in (("auto", "fused"), ("fused_uvm", "fused_uvm")):
        options = build_table_configs(load(str(config), [f"tables.compute_kernel={kernel}"])[0], features(user, FIELDS[3]))
        assert (options["user"].compute_kernel, options["item"].compute_kernel) == (expected, kernel)
    with pytest.raises(GenctrError, match="'user': ids: managed cannot be with compute_kernel fused_uvm_caching"):
        build_table_configs(load(str(config), ["tables.compute_kernel=fused_uvm_caching"])[0], features(user))


@pytest.mark.parametrize(("optimizer", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_the_dense_optimizer_is_the_one_of_the_config(config: Path, tmp_path: Path, optimizer: str, kind: type) -> None:
    dense = f"train.dense={{optimizer: {optimizer}, lr: 0.5, weight_decay: 0.25, beta1: 0.5, beta2: 0.75, eps: 0.125}}"
    with built(config, tmp_path / "run", dense) as job:
        (_, _), (name, wrapper) = job.optimizer.optimizers

        (group,) = wrapper.param_groups
        assert name == "dense"
        assert type(wrapper._optimizer) is kind
        assert (group["lr"], group["weight_decay"], group["betas"], group["eps"]) == (0.5, 0.25, (0.5, 0.75), 0.125)


def test_a_clipped_gradient_moves_the_dense_weights_no_further_than_its_norm(config: Path, tmp_path: Path) -> None:
    with built(config, tmp_path / "run", "train.dense.clip_norm=0.25") as job:
        clipped = dict(job.optimizer.optimizers)["dense"]
        weights = list(job.sharded.dense_parameters.values())
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        clipped.step()

        assert isinstance(clipped, GradientClippingOptimizer)
        assert torch.cat([weight.grad.flatten() for weight in weights]).norm().item() == pytest.approx(0.25)


def test_on_a_cpu_there_is_nothing_to_overlap(config: Path, tmp_path: Path) -> None:
    with built(config, tmp_path / "run") as job, job.pipe() as pipe:
        assert type(pipe) is TrainPipelineBase


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["data.reader=parket"], "override 'data.reader=parket': data.reader: no 'parket'; did you mean 'parquet'?"),
        (
            ["data.reader=csv", "data.reader_options={delimitre: ';'}"],
            "reader csv: unknown option 'delimitre', nearest 'delimiter'; it has ['delimiter', 'lists', 'names', ",
        ),
        (
            ["data.reader_options={delimiter: ';'}"],
            "reader parquet: unknown option 'delimiter'; it has ['lists', 'partitions']",
        ),
        (["data.reader=csv", "data.reader_options={types: {a: int65}}"], "reader option types.a: no type 'int65'"),
        (
            ["model.losses=[{name: tf}]"],
            "model.losses: tf reads TARGET/easy, TARGET/hard, which the model does not represent\n"
            "  next: set model.decoder to tf",
        ),
        (["data.layout=days"], "layout 'days': expected {day} once"),
        (["tables.weight_decay=0.1"], "rowwise_adagrad"),
    ],
)
def test_a_job_that_cannot_be_is_told(config: Path, tmp_path: Path, overrides: Sequence[str], told: str) -> None:
    with pytest.raises(GenctrError) as error, built(config, tmp_path / "run", *overrides):
        pass
    assert told in str(error.value)


def test_vocabularies_are_of_the_days_to_fit_and_stay_those_of_the_first_start(config: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.yaml"
    schema.write_text("name: s\nlabel: {column: is_click}\nfields: [{name: user_id, kind: id}]\n")

    def users(name: str, *overrides: str) -> int:
        with built(
            config, tmp_path / name, f"schema={schema}", "model.decoder=fm", "model.decoder_options={}", *overrides
        ) as job:
            return job.source.features.tables[0].rows - 2  # of the missing and of the unknown

    def in_log(days: Sequence[str]) -> int:
        return len(
            {
                user
                for day in days
                for part in (config.parent / "log" / f"day={day}").glob("*.parquet")
                for user in pq.read_table(part, columns=["user_id"], partitioning=None)["user_id"].to_pylist()
            }
        )

    assert users("all") == in_log(DAYS[:2]) != in_log(DAYS[:1])
    assert users("one", f"data.statistics_days=[{DAYS[0]}]") == in_log(DAYS[:1])
    assert users("scored first", "train.progressive_validation=true") == in_log(DAYS[:1]), (
        "a day that is scored is not looked at before"
    )
    assert users("all", "data.root=nowhere") == in_log(DAYS[:2])


# --- the run folder ---


def test_the_resolved_config_and_schema_are_stored_and_read_back_equal(config: Path, tmp_path: Path) -> None:
    overrides = ["tables.overrides={item_id: {lr: 0.5}}", "train.early_stop={patience: 3}", "model.dim=8"]
    with built(config, tmp_path / "run", *overrides) as job:
        pass

    stored, schema = load_run(str(tmp_path / "run"))
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert stored.model_copy(update={"schema_file": str(SCHEMA)}) == job.config
    assert schema == read_document(str(SCHEMA), Schema) == job.schema
    assert written["data"]["prefetch_batches"] == 2, "defaults too"
    assert written["train"]["early_stop"]["patience"] == 3


def test_a_run_folder_can_be_moved_and_scored_from_anywhere(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config, tmp_path / "run", "train.max_steps=2")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").rename(tmp_path / "elsewhere" / "moved")
    monkeypatch.chdir(tmp_path / "elsewhere")

    done = genctr("evaluate", "moved", "--days", DAYS[2], "--quiet")

    assert done.code == 0, done.err
    assert DAYS[2] in done.out


def test_a_folder_without_a_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(GenctrError, match=r"no config\.yaml there, so this is not a run folder"):
        load_run(str(tmp_path))


def test_what_a_kill_leaves_of_the_config_is_the_old_one_or_the_new_one(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config, tmp_path / "run", "train.max_steps=2")

    replace = os.replace

    def killed(old: str, new: str) -> None:
        if new.endswith("config.yaml"):
            raise KeyboardInterrupt
        replace(old, new)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt), built(config, tmp_path / "run", "train.epochs=9"):
        pass

    assert load_run(str(tmp_path / "run"))[0].train.epochs == 1


def test_the_best_reachable_auc_is_the_synthetic_logs_own_and_absent_elsewhere(config: Path, tmp_path: Path) -> None:
    with built(config, tmp_path / "run") as job:
        assert list(job.best_reachable()) == list(DAYS)
    with built(config, tmp_path / "uri", f"data.root=file://{config.parent}/log?use=it") as job:
        assert list(job.best_reachable()) == list(DAYS)
    with built(config, tmp_path / "run", f"data.root={tmp_path}") as job:
        assert job.best_reachable() == {}


def test_a_source_reads_what_the_config_says(config: Path, tmp_path: Path) -> None:
    with built(config, tmp_path / "run") as job:
        source = job.source
        assert (source.train_days, source.validation_days, source.test_days) == ([*DAYS[:2]], [DAYS[2]], [DAYS[3]])
        day = source.open(DAYS[0])
        plain, shuffled = source.stream(day), source.stream(day, epoch=1, shuffle=True)
        assert (plain.rows, plain.start().lanes, shuffled.start().epoch) == (day.rows, 2, 1)
        assert plain.steps == -(-day.rows // 16)
        first, other = (next(stream.batches(stream.start())) for stream in (plain, shuffled))
        assert not torch.equal(first.numbers, other.numbers)
        with pytest.raises(BadInput, match="there is no day 2026-12-01"):
            source.open("2026-12-01")


def test_two_lanes_for_three_ranks_are_refused(config: Path, tmp_path: Path) -> None:
    with built(config, tmp_path / "run") as job:
        source = build_source(job.config, job.schema, job.folder, rank=0, ranks=3)
        with pytest.raises(GenctrError, match="3 ranks cannot share 2 lanes"):
            source.stream(source.open(DAYS[0]))


def test_every_rank_plans_with_the_speeds_of_the_first_ones_card(config: Path, tmp_path: Path) -> None:
    told = {"hbm_mem_bw": 1.0}

    class Second(World):
        def from_rank_zero(self, work: object, kind: object) -> Any:
            return told  # by the first rank, on a host with other GPUs

    with built(config, tmp_path / "run") as job:
        job.world = Second(1, 2, torch.device("cpu"))
        assert job._spread().bandwidths == told


def test_closing_a_job_waits_for_the_save_in_the_background(config: Path, tmp_path: Path) -> None:
    with built(config, tmp_path / "run", "data.test=[]") as job:
        run(job, quiet=True)
        assert load(str(tmp_path / "run" / "config.yaml"))[0].checkpoint.asynchronous
        last = job.checkpoints.latest()
        job.checkpoints.save(999, tensors={"model": job.sharded.model.state_dict()}, meta={})

    names = {path.parent.name for path in (tmp_path / "run" / "checkpoints").glob("*/checkpoint.json")}
    assert names >= {last, "step-0000999"}


def test_another_order_is_among_the_changes_of_a_schema_whatever_else_is() -> None:
    """A network and its heads know fields and labels by their places."""
    values = yaml.safe_load(SCHEMA.read_text())
    label = values.pop("label")
    before = Schema.model_validate(values | {"labels": [{"target": "a", **label}, {"target": "b", **label}]})
    first, *others = values["fields"]
    changed = {"labels": [{"target": "b", **label}, {"target": "a", **label}], "fields": [*others, first | {"rows": 65535}]}
    assert schema_changes(before, Schema.model_validate(values | changed)) == [
        "field user_id.rows: begun with 32768, now 65535",
        "schema: fields in another order",
        "schema: labels in another order",
    ]
    at_the_end = values | {"labels": [{"target": name, **label} for name in ("a", "b", "c")]}
    assert schema_changes(before, Schema.model_validate(at_the_end)) == ["label c: new"]
    assert schema_changes(before, before) == []


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("{decoder: fm, decoder_options: {layers: 3}}", "stage late: decoder fm: unknown option 'layers'"),
        ("{decoder_options: {hidden: wide}}", "stage late: decoder mlp: "),
        ("{decoder: deepfn}", "stages.1.model.decoder: no 'deepfn'; did you mean 'deepfm'?"),
        ("{losses: [{name: bce, options: {beta: 1}}]}", "stage late: loss bce: unknown option 'beta'"),
    ],
)
def test_what_is_wrong_with_a_later_stage_is_known_before_the_first_trains(model: str, told: str, tmp_path: Path) -> None:
    stages = f"stages=[{{name: early}}, {{name: late, model: {model}}}]"

    done = train(write_log(tmp_path), tmp_path / "run", stages, "model.decoder_options={}")

    assert done.code == 2
    assert told in done.err
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_field_that_comes_takes_the_place_of_the_one_that_goes() -> None:
    """At the end it would move those between, and the network would take them for their neighbours."""
    values = yaml.safe_load(SCHEMA.read_text())
    user, item, tab, hour, *others = values["fields"]
    new = tab | {"name": "new"}

    def mistaken(*fields: dict[str, Any]) -> list[str]:
        return changes_of_meaning(Schema.model_validate(values), Schema.model_validate(values | {"fields": fields}))

    assert mistaken(user, item, new, hour, *others) == mistaken(user, item, tab, hour, *others, new) == []
    assert mistaken(user, item, hour, *others, new) == [f"field {own['name']}: in another place" for own in (hour, *others)]


def test_a_saved_model_never_takes_one_thing_for_another(tmp_path: Path) -> None:
    """Its tensors would all fit, so no confirmation can help."""
    config, schema = write_log(tmp_path), yaml.safe_load(SCHEMA.read_text())
    label, fields = schema.pop("label"), {field["name"]: field for field in schema["fields"]}
    a, b, c = ({"target": name, **label} for name in "abc")
    config.write_text(config.read_text().replace(str(SCHEMA), "schema.yaml"))

    def trained(labels: list[dict[str, Any]], **changed: dict[str, Any]) -> Done:
        values = schema | {"labels": labels, "fields": [changed.get(name, field) for name, field in fields.items()]}
        (tmp_path / "schema.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        return train(config, tmp_path / "run", "train.max_steps=1", "data.test=[]")

    assert trained([a, b]).code == 0
    for done, told in (
        (trained([b, a]), ["label b: in another place", "label a: in another place"]),
        (trained([c, a, b]), ["label a: in another place", "label b: in another place"]),
        (
            trained([a, b], hour=fields["tab"], tab=fields["hour"]),
            ["field hour: in another place", "field tab: in another place"],
        ),
        (trained([a, b], tab=fields["tab"] | {"ids": "hash"}), ["field tab.ids: begun with 'identity', now 'hash'"]),
    ):
        assert done.code == 2
        assert "\n  ".join(["would take one thing for another:", *told, "next: set these back"]) in done.err
    assert "daily.accept_changes" in trained([a, b, c], tab={"name": "tabs", "column": "tab", "kind": "id", "ids": "vocab"}).err


# --- initial values and first steps ---


@pytest.mark.parametrize(("optimizer", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_dense_optimizers_first_steps_are_torchs_own(optimizer: str, kind: type, decay: float) -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.arange(-2.0, 3.0)) for _ in range(2))
    config = DenseConfig.model_validate({"optimizer": optimizer, "lr": 0.1, "weight_decay": decay})
    own = build_dense_optimizer(config, {"w": ours})
    plain = kind([theirs], lr=0.1, betas=(config.beta1, config.beta2), eps=config.eps, weight_decay=decay)
    assert torch.equal(ours, theirs)  # nothing moves before the first batch
    assert set(own.state_dict()["state"]["w"]) == {"step", "exp_avg", "exp_avg_sq"}  # what a checkpoint is loaded into
    for _ in range(3):
        ours.grad = torch.randn(5)
        theirs.grad = ours.grad.clone()
        own.step()
        plain.step()
        assert torch.equal(ours, theirs)


def test_a_run_starts_at_the_base_rate_of_its_fitted_days(config: Path, tmp_path: Path) -> None:
    with built(config, tmp_path / "run") as job:
        ones, rows = job.source.features.statistics.labels["is_click"]
        assert 200 < rows < 280  # both days of training: `progressive_validation` is off, so neither is scored
        bias = next(own for name, own in job.sharded.dense_parameters.items() if name.endswith("head.score.bias"))
        assert bias.item() == pytest.approx(np.log((ones + 0.5) / (rows - ones + 0.5)), rel=1e-6)


# --- heads and sequence encoders, chosen in the run file ---


def test_the_run_file_chooses_the_encoder_of_a_sequence() -> None:
    model = small("fm").model_copy(update={"sequences": {"history": SequenceConfig(encoder="mean")}})
    schema = features().schema
    pooled = Features(schema, Statistics.nothing(), pools=pools_of(model.sequences, schema))

    ranker = build_ranker(model, pooled, ("y",))

    assert len(ranker.embed.sequences) == 0
    assert ranker.sparse.sequences is None, "a mean is pooled by its table"
    assert len(build_ranker(small("fm"), features(), ("y",)).embed.sequences) == 1, "attention"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"sequences": {"histry": {"encoder": "mean"}}},
            r"model.sequences: no sequence field 'histry'; choose from \['history'\]",
        ),
        ({"sequences": {"history": {"encoder": "men"}}}, "no 'men'; did you mean 'mean'"),
        (
            {"sequences": {"history": {"encoder": "target_attention", "options": {"heads": 2}}}},
            "sequence encoder target_attention: unknown option 'heads'",
        ),
        ({"sequences": {"history": {"encoder": "target_attention", "query": "user"}}}, "attention over vectors of width 8"),
        ({"head": "twin_focus"}, "head twin_focus: it reads the easy and the hard side of a decoder such as tf"),
        ({"head": "liner"}, "no 'liner'; did you mean 'linear'"),
        ({"head_options": {"fusion": "cf"}}, "head linear: unknown option 'fusion'"),
    ],
)
def test_a_head_or_sequence_encoder_that_cannot_be_is_refused(model: dict[str, Any], message: str) -> None:
    schema = features().schema

    def build() -> Ranker:
        config = RankerConfig.model_validate({**small("fm").model_dump(), **model})
        return build_ranker(config, Features(schema, Statistics.nothing(), pools=pools_of(config.sequences, schema)), ("y",))

    with pytest.raises((GenctrError, ValueError), match=message):
        build()
