"""Draw rows from a pre-trained denoiser and say how far they are from the log's: the honest check that it generates."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import mean
from typing import cast

import torch
from torch import Tensor

from data.batch import Batch
from data.errors import GenctrError
from models.diffusion.denoiser import Denoiser
from models.diffusion.sampling import draw
from models.diffusion.slots import ids_of
from pipeline.builders.job import Job
from pipeline.jobs.restore import restore_best
from pipeline.run_folder.progress import Progress
from pipeline.training.denoise import DenoiseObjective

CLASSES = 64
"""[classes] a field is compared by: its most frequent values, and one for all the others."""


@dataclass(frozen=True)
class Distance:
    """Total variation between two samples, 0 to 1: half the sum over classes of the difference of their shares.

    All are distances to one half of the log's rows, of as many rows: two samples of a size differ by chance alone.

    Args:
        drawn: of drawn rows. log: of the other half of the log's, the least that samples of this size reach. independent: of
            that half with its values shuffled field by field (pairs only): what a generator that knows no dependence reaches.
    """

    drawn: float
    log: float
    independent: float | None = None


@dataclass(frozen=True)
class SampleReport:
    """How far drawn rows are from the log's: by field or label, and the mean over pairs of them."""

    rows: int
    fields: dict[str, Distance]
    pairs: Distance | None


def sample(job: Job, days: Sequence[str], *, rows: int, given: Sequence[str], steps: int, quiet: bool) -> SampleReport:
    """Draw `rows` rows and compare them.

    Args:
        days: the log's rows that are compared with; lists are as long as theirs.
        given: fields and targets that are taken from the log instead of drawn.
        steps: rounds of unveiling; 0: as many as there are values in a row.

    Raises:
        GenctrError: no two rows to draw or less than no step; no such field, noise by replacement, or fewer rows in the log.
    """
    if rows < 2 or steps < 0:
        raise GenctrError(f"--rows {rows}, --steps {steps}: expected 2 rows or more, and 0 steps or more")
    objective = cast(DenoiseObjective, job.objective)
    model = objective.model
    for name in given:
        if name not in model.names:
            raise GenctrError(f"--given {name}: no such field or target\n  next: choose from {', '.join(model.names)}")
    if objective.replace:
        raise GenctrError("rows are drawn by unveiling what is masked, and this model learnt with noise: replace")
    step = restore_best(job)
    job.sharded.model.eval()
    torch.manual_seed(job.seed)
    real, drawn, left = [], [], rows
    for day in days:
        if left <= 0:
            break
        stream = job.source.stream(job.open(day, step))
        with Progress(min(stream.rows, left), f"draw rows of {day}", shown=job.world.is_rank_zero, plain=quiet) as progress:
            for batch in stream.batches(stream.start()):
                if left <= 0:
                    break
                batch = batch.to(job.world.device)
                own = _values(model, batch)
                real.append(own.cpu())
                drawn.append(_drawn(objective, batch, given, steps).cpu())
                progress.advance(min(len(own), left), "")
                left -= len(own)
    if not real:
        raise GenctrError(f"{', '.join(days)}: no rows to compare with")
    partly = [label.target for label in job.schema.targets if label.valid_where is not None]
    return compare(model, torch.cat(real)[:rows], torch.cat(drawn)[:rows], given, left_out=partly)


