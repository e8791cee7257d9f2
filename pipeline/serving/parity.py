"""How far a bundle's logits may be from the trainer's (law 8): as far as rounding explains, which the bundle's sample says.

The sample's rows are scored three times more: in float64 (`exact`), in float32 (`fp32`), and, if something else is rounded on
the way from the trainer to the bundle, in float32 with that rounding (`rounded`). With u = 2^-24 the unit roundoff of float32,

    bound = 16 (max |fp32 - exact| + u (1 + max |exact|)) + 4 max |rounded - fp32|

The first maximum grows with the width of the sums, the depth of the network and the size of what is added up, so nothing of it
has to be assumed of a model. Another kernel adds the same numbers in another order: where blocked sums of n numbers are off by
about sqrt(log n) u, sequential ones are off by about sqrt(n) u; 16 covers n up to some thousands. What is rounded at fixed
places (bf16 layers, int8 tables, vectors that travel) does not depend on that order: the trainer and the bundle are each one
draw of these roundings, and 4 covers the difference between two maxima over the sample.

| what is rounded | how `rounded` has it |
|---|---|
| `train.dense.precision: bf16` | the same layers under torch's autocast, on the CPU |
| `daily.bundle_precision: int8` | every vector moved by up to half a step, (max - min) / 255 of its own numbers |
| `train.comm_precision: int8` | the same |
| `train.comm_precision: fp16`, `bf16` | every vector in fp16, bf16 |
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from models.sparse import JaggedEvents, Lookups
from pipeline.serving.scorer import Scorer
from pipeline.training.inputs import inputs_of

ORDER, PLACES = 16.0, 4.0
ROUNDOFF = 2.0**-24

Change: TypeAlias = Callable[[Tensor], Tensor]


@torch.no_grad()
def parity_bound(scorer: Scorer) -> float:
    """[1] the largest difference of a logit that rounding explains; nan if a logit is, 0 if the sample has no row."""
    batch = scorer.sample()
    if batch is None:
        return 0.0
    exact_TB = _logits(scorer, torch.float64, Tensor.double)
    fp32_TB = _logits(scorer, torch.float32, Tensor.float)
    order = (fp32_TB - exact_TB).abs().max() + ROUNDOFF * (1 + exact_TB.abs().max())
    bound = ORDER * order
    manifest = scorer.bundle.manifest
    bf16, sent = manifest.get("precision") == "bf16", manifest.get("communication")
    kept = "int8" if manifest["bundle_precision"] == "int8" else sent
    if bf16 or kept in CHANGES:
        change = CHANGES.get(kept, Tensor.float)
        bound += PLACES * (_logits(scorer, torch.float32, change, bf16=bf16) - fp32_TB).abs().max()
    return float(bound)


def _logits(scorer: Scorer, dtype: torch.dtype, change: Change, *, bf16: bool = False) -> Tensor:
    """(T, B) float64 logits of the sample, all but the tables in `dtype`, and every looked-up vector changed."""
    batch, model = scorer.sample(), scorer.model
    assert batch is not None
    sparse: Any = model.sparse
    twin: Any = copy.deepcopy(model, {id(sparse): sparse})  # tables may be as large as memory
    del twin.sparse
    twin.to(dtype)

    def look_up(bags: KeyedJaggedTensor | None, sequences: KeyedJaggedTensor | None) -> Lookups:
        return _changed(sparse(bags, sequences), change)

    twin.sparse = look_up
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        output = twin(inputs_of(replace(batch, numbers=batch.numbers.to(dtype), vectors=batch.vectors.to(dtype))))
    return torch.stack([output.logits[target].double() for target in scorer.bundle.targets])


def _changed(looked: Lookups, change: Change) -> Lookups:
    def events(found: dict[str, JaggedEvents]) -> dict[str, JaggedEvents]:
        return {name: JaggedEvents(change(own.values), own.lengths) for name, own in found.items()}

    return Lookups(
        vectors={name: change(own) for name, own in looked.vectors.items()},
        linear={name: change(own) for name, own in looked.linear.items()},
        events=events(looked.events),
        linear_events=events(looked.linear_events),
        second=_changed(looked.second, change) if looked.second is not None else None,
    )


def _moved(vectors: Tensor) -> Tensor:
    """Every number moved by a draw from half a step below to half a step above; the same at every call."""
    if not vectors.numel():
        return vectors
    step = (vectors.amax(1, keepdim=True) - vectors.amin(1, keepdim=True)) / 255
    draw = torch.rand(vectors.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    return vectors + draw * step


CHANGES: dict[str | None, Change] = {
    "int8": _moved,
    "fp16": lambda vectors: vectors.half().float(),
    "bf16": lambda vectors: vectors.bfloat16().float(),
}
