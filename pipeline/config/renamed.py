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
    }
)
"""The old key -> what is said instead, in words. A `*` stands for any key or number. What is said of a run's section holds for
that of a stage too."""
