"""From config to model and reader: what training and serving build alike, and nothing that only training needs."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from data.errors import GenctrError
from data.features import Features
from data.readers import READERS, Reader
from models.decoders import DECODERS
from models.diffusion.balance import Balance
from models.diffusion.denoiser import CANDIDATES, Denoiser
from models.diffusion.slots import Slot
from models.embed import Field, FieldEmbedding
from models.encoders import ENCODERS
from models.ranker import Ranker
from models.sparse import SparseArch, Table
from pipeline.builders.registry import bind, find
from pipeline.config.model import ModelConfig

META = torch.device("meta")


def build_model(
    config: ModelConfig, features: Features, tasks: tuple[str, ...], *, device: torch.device = META
) -> Ranker | Denoiser:
    """The model that gives clicks: a click model, or a denoiser that ranks.

    Args:
        device: of the tables; on the meta device they are for sharding to fill.
    """
    make = build_denoiser if config.denoises else build_ranker
    return make(config, features, tasks, device=device)


def build_ranker(config: ModelConfig, features: Features, tasks: tuple[str, ...], *, device: torch.device = META) -> Ranker:
    """The click model.

    Raises:
        GenctrError: no such decoder or option, or fields that cannot be embedded.
    """
    make_decoder = find("genctr.decoders", config.decoder, DECODERS)
    sfg = config.paradigm == "sfg"
    fields = len(features.fields)
    width = make_decoder.embedding_width(fields=fields, dim=config.dim)
    shape = {"fields": fields, "width": width}
    options = config.encoder.model_dump(exclude={"supervision", "supervision_weight"}) if sfg else {}
    options |= {"cardinalities": [features.cardinality(name) for name in features.fields]} if sfg else {}
    generate = partial(ENCODERS[config.paradigm], **shape, **options)
    decoder = bind(f"decoder {config.decoder}", make_decoder, config.options, given={**shape, "generate": generate})
    linear, second = decoder.needs_linear, decoder.second_width
    tables = [
        Table(spec.name, spec.rows, spec.dim or width, spec.fields, spec.pool if spec.pooled else "none", linear, second)
        for spec in features.tables
    ]
    try:
        return Ranker(
            sparse=SparseArch(tables, device=device),
            embed=FieldEmbedding(build_fields(features, width), width=width, linear=linear),
            second=FieldEmbedding(build_fields(features, second, own=False), width=second, linear=False) if second else None,
            decoder=decoder,
            tasks=tasks,
            restore=config.encoder.supervision_weight if sfg and config.encoder.supervision == "self" else 0.0,
            start=[features.statistics.log_odds(task) for task in tasks],
        )
    except ValueError as error:
        raise GenctrError(f"the schema's fields: {error}") from error


def build_denoiser(
    config: ModelConfig,
    features: Features,
    tasks: tuple[str, ...],
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
    own, hetegen = config.denoiser, config.paradigm == "hetegen"
    slots = build_slots(features, config.dim)
    keys = {spec.name: (f"{spec.name}{CANDIDATES}",) if restores else () for spec in features.tables}
    tables = [
        Table(spec.name, spec.rows, spec.dim or config.dim, (*spec.fields, *keys[spec.name]), "none")
        for spec in features.tables
    ]
    fields = sum(slot.source == "table" for slot in slots)
    kind = own.balance if hetegen else "uniform"
    try:
        return Denoiser(
            sparse=SparseArch(tables, device=device),
            slots=slots,
            tasks=tasks,
            width=config.dim,
            hidden=own.hidden,
            layers=own.layers,
            heads=own.heads,
            dropout=own.dropout,
            block=own.block,
            attention=own.guidance if hetegen else "none",
            temperature=own.temperature if own.score == "cosine" else None,
            balance=Balance(kind, fields=fields, p_min=own.p_min, beta=own.beta, tau=own.tau),
            restores=restores,
            full=[spec.name for spec in features.tables if spec.rows - spec.reserved <= own.full_rows],
        )
    except ValueError as error:
        raise GenctrError(f"model.denoiser: {error}") from error


def build_slots(features: Features, width: int) -> list[Slot]:
    """The fields as a denoiser sees them: those with tables in schema order, then the given vectors."""
    of_table = {field: spec for spec in features.tables for field in spec.fields}
    slots = [
        Slot(name, "table", spec.dim or width, spec.name, spec.rows, spec.reserved, features.lengths.get(name, 1))
        for name in features.fields
        if (spec := of_table.get(name)) is not None
    ]
    return [*slots, *(Slot(name, "vector", dim) for name, dim in features.vector_fields.items())]


def build_fields(features: Features, width: int, *, own: bool = True) -> list[Field]:
    """The fields as the model sees them, in schema order; `own`: a table may name its own width."""
    of_table = {field: spec for spec in features.tables for field in spec.fields}
    fields = []
    for name in features.fields:
        if name in of_table:
            spec = of_table[name]
            query = features.queries.get(name)
            pool = "attention" if query else spec.pool
            fields.append(Field(name, "table", dim=(own and spec.dim) or width, pool=pool, query=query))
        elif name in features.vector_fields:
            fields.append(Field(name, "vector", dim=features.vector_fields[name]))
        else:
            fields.append(Field(name, "number"))
    return fields


def build_reader(name: str, options: Mapping[str, Any]) -> Reader:
    """How the files of a log are read."""
    reader: Reader = bind(f"reader {name}", find("genctr.readers", name, READERS), options)
    return reader
