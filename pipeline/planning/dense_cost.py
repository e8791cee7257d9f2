"""What the network beside the tables costs: its weights, and operations and memory a row, found by training a few rows."""

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
from data.schema import AnyIds, Schema
from data.statistics import Moments, Statistics
from pipeline.builders.objectives import build_pretrain_task, build_rank_task
from pipeline.config.run import Stage
from pipeline.training.denoise import PretrainTask
from pipeline.training.objective import RankTask

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


def features_of(schema: Schema, *, pooled: bool) -> Features:
    """A schema whose tables all say their rows, as if it were fitted: what was fitted changes no shape."""
    names = Statistics.names(schema)
    return Features(
        schema, Statistics({}, dict.fromkeys(names, Moments(0.0, 1.0)), {n: np.empty(0) for n in names}), pooled=pooled
    )


def task_of(stage: Stage, features: Features, device: torch.device) -> RankTask | PretrainTask:
    """What one step of a stage computes, alone in the world.

    Args:
        device: of the tables.
    """
    model, tasks = stage.config.model, features.schema.task_names
    if stage.task == "rank":
        return build_rank_task(model, features, tasks, ranks=1, device=device)
    counts = {name: _once(spec.rows, spec.reserved) for spec in features.tables for name in spec.fields}
    frequencies = Frequencies(counts | {task: np.ones(2, np.int64) for task in tasks})
    return build_pretrain_task(model, features, tasks, frequencies, ranks=1, device=device)


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
    features = features_of(schema.model_copy(update={"fields": tuple(few)}), pooled=not stage.config.model.denoises)
    task = task_of(stage, features, torch.device("cpu"))
    batch = _batch(features)
    tables = {id(weight) for name, weight in task.named_parameters() if ".sparse." in name}
    known = {weight.untyped_storage().data_ptr() for weight in task.parameters()}
    kept: dict[int, int] = {}

    def note(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return saved

    with torch.random.fork_rng(devices=[]), FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
            loss, output = task(batch)
        loss.backward()
    del output
    weights = sum(weight.numel() for weight in task.parameters() if id(weight) not in tables)
    return Network(weights, counter.get_total_flops() / ROWS, sum(kept.values()) / ROWS)


def _batch(features: Features) -> Batch:
    tables: Mapping[str, int] = {name: spec.rows for spec in features.tables for name in spec.fields}

    def ids(keys: list[str]) -> KeyedJaggedTensor:
        lengths = [features.lengths.get(key, 1) for key in keys for _ in range(ROWS)]
        values = [torch.randint(0, tables[key], (ROWS * features.lengths.get(key, 1),)) for key in keys]
        return KeyedJaggedTensor(
            keys, torch.cat([torch.empty(0, dtype=torch.int64), *values]), lengths=torch.tensor(lengths).long()
        )

    tasks = len(features.schema.task_names)
    return Batch(
        bags=ids(features.bag_keys),
        sequences=ids(features.sequence_keys) if features.sequence_keys else None,
        numbers=torch.zeros(ROWS, len(features.number_fields)),
        vectors=torch.zeros(ROWS, sum(features.vector_fields.values())),
        labels=torch.ones(ROWS, tasks),
        weights=torch.ones(ROWS, tasks),
        groups=torch.zeros(ROWS, dtype=torch.int64),
        rows=ROWS,
        cursor=Cursor(0, "", 0, 1),
        tally=Tally.zeros(1),
    )
