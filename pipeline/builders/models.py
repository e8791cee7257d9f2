"""From config to model: what training and serving build alike, and nothing that only training needs."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from data.errors import GenctrError
from data.features import Features, Pool
from data.ids import AdmittedIds
from data.schema import Schema, SequenceField
from data.statistics import Statistics
from data.yaml_document import nearest
from models.decoders import Decoder
from models.diffusion.balance import Balance
from models.diffusion.denoiser import CANDIDATES, Denoiser, DenoiserOptions
from models.diffusion.slots import Slot
from models.field_embedding import Field, FieldEmbedding
from models.heads import Head
from models.inputs import FieldInfo
from models.layers import MakeMLP, flat
from models.options import grouped, options_of
from models.ranker import Auxiliary, Ranker
from models.sequences.next_action import NextAction
from models.sparse import SparseArch, Table
from pipeline.builders.losses import first_logits
from pipeline.config.family import ModelSection, family_of
from pipeline.config.model import DenoiserConfig, RankerConfig, SequenceConfig
from pipeline.config.registry import NOTHING, bind, find, names

META = torch.device("meta")

TAUGHT = ("supervision", "supervision_weight")
"""What a section of an encoder says of its training, and not of the encoder."""


def build_features(
    model: ModelSection, schema: Schema, statistics: Statistics, *, admitted: Mapping[str, AdmittedIds] = NOTHING
) -> Features:
    """The fields of a schema as a model of this family reads them; `admitted`: see `Features`.

    Raises:
        GenctrError: the family cannot learn a target.
    """
    reads = family_of(model).reads
    if not reads.amounts and (amounts := [label.target for label in schema.targets if label.kind == "amount"]):
        raise GenctrError(f"model.family: a {model.family} learns targets of 0 and 1, and {amounts[0]} is an amount")
    pools = pools_of(reads.sequences(model), schema) if reads.sequences is not None else {}
    return Features(schema, statistics, pooled=reads.pooled, admitted=admitted, pools=pools)


def build_model(
    config: ModelSection, features: Features, targets: tuple[str, ...], *, device: torch.device = META
) -> nn.Module:
    """The model as it is served.

    Args:
        device: of the tables; on the meta device they are for sharding to fill.
    """
    return family_of(config).build(config, features, targets, device)


def build_ranker(config: RankerConfig, features: Features, targets: tuple[str, ...], *, device: torch.device = META) -> Ranker:
    """The click model.

    Raises:
        GenctrError: no such decoder or option, or fields that cannot be embedded.
    """
    encoder = config.encoder
    make_mlp, width = build_dense(config, features)
    decoder = build_decoder(config, features, make_mlp, width)
    linear, second = decoder.needs_linear, decoder.second_width
    tables = [
        Table(spec.name, spec.rows, spec.dim or width, spec.fields, spec.pool if spec.pooled else "none", linear, second)
        for spec in features.tables
    ]
    own = build_fields(features, width, config.sequences)
    others = build_fields(features, second, config.sequences, own=False)
    try:
        return Ranker(  # in this order: each draws its first weights from where the one before has stopped
            decoder=decoder,
            sparse=SparseArch(tables, device=device),
            embed=_embedding(config, features, own, width=width, linear=linear),
            second=_embedding(config, features, others, width=second) if second else None,
            head=build_head(config, decoder, targets, make_mlp),
            auxiliary=_build_next_action(config, features, own),
            restore=encoder.supervision_weight if encoder.kind == "sfg" and encoder.supervision == "self" else 0.0,
            start=first_logits(config.losses, features.schema, features.statistics),
        )
    except GenctrError:
        raise
    except ValueError as error:
        raise GenctrError(f"the schema's fields: {error}") from error


def build_dense(config: RankerConfig, features: Features) -> tuple[MakeMLP, int]:
    """What makes the dense layers of the model, and how wide the vectors are that its decoder reads.

    Raises:
        GenctrError: no such decoder, kind, option or field.
    """
    width = find("genctr.decoders", config.decoder).embedding_width(fields=len(features.fields), dim=config.dim)
    given = {"fields": build_field_infos(features, width), "width": width}
    dense = config.dense
    make: MakeMLP = bind(f"model.dense: {dense.kind}", find("genctr.dense", dense.kind), dense.options, given=given)
    return make, width


def build_decoder(config: RankerConfig, features: Features, make_mlp: MakeMLP, width: int) -> Decoder:
    """The decoder.

    Raises:
        GenctrError: no such decoder or option.
    """
    generate = partial(_make_encoder(config, features), fields=len(features.fields), width=width)
    given = {"fields": build_field_infos(features, width), "width": width, "make_mlp": make_mlp, "generate": generate}
    return _bound_decoder(f"decoder {config.decoder}", find("genctr.decoders", config.decoder), config.decoder_options, given)


def make_interaction(name: str, options: Mapping[str, Any], given: Mapping[str, Any]) -> Decoder:
    """A module of a decoder that stacks several: an interaction, or else a decoder of that name.

    Raises:
        ValueError: no such module.
        GenctrError: no such option of it.
    """
    own, decoders = names("genctr.interactions"), names("genctr.decoders")
    if name not in {*own, *decoders}:
        raise ValueError(f"no module {name!r}; {nearest(name, sorted({*own, *decoders}))}")
    make = find("genctr.interactions" if name in own else "genctr.decoders", name)
    return _bound_decoder(f"module {name}", make, options, given)


def _bound_decoder(what: str, make: Callable[..., Decoder], options: Mapping[str, Any], given: Mapping[str, Any]) -> Decoder:
    """A decoder that stacks others asks for `make_interaction` among its arguments."""
    stacks = {"make_interaction": make_interaction} if "make_interaction" in options_of(make) else {}
    decoder: Decoder = bind(what, make, options, given={**given, **stacks})
    return decoder


def _make_encoder(config: RankerConfig, features: Features) -> Callable[..., nn.Module]:
    make, options = find("genctr.encoders", config.encoder.kind), config.encoder.model_dump(exclude={"kind", *TAUGHT})
    if options:
        options["cardinalities"] = [features.cardinality(name) for name in features.fields]
    return partial(make, **grouped(make, options))


def build_head(config: RankerConfig, decoder: Decoder, targets: tuple[str, ...], make_mlp: MakeMLP) -> Head:
    """The head that the config names, or else the decoder wants.

    Raises:
        GenctrError: no such head or option, or it cannot read what the decoder returns.
    """
    name = config.head or decoder.head
    given = {"features": flat(decoder.out), "targets": targets, "make_mlp": make_mlp}
    head: Head = bind(f"head {name}", find("genctr.heads", name), config.head_options, given=given)
    return head


def _embedding(
    config: RankerConfig, features: Features, fields: Sequence[Field], *, width: int, linear: bool = False
) -> FieldEmbedding:
    """The field embedding, with a sequence encoder for every field that has one."""
    dims = {field.name: field.dim for field in fields}
    sequences = {}
    for field in fields:
        if field.encoder is not None:
            options = config.sequences[field.name].options if field.name in config.sequences else {}
            make = find("genctr.sequence_encoders", field.encoder)
            given = {"width": sum(dims[name] for name in (field.name, *field.joined)), "length": features.lengths[field.name]}
            encode = bind(f"sequence encoder {field.encoder}", make, options, given=given)
            _check_carried(f"sequence encoder {field.encoder}", encode.reads, features, field.name)
            sequences[field.name] = encode
    return FieldEmbedding(fields, width=width, linear=linear, sequences=sequences)


def _check_carried(what: str, reads: Sequence[str], features: Features, sequence: str) -> None:
    """Refuse what events do not carry.

    Raises:
        GenctrError: they do not.
    """
    carried = {name for name, _ in features.payloads[sequence].columns()} if sequence in features.payloads else set()
    for name in reads:
        if name not in carried:
            raise GenctrError(
                f"{what} reads the {name} of every event of {sequence}, which the schema does not declare\n"
                f"  next: say payload: {{{name}: COLUMN}} of field {sequence}"
            )


def _build_next_action(config: RankerConfig, features: Features, fields: Sequence[Field]) -> dict[str, tuple[Auxiliary, float]]:
    """The further loss over a history, if there is one."""
    own = config.next_action
    if own is None:
        return {}
    field = next((field for field in fields if field.name == own.sequence and features.pools.get(field.name) == "events"), None)
    if field is None:
        raise GenctrError(
            f"model.next_action: {own.sequence!r} is no sequence that is read event by event\n"
            "  next: name one of model.sequences whose encoder is neither mean nor sum"
        )
    _check_carried("model.next_action", ("action",), features, own.sequence)
    given = {"width": field.dim, "length": features.lengths[own.sequence], "actions": own.actions}
    made = bind("model.next_action", NextAction, own.options, given=given)
    return {"next_action": (Auxiliary(own.sequence, made), own.weight)}


def pools_of(sequences: Mapping[str, SequenceConfig], schema: Schema) -> dict[str, Pool]:
    """How the sequences of `model.sequences` become one vector: by tables that pool, or event by event.

    Raises:
        GenctrError: no such sequence, or one that is joined to another and is not of its events.
    """
    fields = {field.name: field for field in schema.fields if isinstance(field, SequenceField)}
    by_table: dict[str, Pool] = {"mean": "mean", "sum": "sum"}
    pools: dict[str, Pool] = {}
    for name, own in sequences.items():
        if name not in fields:
            raise GenctrError(f"model.sequences: no sequence field {name!r}; choose from {list(fields)}")
        pools[name] = "events" if own.join else by_table.get(own.encoder, "events")
        for other in own.join:
            if other not in fields or fields[other].events_of != name:
                raise GenctrError(
                    f"model.sequences: {name} cannot join {other!r}\n"
                    f"  next: say events_of: {name} of it in the schema; it has then a value for every event"
                )
            if other in sequences:
                raise GenctrError(f"model.sequences: {other} is joined to {name}, whose encoder reads it: leave {other} out")
            pools[other] = "events"
    return pools


def represented(config: RankerConfig) -> frozenset[str]:
    """What losses can read of a ranker; "{target}/easy" is one for every target."""
    head = config.head or find("genctr.decoders", config.decoder).head
    return frozenset({*Ranker.represents, *find("genctr.heads", head).represents})


def build_denoiser(
    config: DenoiserConfig,
    features: Features,
    targets: tuple[str, ...],
    *,
    restores: bool = False,
    device: torch.device = META,
) -> Denoiser:
    """The denoiser.

    Args:
        restores: with heads for the fields, to pre-train it; otherwise it ranks.

    Raises:
        GenctrError: settings that contradict each other.
    """
    slots = build_slots(features, config.dim)
    keys = {spec.name: (f"{spec.name}{CANDIDATES}",) if restores else () for spec in features.tables}
    tables = [
        Table(spec.name, spec.rows, spec.dim or config.dim, (*spec.fields, *keys[spec.name]), "none")
        for spec in features.tables
    ]
    fields = sum(slot.source == "table" for slot in slots)
    balance = Balance(
        config.balance, fields=fields, p_min=config.progress_min, beta=config.track_exponent, tau=config.dro_temperature
    )
    try:
        return Denoiser(
            sparse=SparseArch(tables, device=device),
            slots=slots,
            tasks=targets,
            width=config.dim,
            options=DenoiserOptions(
                hidden=config.hidden,
                layers=config.layers,
                heads=config.heads,
                dropout=config.dropout,
                block=config.block,
                attention=config.guidance,
                temperature=config.temperature if config.similarity == "cosine" else None,
                readout=config.readout,
            ),
            balance=balance,
            restores=restores,
            full=[spec.name for spec in features.tables if spec.rows - spec.reserved <= config.full_softmax_max_rows],
        )
    except ValueError as error:
        raise GenctrError(f"model: {error}") from error


def build_slots(features: Features, width: int) -> list[Slot]:
    """The fields as a denoiser sees them: those with tables in schema order, then the given vectors."""
    of_table = {field: spec for spec in features.tables for field in spec.fields}
    slots = [
        Slot(name, "table", spec.dim or width, spec.name, spec.rows, spec.reserved, features.lengths.get(name, 1))
        for name in features.fields
        if (spec := of_table.get(name)) is not None
    ]
    return [*slots, *(Slot(name, "vector", dim) for name, dim in features.vector_fields.items())]


def build_fields(
    features: Features, width: int, sequences: Mapping[str, SequenceConfig] = NOTHING, *, own: bool = True
) -> list[Field]:
    """The fields as the model sees them, in schema order; `own`: a table may name its own width."""
    of_table = {field: spec for spec in features.tables for field in spec.fields}
    joined = {other for chosen in sequences.values() for other in chosen.join}
    fields = []
    for name in features.fields:
        if name in of_table:
            spec = of_table[name]
            dim, pool, chosen = (own and spec.dim) or width, features.pools.get(name, "sum"), sequences.get(name)
            if pool == "events":
                encoder = chosen.encoder if chosen is not None else "target_attention" if name not in joined else None
                query = (chosen and chosen.query) or features.queries.get(name)
                join = chosen.join if chosen is not None else ()
                fields.append(Field(name, "table", dim=dim, encoder=encoder, query=query, joined=join))
            else:
                fields.append(Field(name, "table", dim=dim, pool=pool))
        elif name in features.vector_fields:
            fields.append(Field(name, "vector", dim=features.vector_fields[name]))
        else:
            fields.append(Field(name, "number"))
    return fields


def build_field_infos(features: Features, width: int) -> tuple[FieldInfo, ...]:
    """What a decoder may know of the fields, in schema order; `width`: of tables that name none."""
    widths = {name: spec.dim or width for spec in features.tables for name in spec.fields} | features.vector_fields
    return tuple(
        FieldInfo(name, features.roles[name], features.kinds[name], features.cardinality(name), widths.get(name, 1))
        for name in features.fields
    )
