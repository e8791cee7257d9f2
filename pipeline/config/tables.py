"""How embedding tables learn and where they live."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from data.yaml_document import BadValue, Section, nearest


class InitConfig(Section):
    """How a table's rows begin; the same values for any sharding and number of ranks."""

    kind: Literal["normal", "uniform"] = "uniform"
    """normal: N(0, scale^2). uniform: between -scale and scale."""

    scale: float | None = Field(default=None, gt=0)
    """[1] spread of the initial values; null is 1/sqrt(rows) as TorchRec has it."""


class TableConfig(Section):
    """How embedding tables learn and where they live."""

    optimizer: Literal["sgd", "adagrad", "rowwise_adagrad", "adam", "lazy_adam"] = "rowwise_adagrad"
    """Fused into the backward pass. adam moves every row every step, lazy_adam only those looked up."""

    lr: float = Field(default=0.05, gt=0)
    """[1] learning rate after warm-up."""

    weight_decay: float = Field(default=0.0, ge=0)
    """[1] lambda. adam adds lambda * weight to the gradient, lazy_adam takes lr * lambda * weight off the rows it looks up;
    on a CPU the others have none."""

    weight_decay_rows: Literal["touched", "table"] = "touched"
    """Which rows decay: those looked up in the step, or the whole table (adam only)."""

    eps: float = Field(default=1e-8, gt=0)
    """[1] added to the denominator of adaptive optimizers."""

    initial_accumulator: float = Field(default=0.0, ge=0)
    """[1] what adagrad and rowwise_adagrad begin their sums of squared gradients with. 0: the first look-up moves a row by lr,
    however small its gradient; more than a usual squared gradient: first steps are as small as later ones."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    """[1] decay of the first moment."""

    beta2: float = Field(default=0.999, ge=0, lt=1)
    """[1] decay of the second moment."""

    init: InitConfig = InitConfig()
    """The initial values."""

    sharding: Literal["auto", "table_wise", "row_wise", "column_wise", "table_row_wise", "table_column_wise", "grid_shard"] = (
        "auto"
    )
    """How the table is spread over ranks; auto leaves it to TorchRec's planner. One too small to give every rank a row stays
    whole."""

    compute_kernel: Literal["auto", "fused", "fused_uvm", "fused_uvm_caching"] = "auto"
    """Where the table lives. fused: where it is computed with. CUDA only: fused_uvm, in main memory; fused_uvm_caching, there
    with a part of it on the GPU. auto: fused if it fits, else as little in main memory as it takes."""

    cache_load_factor: float = Field(default=0.2, gt=0, le=1)
    """[1] share of a table that fused_uvm_caching keeps on the GPU."""

    precision: Literal["fp32", "fp16"] = "fp32"
    """Of the stored numbers; its optimizer's are always fp32. fp16 takes half the memory and is rounded at random, so that
    small steps count; on a CPU it holds no row in memory before it is trained, and needs optimizer sgd or rowwise_adagrad.
    Bundles hold fp32 all the same."""

    gradient_clip_value: float | None = Field(default=None, gt=0)
    """[1] largest absolute value of a coordinate of the gradient of a looked-up vector; null does not clip."""


class TablesConfig(TableConfig):
    """The settings of all tables, and of single ones."""

    overrides: dict[str, dict[str, Any]] = {}
    """Settings of single tables, by table name; what is not said is taken from above."""

    @model_validator(mode="after")
    def _single_tables_are_valid(self) -> "TablesConfig":
        for name, settings in self.overrides.items():
            for key in settings:
                if key not in TableConfig.model_fields:
                    raise BadValue(f"unknown key; {nearest(key, list(TableConfig.model_fields))}", "overrides", name, key)
            try:
                self.of(name)
            except ValidationError as error:
                first = error.errors()[0]
                raise BadValue(f"{first['msg']}, got {first['input']!r}", "overrides", name, *first["loc"]) from error
        return self

    def of(self, name: str) -> TableConfig:
        """The settings of one table."""
        common = self.model_dump(exclude={"overrides"})
        return TableConfig.model_validate(merged(common, self.overrides.get(name, {})))


def merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, section by section; what is not a section of both replaces."""
    both = {
        key: merged(base[key], value) if isinstance(base.get(key), dict) and isinstance(value, dict) else value
        for key, value in over.items()
    }
    return base | both
