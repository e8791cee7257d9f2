"""Everything a run can be told. One YAML file in, frozen objects out."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, PositiveInt, ValidationError, model_validator

from data.days import goes_on_to, open_end, parse_days
from data.document import BadValue, Section, nearest, read_document
from data.errors import BadDocument, GenctrError
from data.schema import AnyField, AnyIds, NumberField, Schema


class DataConfig(Section):
    """Where the log is, which days are for what, and how they are read."""

    root: str
    """Folder or URI (file, s3, gs, abfs or hdfs) that holds the days."""

    days: str | tuple[str, ...]
    """The days to train, in order: `2026-11-01..2026-11-20`, or a list of day names."""

    validation: str | tuple[str, ...] = ()
    """The days early stopping looks at; never trained."""

    test: str | tuple[str, ...] = ()
    """The days scored once, with the final model; nothing else ever looks at them."""

    fit: str | tuple[str, ...] = ()
    """The days vocabularies and statistics are built from; empty means the training days, or, if train.score_first, the first
    of them, without those that a stage scores: a day that is scored is not looked at before."""

    layout: str = "day={day}"
    """Where a day lies under the root: a folder per day, or one file per day such as `{day}.parquet`."""

    success: str | None = "_SUCCESS"
    """The file that marks a day's folder as complete; null takes every folder for complete."""

    format: str = "parquet"
    """Name of the reader: parquet, csv, or one that an installed package adds."""

    reader_options: dict[str, Any] = {}
    """Settings of the reader, by its argument names."""

    shuffle_rows: int = Field(default=65_536, ge=0)
    """[rows] shuffled together, over all lanes; 0 reads in file order."""

    lanes: PositiveInt = 4
    """[lanes] a day is cut into; the most ranks that can share it, and a divisor of batch_rows."""

    prefetch: int = Field(default=2, ge=0)
    """[batches] made ahead by a background thread; 0 makes them in the loop."""

    check: Literal["footer", "full"] = "footer"
    """What is read of a day's files before its first row trains: their footers, or every page."""

    bad_files: Literal["stop", "quarantine"] = "stop"
    """What a file that cannot be read does: stop the run, or be left out and named in the log."""

    bad_rows: Literal["stop", "skip"] = "stop"
    """What a row that is not what the schema says does: stop the run, or be left out and counted."""

    max_bad_rows_share: float = Field(default=0.01, ge=0, le=1)
    """[1] of the rows of a day that bad_rows: skip may leave out. More stop the run: then the schema is wrong, or the log."""

    @model_validator(mode="after")
    def _every_day_is_for_one_thing(self) -> "DataConfig":
        uses: dict[str, str] = {}
        for use in ("fit", "days", "validation", "test"):
            try:
                names = parse_days(getattr(self, use))
            except GenctrError as error:
                raise BadValue(str(error), use) from error
            if use == "days" and not names:
                raise BadValue("no day to train", use)
            if use != "days" and open_end(getattr(self, use)):
                raise BadValue("only days may go on without an end: name the last one", use)
            for day in names if use != "fit" else ():
                if day in uses or (use != "days" and goes_on_to(self.days, day)):
                    raise BadValue(f"{day} is in {uses.get(day, 'days')} already: no score would be honest", use)
                uses[day] = use
        return self


class EncoderConfig(Section):
    """The SFG encoder: generated = gamma * activation(flat(emb) @ W.T), plus emb if residual. The other settings are the arms
    of the paper's ablations; those that lose are kept so that they can be measured."""

    kind: Literal["field_wise", "deep", "field_shared", "attention", "senet"] = "field_wise"
    """What generates: one layer with a matrix per field, two layers, one vector for all fields, self-attention over the
    fields, or squeeze-and-excitation."""

    activation: Literal["relu", "linear", "tanh", "sigmoid", "silu"] = "relu"
    """The non-linearity of the generated embeddings."""

    gamma: float = 1.0
    """[1] scale of the generated embeddings; tune it per log, grid .005 to 36."""

    learn_gamma: bool = False
    """Whether gamma is learnt, beginning where it is set."""

    residual: bool = False
    """Whether the raw embeddings are added to the generated ones."""

    batch_norm: bool = False
    """Normalise before the activation, all coordinates as one channel."""

    source: Literal["all", "self", "others"] = "all"
    """The fields a field is generated from."""

    only: Literal["all", "high", "low"] = "all"
    """The fields that are generated: all, or the `count` of highest or lowest cardinality; the others stay raw."""

    count: PositiveInt = 10
    """[fields] that `only` chooses."""

    target: Literal["all", "random", "shared_mask", "field_mask", "zero_mask"] = "all"
    """While training, generate all fields, or `targets` random ones of every row: from what is there, or with the chosen fields
    hidden from the encoder by one learnt vector, by a learnt vector per field, or by zeros."""

    targets: PositiveInt = 10
    """[fields] of a row that `target` chooses."""

    supervision: Literal["click", "self"] = "click"
    """What teaches the encoder: clicks alone, or also how well it restores the raw embeddings."""

    supervision_weight: float = Field(default=1.0, gt=0)
    """[1] of that second loss."""


