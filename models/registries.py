"""The parts of a model by name. Each is imported when it is asked for, so that names are checked before torch is loaded."""

from collections.abc import Callable, Iterator, Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from torch import nn

    from models.decoders.base import Decoder
    from models.heads import Head
    from models.layers import MakeMLP
    from models.losses.base import Loss
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
        "dhen": "models.decoders.dhen:DHEN",
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

INTERACTIONS: "References[Callable[..., Decoder]]" = References(
    {
        "mlp": "models.decoders.dhen:mlp",
        "transformer": "models.decoders.dhen:TransformerModule",
        "cross": "models.decoders.dhen:cross",
        "masknet": "models.decoders.dhen:MaskModule",
        "fm": "models.decoders.dhen:PairsModule",
    }
)
"""Modules of a stack: decoders that are small, or that keep what others add up. All other decoders are modules by their names,
unless they read first-order terms or second vectors."""

DENSE: "References[Callable[..., MakeMLP]]" = References({"plain": "models.layers:make_plain", "apg": "models.apg:make_apg"})
"""Dense layers by kind; every one is made with `fields`, the `FieldInfo` of every field, and `width`, the D of a vector."""

SEQUENCE_ENCODERS: "References[type[SequenceEncoder]]" = References(
    {
        "mean": "models.sequences.pooling:Mean",
        "sum": "models.sequences.pooling:Sum",
        "target_attention": "models.sequences.pooling:TargetAttention",
        "din": "models.sequences.din:DIN",
        "dien": "models.sequences.dien:DIEN",
        "bst": "models.sequences.bst:BST",
        "transact": "models.sequences.transact:TransAct",
        "hstu": "models.sequences.hstu:HSTUEncoder",
        "time_aware": "models.sequences.time_aware:TimeAware",
    }
)

HEADS: "References[type[Head]]" = References(
    {
        "linear": "models.heads.base:LinearHead",
        "towers": "models.heads.towers:TowersHead",
        "mmoe": "models.heads.experts:MMoEHead",
        "ple": "models.heads.experts:PLEHead",
        "esmm": "models.heads.esmm:ESMMHead",
        "two_logits": "models.heads.two_logits:TwoLogitsHead",
        "twin_focus": "models.heads.twin_focus:TwinFocusHead",
    }
)

LOSSES: "References[type[Loss]]" = References(
    {
        "bce": "models.losses.cross_entropy:BCE",
        "focal": "models.losses.cross_entropy:Focal",
        "bpr": "models.losses.within_groups:BPR",
        "jrc": "models.losses.within_groups:JRC",
        "mse": "models.losses.regression:SquaredError",
        "log_mse": "models.losses.regression:SquaredLogError",
        "weighted_logistic": "models.losses.regression:WeightedLogistic",
        "tf": "models.losses.twin_focus:TwinFocus",
    }
)
