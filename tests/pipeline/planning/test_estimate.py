"""Plans on paper: bytes are those counted independently, what does not fit is told with what would, bad questions are
refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from data.errors import GenctrError
from pipeline.config.run import load
from pipeline.config.train import HardwareConfig
from pipeline.distributed.hardware import DEVICES, GIB, find_device
from pipeline.planning.estimate import ClusterSpec, StageEstimate, estimate, saved_plan

H100, CPU = DEVICES["h100"], DEVICES["cpu"]
FIELDS = [
    {"name": "user", "kind": "id", "ids": "hash", "rows": 1000, "dim": 8},
    {"name": "tab", "kind": "id", "ids": "vocab"},
]
BILLIONS = [{"name": f"t{i}", "kind": "id", "ids": "hash", "rows": 10**9, "dim": 128} for i in range(10)]


def planned(
    folder: Path, ask: ClusterSpec, *overrides: str, fields: list[dict[str, Any]] = FIELDS, known: dict[str, int] | None = None
) -> list[StageEstimate]:
    (folder / "schema.yaml").write_text(yaml.safe_dump({"name": "s", "label": {"column": "y"}, "fields": fields}))
    run = {
        "schema": "schema.yaml",
        "data": {"root": "/log", "days": ["2026-11-01"], "lanes": 1024},
        "model": {"decoder": "mlp", "dim": 4, "decoder_options": {"hidden": [6]}},
        "train": {"global_batch_rows": 65536},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return estimate(*load(str(folder / "run.yaml"), overrides), ask, known or {"tab": 98})


@pytest.mark.parametrize(
    ("settings", "user"),
    [
        (("tables.optimizer=rowwise_adagrad",), 1000 * 8 * 4 + 1000 * 4),  # a moment a row
        (("tables.optimizer=lazy_adam",), 3 * 1000 * 8 * 4),  # two a number
        (("tables.optimizer=adagrad",), 2 * 1000 * 8 * 4),
        (("tables.optimizer=sgd",), 1000 * 8 * 4),
        (("tables.precision=fp16",), 1000 * 8 * 2 + 1000 * 4),  # moments stay fp32
    ],
)
def test_a_table_is_counted_with_its_optimizer(tmp_path: Path, settings: tuple[str, ...], user: int) -> None:
    [paper] = planned(tmp_path, ClusterSpec(H100, 2, 1), *settings)

    assert paper.bytes["user"] == user
    assert paper.fits


@pytest.mark.parametrize(
    ("device", "settings", "row"),  # [bytes] of a row: its numbers, and what its optimizer remembers of it
    [
        (CPU, (), 8 * 4 + 4),
        (CPU, ("tables.precision=fp16",), 8 * 2 + 4),
        (CPU, ("tables.optimizer=lazy_adam",), 3 * 8 * 4),
        (CPU, ("tables.optimizer=adam",), 4 * 8 * 4),  # and the copy that moves it
        (H100, ("tables.precision=fp16",), 8 * 2 + 4),
        (H100, ("tables.precision=fp16", "tables.optimizer=lazy_adam"), 8 * 2 + 2 * 8 * 4),
        (H100, ("tables.precision=fp16", "tables.optimizer=adagrad"), 8 * 2 + 8 * 4),
        (H100, ("tables.compute_kernel=fused_uvm",), 8 * 4 + 4),
        (H100, ("tables.compute_kernel=fused_uvm", "tables.optimizer=lazy_adam", "tables.precision=fp16"), 8 * 2 + 2 * 8 * 4),
    ],
)
def test_what_ranks_hold_is_what_the_tables_need_and_a_batch(tmp_path: Path, device, settings, row) -> None:
    [paper] = planned(tmp_path, ClusterSpec(device, 2, 1), *settings, fields=[{**FIELDS[0], "rows": 10**7}])

    held = sum(line.memory + line.ddr for line in paper.ranks)
    batch = 65536 * (8 + 8 * 4)  # an id in, a vector out
    assert paper.needed == 10**7 * row
    assert paper.needed < held <= paper.needed + 2 * batch


@pytest.mark.parametrize(
    ("kernel", "cached"),  # [bytes] of a row's cache on the GPU: a fifth of its numbers, and what finds them
    [("fused_uvm", 0), ("fused_uvm_caching", 0.2 * (8 * 4 + 16) + 4)],
)
def test_the_moments_of_rows_in_main_memory_are_on_the_card(tmp_path: Path, kernel: str, cached: float) -> None:
    """Where FBGEMM has one number a row."""
    [paper] = planned(
        tmp_path, ClusterSpec(H100, 1, 1), f"tables.compute_kernel={kernel}", fields=[{**FIELDS[0], "rows": 10**8}]
    )

    [line] = paper.ranks
    assert line.ddr == 10**8 * 8 * 4
    assert line.memory == pytest.approx(10**8 * (4 + cached), rel=0.02)


def test_the_network_and_its_rows_leave_less_room(tmp_path: Path) -> None:
    [small] = planned(tmp_path, ClusterSpec(H100, 1, 1))
    [large] = planned(
        tmp_path, ClusterSpec(H100, 1, 1), "model.decoder_options.hidden=[2000,2000]", "train.global_batch_rows=1048576"
    )

    assert small.budget == int(0.85 * 80 * GIB)
    # 4 M weights five times, and 2000 numbers a row twice: 16.9e9 bytes, more than the tenth that is left for them.
    assert large.budget < 0.95 * 80 * GIB - 5 * 4 * 4e6 - 2**20 * 2 * 2000 * 4


@pytest.mark.parametrize(
    ("known", "guessed", "rows"), [({"tab": 98}, {}, 100), ({}, {"": 48}, 50), ({}, {"tab": 8, "": 48}, 10)]
)
def test_a_vocabulary_has_the_size_that_is_fitted_or_guessed(tmp_path: Path, known, guessed, rows) -> None:
    """Two rows more than values: for a missing one, and for one not seen."""
    known = known or {"other": 3}

    [paper] = planned(tmp_path, ClusterSpec(CPU, 1, 1, guessed), known=known)

    assert paper.tables["tab"].rows == rows


def test_a_vocabulary_of_no_size_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        GenctrError, match=r"^tab: a vocabulary has no size before it is fitted\n.*--out DIR.*--vocab-rows tab=1000000"
    ):
        planned(tmp_path, ClusterSpec(CPU, 1, 1), known={"other": 3})


def test_a_guess_of_no_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GenctrError, match=r"^--vocab-rows tba: no vocabulary is called so; did you mean 'tab'\?$"):
        planned(tmp_path, ClusterSpec(CPU, 1, 1, {"tba": 10**9, "": 5}), known={"other": 3})


def test_a_run_without_tables_is_planned(tmp_path: Path) -> None:
    for device in (CPU, H100):
        [paper] = planned(tmp_path, ClusterSpec(device, 2, 1), fields=[{"name": "price", "kind": "number"}])

        assert paper.fits
        assert (paper.needed, paper.tables) == (0, {})


def test_ranks_that_no_job_could_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GenctrError, match=r"^10 ranks do not divide by 4 hosts\n  expected: .* such as 8 or 12$"):
        planned(tmp_path, ClusterSpec(H100, 10, 4))
    with pytest.raises(GenctrError, match=r"^2048 ranks cannot share 1024 lanes.*\n  next: --set data\.lanes=2048"):
        planned(tmp_path, ClusterSpec(H100, 2048, 256))


def test_ten_tables_of_a_billion_rows_go_on_64_cards_partly_in_main_memory(tmp_path: Path) -> None:
    """5.12e12 bytes of weights and .04e12 of moments are 75.1 GiB a rank: more than the 68 GiB there are for tables."""
    [paper] = planned(tmp_path, ClusterSpec(H100, 64, 8), fields=BILLIONS)

    assert paper.needed == 10 * 10**9 * (128 * 4 + 4)
    assert paper.fits
    assert {own.kernel for own in paper.tables.values()} == {"fused", "fused_uvm_caching"}
    assert max(line.memory for line in paper.ranks) <= paper.budget
    assert any("fused_uvm_caching" in warning for warning in paper.warnings)


def test_what_does_not_fit_is_told_with_what_would(tmp_path: Path) -> None:
    [paper] = planned(tmp_path, ClusterSpec(H100, 64, 8), "tables.compute_kernel=fused", fields=BILLIONS)

    assert not paper.fits
    assert "spread over 64 ranks" in paper.problem
    fits = {advice.settings: advice.fits for advice in paper.advice}
    assert fits["--set tables.precision=fp16"]  # 37.8 GiB a rank
    assert fits["--set tables.compute_kernel=fused_uvm_caching"]
    assert fits["--ranks 72 --hosts 9"]  # 5.16e12 bytes are 66.8 GiB on each of 72


def test_what_is_advised_fits(tmp_path: Path) -> None:
    [paper] = planned(
        tmp_path, ClusterSpec(H100, 64, 8), "tables.compute_kernel=fused", "tables.precision=fp16", fields=BILLIONS
    )
    [more] = planned(tmp_path, ClusterSpec(H100, 72, 9), "tables.compute_kernel=fused", fields=BILLIONS)

    assert paper.fits
    assert more.fits


def test_tables_too_large_for_a_cpu_are_told_with_the_hosts_that_it_takes(tmp_path: Path) -> None:
    """A table of 20e6 x 128 x 4 bytes with Adam is 30.7e9: three times what .85 of 12 GiB hold."""
    fields = [{**FIELDS[0], "rows": 20_000_000, "dim": 128}]
    [paper] = planned(tmp_path, ClusterSpec(CPU, 1, 1), "tables.optimizer=lazy_adam", fields=fields)

    assert [(advice.settings, advice.fits) for advice in paper.advice] == [
        ("--set tables.optimizer=rowwise_adagrad", True),
        ("--ranks 3 --hosts 3", True),
    ]


def test_half_the_bytes_are_advised_to_a_cpu_whose_optimizer_can(tmp_path: Path) -> None:
    """20e6 x 128 x 4 bytes are 10.24e9, and .85 of 9 GiB 8.2e9: half of it fits."""
    small = find_device("cpu", HardwareConfig(ddr_gib=9))
    fields = [{**FIELDS[0], "rows": 20_000_000, "dim": 128}]
    [paper] = planned(tmp_path, ClusterSpec(small, 1, 1), fields=fields)

    assert [(advice.settings, advice.fits) for advice in paper.advice] == [
        ("--set tables.precision=fp16", True),
        ("--ranks 2 --hosts 2", True),
    ]


@pytest.mark.parametrize(
    ("said", "settings"),
    [
        (
            "tables.overrides={user: {optimizer: lazy_adam}}",
            "--set tables.optimizer=rowwise_adagrad --set tables.overrides.user.optimizer=rowwise_adagrad",
        ),
        (
            "stages=[{name: a}, {name: b, tables: {optimizer: lazy_adam, overrides: {user: {optimizer: adagrad}}}}]",
            "--set tables.optimizer=rowwise_adagrad --set stages.1.tables.optimizer=rowwise_adagrad"
            " --set stages.1.tables.overrides.user.optimizer=rowwise_adagrad",
        ),
    ],
)
def test_what_is_advised_changes_stages_and_single_tables_too(tmp_path: Path, said: str, settings: str) -> None:
    fields = [{**FIELDS[0], "rows": 20_000_000, "dim": 128}]
    paper = planned(tmp_path, ClusterSpec(CPU, 1, 1), said, fields=fields)[-1]
    again = planned(tmp_path, ClusterSpec(CPU, 1, 1), said, *settings.replace("--set ", "").split(), fields=fields)[-1]

    assert not paper.fits
    assert (paper.advice[0].settings, paper.advice[0].fits) == (settings, True)
    assert again.fits


def test_more_hosts_are_advised_with_the_lanes_they_need(tmp_path: Path) -> None:
    """Three hosts of four: of 65536 rows 16 lanes have as many each."""
    small = find_device("cpu", HardwareConfig(ddr_gib=1))
    fields = [{**FIELDS[0], "rows": 20_000_000, "dim": 128}]
    [paper] = planned(tmp_path, ClusterSpec(small, 4, 1), "data.lanes=4", fields=fields)
    [more] = planned(tmp_path, ClusterSpec(small, 12, 3), "data.lanes=16", fields=fields)

    assert paper.advice[-1].settings == "--ranks 12 --hosts 3 --set data.lanes=16"
    assert more.fits


def test_the_times_of_a_step_follow_the_facts(tmp_path: Path) -> None:
    """12 x 6 + 6 x 1 weights of products, six operations each; all weights travel twice, less one rank's part."""
    [paper] = planned(
        tmp_path,
        ClusterSpec(H100, 4, 2),
        fields=[{**FIELDS[0], "dim": 4}, {**FIELDS[1], "dim": 4}, {"name": "x", "kind": "number"}],
    )
    times = paper.times

    assert times is not None
    flop = 6 * (12 * 6 + 6)
    assert times.network == pytest.approx(1e3 * 65536 / 4 * flop / (0.8 * 67e12))
    assert times.gradients == pytest.approx(1e3 * 2 * 3 / 4 * 4 * paper.network.weights / 50e9)
    assert times.fixed == 7.0
    assert times.step == pytest.approx(times.lookup + times.communication + times.network + times.gradients + 7.0)
    assert paper.rows_per_second == pytest.approx(65536 / times.step * 1e3)
    assert paper.usd_per_billion(3.0) == pytest.approx(1e9 / paper.rows_per_second / 3600 * 2 * 3.0)


