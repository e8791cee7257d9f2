"""What the network next to the tables costs: its weights, and operations and memory a row, found by training a few rows."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data.batch import Batch, Tally
from data.cursor import Cursor
from data.features import Features
from data.frequencies import MOST_BUCKETS, Frequencies
from data.schema import AnyIds, Payload, Schema
from data.statistics import Moments, Statistics
from pipeline.builders.models import build_features
from pipeline.config.family import Given, ModelSection
from pipeline.config.run import Stage
from pipeline.training.objective import Objective

ROWS = 32
"""[rows] that are trained to find out."""

FEW = 4100
"""[rows] that a large table is cut down to for it: more than a softmax takes whole, so that it is one over candidates."""

COPIES = 5
"""[1] numbers kept for every weight: itself, its gradient, the copy that travels, and Adam's two moments."""


@dataclass(frozen=True)
class Network:
    """Everything but the embedding tables.

    Args:
        weights: [numbers] every rank has all of them. row_flop: [FLOP] of matrix products to train a row, forwards and
            backwards. row_bytes: [bytes] kept of a row between the two.
    """

    weights: int
    row_flop: float
    row_bytes: float

    @property
    def bytes(self) -> int:
        """[bytes] of a rank, without rows: weights, gradients and what the optimizer remembers."""
        return COPIES * 4 * self.weights


def features_of(schema: Schema, model: ModelSection) -> Features:
    """A schema whose tables all say their rows, as if it were fitted: what was fitted changes no shape."""
    names = Statistics.names(schema)
    fitted = Statistics({}, dict.fromkeys(names, Moments(0.0, 1.0)), {name: np.empty(0) for name in names})
    return build_features(model, schema, fitted)


def objective_of(stage: Stage, features: Features, device: torch.device) -> Objective:
    """What one step of a stage computes, alone in the world.

    Args:
        device: of the tables.
    """

    def frequencies() -> Frequencies:
        counts = {name: _once(spec.rows, spec.reserved) for spec in features.tables for name in spec.fields}
        return Frequencies(counts | {target: np.ones(2, np.int64) for target in features.schema.target_names})

    given = Given(stage, features, ranks=1, bf16=None, device=device, frequencies=frequencies)
    objective: Objective = stage.config.family.objectives[stage.objective](given)
    return objective


def _once(rows: int, reserved: int) -> NDArray[np.int64]:
    """How often the values of a table occur: each once; rows that stand for no value never do."""
    return (np.arange(min(rows, MOST_BUCKETS)) >= reserved).astype(np.int64)


def measure(stage: Stage, schema: Schema) -> Network:
    """Train a few rows of made-up ids and count.

    Args:
        schema: as the stage reads it, every table with its rows.
    """
    few = [
        field.model_copy(update={"rows": min(field.rows, FEW)}) if isinstance(field, AnyIds) and field.rows else field
        for field in schema.fields
    ]
    features = features_of(schema.model_copy(update={"fields": tuple(few)}), stage.config.model)
    objective = objective_of(stage, features, torch.device("cpu"))
    batch = _batch(features)
    tables = {id(weight) for name, weight in objective.named_parameters() if ".sparse." in name}
    known = {weight.untyped_storage().data_ptr() for weight in objective.parameters()}
    kept: dict[int, int] = {}

    def note(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return saved

    with torch.random.fork_rng(devices=[]), FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
            loss, output = objective(batch)
        loss.backward()
    del output
    weights = sum(weight.numel() for weight in objective.parameters() if id(weight) not in tables)
    return Network(weights, counter.get_total_flops() / ROWS, sum(kept.values()) / ROWS)


def _batch(features: Features) -> Batch:
    tables: Mapping[str, int] = {name: spec.rows for spec in features.tables for name in spec.fields}

    def ids(keys: list[str]) -> KeyedJaggedTensor:
        lengths = [features.lengths.get(key, 1) for key in keys for _ in range(ROWS)]
        values = [torch.randint(0, tables[key], (ROWS * features.lengths.get(key, 1),)) for key in keys]
        return KeyedJaggedTensor(
            keys, torch.cat([torch.empty(0, dtype=torch.int64), *values]), lengths=torch.tensor(lengths).long()
        )

    targets = len(features.schema.target_names)
    return Batch(
        bags=ids(features.bag_keys),
        sequences=ids(features.sequence_keys) if features.sequence_keys else None,
        numbers=torch.zeros(ROWS, len(features.number_fields)),
        vectors=torch.zeros(ROWS, sum(features.vector_fields.values())),
        labels=torch.ones(ROWS, targets),
        weights=torch.ones(ROWS, targets),
        groups=torch.zeros(ROWS, dtype=torch.int64),
        times=torch.zeros(ROWS, dtype=torch.float64) if features.payloads else None,
        payloads={name: _payload(own, ROWS * features.lengths[name]) for name, own in features.payloads.items()},
        rows=ROWS,
        cursor=Cursor(0, "", 0, 1),
        tally=Tally.zeros(1),
    )


def _payload(payload: Payload, events: int) -> dict[str, Tensor]:
    shapes = {"vector": torch.zeros(events, payload.vector.dim if payload.vector is not None else 0)}
    shapes["time"] = torch.zeros(events, dtype=torch.float64)
    return {name: shapes.get(name, torch.zeros(events, dtype=torch.int64)) for name, _ in payload.columns()}
