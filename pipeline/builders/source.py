"""The log as a run reads it: days in, batches out."""

from collections.abc import Collection
from dataclasses import dataclass

from data.collate import Collate
from data.day_names import parse_days
from data.days import Day, Days
from data.features import Features
from data.readers import Reader
from data.schema import Schema
from data.statistics import Statistics, id_columns
from data.stream import DayStream
from pipeline.builders.days import build_days
from pipeline.builders.models import build_features
from pipeline.config.run import RunConfig


@dataclass(frozen=True)
class Source:
    """The log as this run reads it: days in, batches out."""

    config: RunConfig
    schema: Schema
    days: Days
    reader: Reader
    features: Features
    collate: Collate
    rank: int = 0
    ranks: int = 1

    @property
    def train_days(self) -> list[str]:
        """The days to train, in order."""
        return parse_days(self.config.data.days)

    @property
    def validation_days(self) -> list[str]:
        """The days early stopping looks at."""
        return parse_days(self.config.data.validation)

    @property
    def test_days(self) -> list[str]:
        """The days scored once, at the end."""
        return parse_days(self.config.data.test)

    def open(self, day: str, *, known: Collection[str] = ()) -> Day:
        """One day's files, checked as far as the config says; `known`: those that were trained before, see `Days.open`."""
        columns, check = self.schema.columns(), self.config.data.check
        ids = id_columns(self.schema)
        return self.days.open(day, columns, accept=self.schema.check, check=check, known=known, ids=ids)

    def stream(self, day: Day, *, epoch: int = 0, shuffle: bool = False) -> DayStream:
        """One day's batches for this rank.

        Args:
            day: what `open` found. epoch: [passes] of the training days before this one; another epoch, another shuffle.
            shuffle: as the config says; else the order of the files.
        """
        data = self.config.data
        return DayStream(
            day,
            self.reader,
            columns=self.schema.columns(),
            collate=self.collate,
            batch_rows=self.config.train.global_batch_rows,
            lanes=data.lanes,
            shuffle_rows=data.shuffle_buffer_rows if shuffle else 0,
            seed=self.config.seed,
            epoch=epoch,
            rank=self.rank,
            ranks=self.ranks,
            prefetch=data.prefetch_batches,
        )


def build_source(config: RunConfig, schema: Schema, folder: str, rank: int = 0, ranks: int = 1) -> Source:
    """The log, with the vocabularies and statistics stored in the run folder."""
    statistics = Statistics.load(f"{folder}/statistics")
    days = build_days(config.data, statistics.string_columns(schema))
    features = build_features(config.model, schema, statistics)
    collate = Collate(features, bad_rows=config.data.bad_rows)
    return Source(config, schema, days, days.reader, features, collate, rank, ranks)