def test_a_rank_alone_talks_to_nobody(tmp_path: Path) -> None:
    [paper] = planned(tmp_path, ClusterSpec(H100, 1, 1))

    assert paper.times is not None
    assert (paper.times.communication, paper.times.gradients) == (0.0, 0.0)


def test_half_the_bytes_on_the_wire_are_half_the_communication(tmp_path: Path) -> None:
    [full], [half] = (
        planned(tmp_path, ClusterSpec(H100, 16, 2), f"train.comm_precision={name}", "tables.sharding=row_wise")
        for name in ("fp32", "fp16")
    )

    assert half.times.communication == pytest.approx(full.times.communication / 2, rel=0.01)


def test_slower_networks_are_slower(tmp_path: Path) -> None:
    slow = find_device("h100", HardwareConfig(inter_gb_s=5, intra_gb_s=5))
    [fast], [slowed] = (planned(tmp_path, ClusterSpec(device, 16, 2), "tables.sharding=row_wise") for device in (H100, slow))

    assert slowed.times.communication > 5 * fast.times.communication


def test_on_a_cpu_what_it_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GenctrError, match="compute_kernel fused_uvm needs a CUDA device"):
        planned(tmp_path, ClusterSpec(CPU, 1, 1), "tables.compute_kernel=fused_uvm")


def test_every_stage_is_planned_and_saved(tmp_path: Path) -> None:
    papers = planned(tmp_path, ClusterSpec(CPU, 2, 1), "model={family: denoiser, balance: progress, dim: 4}")
    saved = saved_plan(papers)
    saved.save(f"{tmp_path}/plan.json")

    assert [paper.stage for paper in papers] == ["pretrain", "rank"]
    assert type(saved).load(f"{tmp_path}/plan.json") == saved
    assert set(saved.stages["rank"]) == {"user", "tab"}
