"""What the models of our own families are made of."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PositiveInt, model_validator

from data.yaml_document import BadValue, Section
from pipeline.config.family import ModelSection
from pipeline.config.registry import named


class NoEncoder(Section):
    """No generation: raw embeddings on both sides of every product."""

    kind: Literal["none"] = "none"
    """none: raw embeddings on both sides of every product."""


class SFGConfig(Section):
    """The SFG encoder: generated = gamma * activation(flat(emb) @ W.T), plus emb if residual. The other settings are the arms
    of the paper's ablations; those that lose are kept so that they can be measured."""

    kind: Literal["sfg"]
    """sfg: one side of every product is generated from all the fields."""

    transform: Literal["field_wise", "deep", "field_shared", "attention", "senet"] = "field_wise"
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

    generate_for: Literal["all", "high_cardinality", "low_cardinality"] = "all"
    """The fields that are generated: all, or the `num_fields` of highest or lowest cardinality; the others stay raw."""

    num_fields: PositiveInt = 10
    """[fields] that `generate_for` chooses."""

    training_target: Literal["all", "random", "shared_mask", "field_mask", "zero_mask"] = "all"
    """While training, generate all fields, or `num_targets` random ones of every row: from what is there, or with the chosen
    fields hidden from the encoder by one learnt vector, by a learnt vector per field, or by zeros."""

    num_targets: PositiveInt = 10
    """[fields] of a row that `training_target` chooses."""

    supervision: Literal["click", "self"] = "click"
    """What teaches the encoder: clicks alone, or also how well it restores the raw embeddings."""

    supervision_weight: float = Field(default=1.0, ge=0)
    """[1] of that second loss."""


class LossConfig(Section):
    """One of the losses of a ranking."""

    name: Annotated[str, named("genctr.losses")] = "bce"
    """Name of the loss."""

    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The targets that it reads; null: all."""

    weight: float = Field(default=1.0, ge=0)
    """[1] factor of it in the sum of all losses."""

    options: dict[str, Any] = {}
    """Settings of the loss, by its argument names."""


class DenseLayersConfig(Section):
    """The dense layers of the decoder and of the head: `kind`, and next to it the settings of that kind, by argument names."""

    model_config = ConfigDict(extra="allow")

    kind: Annotated[str, named("genctr.dense")] = "plain"
    """plain, or apg: with weights that are generated row by row."""

    @property
    def options(self) -> dict[str, Any]:
        """The settings of the kind."""
        return self.model_extra or {}


class SequenceConfig(Section):
    """What makes one vector of the events of a sequence field."""

    encoder: Annotated[str, named("genctr.sequence_encoders")]
    """Name of the sequence encoder."""

    query: str | None = None
    """The id field whose vector the events are compared with, by encoders that do so; null: as the schema says, or else the
    first id field of the same table."""

    join: tuple[str, ...] = ()
    """Sequences of further ids of these events (`events_of` in the schema), such as their authors: the encoder reads their
    vectors beside those of the events. Each of them gets its part of the result."""

    options: dict[str, Any] = {}
    """Settings of the sequence encoder, by its argument names."""


class NextActionConfig(Section):
    """A further loss over a history: which actions the next event has."""

    sequence: str
    """The sequence, whose events carry actions."""

    actions: PositiveInt
    """[bits] of an action that are predicted, from the lowest."""

    weight: float = Field(default=0.1, ge=0)
    """[1] of the loss."""

    options: dict[str, Any] = {}
    """Its settings: items, layers, heads, dropout."""


class ContrastConfig(Section):
    """What a stage with objective contrast computes; others do not read it."""

    temperature: float = Field(default=0.1, gt=0)
    """[1] divides the cosine of a user's and an item's vector."""

    logq: Literal["none", "all"] = "all"
    """Whether candidates are corrected by how often they are candidates: all lowers each by ln of its share of the pairs."""

    symmetric: bool = False
    """Whether a pair's user is classified against other users too."""

    project: Literal["none", "linear"] = "none"
    """What stands between the tables and the cosine; the tables alone are handed on."""