class DenoiserConfig(Section):
    """The discrete-diffusion denoiser: tokens of all fields and of the label, some hidden, all predicted from the rest."""

    block: Literal["hstu", "transformer"] = "hstu"
    """The bidirectional layers."""

    hidden: PositiveInt = 64
    """[columns] of a token; a multiple of `heads`."""

    layers: PositiveInt = 2
    """[layers] of the denoiser."""

    heads: PositiveInt = 2
    """[heads] of its attention."""

    dropout: float = Field(default=0.1, ge=0, lt=1)
    """[1] probability of dropping a unit while training."""

    buckets: PositiveInt = 64
    """[buckets] of a number whose schema names none: a denoiser reads and predicts numbers as buckets between quantiles."""

    noise: Literal["mask", "replace"] = "mask"
    """A perturbed value is hidden by its field's mask vector, or replaced by another value of the field."""

    sampler: Literal["count", "bernoulli"] = "count"
    """Perturb k of n values, k uniform; or each with probability t, t stratified over the batch."""

    ratio: Literal["linear", "cosine"] = "linear"
    """How the share of perturbed values depends on t."""

    time_weight: Literal["elbo", "count", "mean", "one"] = "count"
    """Weight of a row: 1/t, (n + 1)/k (its expectation, given k), 1/k or 1."""

    finetune_share: float = Field(default=0.1, ge=0, le=1)
    """[1] share of rows in which the label alone is hidden: the task that follows."""

    score: Literal["cosine", "dot"] = "cosine"
    """How well a value fits: cosine over `temperature`, or dot product plus a bias per value."""

    temperature: float = Field(default=0.2, gt=0)
    """[1] divides the cosine. Published settings have .05 and smaller; of one pass over KuaiRand .2 makes more."""

    full_rows: PositiveInt = 4096
    """[rows] up to which a table's softmax is over all of its values; beyond, over candidates."""

    extra_candidates: int = Field(default=256, ge=0)
    """[values] drawn with probability ~ count^(3/4), beside those of the batch."""

    most_candidates: PositiveInt = 4096
    """[values] of a table that a step chooses from at most, and restores on a rank; of more, some are, and weigh more."""

    logq: Literal["none", "negatives", "all"] = "negatives"
    """Which candidates are corrected by how often they are candidates."""

    balance: Literal["uniform", "literal", "literal_raw", "literal_norm", "progress", "hard_track", "dro"] = "progress"
    """How hetegen weighs the fields' losses; diffusion weighs them all alike."""

    attention: Literal["none", "query", "query_postnorm", "query+key"] | None = None
    """Where hetegen lets the difficulties guide the attention; null is query if the balance learns any, else none."""

    balance_lr: float = Field(default=0.01, gt=0)
    """[1] learning rate of the difficulties."""

    p_min: float = Field(default=0.05, gt=0, le=1)
    """[1] least progress that `progress` sees: bounds the weights."""

    beta: float = Field(default=1.0, gt=0)
    """[1] exponent of `hard_track`."""

    tau: float = Field(default=0.5, gt=0)
    """[1] temperature of `dro`."""

    @model_validator(mode="after")
    def _fits(self) -> "DenoiserConfig":
        if self.hidden % self.heads:
            raise BadValue(f"{self.hidden} is not a multiple of heads, {self.heads}", "hidden")
        if not self._learns and self.attention not in ("none", None):
            raise BadValue(f"balance {self.balance} learns no difficulties to guide it: set attention to none", "attention")
        return self

    @property
    def _learns(self) -> bool:
        return self.balance not in ("uniform", "dro")

    @property
    def guidance(self) -> str:
        """The attention that is meant."""
        return self.attention or ("query" if self._learns else "none")


