"""Keys of run files that have another name now; a file that says the old one is refused with the new one."""

from collections.abc import Mapping
from types import MappingProxyType

_DENOISER = {
    "ratio": "noise_schedule",
    "sampler": "mask_count (its value count is uniform)",
    "full_rows": "full_softmax_max_rows",
    "extra_candidates": "sampled_negatives",
    "most_candidates": "max_candidates",
    "finetune_share": "label_only_fraction",
    "score": "similarity",
    "p_min": "progress_min",
    "beta": "track_exponent",
    "tau": "dro_temperature",
}

_ENCODER = {
    "only": "generate_for (high is high_cardinality, low is low_cardinality)",
    "count": "num_fields",
    "target": "training_target",
    "targets": "num_targets",
}

_KEYS = {
    "data": {
        "fit": "statistics_days",
        "format": "reader",
        "success": "success_file",
        "shuffle_rows": "shuffle_buffer_rows",
        "prefetch": "prefetch_batches",
    },
    "tables": {"only": "overrides"},
    "train": {
        "batch_rows": "global_batch_rows",
        "communication": "comm_precision",
        "plan": "sharding_plan",
        "score_first": "progressive_validation",
        "schedule.floor": "schedule.min_factor",
    },
    "checkpoint": {"keep": "keep_last"},
    "daily": {
        "late": "on_late_files",
        "changed": "on_changed_files",
        "gap": "on_missing_day",
        "gap_hours": "missing_day_grace_hours",
        "compare": "file_identity",
        "fresh_share": "holdout_fraction",
        "row_decay": "table_decay",
        "accept": "accept_changes",
        "most_poll_seconds": "max_poll_seconds",
    },
}

_TABLE = {
    "kernel": "compute_kernel",
    "cache": "cache_load_factor",
    "clip": "gradient_clip_value",
    "decay": "weight_decay_rows",
}

RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "model.paradigm": "model.family: plain is family: ranker, sfg is family: ranker with encoder: {kind: sfg}, "
        "diffusion is family: denoiser, hetegen is family: denoiser with balance: progress",
        "model.options": "model.decoder_options",
        "model.decoder_options.dfm": "model.head_options.fusion",
        "model.loss": "model.losses: [{name: ...}]",
        "model.loss_options": "model.losses: [{name: ..., options: {...}}]",
        **{f"model.denoiser.{old}": f"model.{new}" for old, new in _DENOISER.items()},
        "model.denoiser": "model, with family: denoiser: its settings are keys of model itself",
        **{f"model.encoder.{old}": f"model.encoder.{new}" for old, new in _ENCODER.items()},
        "stages.*.task": "stages.*.objective (pretrain is denoise)",
        "stages.*.load.what": "stages.*.load.parts",
        **{f"{section}.{old}": f"{section}.{new}" for section, keys in _KEYS.items() for old, new in keys.items()},
        **{f"tables.{old}": f"tables.{new}" for old, new in _TABLE.items()},
        **{f"tables.overrides.*.{old}": f"tables.overrides.*.{new}" for old, new in _TABLE.items()},
        "daily.tables": "daily.bundle_precision (float32 is fp32)",
    }
)
"""The old key -> what is said instead, in words. A `*` stands for any key or number. What is said of a run's section holds for
that of a stage too."""
