"""What one step of ranking computes: the losses of all targets."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType

import torch
from torch import Tensor, nn

from data.batch import Batch
from models.losses.base import LossTerm, Targets, links_of, losses_of
from models.output import Output
from pipeline.config.objective import RankKind
from pipeline.training.inputs import inputs_of
from pipeline.training.metrics import Meters, RunningMeters
from pipeline.training.objective import MetricSpec, Objective, StepOutput

NOTHING: Mapping[str, float] = MappingProxyType({})


class RankObjective(RankKind, Objective):
    """Click prediction: the sum of the losses on this rank's rows, and what the model adds of its own.

    loss = ranks * (sum over losses of weight * loss(output, targets)
                    + sum over aux and local rows of weight * loss / rows of the step)

    Averaged over ranks, as DistributedDataParallel and TorchRec average gradients, this is the mean over all rows of the
    step, however unevenly the last rows of a day fall on the ranks.

    Args:
        model: `Inputs` to an `Output`.
        targets: their names, in the order of the label columns.
        losses: one or several, see `LossTerm`.
        importance: target -> [1] factor of all of its losses; 1 for those left out.
        ranks: [ranks] of the process group.
        bf16: the kind of device on which the model's matrix products are computed in that, by torch's autocast; None: in fp32.
            Weights and losses stay fp32.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        targets: tuple[str, ...],
        losses: Sequence[LossTerm],
        ranks: int,
        importance: Mapping[str, float] = NOTHING,
        bf16: str | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.targets, self.losses, self.ranks, self.bf16 = targets, tuple(losses), ranks, bf16
        self.importance, self.links = dict(importance), links_of(losses, targets)
        self.headline = MetricSpec("auc", higher_is_better=True, path=(targets[0], "auc"))

    def forward(self, batch: Batch) -> tuple[Tensor, StepOutput]:
        """Return the scalar to differentiate, and the output with everything detached."""
        looked = self.ids(batch, learn=batch.learns) if self.ids is not None else batch
        # TorchRec's pipelines trace this method symbolically: what the head returns can be asked by name, not looped over.
        with nullcontext() if self.bf16 is None else torch.autocast(self.bf16, torch.bfloat16):
            output = self._as_sampled(self.model(inputs_of(looked)), batch)
            targets = Targets(self.targets, batch.labels, batch.weights, batch.rows, batch.groups, self.importance)
            losses = losses_of(self.losses, output, targets)
            losses |= {name: loss_B.sum() * (weight / batch.rows) for name, (loss_B, weight) in output.aux.items()}
        losses = {name: loss.float() for name, loss in losses.items()}
        total = torch.stack(list(losses.values())).sum() * self.ranks
        logits = {target: output.logits[target].detach().float() for target in self.targets}
        return total, StepOutput(batch, logits, {name: loss.detach() for name, loss in losses.items()}, output.observed)

    def _as_sampled(self, output: Output, batch: Batch) -> Output:
        """The logits of the rows as they lie in a log without some of its rows of label 0."""
        if batch.offsets is None:
            return output
        logits = {name: output.logits[name] + batch.offsets[:, at] for at, name in enumerate(self.targets)}
        return Output(logits, output.representations, output.aux, output.observed)

    def day_metrics(self) -> Meters:
        """Exact metrics of every target."""
        return Meters(self.targets, self.links)

    def step_metrics(self) -> RunningMeters:
        """Running metrics of every target."""
        return RunningMeters(self.targets, self.links)
