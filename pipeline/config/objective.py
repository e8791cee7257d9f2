"""What is known of an objective before it is built: a run file is checked by it before torch is loaded."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from pipeline.config.registry import find

if TYPE_CHECKING:
    from pipeline.config.run import Stage


class ObjectiveKind:
    """What is known of an objective before it is built.

    Attributes:
        higher_is_better: of the metrics that training can be judged by.
        scores_rows: whether what a step leaves behind has the logits of every target.
        counts_values: whether it is built from how often every value occurs in its days, which are counted first.
        counts_positives: of those, whether only rows are counted whose first target is 1.
        precisions: what matrix products may be computed in.
        generates: whether rows can be drawn from its model, see `pipeline.jobs.sample`.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = MappingProxyType({})
    scores_rows: ClassVar[bool] = True
    counts_values: ClassVar[bool] = False
    counts_positives: ClassVar[bool] = False
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16")
    generates: ClassVar[bool] = False


class RankKind(ObjectiveKind):
    """Click prediction."""

    higher_is_better = MappingProxyType({"auc": True, "gauc": True, "logloss": False, "ne": False})


class DenoiseKind(ObjectiveKind):
    """Pre-training by discrete diffusion."""

    higher_is_better = MappingProxyType({"loss": False})
    scores_rows = False
    counts_values = True
    precisions = ("fp32",)
    generates = True


class ContrastKind(ObjectiveKind):
    """Contrastive pre-training of two id tables."""

    higher_is_better = MappingProxyType({"loss": False, "hit@10": True})
    scores_rows = False
    counts_values = True
    counts_positives = True
    precisions = ("fp32",)


OBJECTIVES: Mapping[str, type[ObjectiveKind]] = MappingProxyType(
    {"rank": RankKind, "denoise": DenoiseKind, "contrast": ContrastKind}
)
"""What a step can compute. Outside packages add to `genctr.objectives`, the objectives themselves if they like: those are
of a kind too."""


def objective_kind(stage: "Stage") -> type[ObjectiveKind]:
    """What is known of a stage's objective before it is built."""
    kind: type[ObjectiveKind] = find("genctr.objectives", stage.objective)
    return kind
