"""How long, how fast, on what, and how often it is saved."""

from typing import Literal

from pydantic import Field, PositiveInt

from data.yaml_document import Section


class DenseConfig(Section):
    """The optimizer of everything but the embedding tables."""

    optimizer: Literal["adam", "adamw"] = "adam"
    """adamw decays weights apart from the gradient."""

    lr: float = Field(default=1e-3, gt=0)
    """[1] learning rate after warm-up."""

    weight_decay: float = Field(default=0.0, ge=0)
    """[1] L2 of adam, decoupled decay of adamw."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    """[1] decay of the first moment."""

    beta2: float = Field(default=0.999, ge=0, lt=1)
    """[1] decay of the second moment."""

    eps: float = Field(default=1e-8, gt=0)
    """[1] added to the denominator."""

    clip_norm: float | None = Field(default=None, gt=0)
    """[1] largest norm of the dense gradient; null does not clip."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """What matrix products are computed in; weights, losses and tables stay fp32. bf16 on CUDA only."""


class ScheduleConfig(Section):
    """How the learning rates of tables and dense weights move, as a factor of the step alone."""

    warmup_steps: int = Field(default=0, ge=0)
    """[steps] over which the factor rises from 0 to 1."""

    decay: Literal["none", "linear", "cosine", "inverse_sqrt"] = "none"
    """The fall from 1 to `min_factor` over `decay_steps` after the warm-up; inverse_sqrt never ends, for jobs that do not
    either."""

    decay_steps: PositiveInt = 100_000
    """[steps] the fall takes; the factor stays at `min_factor` after it. Of inverse_sqrt: after three times as many it is
    1/2."""

    min_factor: float = Field(default=0.0, ge=0, le=1)
    """[1] the least factor."""


class EarlyStopConfig(Section):
    """Stop when the validation days no longer improve; the best epoch is kept."""

    metric: str | None = None
    """What is compared: of ranking auc, gauc, logloss or ne of the first target, of denoising loss. null: the headline metric
    of the objective, auc or loss."""

    patience: PositiveInt = 2
    """[epochs] without improvement before stopping."""

    min_delta: float = Field(default=1e-6, gt=0)
    """[1] least improvement that counts."""

    lr_factor: float = Field(default=1.0, gt=0, le=1)
    """[1] learning rates are multiplied by this after each epoch without improvement."""


class HardwareConfig(Section):
    """What a rank has, for `genctr plan`; null is what is known of the device (`pipeline/distributed/hardware.py`). Training
    asks the machine itself."""

    device: str | None = None
    """Name of the device: h100, h200, a100, a100-40gb or cpu; null is the one of this machine."""

    hbm_gib: float | None = Field(default=None, gt=0)
    """[GiB] of the GPU."""

    ddr_gib: float | None = Field(default=None, gt=0)
    """[GiB] of main memory, of one rank."""

    hbm_gb_s: float | None = Field(default=None, gt=0)
    """[GB/s] of the GPU's memory."""

    ddr_gb_s: float | None = Field(default=None, gt=0)
    """[GB/s] of main memory."""

    link_gb_s: float | None = Field(default=None, gt=0)
    """[GB/s] between GPU and main memory."""

    intra_gb_s: float | None = Field(default=None, gt=0)
    """[GB/s] one way to another rank of the same host."""

    inter_gb_s: float | None = Field(default=None, gt=0)
    """[GB/s] one way to a rank of another host."""

    tflops: float | None = Field(default=None, gt=0)
    """[TFLOP/s] of matrix products in the precision of train.dense."""


class TrainConfig(Section):
    """How long, how fast, on how many ranks."""

    ranks: PositiveInt = 1
    """[ranks] processes on this machine; a launcher's WORLD_SIZE wins."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where tensors live; auto is cuda if there is one."""

    sharding_plan: str | None = None
    """A plan of `genctr plan --save` that says who holds which shard; null plans when the job starts."""

    comm_precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    """What looked-up vectors and their gradients travel between ranks in. int8: vectors with a scale per 32 numbers, gradients
    as fp16. bf16 on CUDA only."""

    pipeline: Literal["auto", "base", "sparse_dist", "prefetch"] = "auto"
    """How steps overlap. base: not. sparse_dist: a step's ids travel while the one before computes. prefetch: besides, rows of
    tables in main memory are fetched ahead (CUDA and fused_uvm_caching only). auto: sparse_dist on CUDA, else base."""

    hardware: HardwareConfig = HardwareConfig()
    """What a rank has, for `genctr plan`."""

    global_batch_rows: PositiveInt = 4096
    """[rows] one step trains, over all ranks together: the same step for any number of ranks."""

    epochs: PositiveInt = 1
    """[passes] over the training days."""

    max_steps: PositiveInt | None = None
    """[steps] after which to stop early; null trains every row."""

    progressive_validation: bool = False
    """Whether every day but the first is scored before one of its rows trains (first epoch)."""

    dense: DenseConfig = DenseConfig()
    """The dense optimizer."""

    schedule: ScheduleConfig = ScheduleConfig()
    """The learning rates over time."""

    early_stop: EarlyStopConfig | None = None
    """Needs validation days; null trains all epochs."""

    log_every_steps: PositiveInt = 50
    """[steps] between two lines of training metrics in the log."""

    diagnose_every_steps: int = Field(default=1000, ge=0)
    """[steps] between two looks at spectra, correlations and table health; 0 never looks."""


class CheckpointConfig(Section):
    """How often a run is saved and how much of it is kept. A day's end is always saved."""

    every_steps: PositiveInt = 1000
    """[steps] between two saves inside a day."""

    keep_last: PositiveInt = 2
    """[checkpoints] newest ones kept; the best epoch's is kept besides."""

    asynchronous: bool = True
    """Whether training goes on while a save is written."""
