"""A family: a kind of model, as data. What a run file may say of it, what it reads, what a step of it can compute."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import PositiveInt

from data.yaml_document import Section
from pipeline.config.registry import find
from pipeline.config.stages import StageConfig

if TYPE_CHECKING:  # a run file is read before torch is loaded
    import torch
    from torch import nn

    from data.features import Features
    from data.frequencies import Frequencies
    from pipeline.config.run import Stage


class ModelSection(Section):
    """What a run file says of the model. Every family has its own section: `family`, and its keys in addition to these."""

    family: str
    """The kind of model."""

    dim: PositiveInt = 16
    """[columns] width of every field's embedding inside the model, and of tables that name no width."""


@dataclass(frozen=True)
class Reads:
    """What the model of a family reads.

    Args:
        pooled: lists become one vector in the look-up; or else the model gets a vector of every id.
        buckets: of the options, how many buckets a number becomes that names none in the schema; None: numbers stay numbers.
        sequences: of the options, how sequence fields become one vector; None: the schema says it.
        ahead: which ids a step looks up is known before the step, so that pipelines may send them ahead.
        managed_ids: tables may be managed: the model does not mind that rows change hands.
        amounts: targets may be amounts.
    """

    pooled: bool = True
    buckets: Callable[[Any], int] | None = None
    sequences: Callable[[Any], Mapping[str, Any]] | None = None
    ahead: bool = True
    managed_ids: bool = True
    amounts: bool = True


@dataclass(frozen=True)
class Observed:
    """The vectors that the collapse monitor finds as `emb` in what a step leaves behind, (B, F, D).

    Args:
        names: the F fields. cardinalities: [values] of each. width: D.
    """

    names: Sequence[str]
    cardinalities: Sequence[int]
    width: int


@dataclass(frozen=True)
class Given:
    """What an objective is built from.

    Args:
        stage: whose it is. features: what its rows have. ranks: [ranks] of the process group.
        bf16: the kind of device on which matrix products are computed in that; None: in fp32.
        device: of the tables; on the meta device they are for sharding to fill.
        frequencies: how often every value occurs in the days of the stage; for objectives that say `counts_values`.
    """

    stage: "Stage"
    features: "Features"
    ranks: int
    bf16: str | None
    device: "torch.device"
    frequencies: "Callable[[], Frequencies]"

    @property
    def options(self) -> Any:
        """What the run file says of the model: the section of its family."""
        return self.stage.config.model


def _nothing(model: "nn.Module", features: "Features") -> Observed | None:
    return None


def _nothing_else(options: Any) -> Collection[str]:
    return ()


def _no_rates(options: Any) -> Mapping[str, float]:
    return {}


@dataclass(frozen=True)
class Family:
    """A kind of model. An installed package adds one under the entry point group `genctr.families`.

    Args:
        options: the section of `model` in a run file. Its `family` is a Literal of the family's name.
        objectives: what a step can compute, by name: builders of a `pipeline.training.objective.Objective`; the first is what
        a stage computes that names none.
        build: (options, features, targets, device of the tables) -> the model as it is served.
        observe: (model, features) -> what the collapse monitor looks at; None: nothing.
        default_stages: the stages of a run that names none; None: a single one, which computes the first objective and is
            called as it.
        reads: what the model reads.
        learning_rates: of the options, the end of a parameter's name -> a learning rate of its own, without weight decay and
            clipping.
        represents: of the options, what the model's output has besides logits, which losses may read.
        exports: what a bundle's scores are made of.
    """

    options: type[ModelSection]
    objectives: "Mapping[str, Callable[[Given], Any]]"
    build: "Callable[[Any, Features, tuple[str, ...], torch.device], nn.Module]"
    observe: "Callable[[Any, Features], Observed | None]" = _nothing
    default_stages: Callable[[], tuple[StageConfig, ...]] | None = None
    reads: Reads = field(default_factory=Reads)
    learning_rates: Callable[[Any], Mapping[str, float]] = _no_rates
    represents: Callable[[Any], Collection[str]] = _nothing_else
    exports: tuple[str, ...] = ("logits",)

    def stages(self) -> tuple[StageConfig, ...]:
        """The stages of a run that names none."""
        if self.default_stages is not None:
            return self.default_stages()
        first = next(iter(self.objectives))
        return (StageConfig(name=first, objective=first),)


def family_of(model: ModelSection) -> Family:
    """The family of a model."""
    family: Family = find("genctr.families", model.family)
    return family
