"""Plans in files: a job keeps to them, whatever they say, and refuses those of another job with what is other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from data.errors import GenctrError
from pipeline.builders.job import build
from pipeline.config.run import load
from pipeline.distributed.hardware import DEVICES
from pipeline.distributed.saved_plan import SavedPlan
from pipeline.distributed.world import World
from pipeline.jobs.train import run
from pipeline.planning.estimate import ClusterSpec, estimate, saved_plan
from tests.helpers import on_ranks
from tests.tiny import built, genctr, write_log


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log, and a run folder in which its vocabularies are fitted."""
    folder = tmp_path_factory.mktemp("plan")
    path = write_log(folder)
    with built(path, folder / "fitted"):
        return path


def fitted(config: Path) -> dict[str, int]:
    return json.loads((config.parent / "fitted" / "statistics" / "statistics.json").read_text())["vocabularies"]


def save(config: Path, path: Path, *overrides: str, ranks: int = 1, change: Callable[[Any], None] | None = None) -> Path:
    """A plan as `genctr plan --save` makes it, perhaps edited."""
    run_config, schema = load(str(config), overrides)
    saved_plan(estimate(run_config, schema, ClusterSpec(DEVICES["cpu"], ranks, 1), fitted(config))).save(str(path))
    if change is not None:
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))
    return path


def swap(values: Any) -> None:
    """Every table on the other rank than planned."""
    for table in values["stages"]["rank"].values():
        table["shards"] = [[1 - shard[0], *shard[1:]] for shard in table["shards"]]


def placed(rank: int, config: str, out: str, runs: dict[str, tuple[str, ...]]) -> dict[str, tuple[dict[str, Any], float]]:
    """Of several jobs who holds what, and the loss after the training."""
    results = {}
    for name, overrides in runs.items():
        job = build(*load(config, overrides), f"{out}/{name}", World(rank, dist.get_world_size(), torch.device("cpu")))
        found = {
            table: (
                own.sharding_type,
                [(s.placement.rank(), *s.shard_offsets, *s.shard_sizes) for s in own.sharding_spec.shards],
            )
            for module in job.sharded.plan.plan.values()
            for table, own in module.items()
        }
        results[name] = found, run(job, quiet=True)["test"]["metrics"]["is_click"]["logloss"]
        job.close()
    return results


def as_saved(path: Path) -> dict[str, Any]:
    tables = SavedPlan.load(str(path)).stages["rank"]
    return {name: (own.sharding, [tuple(shard) for shard in own.shards]) for name, own in tables.items()}


@pytest.mark.slow
def test_a_job_of_two_ranks_keeps_to_its_plan_and_learns_the_same(config: Path, tmp_path: Path) -> None:
    paths = {
        "planned": save(config, tmp_path / "planned.json", ranks=2),
        "swapped": save(config, tmp_path / "swapped.json", ranks=2, change=swap),
        "split": save(config, tmp_path / "split.json", "tables.sharding=row_wise", ranks=2),
    }
    runs: dict[str, tuple[str, ...]] = {
        name: ("model.decoder_options.dropout=0", f"train.sharding_plan={path}") for name, path in paths.items()
    }
    runs["split"] = (*runs["split"], "tables.sharding=row_wise")
    runs["free"] = ("model.decoder_options.dropout=0",)

    first, second = on_ranks(2, placed, str(config), str(tmp_path), runs)

    assert first == second
    for name, path in paths.items():
        assert first[name][0] == as_saved(path), name
    assert first["planned"][0] != first["swapped"][0]
    assert first["free"][0] == first["planned"][0], "on paper and in a job the same function makes the same plan"
    for _, logloss in first.values():
        assert logloss == pytest.approx(first["free"][1], abs=1e-5)


def refused(config: Path, path: Path, out: Path, *overrides: str) -> str:
    with pytest.raises(GenctrError) as error, built(config, out, f"train.sharding_plan={path}", *overrides):
        pass
    return str(error.value)


def test_a_plan_for_other_ranks_is_refused_before_a_row_is_read(config: Path, tmp_path: Path) -> None:
    path = save(config, tmp_path / "plan.json", ranks=2)

    told = refused(config, path, tmp_path / "run", "data.root=/nowhere")

    assert told == (
        f"train.sharding_plan: {path} was made for another job\n  ranks: the plan has 2, this job 1\n"
        f"  next: genctr plan RUN.yaml --ranks 1 --hosts 1 --device cpu --save {path}"
    )
    assert not (tmp_path / "run").exists()


