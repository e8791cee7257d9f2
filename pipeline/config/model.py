"""What the model is made of."""

from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from data.document import BadValue, Section


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
