"""Losses per field and label of a pre-training, over all the rows they were shown."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.training.objective import StepOutput

SUMS = ("loss", "reference", "rows")


class FieldMeters:
    """Losses per field and label over all the rows they were shown.

    loss       [nats]  mean cross-entropy of the restored values, over the candidates the softmax had
    reference  [nats]  the same for a predictor that knows only how frequent values are
    rows       [rows]  restored values
    weight     [1]     of the field in the last step's loss
    difficulty [1]     s of the last step, where a balance learns one

    `all` is the mean over all of them.

    Args:
        names: the fields, then the labels.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._sums = torch.zeros(len(self.names), len(SUMS), dtype=torch.float64)
        self._last: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, output: StepOutput) -> None:
        """Add the rows of one step; there may be none."""
        step = torch.stack([output.observed[name] for name in SUMS], dim=1)
        self._sums = self._sums.to(step.device) + step
        self._last = {name: output.observed[name] for name in ("weight", "difficulty") if name in output.observed}

    def compute(self) -> dict[str, dict[str, float]]:
        """The metrics over all ranks: {field: {metric: value}}; nan where nothing was hidden. Collective."""
        total = self._total()
        means = total[:, :2] / total[:, 2:]
        found = {
            name: {"loss": mean[0], "reference": mean[1], "rows": rows}
            for name, mean, rows in zip(self.names, means.tolist(), total[:, 2].tolist(), strict=True)
        }
        for metric, values in self._last.items():
            for name, value in zip(self.names, values.tolist(), strict=False):  # labels have no difficulty
                found[name][metric] = value
        loss, reference, rows = total.sum(0).tolist()
        nothing = float("nan")
        return {"all": {"loss": loss / rows if rows else nothing, "reference": reference / rows if rows else nothing}} | found

    def state_dict(self) -> dict[str, Any]:
        """All rows of all ranks, as JSON values. Collective."""
        return dict(zip(self.names, self._total().tolist(), strict=True))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`, with any number of ranks: rank 0 takes it all. A name that is not in it begins here."""
        first = not dist.is_initialized() or dist.get_rank() == 0
        sums = torch.tensor([state.get(name, [0.0] * len(SUMS)) for name in self.names], dtype=torch.float64)
        self._sums = sums if first else torch.zeros_like(sums)

    def _total(self) -> Tensor:
        total = self._sums.clone()
        if dist.is_initialized():
            dist.all_reduce(total)
        return total.cpu()
