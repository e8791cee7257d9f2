"""Interaction decoders: score how well every field's generated vector meets the vectors of the others."""

from collections.abc import Mapping
from types import MappingProxyType

from models.decoders.base import Decoder, Generate, Pairs, pair_sum
from models.decoders.cross import CIN, DCNV2, GDCN, CrossNet, XDeepFM
from models.decoders.networks import AutoInt, FinalMLP, MaskNet, MLPDecoder
from models.decoders.pairs import FFM, FM, IPNN, DeepFM, FmFM, FwFM
from models.decoders.twin import TwinFocus

__all__ = ["CIN", "DECODERS", "FM", "Decoder", "Generate", "Pairs", "pair_sum"]

DECODERS: Mapping[str, type[Decoder]] = MappingProxyType(
    {
        **{"fm": FM, "deepfm": DeepFM, "fwfm": FwFM, "fmfm": FmFM, "ipnn": IPNN, "xdeepfm": XDeepFM},
        **{"crossnet": CrossNet, "dcnv2": DCNV2},
        **{"ffm": FFM, "mlp": MLPDecoder, "finalmlp": FinalMLP, "masknet": MaskNet, "gdcn": GDCN, "autoint": AutoInt},
        "tf": TwinFocus,
    }
)
"""The first eight have a generative form in the SFG paper; that of the others is ours."""
