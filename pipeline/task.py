"""What one step trains: a batch in, a loss and an output out."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data.batch import Batch
from models.ranker import Ranker

Loss = Callable[[Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class StepOutput:
    """What a step leaves behind. TorchRec's pipeline hands on nothing else, so the loss and the cursor ride here.

    Shape:
        logits: {task: (B,)}; losses: {name: ()}, this rank's share of the mean over the step's rows.
    """

    batch: Batch
    logits: dict[str, Tensor]
    losses: dict[str, Tensor]


class RankTask(nn.Module):
    """Click prediction: the sum over tasks of the loss on this rank's rows.

    loss = ranks * sum over tasks and local rows of weight * loss(logit, label) / rows of the step

    Averaged over ranks, as DistributedDataParallel and TorchRec average gradients, this is the mean over all rows of the
    step, however unevenly the last rows of a day fall on the ranks.

    Args:
        ranker: the click model.
        tasks: task names, in the order of the label columns.
        loss: (logits, labels, weights, rows) to a scalar.
        ranks: [ranks] of the process group.
    """

    def __init__(self, ranker: Ranker, *, tasks: tuple[str, ...], loss: Loss, ranks: int) -> None:
        super().__init__()
        self.ranker = ranker
        self.tasks, self.loss, self.ranks = tasks, loss, ranks

    def forward(self, batch: Batch) -> tuple[Tensor, StepOutput]:
        """Return the scalar to differentiate, and the output with everything detached."""
        output = self.ranker(batch.bags, batch.sequences, batch.numbers, batch.vectors)
        losses = {
            task: self.loss(output.logits[task], batch.labels[:, i], batch.weights[:, i], batch.rows)
            for i, task in enumerate(self.tasks)
        }
        losses |= {name: loss * weight for name, (loss, weight) in output.aux.items()}
        total = torch.stack(list(losses.values())).sum() * self.ranks
        logits = {task: logit.detach() for task, logit in output.logits.items()}
        return total, StepOutput(batch, logits, {name: loss.detach() for name, loss in losses.items()})