class ModelConfig(Section):
    """The click model."""

    paradigm: Literal["plain", "sfg", "diffusion", "hetegen"] = "plain"
    """plain: raw embeddings on both sides of every product. sfg: one side generated from all the fields. diffusion: a denoiser,
    pre-trained to restore hidden values, then fine-tuned on the label. hetegen: the same, harder fields first."""

    decoder: str = "dcnv2"
    """Name of the interaction decoder; of plain and sfg."""

    dim: PositiveInt = 16
    """[columns] width of every field's embedding inside the model, and of tables that name no width."""

    options: dict[str, Any] = {}
    """Settings of the decoder, by its argument names."""

    encoder: EncoderConfig = EncoderConfig()
    """The SFG encoder; only read when paradigm is sfg."""

    denoiser: DenoiserConfig = DenoiserConfig()
    """The denoiser; only read when paradigm is diffusion or hetegen."""

    loss: str = "bce"
    """Name of the loss on each task's logits."""

    loss_options: dict[str, Any] = {}
    """Settings of the loss, by its argument names."""

    @property
    def denoises(self) -> bool:
        """Whether the model is a denoiser."""
        return self.paradigm in ("diffusion", "hetegen")


class InitConfig(Section):
    """How a table's rows begin; the same values for any sharding and number of ranks."""

    kind: Literal["normal", "uniform"] = "uniform"
    """normal: N(0, scale^2). uniform: between -scale and scale."""

    scale: float | None = Field(default=None, gt=0)
    """[1] spread of the first values; null is 1/sqrt(rows) as TorchRec has it."""


