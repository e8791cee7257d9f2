"""What has to be known of the log before training: vocabularies, means and deviations, quantiles, and how often labels are 1.
One pass, then stored."""

import hashlib
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data.arrays import element_type, integers_of, is_bytes, is_list, is_text, nulls, values_of
from data.errors import BadInput, GenctrError
from data.ids import id_kind
from data.paths import PATHS, write_whole
from data.schema import AnyField, AnyIds, Label, NumberField, Schema
from data.seal import is_sealed, sealed, unsealed

FILE = "statistics.json"
SAMPLE_ROWS = 1_000_000


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of a number; a constant has deviation 1, so that standardising it gives 0."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Statistics:
    """What was fitted.

    Args:
        vocabularies: table -> its ids, the most frequent first, equally frequent ones by value.
        moments: standardised number -> mean and deviation.
        edges: bucketed number -> the inner edges of its buckets, ascending, float64.
        kinds: table -> what its ids are, "integers" or "strings", because 7 and "7" are two ids; None: nothing but nulls yet.
        labels: target -> the weight of its rows times their labels, and the weight of all its rows; of the whole log if rows of
            label 0 were left out.
        unsigned: the tables whose ids are integers of 64 bits without a sign: what is exported says them so.
    """

    vocabularies: dict[str, pa.Array] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)
    edges: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    kinds: dict[str, str | None] = field(default_factory=dict)
    labels: dict[str, tuple[float, float]] = field(default_factory=dict)
    unsigned: frozenset[str] = frozenset()

    @classmethod
    def nothing(cls) -> "Statistics":
        """For schemas that need nothing fitted."""
        return cls()

    @staticmethod
    def names(schema: Schema) -> set[str]:
        """The fields of a schema that need something fitted."""
        return {own.name for own in schema.fields if _needs_fitting(own)}

    @staticmethod
    def columns(schema: Schema) -> list[str]:
        """The columns that `fit` reads."""
        fields = [own.column for own in schema.fields if _needs_fitting(_owner(schema, own))]
        labels = [name for own in schema.targets for name in (own.column, own.valid_where, own.sampling_rate, schema.weight)]
        return list(dict.fromkeys([*fields, *(name for name in labels if isinstance(name, str))]))

    @property
    def fitted(self) -> set[str]:
        """The fields that something was fitted for."""
        return {*self.vocabularies, *self.moments, *self.edges}

    def are_enough_for(self, schema: Schema) -> bool:
        """Whether everything was fitted, and the ids of every table looked at."""
        tables = {schema.owner(own).name for own in schema.fields if isinstance(own, AnyIds)}
        return self.names(schema) <= self.fitted and tables <= self.kinds.keys()

    def kind(self, table: str) -> str | None:
        """What the ids of a table are: those of its vocabulary, else those of the day they were looked at; None: not known."""
        vocabulary = self.vocabularies.get(table)
        return id_kind(vocabulary.type) if vocabulary else self.kinds.get(table)

    def string_columns(self, schema: Schema) -> set[str]:
        """The columns whose ids were strings when the run began."""
        ids = [own for own in schema.fields if isinstance(own, AnyIds)]
        return {own.column for own in ids if self.kind(schema.owner(own).name) == "strings"}

    def log_odds(self, target: str) -> float:
        """The logit of a target's base rate, ln((n1 + 1/2) / (n0 + 1/2)): finite without a click, and without a row 0."""
        ones, rows = self.labels.get(target, (0.0, 0.0))
        return math.log((ones + 0.5) / (rows - ones + 0.5))

    def mean(self, target: str) -> float:
        """The mean of a target; 0 without a row."""
        total, rows = self.labels.get(target, (0.0, 0.0))
        return total / rows if rows else 0.0

    def save(self, folder: str) -> None:
        """Store as `statistics.json` and one Parquet file a vocabulary, all with their SHA-256; the JSON is written last, so it
        means: whole.

        Where a run that has grown stores them again, what it was begun with stays readable at any instant.
        """
        PATHS.mkdirs(folder)
        digests = {}
        for name, values in self.vocabularies.items():
            path = f"{folder}/vocabulary.{name}.parquet"
            content = _holding(path, values)
            if content is None:
                stored = io.BytesIO()
                pq.write_table(pa.table({"id": values}), stored)
                content = stored.getvalue()
                write_whole(path, content)
            digests[name] = hashlib.sha256(content).hexdigest()
        document: dict[str, Any] = {
            "vocabularies": {name: len(values) for name, values in self.vocabularies.items()},
            "moments": {name: [own.mean, own.deviation] for name, own in self.moments.items()},
            "edges": {name: own.tolist() for name, own in self.edges.items()},
            "kinds": self.kinds,
            "labels": self.labels,
            "digests": digests,
        }
        if self.unsigned:
            document["unsigned"] = sorted(self.unsigned)
        write_whole(f"{folder}/{FILE}", sealed(document, indent=1))

    @classmethod
    def load(cls, folder: str) -> "Statistics":
        """What `save` stored, verified. What was stored before statistics carried digests is taken as it is.

        Raises:
            GenctrError: nothing is stored there, not all of it, or something else than was written.
        """
        file = f"{folder}/{FILE}"
        try:
            document = unsealed(_read(file))
            vocabularies = {}
            for name, rows in document["vocabularies"].items():
                file = f"{folder}/vocabulary.{name}.parquet"
                content = _read(file)
                digest = document.get("digests", {}).get(name)
                if digest is not None and digest != hashlib.sha256(content).hexdigest():
                    raise ValueError(f"it is not what was written: its content and its SHA-256 in {FILE} disagree")
                vocabularies[name] = pq.read_table(io.BytesIO(content))["id"].combine_chunks()
                if len(vocabularies[name]) != rows:
                    raise ValueError(f"the vocabulary of {name} is not the one {FILE} speaks of")
            return cls.of(document, vocabularies)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise
            raise GenctrError(
                f"{file}: no usable statistics: {error}\n"
                "  next: every bundle this run has published carries these files: copy statistics.json and "
                f"vocabulary.*.parquet from the newest one into {folder}. Do not fit them again: ids could get other rows"
            ) from error

    @staticmethod
    def has_digests(folder: str) -> bool:
        """Whether what is stored carries its digests; older statistics do not."""
        return is_sealed(_read(f"{folder}/{FILE}"))

    @classmethod
    def of(cls, document: Mapping[str, Any], vocabularies: dict[str, pa.Array]) -> "Statistics":
        """From the content of `statistics.json` and the vocabularies next to it."""
        return cls(
            vocabularies=vocabularies,
            moments={name: Moments(*pair) for name, pair in document["moments"].items()},
            edges={name: np.asarray(values, dtype=np.float64) for name, values in document["edges"].items()},
            kinds=document.get("kinds", {}),
            labels={name: (ones, rows) for name, (ones, rows) in document.get("labels", {}).items()},
            unsigned=frozenset(document.get("unsigned", ())),
        )

    def as_logged(self, table: str, ids: pa.Array) -> pa.Array:
        """Integer ids of a table, as the log has them: with a sign or without."""
        return ids.view(pa.uint64()) if table in self.unsigned and ids.type == pa.int64() else ids


