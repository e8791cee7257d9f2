"""The stages of a run, and what one takes over from another."""

from typing import Any, Literal

from pydantic import Field, model_validator

from data.yaml_document import BadValue, Section


class LoadConfig(Section):
    """What a stage takes over from an earlier one; the rest starts from initial values, optimizers always do."""

    stage: str
    """The earlier stage; of it the best pass, or else the last."""

    parts: Literal["none", "tables", "network", "all"] = "all"
    """Embedding tables, everything else, or both; what the new model has no place for is left behind."""

    rescale: float | None = Field(default=None, gt=0)
    """[1] root mean square that every loaded table is scaled to; null leaves them as they are. A cosine knows no scale, but a
    decoder that multiplies embeddings does."""


class StageConfig(Section):
    """One phase of training. `data`, `model`, `tables` and `train` are as those of the run, with what is said here on top."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")
    """What the stage is called in the log, and its best checkpoint."""

    objective: str | None = None
    """What a step computes, of what the model's family can. rank: predict the targets. denoise: restore hidden values.
    contrast: tell a user's items from others. null: the first that the family has, of our own rank."""

    data: dict[str, Any] = {}
    """Days of its own: days, validation, test."""

    model: dict[str, Any] = {}
    """Another model, or other settings of it."""

    tables: dict[str, Any] = {}
    """Other optimizers, initial values or sharding of the tables."""

    train: dict[str, Any] = {}
    """Other epochs, batch rows, learning rates."""

    fields: tuple[str, ...] = ()
    """The fields the stage reads; empty reads them all."""

    load: LoadConfig | None = None
    """What it takes over; null: nothing, all starts from initial values."""

    freeze: tuple[Literal["tables", "network"], ...] = ()
    """What does not learn."""

    @model_validator(mode="after")
    def _has_a_name_of_its_own(self) -> "StageConfig":
        if self.name.startswith("day-"):
            raise BadValue("names that begin with day- are those of checkpoints at a day's end: choose another", "name")
        return self

    @model_validator(mode="after")
    def _says_nothing_of_the_whole_run(self) -> "StageConfig":
        for section, key in (("data", "statistics_days"), ("train", "ranks"), ("train", "device")):
            if key in getattr(self, section):
                raise BadValue(f"{section}.{key} applies to all stages: set it at run level", section, key)
        return self
