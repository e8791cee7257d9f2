"""Keys of earlier versions are refused with their new names; run folders of earlier versions with what to do."""

from pathlib import Path

import pytest

from data.errors import GenctrError
from pipeline.run_folder.claim import load_run
from tests.pipeline.config.test_run import MINIMAL, bad

OLD_KEYS = [
    ("data.fit=[2026-11-01]", "data.statistics_days"),
    ("data.format=csv", "data.reader"),
    ("data.success=null", "data.success_file"),
    ("data.shuffle_rows=8", "data.shuffle_buffer_rows"),
    ("data.prefetch=0", "data.prefetch_batches"),
    ("tables.only={item_id: {lr: 1}}", "tables.overrides"),
    ("tables.kernel=fused", "tables.compute_kernel"),
    ("tables.cache=0.5", "tables.cache_load_factor"),
    ("tables.clip=1", "tables.gradient_clip_value"),
    ("tables.decay=table", "tables.weight_decay_rows"),
    ("tables.overrides={item_id: {clip: 1}}", "tables.overrides.item_id.gradient_clip_value"),
    ("train.batch_rows=8", "train.global_batch_rows"),
    ("train.communication=fp16", "train.comm_precision"),
    ("train.plan=plan.json", "train.sharding_plan"),
    ("train.score_first=true", "train.progressive_validation"),
    ("train.schedule={floor: 0.1}", "train.schedule.min_factor"),
    ("checkpoint.keep=1", "checkpoint.keep_last"),
    ("daily.late=append", "daily.on_late_files"),
    ("daily.changed=refuse", "daily.on_changed_files"),
    ("daily.gap=skip", "daily.on_missing_day"),
    ("daily.gap_hours=1", "daily.missing_day_grace_hours"),
    ("daily.compare=rows", "daily.file_identity"),
    ("daily.fresh_share=0.2", "daily.holdout_fraction"),
    ("daily.tables=int8", "daily.bundle_precision (float32 is fp32)"),
    ("daily.row_decay={item_id: 0.5}", "daily.table_decay"),
    ("daily.accept=[]", "daily.accept_changes"),
    ("daily.most_poll_seconds=9", "daily.max_poll_seconds"),
    ("stages=[{name: a, load: {stage: b, what: all}}]", "stages.0.load.parts"),
    ("stages=[{name: a, train: {batch_rows: 8}}]", "train.global_batch_rows"),
]


@pytest.mark.parametrize(("override", "new"), OLD_KEYS, ids=[old for old, _ in OLD_KEYS])
def test_an_old_key_is_refused_with_its_new_name(tmp_path: Path, override: str, new: str) -> None:
    told = bad(tmp_path, MINIMAL, override)
    assert told.startswith(f"override {override!r}: ")
    assert told.endswith(f" is now {new}")


def test_all_old_keys_of_a_file_are_named_with_their_lines(tmp_path: Path) -> None:
    told = bad(tmp_path, f"{MINIMAL}train:\n  batch_rows: 8\n  epochs: 2\n  score_first: true\n")
    assert told.splitlines() == [
        "run.yaml, line 6: train.batch_rows is now train.global_batch_rows",
        "run.yaml, line 8: train.score_first is now train.progressive_validation",
    ]


def test_a_run_folder_of_an_earlier_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"{MINIMAL}train: {{batch_rows: 8, score_first: true}}\ncheckpoint: {{keep: 2}}\n")
    with pytest.raises(GenctrError) as error:
        load_run(str(tmp_path))
    told = str(error.value).splitlines()
    assert told[0] == f"{tmp_path} was begun by an earlier version, which called settings otherwise:"
    assert told[1].endswith("line 5: train.batch_rows is now train.global_batch_rows")
    assert told[-1] == "  next: give a new --out, or train on with the version that began it"