def id_columns(schema: Schema) -> list[str]:
    """The columns with ids."""
    return list(dict.fromkeys(own.column for own in schema.fields if isinstance(own, AnyIds)))


def id_kinds(schema: Schema, columns: pa.Schema) -> dict[str, str | None]:
    """What the ids of every table are in these columns, which the schema accepts."""
    kinds: dict[str, str | None] = {}
    for own in schema.fields:
        if isinstance(own, AnyIds):
            table = schema.owner(own).name
            kinds[table] = kinds.get(table) or id_kind(element_type(columns.field(own.column).type))
    return kinds


def unsigned_tables(schema: Schema, columns: pa.Schema) -> frozenset[str]:
    """The tables whose ids are integers of 64 bits without a sign in these columns."""
    ids = [own for own in schema.fields if isinstance(own, AnyIds)]
    return frozenset(schema.owner(own).name for own in ids if _is_unsigned(columns.field(own.column).type))


def _is_unsigned(kind: pa.DataType) -> bool:
    element = element_type(kind)
    return bool((element.value_type if pa.types.is_dictionary(element) else element) == pa.uint64())


def fit(schema: Schema, batches: Iterable[pa.RecordBatch], sample_rows: int = SAMPLE_ROWS, seed: int = 0) -> Statistics:
    """Fit everything a schema needs in one pass; memory is bounded but for the vocabularies.

    Args:
        schema: what the log means.
        batches: rows with `Statistics.columns(schema)`, in any order; the quantiles depend on it if there are more rows than
            are sampled.
        sample_rows: [rows] sampled uniformly to find the quantiles; all rows if there are no more.
        seed: of that sample.
    """
    counters: dict[str, tuple[int, _Counter]] = {}
    sums: dict[str, _Sums] = {}
    samples: dict[str, tuple[int, _Sample]] = {}
    for at, own in enumerate(schema.fields):
        if isinstance(own, AnyIds) and own.ids == "vocab":
            counters[own.name] = own.min_count or 1, _Counter()
        elif isinstance(own, NumberField) and own.transform == "standardise":
            sums[own.name] = _Sums()
        elif isinstance(own, NumberField) and own.buckets is not None:
            samples[own.name] = own.buckets, _Sample(sample_rows, np.random.default_rng([seed, at]))
    labels = {own.target: (0.0, 0.0) for own in schema.targets}

    for batch in batches:
        for own in schema.fields:
            table = _owner(schema, own).name
            if table in counters:
                counters[table][1].add(_elements(batch.column(own.column)), own.column)
            elif own.name in sums:
                sums[own.name].add(_finite(batch.column(own.column)))
            elif own.name in samples:
                samples[own.name][1].add(_finite(batch.column(own.column)))
        for target in schema.targets:
            ones, rows = labels[target.target]
            more_ones, more_rows = _label_weights(batch, target, schema.weight)
            labels[target.target] = ones + more_ones, rows + more_rows

    return Statistics(
        vocabularies={name: counter.values(min_count) for name, (min_count, counter) in counters.items()},
        moments={name: own.moments() for name, own in sums.items()},
        edges={name: sample.edges(buckets) for name, (buckets, sample) in samples.items()},
        labels=labels,
    )


