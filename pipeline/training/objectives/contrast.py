"""What one step of a contrastive pre-training computes, and its metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from data.batch import Batch
from models.contrast import HITS, SUMS, PairLoss, PairModel
from pipeline.config.objective import ContrastKind
from pipeline.training.inputs import inputs_of
from pipeline.training.objective import MetricSpec, Objective, StepOutput


class ContrastObjective(ContrastKind, Objective):
    """Tell every positive row's item from those of the step's other positive rows.

    loss = ranks * this rank's share of the mean over the pairs of the step

    Averaged over ranks it is the mean, however the rows fall on them.

    Args:
        model: of the two tables. loss: of its vectors.
        user, item: the fields that a pair is made of. keys: both in the order of a batch.
        ranks: [ranks] of the process group.
    """

    model: PairModel

    def __init__(self, model: PairModel, loss: PairLoss, *, user: str, item: str, keys: Sequence[str], ranks: int) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.user, self.item, self.keys, self.ranks = user, item, tuple(keys), ranks
        self.headline = MetricSpec("loss", higher_is_better=False, path=("all", "loss"))

    def forward(self, batch: Batch) -> tuple[Tensor, StepOutput]:
        """Return the scalar to differentiate, and the sums of the pairs with everything detached."""
        looked = self.ids(batch, learn=batch.learns) if self.ids is not None else batch
        output = self.model(inputs_of(looked))
        # Not by key, which a KeyedJaggedTensor without rows has not. An id field has one id a row, so they lie key by key.
        ids_2B = looked.bags.values().view(2, batch.labels.shape[0])
        # TorchRec's pipelines trace this method symbolically; `loss`, which chooses rows, is a module that they do not enter.
        loss, sums = self.loss(
            output.representations[self.user],
            output.representations[self.item],
            ids_2B[self.keys.index(self.user)],
            ids_2B[self.keys.index(self.item)],
            batch.positive,
        )
        return loss * self.ranks, StepOutput(batch, {}, {"contrast": loss.detach()}, {"sums": sums, **output.observed})

    def day_metrics(self) -> "PairMeters":
        """Metrics of the pairs."""
        return PairMeters()

    def step_metrics(self) -> "PairMeters":
        """The same: they are of constant size."""
        return PairMeters()


class PairMeters:
    """Metrics of pairs over all the steps they were shown.

    loss       [nats]  mean cross-entropy of a pair's item among the candidates of its step
    reference  [nats]  mean ln of the number of candidates: the same for one who knows nothing
    hit@10     [1]     share of pairs whose item is among the ten best; a tie counts against it
    rows       [rows]  pairs
    """

    def __init__(self) -> None:
        self._sums = torch.zeros(len(SUMS), dtype=torch.float64)

    @torch.no_grad()
    def update(self, output: StepOutput) -> None:
        """Add the pairs of one step; there may be none."""
        sums = output.observed["sums"]
        self._sums = self._sums.to(sums.device) + sums

    def compute(self) -> dict[str, dict[str, float]]:
        """The metrics over all ranks; nan where there was no pair. Collective."""
        loss, reference, hits, pairs = self._total().tolist()
        means = [own / pairs if pairs else float("nan") for own in (loss, reference, hits)]
        return {"all": {"loss": means[0], "reference": means[1], f"hit@{HITS}": means[2], "rows": pairs}}

    def state_dict(self) -> dict[str, Any]:
        """All pairs of all ranks, as JSON values. Collective."""
        return dict(zip(SUMS, self._total().tolist(), strict=True))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`, with any number of ranks: rank 0 takes it all."""
        first = not dist.is_initialized() or dist.get_rank() == 0
        self._sums = torch.tensor([state[name] for name in SUMS], dtype=torch.float64) * first

    def _total(self) -> Tensor:
        total = self._sums.clone()
        if dist.is_initialized():
            dist.all_reduce(total)
        return total.cpu()
