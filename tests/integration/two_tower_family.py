"""A family from outside the project: two towers and their dot product, trained by a margin, judged by accuracy."""

from typing import Any, Literal

import torch
from torch import distributed, nn

from models.output import Output
from models.sparse import SparseArch, Table
from pipeline.config.family import Family, ModelSection, Observed
from pipeline.training.inputs import inputs_of
from pipeline.training.objective import MetricSpec, Objective, StepOutput


class TwoTowerConfig(ModelSection):
    family: Literal["two_tower"]
    margin: float = 1.0


class TwoTower(nn.Module):
    def __init__(self, config: TwoTowerConfig, features: Any, targets: tuple[str, ...], device: torch.device) -> None:
        super().__init__()
        self.names, self.targets = ("user_id", "item_id"), targets
        tables = [Table(t.name, t.rows, config.dim, t.fields, t.pool) for t in features.tables if t.name in self.names]
        self.sparse = SparseArch(tables, device=device)
        self.towers = nn.ModuleList(nn.Linear(config.dim, config.dim) for _ in self.names)

    def forward(self, inputs: Any) -> Output:
        found = self.sparse(inputs.bags, inputs.sequences).vectors
        user, item = (tower(found[name]) for tower, name in zip(self.towers, self.names, strict=True))
        emb = torch.stack([found[name] for name in self.names], dim=1).detach()
        return Output({target: (user * item).sum(1) for target in self.targets}, observed={"emb": emb})


class Accuracy:
    def __init__(self, target: str) -> None:
        self.target, self.sums = target, torch.zeros(2, dtype=torch.float64)

    def update(self, output: StepOutput) -> None:
        right = (output.logits[self.target] > 0) == (output.batch.labels[:, 0] > 0)
        self.sums += torch.tensor([right.sum(), len(right)])

    def compute(self) -> dict[str, dict[str, float]]:
        right, rows = self.state_dict()["sums"]
        return {self.target: {"accuracy": right / max(rows, 1)}}

    def state_dict(self) -> dict[str, Any]:
        distributed.all_reduce(total := self.sums.clone())
        return {"sums": total.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums = torch.tensor(state["sums"], dtype=torch.float64) * (distributed.get_rank() == 0)


class Match(Objective):
    higher_is_better = {"accuracy": True}

    def __init__(self, given: Any) -> None:
        super().__init__()
        (self.target,) = targets = given.features.schema.target_names
        self.model = TwoTower(given.options, given.features, targets, given.device)
        self.ranks, self.margin = given.ranks, given.options.margin
        self.headline = MetricSpec("accuracy", higher_is_better=True, path=(self.target, "accuracy"))

    def forward(self, batch: Any) -> tuple[torch.Tensor, StepOutput]:
        logits = (output := self.model(inputs_of(batch))).logits[self.target]
        loss = (self.margin - (2 * batch.labels[:, 0] - 1) * logits).relu().sum() / batch.rows
        return loss * self.ranks, StepOutput(batch, {self.target: logits.detach()}, {"margin": loss.detach()}, output.observed)

    def step_metrics(self) -> Accuracy:
        return Accuracy(self.target)

    day_metrics = step_metrics


def observe(model: TwoTower, features: Any) -> Observed:
    return Observed(model.names, [features.cardinality(name) for name in model.names], model.towers[0].in_features)


FAMILY = Family(TwoTowerConfig, {"match": Match}, TwoTower, observe)
