"""From a batch to what a model may read of it: everything but labels, weights and groups."""

import torch
from torch import Tensor

from data.batch import Batch
from models.inputs import Inputs, Payload


def inputs_of(batch: Batch) -> Inputs:
    """What a model may read of a batch."""
    # TorchRec's pipelines trace this symbolically, and want ids to be attributes of the batch itself.
    return Inputs(batch.bags, batch.sequences, batch.numbers, batch.vectors, _payloads(batch.payloads), batch.times)


@torch.fx.wrap
def _payloads(payloads: dict[str, dict[str, Tensor]]) -> dict[str, Payload]:
    """A function that tracing does not look into: there a dict of tensors has no items."""
    return {
        name: Payload(
            own.get("time"),
            own.get("action"),
            own.get("session"),
            own.get("vector"),
            {key.removeprefix("ids."): values for key, values in own.items() if key.startswith("ids.")},
        )
        for name, own in payloads.items()
    }
