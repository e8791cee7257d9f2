"""From a stage's config to what one of its steps computes."""

import torch

from data.errors import GenctrError
from data.features import Features
from data.frequencies import Frequencies
from models.decoders import DECODERS
from models.diffusion.candidates import CandidateSampler, TableCounts
from models.diffusion.noise import Noise
from models.losses import LOSSES
from pipeline.builders.models import META, build_denoiser, build_model
from pipeline.builders.registry import bind, find
from pipeline.builders.source import Source
from pipeline.builders.tables import table_options
from pipeline.config.model import ModelConfig
from pipeline.config.run import Stage
from pipeline.distributed.comm_codecs import check_communication
from pipeline.distributed.shard import device_problem
from pipeline.distributed.world import World
from pipeline.run_folder.claim import frequencies_file
from pipeline.training.denoise import PretrainTask
from pipeline.training.objective import RankTask


def check_stage(stage: Stage, device: torch.device) -> None:
    """Refuse what a device cannot do, and what a loss cannot read, before a row is read.

    Raises:
        GenctrError: it cannot.
    """
    config, here = stage.config, f"stage {stage.name}: " if stage.name != "rank" else ""
    train, denoises = config.train, config.model.denoises
    check_communication(train.communication, device)
    for name in ("", *config.tables.only):
        if problem := device_problem(table_options(config.tables.of(name)), device):
            raise GenctrError(f"{here}{f'tables.only.{name}' if name else 'tables'}: {problem}")
    problem = ""
    if train.dense.precision == "bf16" and device.type == "cpu":
        problem = "train.dense.precision: bf16 is 40 times slower than fp32 on a CPU\n  next: set it to fp32"
    elif train.dense.precision == "bf16" and stage.task == "pretrain":
        problem = "train.dense.precision: a pre-training computes its softmaxes in fp32\n  next: set it to fp32 for this stage"
    elif train.pipeline == "prefetch" and device.type == "cpu":
        problem = "train.pipeline: prefetch fetches rows from main memory to a card\n  next: on a CPU set it to auto"
    elif train.pipeline in ("sparse_dist", "prefetch") and denoises:
        problem = (
            f"train.pipeline: a denoiser's look-ups depend on what it hides, which {train.pipeline} cannot know a step ahead\n"
            "  next: set it to auto"
        )
    elif stage.task == "rank" and find("genctr.losses", config.model.loss, LOSSES).branches and not _branches(config.model):
        problem = f"model.loss: {config.model.loss} reads two encoders, and the model has one\n  next: set model.decoder to tf"
    if problem:
        raise GenctrError(here + problem)


def _branches(config: ModelConfig) -> bool:
    """Whether the model says what two encoders say on their own."""
    return not config.denoises and find("genctr.decoders", config.decoder, DECODERS).branches


def build_task(stage: Stage, source: Source, folder: str, world: World) -> RankTask | PretrainTask:
    """What one step of a stage computes."""
    config, features, tasks = stage.config.model, source.features, source.schema.task_names
    if stage.task == "pretrain":
        frequencies = Frequencies.load(frequencies_file(folder, stage))
        return build_pretrain_task(config, features, tasks, frequencies, ranks=world.ranks)
    bf16 = world.device.type if stage.config.train.dense.precision == "bf16" else None
    return build_rank_task(config, features, tasks, ranks=world.ranks, bf16=bf16)


def build_rank_task(
    config: ModelConfig,
    features: Features,
    tasks: tuple[str, ...],
    *,
    ranks: int,
    bf16: str | None = None,
    device: torch.device = META,
) -> RankTask:
    """What one step of a ranking computes.

    Args:
        bf16: see `RankTask`. device: of the tables.
    """
    make_loss = find("genctr.losses", config.loss, LOSSES)
    loss = bind(f"loss {config.loss}", make_loss, config.loss_options)
    return RankTask(build_model(config, features, tasks, device=device), tasks=tasks, loss=loss, ranks=ranks, bf16=bf16)


def build_pretrain_task(
    config: ModelConfig,
    features: Features,
    tasks: tuple[str, ...],
    frequencies: Frequencies,
    *,
    ranks: int,
    device: torch.device = META,
) -> PretrainTask:
    """What one step of a pre-training computes; `device`: of the tables."""
    own = config.denoiser
    counts = [
        TableCounts(
            spec.name, spec.rows, spec.reserved, torch.from_numpy(sum(frequencies.counts[name] for name in spec.fields))
        )
        for spec in features.tables
    ]
    model = build_denoiser(config, features, tasks, restores=True, device=device)
    shares = {task: torch.from_numpy((frequencies.counts[task] + 1) / (frequencies.counts[task].sum() + 2)) for task in tasks}
    return PretrainTask(
        model,
        candidates=CandidateSampler(counts, full_rows=own.full_rows, extra=own.extra_candidates, most=own.most_candidates),
        shares=shares,
        noise=Noise(own.sampler, own.ratio, own.time_weight, own.finetune_share),
        replace=own.noise == "replace",
        logq=own.logq,
        ranks=ranks,
    )