class TableConfig(Section):
    """How embedding tables learn and where they live."""

    optimizer: Literal["sgd", "adagrad", "rowwise_adagrad", "adam", "lazy_adam"] = "rowwise_adagrad"
    """Fused into the backward pass. adam moves every row every step, lazy_adam only those looked up."""

    lr: float = Field(default=0.05, gt=0)
    """[1] learning rate after warm-up."""

    weight_decay: float = Field(default=0.0, ge=0)
    """[1] lambda. adam adds lambda * weight to the gradient, lazy_adam takes lr * lambda * weight off the rows it looks up;
    on a CPU the others have none."""

    decay: Literal["touched", "table"] = "touched"
    """Which rows decay: those looked up in the step, or the whole table (adam only)."""

    eps: float = Field(default=1e-8, gt=0)
    """[1] added to the denominator of adaptive optimizers."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    """[1] decay of the first moment."""

    beta2: float = Field(default=0.999, ge=0, lt=1)
    """[1] decay of the second moment."""

    init: InitConfig = InitConfig()
    """The first values."""

    sharding: Literal["auto", "table_wise", "row_wise", "column_wise", "table_row_wise", "table_column_wise", "grid_shard"] = (
        "auto"
    )
    """How the table is spread over ranks; auto leaves it to TorchRec's planner. One too small to give every rank a row stays
    whole."""

    kernel: Literal["auto", "fused", "fused_uvm", "fused_uvm_caching", "key_value"] = "auto"
    """Where the table lives. fused: where it is computed with. CUDA only: fused_uvm, in main memory; fused_uvm_caching, there
    with a part of it on the card; key_value, on disk with a part of it on the card, for `genctr plan` alone so far. auto: fused
    if it fits, else as little in main memory as it takes."""

    cache: float = Field(default=0.2, gt=0, le=1)
    """[1] share of a table that fused_uvm_caching and key_value keep on the card."""

    precision: Literal["fp32", "fp16"] = "fp32"
    """Of the stored numbers; its optimizer's are always fp32. fp16 takes half the memory and is rounded at random, so that
    small steps count; on a CPU it holds no row in memory before it is trained, and needs optimizer sgd or rowwise_adagrad.
    Bundles hold fp32 all the same."""

    clip: float | None = Field(default=None, gt=0)
    """[1] largest absolute value of a coordinate of the gradient of a looked-up vector; null does not clip."""


class TablesConfig(TableConfig):
    """The settings of all tables, and of single ones."""

    only: dict[str, dict[str, Any]] = {}
    """Settings of single tables, by table name; what is not said is taken from above."""

    @model_validator(mode="after")
    def _single_tables_are_valid(self) -> "TablesConfig":
        for name, settings in self.only.items():
            for key in settings:
                if key not in TableConfig.model_fields:
                    raise BadValue(f"unknown key; {nearest(key, list(TableConfig.model_fields))}", "only", name, key)
            try:
                self.of(name)
            except ValidationError as error:
                first = error.errors()[0]
                raise BadValue(f"{first['msg']}, got {first['input']!r}", "only", name, *first["loc"]) from error
        return self

    def of(self, name: str) -> TableConfig:
        """The settings of one table."""
        common = self.model_dump(exclude={"only"})
        return TableConfig.model_validate(_merged(common, self.only.get(name, {})))


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
    """The fall from 1 to `floor` over `decay_steps` after the warm-up; inverse_sqrt never ends, for jobs that do not either."""

    decay_steps: PositiveInt = 100_000
    """[steps] the fall takes; the factor stays at `floor` after it. Of inverse_sqrt: after three times as many it is 1/2."""

    floor: float = Field(default=0.0, ge=0, le=1)
    """[1] the least factor."""


class EarlyStopConfig(Section):
    """Stop when the validation days no longer improve; the best epoch is kept."""

    metric: Literal["auc", "gauc", "logloss", "ne", "loss"] = "auc"
    """What is compared, of the first task; loss is for pre-training."""

    patience: PositiveInt = 2
    """[epochs] without improvement before stopping."""

    min_delta: float = Field(default=1e-6, gt=0)
    """[1] least improvement that counts."""

    lr_factor: float = Field(default=1.0, gt=0, le=1)
    """[1] learning rates are multiplied by this after each epoch without improvement."""


class HardwareConfig(Section):
    """What a rank has, for `genctr plan`; null is what is known of the device (`pipeline/distributed/hardware.py`). Training asks the
    machine itself."""

    device: str | None = None
    """Name of the device: h100, h200, a100, a100-40gb or cpu; null is the one of this machine."""

    hbm_gib: float | None = Field(default=None, gt=0)
    """[GiB] of the card."""

    ddr_gib: float | None = Field(default=None, gt=0)
    """[GiB] of main memory, of one rank."""

    ssd_gib: float | None = Field(default=None, gt=0)
    """[GiB] of the machine's own disks, of one rank."""

    hbm_gb_s: float | None = Field(default=None, gt=0)
    """[GB/s] of the card's memory."""

    ddr_gb_s: float | None = Field(default=None, gt=0)
    """[GB/s] of main memory."""

    ssd_gb_s: float | None = Field(default=None, gt=0)
    """[GB/s] of the disks."""

    link_gb_s: float | None = Field(default=None, gt=0)
    """[GB/s] between card and main memory."""

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

    plan: str | None = None
    """A plan of `genctr plan --save` that says who holds which shard; null plans when the job starts."""

    communication: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    """What looked-up vectors and their gradients travel between ranks in. int8: vectors with a scale per 32 numbers, gradients
    as fp16. bf16 on CUDA only."""

    pipeline: Literal["auto", "base", "sparse_dist", "prefetch"] = "auto"
    """How steps overlap. base: not. sparse_dist: a step's ids travel while the one before computes. prefetch: besides, rows of
    tables in main memory are fetched ahead (CUDA and fused_uvm_caching only). auto: sparse_dist on CUDA, else base."""

    hardware: HardwareConfig = HardwareConfig()
    """What a rank has, for `genctr plan`."""

    batch_rows: PositiveInt = 4096
    """[rows] one step trains, over all ranks together: the same step for any number of ranks."""

    epochs: PositiveInt = 1
    """[passes] over the training days."""

    max_steps: PositiveInt | None = None
    """[steps] after which to stop early; null trains every row."""

    score_first: bool = False
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

    keep: PositiveInt = 2
    """[checkpoints] newest ones kept; the best epoch's is kept besides."""

    asynchronous: bool = True
    """Whether training goes on while a save is written."""