def _label_weights(batch: pa.RecordBatch, target: Label, weight: str | None) -> tuple[float, float]:
    """The weight of a target's rows times their labels, and of all that count; training reports the bad ones."""
    column = batch.column(target.column)
    values = values_of(column).astype(np.float64)
    weights = np.ones(len(values))
    if weight is not None:
        weights = values_of(batch.column(weight)).astype(np.float64)
        weights = np.where(np.isfinite(weights) & (weights >= 0) & ~nulls(batch.column(weight)), weights, 0.0)
    if target.kind == "amount":
        counts = np.isfinite(values) & (values >= 0) & ~nulls(column)
    elif target.positive_above is None:
        counts = ((values == 0) | (values == 1)) & ~nulls(column)
    else:
        counts, values = ~np.isnan(values) & ~nulls(column), (values > target.positive_above).astype(np.float64)
    if target.valid_where is not None:
        where = batch.column(target.valid_where)
        counts &= (values_of(where).astype(np.float64) == 1) & ~nulls(where)
    if isinstance(target.sampling_rate, str):
        rates = values_of(batch.column(target.sampling_rate)).astype(np.float64)
        counts &= (rates > 0) & (rates <= 1)
    else:
        rates = np.full(len(values), target.sampling_rate or 1.0)
    values, weights, rates = values[counts], weights[counts], rates[counts]
    return float((weights * values).sum()), float((weights * np.where(values == 0, 1 / rates, 1.0)).sum())


