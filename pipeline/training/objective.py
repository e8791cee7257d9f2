"""What one step trains: a batch in, a loss and an output out."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from data.batch import Batch
from models.losses import Loss


@dataclass(frozen=True)
class StepOutput:
    """What a step leaves behind, detached. TorchRec's pipeline hands on nothing else, so the loss and the cursor ride here.

    Shape:
        logits: {task: (B,)}; losses: {name: ()}, this rank's share of the mean over the step's rows; seen: what diagnostics
        and meters look at, by name.
    """

    batch: Batch
    logits: dict[str, Tensor]
    losses: dict[str, Tensor]
    seen: dict[str, Tensor] = field(default_factory=dict)


class MapsIds(Protocol):
    """Managed tables: raw ids to rows, on all ranks together."""

    def __call__(self, batch: Batch, *, learn: bool) -> Batch:
        """The batch with rows for raw ids; unless `learn`, nothing comes or goes."""
        ...


class RankTask(nn.Module):
    """Click prediction: the sum over tasks of the loss on this rank's rows, and what the model adds of its own.

    loss = ranks * (sum over tasks of loss(output, task) + sum over aux and local rows of weight * loss / rows of the step)

    Averaged over ranks, as DistributedDataParallel and TorchRec average gradients, this is the mean over all rows of the
    step, however unevenly the last rows of a day fall on the ranks.

    Args:
        model: bags, sequences, numbers and vectors to an `Output`.
        tasks: task names, in the order of the label columns.
        loss: of each task.
        ranks: [ranks] of the process group.
        bf16: the kind of device on which the model's matrix products are computed in that, by torch's autocast; None: in fp32.
            Weights and losses stay fp32.

    Attributes:
        ids: maps the ids of managed tables; None if there are none. It is told what the tables are once they are sharded.
    """

    ids: MapsIds | None = None

    def __init__(self, model: nn.Module, *, tasks: tuple[str, ...], loss: Loss, ranks: int, bf16: str | None = None) -> None:
        super().__init__()
        self.model = model
        self.tasks, self.loss, self.ranks, self.bf16 = tasks, loss, ranks, bf16

    def forward(self, batch: Batch) -> tuple[Tensor, StepOutput]:
        """Return the scalar to differentiate, and the output with everything detached."""
        looked = self.ids(batch, learn=self.training) if self.ids is not None else batch
        # TorchRec's pipelines trace this method symbolically: what the head returns can be asked by name, not looped over.
        with nullcontext() if self.bf16 is None else torch.autocast(self.bf16, torch.bfloat16):
            output = self.model(looked.bags, looked.sequences, looked.numbers, looked.vectors)
            losses: dict[str, Tensor] = {}
            for i, task in enumerate(self.tasks):
                losses |= self.loss(output, task, batch.labels[:, i], batch.weights[:, i], batch.rows)
            losses |= {name: loss_B.sum() * (weight / batch.rows) for name, (loss_B, weight) in output.aux.items()}
        losses = {name: loss.float() for name, loss in losses.items()}
        total = torch.stack(list(losses.values())).sum() * self.ranks
        logits = {task: output.logits[task].detach().float() for task in self.tasks}
        return total, StepOutput(batch, logits, {name: loss.detach() for name, loss in losses.items()}, output.seen)