class HooksConfig(Section):
    """Who is told what happened to a day. A hook that fails is told on standard error and changes nothing."""

    events: tuple[Literal["published", "held", "failed"], ...] = ("held", "failed")
    """What is worth telling."""

    webhook: str | None = None
    """URL that gets the news as JSON: {event, run, day, text}."""

    command: str | None = None
    """Command that gets the same JSON on standard input; words as a shell splits them, but no shell."""


class DailyConfig(Section):
    """The daily job: which days it takes up, when a model is published, what is kept."""

    late: Literal["hold", "append", "ignore"] = "hold"
    """Files that appear in a day after it was trained: stop and ask, train them as a part of that day, or leave them."""

    changed: Literal["refuse", "retrain-from"] = "refuse"
    """A trained day whose files are gone or have another size: stop and ask, or go back to before it and train from there."""

    compare: Literal["size", "rows"] = "size"
    """How a trained day's files are told from others: by name and size, or also by the number of rows, which opens them all.
    What they contain is compared by `genctr verify`."""

    gap: Literal["wait", "skip", "stop"] = "wait"
    """A day that is missing while a later one is there: wait until `gap_hours` after its end and then stop, skip it then, or
    stop at once."""

    gap_hours: float = Field(default=12.0, ge=0)
    """[h] after a day's end (UTC) until which it may still come."""

    fresh_share: float = Field(default=0.1, gt=0, le=0.5)
    """[1] share of a day's steps, the last ones, that the new model and the serving one are compared on before they train."""

    gates: dict[str, float | tuple[float, float]] = {
        "auc": -0.002,
        "calibration": (0.9, 1.1),
        "rows": (0.5, 2.0),
        "nulls": 0.1,
        "psi": 0.25,
    }
    """Limits of the gates, by name; see `pipeline/daily/gates.py`. Predictions that are not finite, and a bundle that says something
    else than the trainer, are never published."""

    first_gates: dict[Literal["auc", "ne", "calibration"], float | tuple[float, float]] = {
        "auc": 0.5,
        "ne": 1.1,
        "calibration": (0.5, 2.0),
    }
    """Limits of a model that nothing serves to compare with, asked in place of the gates that compare, if `gates` has any:
    least AUC, most NE, calibration from … to. Held if surely beyond, or if nothing can be measured; the next night asks
    again."""

    publish: str | None = None
    """Folder or URI of the bundles and of `current`; null is `published` in the run folder."""

    keep: int = Field(default=7, ge=2)
    """[bundles] newest ones kept; the current one, and the one that served before it, are kept besides."""

    keep_days: int = Field(default=3, ge=1)
    """[days] whose last checkpoint is kept, to go back to."""

    tables: Literal["float32", "int8"] = "float32"
    """How a bundle holds tables: as they are, or a byte a number with a scale and a bias per row."""

    optimizer: Literal["keep", "reset_dense", "reset_all"] = "keep"
    """What the optimizers remember when a new day begins: all, or nothing of the network, or nothing at all."""

    row_decay: dict[str, float] = {}
    """[1] factor of every row of a table when a new day begins, by table name: .99 forgets a third in forty days."""

    lease_seconds: float = Field(default=60.0, gt=0)
    """[s] after which another machine's silent job counts as dead, one of `genctr train` too; on this machine it is seen at
    once."""

    poll_seconds: float = Field(default=60.0, gt=0)
    """[s] before --follow looks again; doubled while nothing comes, up to `most_poll_seconds`."""

    most_poll_seconds: float = Field(default=900.0, gt=0)
    """[s] at most between two looks."""

    accept: tuple[str, ...] = ()
    """Changes of config and schema that a run that goes on may take over, in the words of the job when it refuses them."""

    hooks: HooksConfig = HooksConfig()
    """Who is told."""

    @model_validator(mode="after")
    def _decays_are_factors(self) -> "DailyConfig":
        for table, factor in self.row_decay.items():
            if not 0 < factor <= 1:
                raise BadValue(f"{factor} is no factor between 0 and 1", "row_decay", table)
        return self


