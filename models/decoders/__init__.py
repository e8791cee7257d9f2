"""Interaction decoders: score how well every field's generated vector meets the vectors of the others.

base.py      What every interaction and every decoder promises, and the sum over pairs of fields that many share.
cross.py     Decoders that cross the whole row with itself, layer by layer: CrossNet, DCN V2, GDCN, xDeepFM.
networks.py  Decoders that are networks: MLP, FinalMLP, MaskNet, AutoInt. That they can generate is our own extension of SFG.
pairs.py     Decoders that sum weighted products of pairs of fields: FM, DeepFM, FwFM, FmFM, FFM, IPNN.
twin.py      Twin focus (TF4CTR): an encoder for easy rows and one for hard ones, on inputs of their own, and the fusion of the two.
"""  # noqa: E501

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
