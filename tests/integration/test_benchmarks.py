"""The benchmarks: what can be checked of them without a GPU and without training."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from data.schema import AnyIds
from pipeline.config.run import load
from tests.tiny import ROOT


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A benchmark as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # where dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


def test_the_published_network_and_tables_are_those_counted_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """13-512-256-128, three times 3456-512-3456, 3456-1024-1024-512-256-1; 204 million rows of 128 are 104.5e9 bytes."""
    scaling = script("scaling_model", monkeypatch)
    tables = [own for own in load(str(ROOT / "benchmarks" / "configs" / "dlrm.yaml"))[1].fields if isinstance(own, AnyIds)]

    cross, top = 3 * 2 * 3456 * 512, 3_538_944 + 1_048_576 + 524_288 + 131_072 + 256
    assert scaling.NETWORKS["DCN V2"] == 170_496 + cross + top
    assert scaling.PAIRS == 351
    assert len(tables) == 26
    assert sum(field.rows for field in tables) * 128 * 4 == pytest.approx(104.54e9, rel=1e-3)
    assert sum(field.length for field in tables) == 214


def test_the_published_figure_is_predicted_within_a_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    scaling = script("scaling_model", monkeypatch)

    [line] = scaling.compared(scaling.RUNS[:1])

    assert line["run"].rate == 1_190_000
    assert abs(line["error"]) < 0.25


def test_without_a_gpu_the_gpu_benchmark_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    gpu = script("gpu", monkeypatch)
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)

    assert gpu.main([]) == 2
    assert "torch finds no GPU here" in capsys.readouterr().err


def test_its_run_is_a_job_that_loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpu = script("gpu", monkeypatch)

    config, schema = load(str(gpu.write_run(tmp_path, largest=100, rows=64)))

    assert max(field.rows for field in schema.fields if isinstance(field, AnyIds)) == 100
    assert (config.data.days, config.data.test) == (("2026-11-01", "2026-11-02"), ("2026-11-03",))
    for settings in (*gpu.PARITY.values(), *gpu.ON_GPUS.values()):
        assert load(str(tmp_path / "run.yaml"), settings)


def test_every_arm_of_the_systems_is_a_run_that_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    systems = script("systems", monkeypatch)

    for study in systems.STUDIES.values():
        for settings in study.arms.values():
            assert load(str(ROOT / study.config), [*systems.COMMON, *settings])


def test_every_arm_on_real_logs_is_a_run_that_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    nextday, spectra, stale = (script(name, monkeypatch) for name in ("nextday", "spectra", "stale"))
    runs = [(log, (*known["set"], *arm)) for log, known in nextday.LOGS.items() for arm in nextday.ARMS.values()]
    runs += [("kuairand", ("train.progressive_validation=false", "data.validation=[]", *arm)) for arm in spectra.ARMS.values()]
    for log, first in stale.FIRST.items():
        days = (f"data.days='{first}..'", "data.validation=[]", "data.test=[]")
        runs += [(log, (*days, *arm)) for arm in stale.arms(log).values()]

    for log, settings in runs:
        assert load(str(ROOT / "launch" / "configs" / f"{log}.yaml"), list(settings))


def test_the_next_days_tables_print_the_rows_of_every_slice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All cells are in the stored results, so nothing is trained."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    nextday = script("nextday", monkeypatch)
    monkeypatch.setattr(sys, "argv", ["nextday.py", "kuairand", "--arms", "plain", "fm", "fm sfg"])

    nextday.main()

    lines = capsys.readouterr().out.splitlines()
    slices = "user_id unseen (358 rows) | user_id 1-9 (7,281 rows) | user_id 10+ (8,108 rows)"
    assert any(line.startswith(f"| is_click AUC, to plain | {slices} | video_id unseen (97 rows)") for line in lines)
    assert any(line.startswith("| is_click (15,747 rows) | seeds ") for line in lines)
    assert any(line.startswith("| fm sfg | 5 | 0.7317 ") and "+0.0102 ± 0.0020" in line for line in lines)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_gpu_benchmark_runs_to_its_end_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = script("gpu", monkeypatch)

    assert gpu.main(["--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "no GPU: a dry run, in which no number means anything" in told
    assert told.count("| yes | 0.00e+00 |") == 7
    assert "NO" not in told