class LoadConfig(Section):
    """What a stage takes over from an earlier one; the rest starts afresh, optimizers always."""

    stage: str
    """The earlier stage; of it the best pass, or else the last."""

    what: Literal["none", "tables", "network", "all"] = "all"
    """Embedding tables, everything else, or both; what the new model has no place for is left behind."""

    rescale: float | None = Field(default=None, gt=0)
    """[1] root mean square that every loaded table is scaled to; null leaves them as they are. A cosine knows no scale, but a
    decoder that multiplies embeddings does."""


class StageConfig(Section):
    """One phase of training. `data`, `model`, `tables` and `train` are as those of the run, with what is said here on top."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")
    """What the stage is called in the log, and its best checkpoint."""

    task: Literal["pretrain", "rank"] = "rank"
    """pretrain: restore hidden values, by a denoiser. rank: predict the label."""

    data: dict[str, Any] = {}
    """Days of its own: days, validation, test."""

    model: dict[str, Any] = {}
    """Another model, or other settings of it."""

    tables: dict[str, Any] = {}
    """Other optimizers, first values or sharding of the tables."""

    train: dict[str, Any] = {}
    """Other epochs, batch rows, learning rates."""

    fields: tuple[str, ...] = ()
    """The fields the stage reads; empty reads them all."""

    load: LoadConfig | None = None
    """What it takes over; null starts afresh."""

    freeze: tuple[Literal["tables", "network"], ...] = ()
    """What does not learn."""

    @model_validator(mode="after")
    def _has_a_name_of_its_own(self) -> "StageConfig":
        if self.name.startswith("day-"):
            raise BadValue("names that begin with day- are those of checkpoints at a day's end: choose another", "name")
        return self

    @model_validator(mode="after")
    def _says_nothing_of_the_whole_run(self) -> "StageConfig":
        for section, key in (("data", "fit"), ("train", "ranks"), ("train", "device")):
            if key in getattr(self, section):
                raise BadValue(f"all stages have the same: set it in {section} of the run", section, key)
        return self


@dataclass(frozen=True)
class Stage:
    """A stage with nothing left unsaid.

    Args:
        config: the run's config with the stage's settings on top. The others: see `StageConfig`.
    """

    name: str
    task: Literal["pretrain", "rank"]
    config: "RunConfig"
    fields: tuple[str, ...] = ()
    load: LoadConfig | None = None
    freeze: tuple[str, ...] = ()


PRETRAIN_TABLES = {"weight_decay": 0.0, "init": {"kind": "normal", "scale": 0.05}}
"""Of the pre-training that a denoiser gets without being told: a cosine knows no scale, so a penalty would only shrink the
tables, and next to zero its gradient is huge."""


PRETRAIN_TRAIN = {"score_first": False, "epochs": 1, "dense": {"precision": "fp32"}}
"""And one pass: id tables over-fit in pre-training as they do on clicks. Softmaxes are not for bf16."""


class RunConfig(Section):
    """A whole run."""

    name: str = "run"
    """What the run is called in tables and logs."""

    schema_file: str = Field(alias="schema")
    """Path or URI of the schema; a relative one starts at this file's folder."""

    seed: int = Field(default=2026, ge=0)
    """[1] of shuffling, first weights and dropout."""

    data: DataConfig
    """The log."""

    model: ModelConfig = ModelConfig()
    """The model."""

    tables: TablesConfig = TablesConfig()
    """The embedding tables."""

    train: TrainConfig = TrainConfig()
    """The training."""

    checkpoint: CheckpointConfig = CheckpointConfig()
    """The saves."""

    daily: DailyConfig = DailyConfig()
    """The daily job; `genctr train` does not read it."""

    stages: tuple[StageConfig, ...] = ()
    """The phases of training, in order. Empty: one stage called `rank`; before it, for a denoiser, one called `pretrain`,
    whose tables and network it takes over."""

    def resolved(self) -> tuple[Stage, ...]:
        """The stages, each with its whole config."""
        stages = self.stages
        if not stages and self.model.denoises:
            load = LoadConfig(stage="pretrain")
            before = StageConfig(name="pretrain", task="pretrain", tables=PRETRAIN_TABLES, train=PRETRAIN_TRAIN)
            stages = (before, StageConfig(name="rank", load=load))
        if not stages:
            return (Stage("rank", "rank", self),)
        return tuple(
            Stage(stage.name, stage.task, self._with(stage, at), stage.fields, stage.load, stage.freeze)
            for at, stage in enumerate(stages)
        )

    def _with(self, stage: StageConfig, at: int) -> "RunConfig":
        values = self.model_dump(by_alias=True, exclude={"stages"})
        for section in ("data", "model", "tables", "train"):
            values[section] = _merged(values[section], getattr(stage, section))
        if stage.task == "pretrain":
            values["train"]["early_stop"] = stage.train.get("early_stop")  # the run's own looks at clicks
        try:
            return _OneStage.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            place = first["ctx"]["error"].place if isinstance(first.get("ctx", {}).get("error"), BadValue) else ()
            raise BadValue(f"{first['msg']}, got {first['input']!r}"[:300], "stages", at, *first["loc"], *place) from error

    @model_validator(mode="after")
    def _stages_fit_together(self) -> "RunConfig":
        trained: dict[str, str] = {}
        earlier: dict[str, TablesConfig] = {}
        for at, stage in enumerate(self.resolved() if type(self) is RunConfig else ()):
            here = ("stages", at) if self.stages else ()
            if stage.name in earlier:
                raise BadValue(f"two stages are called {stage.name!r}", *here, "name")
            if stage.load is not None and stage.load.stage not in earlier:
                raise BadValue(f"no stage before this one; {nearest(stage.load.stage, list(earlier))}", *here, "load", "stage")
            _check_task(stage, *here)
            _check_days(stage, trained, *here)
            if stage.load is not None and stage.load.what in ("tables", "all"):
                _check_precision(stage.config.tables, earlier[stage.load.stage], stage.load, *here)
            if at + 1 < len(self.stages) and self.stages[at].data.get("test"):
                raise BadValue("no model but the last stage's is tested: set it there", *here, "data", "test")
            trained |= dict.fromkeys(parse_days(stage.config.data.days), stage.name)
            earlier[stage.name] = stage.config.tables
        return self

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "RunConfig":
        if self.train.batch_rows % self.data.lanes:
            below = self.train.batch_rows // self.data.lanes * self.data.lanes
            near = [rows for rows in (below, below + self.data.lanes) if rows]
            raise BadValue(
                f"{self.train.batch_rows} is not a multiple of data.lanes, {self.data.lanes}: "
                f"choose {' or '.join(map(str, near))}",
                *("train", "batch_rows"),
            )
        for table in self.daily.row_decay:
            if self.tables.of(table).precision == "fp16":
                told = "fp16 rounds small decays away: leave it out, or set tables.precision to fp32"
                raise BadValue(told, "daily", "row_decay", table)
        if self.daily.row_decay and self.stages and "tables" in self.stages[-1].freeze:
            raise BadValue("the last stage freezes the tables: they cannot forget, leave it out", "daily", "row_decay")
        if self.train.early_stop and not self.data.validation:
            raise BadValue("there are no days to look at: set data.validation", "train", "early_stop")
        return self