def test_a_plan_for_another_topology_is_refused(config: Path, tmp_path: Path) -> None:
    def on_cards(values: Any) -> None:
        values |= {"device": "cuda", "name": "h100", "hosts": 8, "ranks": 64}

    told = refused(config, save(config, tmp_path / "plan.json", change=on_cards), tmp_path / "run")

    for line in (
        "device: the plan has cuda, this job cpu",
        "ranks: the plan has 64, this job 1",
        "hosts: the plan has 8, this job 1",
    ):
        assert line in told
    assert "--ranks 1 --hosts 1 --device cpu --save" in told, "or it would be planned for train.hardware.device again"


def test_a_refused_plan_of_a_card_names_the_card(config: Path, tmp_path: Path) -> None:
    path = str(save(config, tmp_path / "plan.json", change=lambda values: values.update(device="cuda", name="h200")))
    for kind, ranks, card in (("cuda", 8, "h200"), ("cpu", 1, "cpu")):
        with pytest.raises(GenctrError, match=f"--ranks {ranks} --hosts 1 --device {card} --save"):
            SavedPlan.load(path).check_cluster(path, device=kind, ranks=ranks, hosts=1)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda tables: tables["item_id"].update(rows=7), "table item_id, rows: the plan has 7, this job 16384"),
        (lambda tables: tables["item_id"].update(width=8), "table item_id, width: the plan has 8, this job 4"),
        (lambda tables: tables["tab"].update(precision="fp16"), "table tab, precision: the plan has fp16, this job fp32"),
        (
            lambda tables: tables["tab"].update(optimizer="sgd"),
            "table tab, optimizer: the plan has sgd, this job rowwise_adagrad",
        ),
        (lambda tables: tables.pop("tab"), "table tab: not in the plan"),
        (lambda tables: tables.update(gone=tables["tab"]), "table gone: only in the plan"),
        (
            lambda tables: tables["tab"].update(sharding="grid_shard"),
            "table tab, sharding: the plan has grid_shard, this job allows",
        ),
        (
            lambda tables: tables["tab"].update(kernel="fused_uvm"),
            "table tab, kernel: the plan has fused_uvm, this job allows fused",
        ),
        (lambda tables: tables["tab"]["shards"].clear(), "table tab: its shards have 0 of 24 numbers"),
        (lambda tables: tables["tab"]["shards"][0].__setitem__(0, 5), "table tab: a shard is on rank 5 of 1"),
    ],
)
def test_a_plan_of_other_tables_is_refused_line_by_line(config: Path, tmp_path: Path, change, line: str) -> None:
    path = save(config, tmp_path / "plan.json", change=lambda values: change(values["stages"]["rank"]))

    told = refused(config, path, tmp_path / "run")

    assert f"\n  {line}" in told
    assert told.endswith(f"next: genctr plan RUN.yaml --ranks 1 --hosts 1 --device cpu --save {path}")


def test_a_plan_without_the_stage_is_refused(config: Path, tmp_path: Path) -> None:
    path = save(config, tmp_path / "plan.json", change=lambda values: values.update(stages={"other": {}}))

    assert "stage rank: the plan has other" in refused(config, path, tmp_path / "run")


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"format": 1}', '{"format": 2}', "not JSON"])
def test_what_is_no_plan_is_told(config: Path, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "plan.json"
    if content is not None:
        path.write_text(content)

    told = refused(config, path, tmp_path / "run")

    assert told.startswith(f"train.sharding_plan: {path} cannot be read as a plan: ")
    assert told.endswith(f"\n  next: genctr plan RUN.yaml --save {path}")


def test_the_command_saves_what_a_job_takes(config: Path, tmp_path: Path) -> None:
    words = ("plan", config, "--out", config.parent / "fitted", "--save", tmp_path / "plan.json")

    done = genctr(*words)

    assert done.code == 0, done.err
    with built(config, tmp_path / "run", f"train.sharding_plan={tmp_path}/plan.json"):
        pass
    assert done.err == f"a job keeps to it with train.sharding_plan: {tmp_path}/plan.json\n"