class RankerConfig(ModelSection):
    """ranker: embeddings, an interaction decoder and a head; with an encoder, one side of every product is generated."""

    family: Literal["ranker"] = "ranker"
    """ranker: an interaction decoder over embeddings, plain or generative."""

    encoder: Annotated[NoEncoder | SFGConfig, Field(discriminator="kind")] = NoEncoder()
    """What generates one side of the products."""

    decoder: Annotated[str, named("genctr.decoders")] = "dcnv2"
    """Name of the interaction decoder."""

    decoder_options: dict[str, Any] = {}
    """Settings of the decoder, by its argument names."""

    head: Annotated[str, named("genctr.heads")] | None = None
    """Name of the head, which makes the logits of all targets of what the decoder returns; null: the decoder's own choice."""

    head_options: dict[str, Any] = {}
    """Settings of the head, by its argument names."""

    dense: DenseLayersConfig = DenseLayersConfig()
    """What the dense layers of decoder and head are."""

    sequences: dict[str, SequenceConfig] = {}
    """How sequence fields become one vector, by field; of those left out, the schema's `pool` says it."""

    next_action: NextActionConfig | None = None
    """A further loss over a history, see there; null: none."""

    losses: Annotated[tuple[LossConfig, ...], Field(min_length=1)] = (LossConfig(),)
    """What a ranking step adds up."""

    contrast: ContrastConfig = ContrastConfig()
    """What a contrastive step computes."""


class DenoiserConfig(ModelSection):
    """denoiser: discrete diffusion over the values of a row: tokens of all fields and of the label, some hidden, all predicted
    from the rest; pre-trained so, then fine-tuned on the label."""

    family: Literal["denoiser"]
    """denoiser: discrete diffusion, pre-trained to restore hidden values, then fine-tuned on the label."""

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

    mask_count: Literal["uniform", "bernoulli"] = "uniform"
    """uniform: perturb k of n values, k uniform. bernoulli: each with probability t, t stratified over the batch."""

    noise_schedule: Literal["linear", "cosine"] = "linear"
    """How the share of perturbed values depends on t."""

    time_weight: Literal["elbo", "count", "mean", "one"] = "count"
    """Weight of a row of which k of n values are perturbed: 1/t, n/k (the same bound with less variance), 1/k or 1."""

    label_only_fraction: float = Field(default=0.1, ge=0, le=1)
    """[1] share of rows in which the label alone is hidden: what ranking does."""

    similarity: Literal["cosine", "dot"] = "cosine"
    """How well a value fits: cosine over `temperature`, or dot product plus a bias per value."""

    temperature: float = Field(default=0.2, gt=0)
    """[1] divides the cosine. Published settings have .05 and smaller; of one pass over KuaiRand .2 makes more."""

    full_softmax_max_rows: PositiveInt = 4096
    """[rows] up to which a table's softmax is over all of its values; beyond, over candidates."""

    sampled_negatives: int = Field(default=256, ge=0)
    """[values] drawn with probability ~ count^(3/4), in addition to those of the batch."""

    max_candidates: PositiveInt = 4096
    """[values] of a table that a step chooses from at most, and restores on a rank; of more, some are, and weigh more."""

    logq: Literal["none", "negatives", "all"] = "negatives"
    """Which candidates are corrected by how often they are candidates."""

    balance: Literal["uniform", "literal", "literal_raw", "literal_norm", "progress", "hard_track", "dro"] = "uniform"
    """How the fields' losses are weighed: all alike (DGenCTR), or by difficulties that are learnt (HeteGenCTR: progress)."""

    attention: Literal["none", "query", "query_postnorm", "query+key"] | None = None
    """Where difficulties guide the attention; null is query if the balance learns any, else none."""

    balance_lr: float = Field(default=0.01, gt=0)
    """[1] learning rate of the difficulties."""

    progress_min: float = Field(default=0.05, gt=0, le=1)
    """[1] least progress that `progress` sees: bounds the weights."""

    track_exponent: float = Field(default=1.0, gt=0)
    """[1] exponent of `hard_track`."""

    dro_temperature: float = Field(default=0.5, gt=0)
    """[1] temperature of `dro`."""

    readout: tuple[PositiveInt, ...] = ()
    """Widths of a network that reads all tokens when ranking, in addition to the labels' own; empty for none."""

    label_weight: float = Field(default=1.0, ge=0)
    """[1] of the labels' losses in pre-training, where a field's is 1 on average."""

    losses: Annotated[tuple[LossConfig, ...], Field(min_length=1)] = (LossConfig(),)
    """What a ranking step adds up."""

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