class _OneStage(RunConfig):
    """The config of one stage: has no stages itself."""


def _check_task(stage: Stage, *here: str | int) -> None:
    """The model can do the stage's task, and is judged by what the task gives."""
    train, pretrains = stage.config.train, stage.task == "pretrain"
    if pretrains and not stage.config.model.denoises:
        raise BadValue(f"paradigm {stage.config.model.paradigm} restores nothing: set diffusion or hetegen", *here, "task")
    if pretrains and train.score_first:
        raise BadValue("a pre-training gives no click scores: set it to false", *here, "train", "score_first")
    if train.early_stop is not None and (train.early_stop.metric == "loss") != pretrains:
        allowed = "loss" if pretrains else "auc, gauc, logloss or ne"
        raise BadValue(f"a {stage.task} stage is judged by {allowed}", *here, "train", "early_stop", "metric")


def _check_precision(tables: TablesConfig, loaded: TablesConfig, load: LoadConfig, *here: str | int) -> None:
    """Tables are stored as in the stage they come from: blank rows of fp16 tables mean something, those of fp32 ones do not."""
    for name in ("", *tables.only, *loaded.only):
        before, now = loaded.of(name).precision, tables.of(name).precision
        place = ("tables", "only", name, "precision") if name else ("tables", "precision")
        if before != now:
            raise BadValue(f"stage {load.stage}, whose tables are loaded, stores them as {before}", *here, *place)
        if now == "fp16" and load.rescale is not None:
            told = "rows of fp16 tables that are not there yet cannot be scaled: leave it out"
            raise BadValue(told, *here, "load", "rescale")


