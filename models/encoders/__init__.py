"""Encoders: generate a new vector for every field from the vectors of all the fields.

ablations.py  The arms of the paper's ablations of SFG: other transforms, sources, fields and targets, which do not win.
sfg.py        The SFG encoder, and the identity that makes every decoder a classic model.
"""

from collections.abc import Sequence

from models.encoders.ablations import NO_ABLATION, AblatedGenerator, Ablation
from models.encoders.sfg import ACTIVATIONS, SFG, FeatureGenerator, Identity, SFGOptions

__all__ = ["ACTIVATIONS", "AblatedGenerator", "Ablation", "FeatureGenerator", "Identity", "SFGOptions", "make_sfg"]


def make_sfg(
    *,
    fields: int,
    width: int,
    bias: bool = False,
    cardinalities: Sequence[int] | None = None,
    options: SFGOptions = SFG,
    ablation: Ablation = NO_ABLATION,
) -> FeatureGenerator:
    """Return the SFG encoder, or the arm of its ablations that is asked for.

    Raises:
        ValueError: settings that do not exist, or contradict each other.
    """
    if ablation == NO_ABLATION:
        return FeatureGenerator(fields=fields, width=width, bias=bias, options=options)
    return AblatedGenerator(
        fields=fields, width=width, bias=bias, cardinalities=cardinalities, options=options, ablation=ablation
    )