class _Counter:
    """How often every id of a table occurs."""

    def __init__(self) -> None:
        self._counts: pa.Table | None = None
        self._fresh: list[pa.Table] = []
        self._fresh_rows = 0
        self._text: bool | None = None

    def add(self, ids: pa.Array, column: str) -> None:
        if pa.types.is_null(ids.type):
            return
        if self._text not in (None, is_text(ids.type)):
            raise BadInput(
                f"column {column!r} holds integers on some of the days that are fitted, and strings on others",
                column=column,
                expected="one type, so that an id is the same on all days",
                hint="convert the column, or fit days that have one type: data.statistics_days",
            )
        self._text = is_text(ids.type)
        if pa.types.is_dictionary(ids.type):
            ids = ids.dictionary.take(ids.indices)
        ids = ids.drop_null()
        if is_text(ids.type):
            ids = pc.cast(ids, pa.large_binary() if is_bytes(ids.type) else pa.large_string())
        else:
            ids = pa.array(integers_of(ids))
        counts = pc.value_counts(ids)
        self._fresh.append(pa.table({"id": counts.field("values"), "n": counts.field("counts")}))
        self._fresh_rows += len(counts)
        # Merging costs as much as what is there already: wait until that much is new.
        if self._fresh_rows > max(1_000_000, self._counts.num_rows if self._counts is not None else 0):
            self._merge()

    def _merge(self) -> None:
        known = [self._counts] if self._counts is not None else []
        # Where one file has strings and another bytes, all become bytes.
        tables = pa.concat_tables([*known, *self._fresh], promote_options="permissive")
        merged = tables.group_by("id").aggregate([("n", "sum")])
        self._counts = merged.rename_columns({"n_sum": "n"}).select(["id", "n"])
        self._fresh, self._fresh_rows = [], 0

    def values(self, min_count: int) -> pa.Array:
        """The ids that occur often enough, the most frequent first, equally frequent ones by value."""
        if self._fresh:
            self._merge()
        if self._counts is None:
            return pa.array([], pa.int64())
        kept = self._counts.filter(pc.field("n") >= min_count)
        return kept.sort_by([("n", "descending"), ("id", "ascending")])["id"].combine_chunks()


class _Sums:
    """Mean and squared deviation, merged batch by batch (Chan, Golub, LeVeque 1979), so that large means lose no digits."""

    def __init__(self) -> None:
        self._count, self._mean, self._squares = 0, 0.0, 0.0
        self._low, self._high = math.inf, -math.inf

    def add(self, values: NDArray[np.float64]) -> None:
        if not len(values):
            return
        mean = float(values.mean())
        apart = mean - self._mean
        total = self._count + len(values)
        self._squares += float(np.square(values - mean).sum()) + apart * apart * self._count * len(values) / total
        self._mean += apart * len(values) / total
        self._count = total
        self._low, self._high = min(self._low, float(values.min())), max(self._high, float(values.max()))

    def moments(self) -> Moments:
        # The squares of a constant such as 0.1 are not 0: its mean is rounded.
        deviation = (self._squares / self._count) ** 0.5 if self._low < self._high else 0.0
        return Moments(self._mean, deviation or 1.0)


class _Sample:
    """A uniform sample of fixed size: every value draws a key, the smallest keys stay."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self._size, self._rng = size, rng
        self._keys = self._values = np.empty(0)

    def add(self, values: NDArray[np.float64]) -> None:
        self._keys = np.concatenate([self._keys, self._rng.random(len(values))])
        self._values = np.concatenate([self._values, values])
        if len(self._keys) > 2 * self._size:
            self._shrink()

    def _shrink(self) -> None:
        if len(self._keys) > self._size:
            kept = np.argpartition(self._keys, self._size)[: self._size]
            self._keys, self._values = self._keys[kept], self._values[kept]

    def edges(self, buckets: int) -> NDArray[np.float64]:
        """The inner edges of buckets of equal size; values that repeat a lot make fewer."""
        self._shrink()
        if not len(self._values):
            return np.empty(0)
        return np.unique(np.quantile(self._values, np.linspace(0, 1, buckets + 1)[1:-1], method="inverted_cdf"))


def _elements(column: pa.Array) -> pa.Array:
    return column.flatten() if is_list(column.type) else column


def _finite(column: pa.Array) -> NDArray[np.float64]:
    """The numbers that are there. What is not finite is reported, with its file and row, when it is to be trained on."""
    values = values_of(column).astype(np.float64)
    return values[np.isfinite(values) & ~nulls(column)]


def _read(path: str) -> bytes:
    with PATHS.open(path, "rb") as file:
        return bytes(file.read())


def _holding(path: str, values: pa.Array) -> bytes | None:
    """The file that has these values already, or None. It is left as it is: the JSON beside it says its digest, and another
    version of Parquet's writer would make other bytes of the same values."""
    try:
        content = _read(path)
        return content if pq.read_table(io.BytesIO(content))["id"].combine_chunks().equals(values) else None
    except (FileNotFoundError, KeyError, pa.ArrowException):
        return None


def _owner(schema: Schema, own: AnyField) -> AnyField:
    return schema.owner(own) if isinstance(own, AnyIds) else own


def _needs_fitting(own: AnyField) -> bool:
    if isinstance(own, AnyIds):
        return own.ids == "vocab"
    return isinstance(own, NumberField) and own.transform in {"standardise", "buckets"}