def _check_days(stage: Stage, trained: Mapping[str, str], *here: str | int) -> None:
    """No day is scored that an earlier stage has trained."""
    for place, days in _scored(stage.config).items():
        for day in days:
            if day in trained:
                raise BadValue(f"{day} was trained by stage {trained[day]}: no score would be honest", *here, *place)
    own = stage.config.data.days
    for day in trained if stage.config.train.score_first else ():
        if goes_on_to(own, day):
            told = f"{day}, which is scored, was trained by stage {trained[day]}: begin with the last such day, or later"
            raise BadValue(told, *here, "data", "days")


def _scored(config: RunConfig) -> dict[tuple[str, str], list[str]]:
    """The days that a stage scores, by what says so."""
    data = config.data
    first = {("train", "score_first"): parse_days(data.days)[1:]} if config.train.score_first else {}
    return {("data", use): parse_days(getattr(data, use)) for use in ("validation", "test")} | first


def fit_days(config: RunConfig) -> list[str]:
    """The days that vocabularies and statistics are built from: none that a stage scores, unless the config names it."""
    days, stages = parse_days(config.data.days), [stage.config for stage in config.resolved()]
    scored = {day for stage in stages for names in _scored(stage).values() for day in names}
    unseen = [day for day in (days[:1] if config.train.score_first else days) if day not in scored]
    return parse_days(config.data.fit) or unseen or parse_days(stages[0].data.days)[:1]


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, section by section; what is no section of both replaces."""
    both = {
        key: _merged(base[key], value) if isinstance(base.get(key), dict) and isinstance(value, dict) else value
        for key, value in over.items()
    }
    return base | both


def load(path: str, overrides: Sequence[str] = ()) -> tuple[RunConfig, Schema]:
    """Read a run file and the schema it names.

    Args:
        path: path or URI of the run file.
        overrides: `section.key=value` each, value in YAML.

    Raises:
        BadDocument: names the file, the line, the key and the nearest valid one.
    """
    config = read_document(path, RunConfig, overrides)
    schema_path = config.schema_file
    if "://" not in schema_path:
        schema_path = posixpath.join(posixpath.dirname(path), schema_path)  # a path from / stays as it is
    schema = read_document(schema_path, Schema)
    tables = [field.name for field in schema.fields if _has_table(field)]
    for name in config.tables.only:
        if name not in tables:
            raise BadDocument(f"{path}: tables.only.{name}: {schema_path} makes no such table\n  {nearest(name, tables)}")
    for name in config.daily.row_decay:
        if name not in tables and name.removesuffix("_linear").removesuffix("_second") not in tables:
            raise BadDocument(f"{path}: daily.row_decay.{name}: {schema_path} makes no such table\n  {nearest(name, tables)}")
    if schema.managed and any(stage.config.model.denoises for stage in config.resolved()):
        raise BadDocument(
            f"{path}: model.paradigm: a denoiser cannot have managed tables, and {schema_path} says ids: managed of "
            f"{schema.managed[0].name}\n  it restores ids among all the rows of a table, and these change hands: say ids: hash "
            "there, or set plain or sfg"
        )
    ahead = [
        train.pipeline for stage in config.resolved() if (train := stage.config.train).pipeline in ("sparse_dist", "prefetch")
    ]
    if schema.managed and ahead:
        raise BadDocument(
            f"{path}: train.pipeline: {ahead[0]} looks ids up a step ahead, and which rows those of {schema.managed[0].name} "
            "have (ids: managed) depends on the step before\n  set it to auto"
        )
    return config, schema


def _has_table(field: AnyField) -> bool:
    """Whether a field has an embedding table of its own, called as the field."""
    return (isinstance(field, AnyIds) and field.table is None) or (isinstance(field, NumberField) and field.buckets is not None)