def compare(
    model: Denoiser, real_NS: Tensor, drawn_NS: Tensor, given: Sequence[str], *, left_out: Sequence[str] = ()
) -> SampleReport:
    """The distances between the log's rows and drawn ones; -1 is not a value. Fields that were given are compared in pairs
    alone.

    Args:
        left_out: labels that do not count in every row: in drawn rows nobody knows where they would.

    Shape:
        real_NS, drawn_NS (N, S) table rows, then labels
    """
    half = len(real_NS) // 2
    order = torch.randperm(len(real_NS))
    first, second = order[:half], order[half : 2 * half]
    fields: dict[str, Distance] = {}
    single: dict[str, list[Tensor]] = {}
    for at, name in enumerate(model.names):
        if name in left_out:
            continue
        slots = _slots(model, at)
        classes = [frequency_classes(own[:, slots], real_NS[:, slots]) for own in (real_NS, drawn_NS)]
        if name in given:
            single |= {name: classes} if len(slots) == 1 else {}
            continue
        there = [own[own >= 0] for own in (classes[0][first], classes[1][second], classes[0][second])]
        fields[name] = Distance(drawn=total_variation(there[0], there[1]), log=total_variation(there[0], there[2]))
        if len(slots) == 1:
            single[name] = classes
    pairs = []
    for one, other in combinations(single, 2):
        if one in given and other in given:
            continue
        both, drawn = (single[one][k][:, 0] * (CLASSES + 2) + single[other][k][:, 0] for k in (0, 1))
        shuffled = single[one][0][torch.randperm(len(both)), 0] * (CLASSES + 2) + single[other][0][:, 0]
        pairs.append(Distance(*(total_variation(both[first], own[second]) for own in (drawn, both, shuffled))))
    means = [mean(getattr(own, key) for own in pairs) for key in ("drawn", "log", "independent")] if pairs else []
    return SampleReport(len(real_NS), fields, Distance(*means) if means else None)


def _values(model: Denoiser, batch: Batch) -> Tensor:
    """The rows as table rows and labels, (B, S); -1 where there is no value."""
    assert batch.sequences is not None
    ids = ids_of(batch.sequences, model.tables)
    return torch.cat([torch.where(ids.there, ids.ids, -1), batch.labels.long()], dim=1)


def _drawn(objective: DenoiseObjective, batch: Batch, given: Sequence[str], steps: int) -> Tensor:
    model = objective.model
    assert batch.sequences is not None
    ids = ids_of(batch.sequences, model.tables)
    hidden_BS = model.maskable(ids)
    kept = [at for at, name in enumerate(model.names) if name in given]
    labels = len(model.tables) + len(model.vectors)
    kept_fields = [at if at < len(model.tables) else at - len(model.tables) + labels for at in kept]
    hidden_BS = hidden_BS & ~torch.isin(model.layout.field_S, torch.tensor(kept_fields, device=model.layout.field_S.device))
    chosen = objective.candidates(objective.present(ids, hidden_BS))
    steps = steps or max(int(hidden_BS.sum(1).max()), 1)
    fresh = replace(ids, ids=ids.ids.clone())
    drawn_BS, labels_BT = draw(
        model,
        batch.sequences,
        fresh,
        batch.vectors,
        batch.labels.clone(),
        hidden_BS,
        chosen,
        steps=steps,
        corrected=objective.logq != "none",
    )
    return torch.cat([torch.where(ids.there, drawn_BS, -1), labels_BT.long()], dim=1)


def _slots(model: Denoiser, name: int) -> Tensor:
    """The columns of `_values` that hold a field or label."""
    fields = len(model.tables)
    tables = int((model.layout.field_S < fields).sum())
    if name >= fields:
        return torch.tensor([tables + name - fields])
    return (model.layout.field_S == name).nonzero().squeeze(1).cpu()


def frequency_classes(values_NL: Tensor, like_NL: Tensor) -> Tensor:
    """Every value as the rank of its frequency in `like`, CLASSES for all that are rarer or unseen, -1 for none."""
    known, counts = torch.unique(like_NL[like_NL >= 0], return_counts=True)
    frequent = known[counts.argsort(descending=True, stable=True)[:CLASSES]].sort().values
    if not len(frequent):
        return torch.where(values_NL >= 0, CLASSES, -1)
    at = torch.searchsorted(frequent, values_NL.contiguous()).clamp(max=len(frequent) - 1)
    return torch.where(values_NL < 0, -1, torch.where(frequent[at] == values_NL, at, CLASSES))


def total_variation(one_N: Tensor, other_M: Tensor) -> float:
    """Total variation between two samples of classes."""
    if not len(one_N) or not len(other_M):
        return float("nan")
    both, at = torch.unique(torch.cat([one_N.flatten(), other_M.flatten()]), return_inverse=True)
    shares = [torch.bincount(own, minlength=len(both)) / len(own) for own in (at[: one_N.numel()], at[one_N.numel() :])]
    return float((shares[0] - shares[1]).abs().sum() / 2)
