"""From a stage's config to what one of its steps computes."""

import torch

from data.errors import GenctrError
from data.features import TableSpec
from data.frequencies import Frequencies
from models.contrast import PairLoss, PairModel
from models.diffusion.candidates import CandidateSampler, TableCounts
from models.diffusion.noise import Noise
from models.losses.base import TARGET, unread
from models.sparse import SparseArch, Table
from pipeline.builders.losses import build_losses
from pipeline.builders.models import build_denoiser, build_model
from pipeline.builders.source import Source
from pipeline.config.family import Given
from pipeline.config.model import ContrastConfig, DenoiserConfig
from pipeline.config.objective import objective_kind
from pipeline.config.registry import find
from pipeline.config.run import RunConfig, Stage
from pipeline.distributed.comm_codecs import check_communication
from pipeline.distributed.shard import device_problem
from pipeline.distributed.world import World
from pipeline.run_folder.claim import frequencies_file
from pipeline.training.denoise import DenoiseObjective
from pipeline.training.objective import Objective
from pipeline.training.objectives.contrast import ContrastObjective
from pipeline.training.rank import RankObjective

META = torch.device("meta")


def check_stage(stage: Stage, device: torch.device) -> None:
    """Refuse what a device cannot do, and what a loss cannot read, before a row is read.

    Raises:
        GenctrError: it cannot.
    """
    config, here = stage.config, f"stage {stage.name}: " if stage.name != "rank" else ""
    train = config.train
    check_communication(train.comm_precision, device)
    for name in ("", *config.tables.overrides):
        if problem := device_problem(config.tables.of(name), device):
            raise GenctrError(f"{here}{f'tables.overrides.{name}' if name else 'tables'}: {problem}")
    problem = ""
    if train.dense.precision == "bf16" and device.type == "cpu":
        problem = "train.dense.precision: bf16 is 40 times slower than fp32 on a CPU\n  next: set it to fp32"
    elif train.dense.precision not in (allowed := objective_kind(stage).precisions):
        problem = f"train.dense.precision: {stage.objective} computes in {', '.join(allowed)}\n  next: set it so for this stage"
    elif train.pipeline == "prefetch" and device.type == "cpu":
        problem = "train.pipeline: prefetch fetches rows from main memory to a GPU\n  next: on a CPU set it to auto"
    elif train.pipeline in ("sparse_dist", "prefetch") and not config.family.reads.ahead:
        problem = (
            f"train.pipeline: what a {config.model.family} looks up depends on the step, so {train.pipeline} cannot "
            "know it ahead\n"
            "  next: set it to auto"
        )
    else:
        problem = _loss_problem(config)
    if problem:
        raise GenctrError(here + problem)


def _loss_problem(config: RunConfig) -> str:
    """What a loss needs to read and the model does not represent; empty if there is nothing."""
    known = config.family.represents(config.model)
    for own in getattr(config.model, "losses", ()):
        if missing := unread(find("genctr.losses", own.name), known):
            hint = "set model.decoder to tf" if own.name == "tf" else "choose a decoder, a head or a loss that fit together"
            names = ", ".join(name.replace(TARGET, "TARGET") for name in missing)
            return f"model.losses: {own.name} reads {names}, which the model does not represent\n  next: {hint}"
    return ""


def build_objective(stage: Stage, source: Source, folder: str, world: World) -> Objective:
    """What one step of a stage computes."""
    bf16 = world.device.type if stage.config.train.dense.precision == "bf16" else None
    given = Given(
        stage,
        source.features,
        ranks=world.ranks,
        bf16=bf16,
        device=META,
        frequencies=lambda: Frequencies.load(frequencies_file(folder, stage)),
    )
    objective: Objective = stage.config.family.objectives[stage.objective](given)
    return objective


def build_rank_objective(given: Given) -> Objective:
    """What one step of a ranking computes, for any model that gives logits."""
    config, targets = given.options, given.features.schema.target_names
    schema = given.features.schema
    losses = build_losses(config.losses, schema)
    model = build_model(config, given.features, targets, device=given.device)
    return RankObjective(
        model,
        targets=targets,
        losses=losses,
        importance={label.target: label.weight for label in schema.targets if label.weight != 1},
        ranks=given.ranks,
        bf16=given.bf16,
    )


def build_denoise_objective(given: Given) -> Objective:
    """What one step of a denoiser's pre-training computes."""
    config: DenoiserConfig = given.options
    features, frequencies = given.features, given.frequencies()
    targets = features.schema.target_names
    counts = [_counts(spec, frequencies) for spec in features.tables]
    model = build_denoiser(config, features, targets, restores=True, device=given.device)
    shares = {own: torch.from_numpy((frequencies.counts[own] + 1) / (frequencies.counts[own].sum() + 2)) for own in targets}
    return DenoiseObjective(
        model,
        candidates=CandidateSampler(
            counts, full_rows=config.full_softmax_max_rows, extra=config.sampled_negatives, most=config.max_candidates
        ),
        shares=shares,
        noise=Noise(
            "count" if config.mask_count == "uniform" else "bernoulli",
            config.noise_schedule,
            config.time_weight,
            config.label_only_fraction,
        ),
        replace=config.noise == "replace",
        logq=config.logq,
        label_weight=config.label_weight,
        ranks=given.ranks,
    )


def _counts(spec: TableSpec, frequencies: Frequencies) -> TableCounts:
    """What is known of a table before it is trained."""
    counts = torch.from_numpy(sum(frequencies.counts[name] for name in spec.fields))
    return TableCounts(spec.name, spec.rows, spec.reserved, counts)


def build_contrast_objective(given: Given) -> Objective:
    """What one step of a contrastive pre-training computes.

    Raises:
        GenctrError: the stage does not read two id fields with a table each.
    """
    features, names, here = given.features, given.stage.fields, f"stage {given.stage.name}: "
    tables = {spec.name: spec for spec in features.tables}
    if len(names) != 2 or [features.kinds[name] for name in names] != ["id", "id"] or len(tables) != 2:
        told = "contrast reads two id fields with a table each, the user's and the item's"
        raise GenctrError(
            f"{here}{told}, and not {', '.join(names) or 'all fields'}\n"
            "  next: name them in the stage, such as fields: [user_id, item_id]"
        )
    user, item = names
    config: ContrastConfig = given.options.contrast
    if config.logq == "all" and features.schema.managed:
        raise GenctrError(
            f"{here}model.contrast.logq: rows of managed tables change hands, so nobody knows how often one occurs\n"
            "  next: set it to none"
        )
    sparse = SparseArch(
        [Table(spec.name, spec.rows, spec.dim or given.options.dim, spec.fields) for spec in features.tables],
        device=given.device,
    )
    frequencies = given.frequencies()
    users, items = (_counts(tables[name], frequencies) for name in names)
    loss = PairLoss(
        users=users,
        items=items,
        temperature=config.temperature,
        logq=config.logq == "all",
        symmetric=config.symmetric,
    )
    try:
        model = PairModel(sparse=sparse, user=user, item=item, project=config.project == "linear")
    except ValueError as error:
        raise GenctrError(f"{here}{error}\n  next: give both tables the same dim in the schema") from error
    return ContrastObjective(model, loss, user=user, item=item, keys=features.bag_keys, ranks=given.ranks)
