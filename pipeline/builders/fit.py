"""What is counted in the log before a stage trains: vocabularies, statistics, frequencies. Once, for all ranks."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from data.days import Days
from data.errors import GenctrError
from data.frequencies import Frequencies
from data.paths import PATHS
from data.readers import Reader, read_columns
from data.schema import Schema
from data.statistics import Statistics, fit, id_columns, id_kinds, unsigned_tables
from pipeline.builders.days import build_days
from pipeline.builders.objectives import build_objective
from pipeline.builders.source import Source, build_source
from pipeline.config.objective import objective_kind
from pipeline.config.run import RunConfig, fit_days
from pipeline.distributed.world import World
from pipeline.run_folder.claim import STATISTICS, bucketed, frequencies_file, stage_schema


def _fit(config: RunConfig, schema: Schema, names: Sequence[str]) -> Statistics:
    """What has to be known of the log before training, from these days; what kind of ids a table has, from the first."""
    days = build_days(config.data)
    ids = id_columns(schema)
    first = days.open(names[0], ids, accept=schema.check, ids=ids).schema
    fitted = fit(schema, _batches(days, days.reader, names, schema), seed=config.seed)
    fitted = replace(fitted, kinds=id_kinds(schema, first), unsigned=unsigned_tables(schema, first))
    return replace(fitted, vocabularies={name: fitted.as_logged(name, own) for name, own in fitted.vocabularies.items()})


def _batches(days: Days, reader: Reader, names: Sequence[str], schema: Schema) -> Iterator[pa.RecordBatch]:
    columns = Statistics.columns(schema)
    if not columns:
        return
    for name in names:
        for file in days.open(name, columns, accept=schema.check, ids=id_columns(schema)).files:
            for unit in range(len(file.units)):
                yield from read_columns(reader, file.path, unit, columns, 0)


def prepare(folder: str, config: RunConfig, schema: Schema, world: World, at: int) -> None:
    """What is done once for all ranks: the folder holds what has to be counted before stage `at` trains."""
    stages = config.resolved()
    if not PATHS.exists(f"{folder}/{STATISTICS}"):
        _fit(config, bucketed(schema, stages), fit_days(config)).save(f"{folder}/statistics")
    elif not Statistics.has_digests(f"{folder}/statistics"):
        Statistics.load(f"{folder}/statistics").save(f"{folder}/statistics")
        sys.stderr.write(
            f"genctr: {folder}/statistics was written before statistics carried digests: it has them from now on\n"
        )
    _fit_what_is_new(folder, config, bucketed(schema, stages))
    for stage in stages[at:]:  # days of those before may be gone by now, or lack what the schema has since
        source = build_source(stage.config, stage_schema(schema, stage, stages), folder)
        if objective_kind(stage).counts_values:
            _count(source, frequencies_file(folder, stage), positives=objective_kind(stage).counts_positives)
        if stage is not stages[0]:  # what is wrong with it is to be known before hours of those before it
            try:
                build_objective(stage, source, folder, world)
            except GenctrError as error:
                raise GenctrError(f"stage {stage.name}: {error}") from error


def _count(source: Source, path: str, *, positives: bool) -> None:
    """Count the ids of a stage's days, unless that was done."""
    if PATHS.exists(path) and Frequencies.load(path).are_of(source.features):
        return
    streams = (source.stream(source.open(day)) for day in source.train_days)
    rows = (batch for stream in streams for batch in stream.batches(stream.start()))
    Frequencies.count(source.features, rows, positives=positives).save(path)


def _fit_what_is_new(folder: str, config: RunConfig, schema: Schema) -> None:
    """Fit what a grown schema has and the stored statistics have not, on the newest day: no other may have it."""
    known = Statistics.load(f"{folder}/statistics")
    if known.are_enough_for(schema):
        return
    days = build_days(config.data).list()
    if not days:
        raise GenctrError(
            f"{config.data.root} has no complete day, and what is new in the schema has to be fitted on one\n"
            "  next: write a day, or take back what is new"
        )
    new = _fit(config, schema, days[-1:])
    merged = Statistics(
        new.vocabularies | known.vocabularies,
        new.moments | known.moments,
        new.edges | known.edges,
        new.kinds | known.kinds,
        unsigned=new.unsigned | known.unsigned,
        labels=known.labels,  # the newest day is scored before it is trained: its labels are not counted before
    )
    merged.save(f"{folder}/statistics")
