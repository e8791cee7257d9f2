"""What one step computes: a batch in, a loss and an output out; and what it is judged by."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from torch import Tensor, nn

from data.batch import Batch
from pipeline.config.objective import ObjectiveKind


@dataclass(frozen=True)
class StepOutput:
    """What a step leaves behind, detached. TorchRec's pipeline hands on nothing else, so the loss and the cursor ride here.

    Shape:
        logits: {target: (B,)}; losses: {name: ()}, this rank's share of the mean over the step's rows; seen: what diagnostics
        and meters look at, by name.
    """

    batch: Batch
    logits: dict[str, Tensor]
    losses: dict[str, Tensor]
    observed: dict[str, Tensor] = field(default_factory=dict)


class MapsIds(Protocol):
    """Managed tables: raw ids to rows, on all ranks together."""

    def __call__(self, batch: Batch, *, learn: bool) -> Batch:
        """The batch with rows for raw ids; unless `learn`, nothing comes or goes."""
        ...


@dataclass(frozen=True)
class MetricSpec:
    """One number among the metrics of an objective.

    Args:
        name: of the metric, such as `auc`. higher_is_better: or else lower. path: the keys that lead to it in what
            `DayMetrics.compute` returns: whose it is, such as a target, and the name.
    """

    name: str
    higher_is_better: bool
    path: tuple[str, str]

    def of(self, metrics: Mapping[str, Mapping[str, float]]) -> float:
        """Its value among the metrics of a day."""
        return metrics[self.path[0]][self.path[1]]


class DayMetrics(Protocol):
    """Judges the rows of scored days."""

    def update(self, output: StepOutput) -> None:
        """Add the rows of one step."""
        ...

    def compute(self) -> dict[str, dict[str, float]]:
        """{whose: {metric: value}} over all ranks. Collective."""
        ...


class StepMetrics(DayMetrics, Protocol):
    """Judges the rows in training: of constant size, and saved with them."""

    def state_dict(self) -> dict[str, Any]:
        """All of it over all ranks, as JSON values. Collective."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`, with any number of ranks."""
        ...


class Objective(ObjectiveKind, nn.Module, ABC):
    """What one step computes. It is sharded whole, so all that a step needs is inside.

    Attributes:
        model: what is trained, published and scored.
        headline: the one that early stopping takes, that gates look at and tables show first, unless a config names another.
        links: target -> what makes a prediction of its logit, see `models.losses.base.LINKS`; those left out are probabilities.
        ids: maps the ids of managed tables; None if there are none. It is set once the tables are sharded.
    """

    model: nn.Module
    headline: MetricSpec
    links: Mapping[str, str] = MappingProxyType({})
    ids: MapsIds | None = None

    @abstractmethod
    def forward(self, batch: Batch) -> tuple[Tensor, StepOutput]:
        """Return the scalar to differentiate, and the output with everything detached."""

    @abstractmethod
    def day_metrics(self) -> DayMetrics:
        """New metrics of scored days."""

    @abstractmethod
    def step_metrics(self) -> StepMetrics:
        """New metrics of rows in training."""

    def metric(self, name: str | None) -> MetricSpec:
        """The headline, or another metric of the same target."""
        headline = self.headline
        if name is None:
            return headline
        return MetricSpec(name, self.higher_is_better[name], (headline.path[0], name))
