"""The parity gate's bound: any order of sums passes, whatever the width and the logits; another model does not."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from data.batch import Batch, Tally
from data.cursor import Cursor
from data.features import Features
from data.schema import Schema
from pipeline.builders.models import build_ranker
from pipeline.config.model import RankerConfig
from pipeline.serving.int8 import dequantised, quantised
from pipeline.serving.parity import parity_bound
from pipeline.training.inputs import inputs_of

ROWS = 128


@dataclass
class Sampled:
    """What `parity_bound` reads of a `Scorer`: a model and the rows that travel with it."""

    model: nn.Module
    rows: Batch
    bundle: Any = field(default_factory=lambda: SimpleNamespace(targets=("y",), manifest={"bundle_precision": "fp32"}))

    def sample(self) -> Batch:
        return self.rows

    @torch.no_grad()
    def logits(self) -> Tensor:
        batch = self.rows
        return self.model(inputs_of(batch)).logits["y"].float()


def sampled(fields: int, dim: int, most: float) -> Sampled:
    """A network over so many fields, its largest logit `most`."""
    torch.manual_seed(0)
    names = [f"f{at}" for at in range(fields)]
    columns = [{"name": name, "kind": "id", "ids": "hash", "rows": 50} for name in names]
    features = Features(Schema.model_validate({"name": "s", "label": {"column": "y"}, "fields": columns}))
    config = RankerConfig.model_validate({"decoder": "mlp", "dim": dim, "decoder_options": {"hidden": [400, 400]}})
    model = build_ranker(config, features, ("y",), device=torch.device("cpu")).eval()
    keys = features.bag_keys
    bags = KeyedJaggedTensor(keys, torch.randint(1, 50, (ROWS * len(keys),)), lengths=torch.ones(ROWS * len(keys)).long())
    ones = torch.ones(ROWS, 1)
    batch = Batch(
        bags, None, ones[:, :0], ones[:, :0], ones, ones, ones[:, 0].long(), ROWS, Cursor(0, "", 0, 1), Tally.zeros(1)
    )
    found = Sampled(model, batch)
    with torch.no_grad():
        model.head.score.weight.mul_(most / found.logits().abs().max())
    return found


def in_another_order(own: Sampled) -> Tensor:
    """The logits with every sum of the network taken one number after the other."""

    def sequential(layer: nn.Linear, given: tuple[Tensor, ...], _: Tensor) -> Tensor:
        total = layer.bias.expand(len(given[0]), -1).clone()
        for at in range(layer.in_features):
            total += given[0][:, at : at + 1] * layer.weight[:, at]
        return total

    hooks = [part.register_forward_hook(sequential) for part in own.model.modules() if isinstance(part, nn.Linear)]
    with torch.no_grad():
        logits = own.logits()
    for hook in hooks:
        hook.remove()
    return logits


@pytest.mark.parametrize(("fields", "dim", "most"), [(39, 16, 12.0), (26, 128, 4.0), (4, 4, 0.5)])
def test_another_order_of_sums_passes_and_another_model_does_not(fields: int, dim: int, most: float) -> None:
    own = sampled(fields, dim, most)
    bound, said = parity_bound(own), own.logits()  # type: ignore[arg-type]
    assert (in_another_order(own) - said).abs().max() < bound < 1e-3

    tables = own.model.sparse.bags.embedding_bags
    with torch.no_grad():
        used = own.rows.bags["f0"].values()[0]
        row = tables["f0"].weight[used].clone()
        tables["f0"].weight[used] = tables["f0"].weight[used - 1]  # one wrong row
        assert (own.logits() - said).abs().max() > bound
        tables["f0"].weight[used] = row
        swapped = tables["f0"].weight.clone()
        tables["f0"].weight.copy_(tables["f1"].weight)  # another field's table
        assert (own.logits() - said).abs().max() > bound
        tables["f0"].weight.copy_(swapped)
        own.model.head.score.weight[0, 0] += 0.1  # one stale weight
        assert (own.logits() - said).abs().max() > bound


def test_bf16_layers_pass_only_where_the_trainer_had_them() -> None:
    own = sampled(39, 16, 12.0)
    with torch.autocast("cpu", torch.bfloat16):
        said = own.logits()
    apart = (own.logits() - said).abs().max()
    assert apart > parity_bound(own)  # type: ignore[arg-type]
    own.bundle.manifest["precision"] = "bf16"
    assert apart < parity_bound(own) < 1  # type: ignore[arg-type]


def test_bytes_pass_within_the_step_they_are_kept_in() -> None:
    own = sampled(39, 16, 12.0)
    said = own.logits()
    with torch.no_grad():
        for table in own.model.sparse.bags.embedding_bags.values():
            table.weight.copy_(dequantised(quantised(table.weight)))
    apart = (own.logits() - said).abs().max()
    assert apart > parity_bound(own)  # type: ignore[arg-type]
    own.bundle.manifest["bundle_precision"] = "int8"
    assert apart < parity_bound(own) < 20 * apart  # type: ignore[arg-type]
