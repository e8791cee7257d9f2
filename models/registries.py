"""The parts of a model by name. Each is imported when it is asked for, so that names are checked before torch is loaded."""

from collections.abc import Callable, Iterator, Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from torch import nn

    from models.decoders.base import Decoder
    from models.heads import Head
    from models.losses import Loss
    from models.sequences import SequenceEncoder

T = TypeVar("T")


class References(Mapping[str, T], Generic[T]):
    """A registry: the part of each name, imported when it is asked for.

    Args:
        places: `module:name` of each, as entry points are written.

    Example:
        >>> References({"root": "math:sqrt"})["root"](9.0)
        3.0
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = dict(places)

    def __getitem__(self, name: str) -> T:
        part: T = resolve_name(self._places[name])
        return part

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places


DECODERS: "References[type[Decoder]]" = References(
    {
        "fm": "models.decoders.factorization:FM",
        "deepfm": "models.decoders.factorization:DeepFM",
        "fwfm": "models.decoders.factorization:FwFM",
        "fmfm": "models.decoders.factorization:FmFM",
        "ipnn": "models.decoders.factorization:IPNN",
        "xdeepfm": "models.decoders.cross:XDeepFM",
        "crossnet": "models.decoders.cross:CrossNet",
        "dcnv2": "models.decoders.cross:DCNV2",
        "ffm": "models.decoders.factorization:FFM",
        "mlp": "models.decoders.networks:MLPDecoder",
        "finalmlp": "models.decoders.networks:FinalMLP",
        "masknet": "models.decoders.gates.masknet:MaskNet",
        "gdcn": "models.decoders.cross:GDCN",
        "autoint": "models.decoders.networks:AutoInt",
        "tf": "models.decoders.tf4ctr:TwinFocus",
        "lr": "models.decoders.linear.lr:LR",
        "wide_deep": "models.decoders.linear.wide_deep:WideDeep",
        "dlrm": "models.decoders.products.dlrm:DLRM",
        "fibinet": "models.decoders.products.fibinet:FiBiNET",
        "afn": "models.decoders.products.afn:AFN",
        "finalnet": "models.decoders.products.finalnet:FinalNet",
        "dcn": "models.decoders.crosses.dcn:DCN",
        "edcn": "models.decoders.crosses.edcn:EDCN",
        "dcnv3": "models.decoders.crosses.dcnv3:DCNV3",
        "wukong": "models.decoders.tokens.wukong:WuKong",
        "rankmixer": "models.decoders.tokens.rankmixer:RankMixer",
        "pepnet": "models.decoders.gates.pepnet:PEPNet",
    }
)
"""The first eight have a generative form in the SFG paper; that of the others is ours: see `docs/decoders.md`."""

ENCODERS: "References[Callable[..., nn.Module]]" = References(
    {"none": "models.encoders:Identity", "sfg": "models.encoders:make_sfg"}
)
"""By kind; every one is made with `fields` and `width`, the number of fields and the width of their vectors."""

SEQUENCE_ENCODERS: "References[type[SequenceEncoder]]" = References(
    {
        "mean": "models.sequences:Mean",
        "sum": "models.sequences:Sum",
        "target_attention": "models.sequences:TargetAttention",
    }
)

HEADS: "References[type[Head]]" = References({"linear": "models.heads:LinearHead", "twin_focus": "models.heads:TwinFocusHead"})

LOSSES: "References[type[Loss]]" = References({"bce": "models.losses:BCE", "tf": "models.losses:TwinFocus"})
