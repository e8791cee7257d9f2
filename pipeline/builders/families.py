"""Our own families of models: what a run file may say of each, what it reads, and how its parts are built."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from pipeline.config.family import Family, Given, Observed, Reads
from pipeline.config.model import DenoiserConfig, RankerConfig
from pipeline.config.stages import LoadConfig, StageConfig

if TYPE_CHECKING:  # what a run file may say is known before torch is loaded, so the builders are imported as they are called
    import torch

    from data.features import Features
    from models.contrast import PairModel
    from models.diffusion.denoiser import Denoiser
    from models.ranker import Ranker
    from pipeline.training.objective import Objective


def _ranker(config: RankerConfig, features: "Features", targets: tuple[str, ...], device: "torch.device") -> "Ranker":
    from pipeline.builders.models import build_ranker

    return build_ranker(config, features, targets, device=device)


def _denoiser(config: DenoiserConfig, features: "Features", targets: tuple[str, ...], device: "torch.device") -> "Denoiser":
    from pipeline.builders.models import build_denoiser

    return build_denoiser(config, features, targets, device=device)


def _rank(given: Given) -> "Objective":
    from pipeline.builders.objectives import build_rank_objective

    return build_rank_objective(given)


def _denoise(given: Given) -> "Objective":
    from pipeline.builders.objectives import build_denoise_objective

    return build_denoise_objective(given)


def _contrast(given: Given) -> "Objective":
    from pipeline.builders.objectives import build_contrast_objective

    return build_contrast_objective(given)


def _ranker_represents(config: RankerConfig) -> Collection[str]:
    from pipeline.builders.models import represented

    return represented(config)


def _ranker_observed(model: "Ranker | PairModel", features: "Features") -> Observed:
    names = list(features.fields)
    return Observed(names, [features.cardinality(name) for name in names], model.width)


def _denoiser_observed(model: "Denoiser", features: "Features") -> Observed:
    names = [slot.name for slot in model.tables]
    return Observed(names, [features.cardinality(name) for name in names], model.tables[0].dim)


def _pretrained() -> tuple[StageConfig, ...]:
    """Pre-training, then fine-tuning of all that it learnt.

    While pre-training: a cosine knows no scale, so a penalty would only shrink the tables, and next to zero its gradient is
    huge. One pass, for id tables over-fit in pre-training as they do on clicks. Softmaxes are not for bf16.
    """
    tables = {"weight_decay": 0.0, "init": {"kind": "normal", "scale": 0.05}}
    train = {"progressive_validation": False, "epochs": 1, "dense": {"precision": "fp32"}}
    return (
        StageConfig(name="pretrain", objective="denoise", tables=tables, train=train),
        StageConfig(name="rank", objective="rank", load=LoadConfig(stage="pretrain")),
    )


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "ranker": Family(
            options=RankerConfig,
            objectives={"rank": _rank, "contrast": _contrast},
            build=_ranker,
            observe=_ranker_observed,
            reads=Reads(sequences=lambda options: options.sequences),
            represents=_ranker_represents,
        ),
        "denoiser": Family(
            options=DenoiserConfig,
            objectives={"rank": _rank, "denoise": _denoise},
            build=_denoiser,
            observe=_denoiser_observed,
            default_stages=_pretrained,
            reads=Reads(pooled=False, buckets=lambda options: options.buckets, ahead=False, managed_ids=False, amounts=False),
            learning_rates=lambda options: {"balance.s": options.balance_lr},
        ),
    }
)
"""Ours; outside packages add to `genctr.families`."""
