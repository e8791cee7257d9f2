"""Serving: a bundle in, scores out. Nothing that trains is loaded here."""

import io
import json
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import torch
from torch import Tensor

from data.batch import Batch
from data.collate import Collate
from data.cursor import Cursor
from data.errors import BadInput, GenctrError
from data.ids import AdmittedIds, seed_of
from data.paths import PATHS, below, cannot_open, filesystem, list_data, write_whole
from data.readers import Reader, read_columns
from data.schema import AnyIds, Schema, SequenceField
from data.statistics import FILE, Statistics
from data.stream import FILE as FILE_COLUMN
from data.stream import ROW
from data.yaml_document import nearest
from models.layers import fold
from models.losses.base import LINKS
from pipeline.builders.days import build_reader
from pipeline.builders.models import build_features, build_model
from pipeline.serving.bundle import SAMPLE, Bundle, BundleError
from pipeline.training.inputs import inputs_of

BATCH_ROWS = 4096


class Scorer:
    """The model of a bundle, in one process.

    Args:
        bundle: it is read whole and checked on the way.

    Raises:
        BundleError: a file is not what was written, or the weights do not fit the model.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        try:
            self._build(bundle)
        except GenctrError:
            raise
        except (pa.ArrowException, KeyError, ValueError, TypeError, AttributeError, OverflowError, RuntimeError) as error:
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise BundleError(f"the files do not fit together: {why}", bundle.path) from error

    def _build(self, bundle: Bundle) -> None:
        vocabularies = {
            name.removeprefix("vocabulary.").removesuffix(".parquet"): pq.read_table(io.BytesIO(bundle.read(name)))["id"]
            for name in bundle.files
            if name.startswith("vocabulary.")
        }
        whole = {name: column.combine_chunks() for name, column in vocabularies.items()}
        statistics = Statistics.of(json.loads(bundle.read(FILE)), whole)
        admitted = {field.name: _admitted(bundle, field) for field in bundle.schema.managed}
        features = build_features(bundle.model, bundle.schema, statistics, admitted=admitted)
        self.collate = Collate(features, bad_rows="stop")
        self.lenient = Collate(features, bad_rows="skip")
        self.lenient.origins = True
        self.model = build_model(bundle.model, features, bundle.targets, device=torch.device("cpu"))
        state = self.model.state_dict()
        dense = bundle.dense()
        for name, value in state.items():
            if name in bundle.tables:
                if (rows := max((piece.rows[1] for piece in bundle.tables[name]), default=0)) != len(value):
                    raise BundleError(f"table {name} has {len(value)} rows by the schema, {rows} in the files", bundle.path)
                bundle.fill(name, value)
            else:
                value.copy_(dense[name])
        fold(self.model)
        self.model.eval()

    @torch.no_grad()
    def batch(self, batch: Batch) -> dict[str, Tensor]:
        """{target: (B,) logits}."""
        assert batch.ids_mapped, "the bundle's maps were not used"
        output = self.model(inputs_of(batch))
        return {target: output.logits[target].float() for target in self.bundle.targets}

    def rows(self, rows: pa.RecordBatch, *, file: str = "rows", first: int = 0) -> dict[str, Tensor]:
        """{target: (B,) logits} of raw rows. Labels, weights and groups are not looked at, nor is a time that only ages ids:
        they may be missing.

        Args:
            rows: with the columns of the fields. file, first: where they come from, for what is said about a bad one.

        Raises:
            BadInput: a row is not what the schema says.
        """
        try:
            batch = self._collated(rows, file, first)
        except BadInput as error:
            if error.row is None:
                raise
            raise BadInput(error.what, file=error.file, row=error.row, column=error.column, expected=error.expected,
                           hint="fix the row, or take it out of the request") from error  # fmt: skip
        return self.batch(batch) if rows.num_rows else {target: torch.empty(0) for target in self.bundle.targets}

    def good_rows(self, rows: pa.RecordBatch, *, file: str, first: int) -> dict[str, Tensor]:
        """{target: (B,) logits} as `rows` has them, nan for a row that is not what the schema says: `lenient.reasons` counts
        them."""
        batch = self._collated(rows, file, first, self.lenient)
        assert batch.origin is not None, "asked for"
        places = batch.origin[:, 1] - first
        found = self.batch(batch) if len(places) else {}
        logits = {target: torch.full((rows.num_rows,), math.nan) for target in self.bundle.targets}
        for target, own in found.items():
            logits[target][places] = own
        return logits

    def _collated(self, rows: pa.RecordBatch, file: str, first: int, collate: Collate | None = None) -> Batch:
        read, columns = _columns_of_scores(self.bundle.schema), self.bundle.schema.columns()
        missing = [name for name in read if name not in rows.schema.names]
        if missing:
            raise BadInput("a column is missing", file=file, column=missing[0], expected="the columns the model was trained on")
        refuse_twins(rows.schema, read, file)
        rows = rows.select(read)
        rates = {label.sampling_rate for label in self.bundle.schema.targets}
        for name in columns:
            if name not in read:
                rows = rows.append_column(name, pa.array(np.full(rows.num_rows, int(name in rates), dtype=np.int64)))
        rows = rows.append_column(FILE_COLUMN, pa.array(np.zeros(rows.num_rows, dtype=np.int32)))
        rows = rows.append_column(ROW, pa.array(np.arange(first, first + rows.num_rows, dtype=np.int64)))
        return (collate or self.collate)(rows, files=[file], rows=rows.num_rows, cursor=Cursor(0, "", 0, 1))

    def parity(self) -> float:
        """The largest difference between what the sample's rows score and what the trainer said they do.

        nan if a score is, which the manifest has as null; 0 if the sample has no row, all of its day being bad.
        """
        batch = self.sample()
        if batch is None:
            return 0.0
        found, expected = self.batch(batch), self.bundle.manifest["expected"]
        said = {
            target: torch.tensor([math.nan if own is None else own for own in expected[target]])
            for target in self.bundle.targets
        }
        worst = [(found[target] - said[target]).abs().max() for target in self.bundle.targets]
        return float(torch.stack(worst).max())

    def sample(self) -> Batch | None:
        """The rows that travel with the bundle; None if there is none, all of its day being bad."""
        batches = pq.read_table(io.BytesIO(self.bundle.read(SAMPLE))).combine_chunks().to_batches()
        return self._collated(batches[0], SAMPLE, 0) if batches else None


def refuse_twins(schema: pa.Schema, columns: Sequence[str], file: str) -> None:
    """Raises BadInput if one of these columns is there twice: nobody knows which one is meant."""
    for name in columns:
        if schema.names.count(name) > 1:
            raise BadInput(f"column {name!r} is there twice", file=file, column=name, expected="every column once",
                           hint="write the file again with one column of that name")  # fmt: skip


def _columns_of_scores(schema: Schema) -> list[str]:
    """The columns that scores depend on: of the fields, of what events carry, and the row's own time to compare with theirs."""
    sequences = [field for field in schema.fields if isinstance(field, SequenceField)]
    carried = [own for field in sequences if field.payload is not None for own in field.payload.columns()]
    times = [field.time for field in sequences if field.time is not None] + [own for name, own in carried if name == "time"]
    read = {*(field.column for field in schema.fields), *times, *(column for _, column in carried)}
    if times and schema.time is not None:
        read.add(schema.time.column)
    return [name for name in schema.columns() if name in read]


def _admitted(bundle: Bundle, field: AnyIds) -> AdmittedIds:
    """The map of a managed table as the trained model left it."""
    assert field.rows is not None, "checked when the schema was read"
    ids, places = (values.numpy() for values in bundle.held(field.name))
    if len(places) and not field.reserved <= places.min() <= places.max() < field.rows:
        raise BundleError(f"the ids of {field.name} have rows that its table has not", bundle.path)
    seed, unseen_rows = seed_of(field.name), (field.managed and field.managed.unseen_rows) or 0
    return AdmittedIds(rows=field.rows, ids=ids, places=places, seed=seed, unseen_rows=unseen_rows)


def score_folder(scorer: Scorer, data: str, out: str, *, keys: Sequence[str] = ()) -> int:
    """Score a file, or every file in a folder and below it, into a Parquet file each, which is there when it is whole.

    Args:
        keys: columns of the rows that are written next to their scores, as they are.

    Returns:
        [rows] scored.

    Raises:
        GenctrError: a key is called as a column of the scores.
    """
    ours = ["row", *(name for target in scorer.bundle.targets for name in (target, f"{target}_logit"))]
    if taken := [key for key in keys if key in ours or list(keys).count(key) > 1]:
        raise GenctrError(f"--keys {','.join(keys)}: {taken[0]} would be there twice; the scores are in {', '.join(ours)}")
    strings = scorer.collate.features.statistics.string_columns(scorer.bundle.schema)
    reader = build_reader(*scorer.bundle.reader, strings)
    files, inner = filesystem(data.rstrip("/"))
    info = files.get_file_info(inner)
    paths = {info.base_name: data}
    if info.type == pyarrow.fs.FileType.Directory:
        sizes = list_data(data)
        paths = {name: below(data, name) for name in sizes}
        if bad := [name for name, size in sizes.items() if size < 0]:
            raise cannot_open(paths[bad[0]])
    if not paths:
        raise BadInput("there is no file to score", file=data, hint="give a file, or a folder with files in it")
    rows = 0
    for name, path in paths.items():
        PATHS.mkdirs(f"{out}/{name}".rpartition("/")[0])
        scores = io.BytesIO()
        nothing = _told({target: torch.empty(0) for target in scorer.bundle.targets}, scorer.bundle, 0)
        schema = pa.schema([*_key_columns(reader.schema(path), keys, path), *nothing.schema])
        with pq.ParquetWriter(scores, schema) as writer:
            for table in score_file(scorer, reader, path, keys=keys):
                writer.write_table(table)
                rows += table.num_rows
        write_whole(f"{out}/{name}.scores.parquet", scores.getvalue())
    return rows


def score_file(scorer: Scorer, reader: Reader, path: str, *, keys: Sequence[str] = ()) -> Iterator[pa.Table]:
    """Every row of a file, in its order: the `keys`, `row`, and per target `<target>`, a probability or an amount, and
    `<target>_logit`.

    A row that is not what the schema says has null for its scores.
    """
    there = reader.schema(path)
    wanted = [name for name in _columns_of_scores(scorer.bundle.schema) if name in there.names]
    refuse_twins(there, [*wanted, *keys], path)
    columns = _key_columns(there, keys, path)
    first = 0
    for unit in range(len(reader.units(path))):
        for read in read_columns(reader, path, unit, list(dict.fromkeys([*wanted, *keys])), 0):
            for start in range(0, read.num_rows, BATCH_ROWS):
                rows = read.slice(start, BATCH_ROWS)
                scores = _told(scorer.good_rows(rows.select(wanted), file=path, first=first), scorer.bundle, first)
                named = [rows.column(key).cast(own.type) for key, own in zip(keys, columns, strict=True)]
                yield pa.table([*named, *scores.columns], schema=pa.schema([*columns, *scores.schema]))
                first += rows.num_rows


def _key_columns(there: pa.Schema, keys: Sequence[str], path: str) -> list[pa.Field]:
    """The columns of the keys.

    Raises:
        BadInput: there is no such column.
    """
    for key in keys:
        if key not in there.names:
            raise BadInput("a column of --keys is missing", file=path, column=key, hint=nearest(key, there.names))
    return [pa.field(key, there.field(key).type) for key in keys]


def _told(logits: dict[str, Tensor], bundle: Bundle, first: int) -> pa.Table:
    columns = {"row": pa.array(np.arange(first, first + len(logits[bundle.targets[0]])))}
    for target in bundle.targets:
        predicted = LINKS[bundle.links.get(target, "sigmoid")]
        numbers, none = logits[target], logits[target].isnan().numpy()
        columns[target] = pa.array(predicted(numbers.double()).numpy(), mask=none)
        columns[f"{target}_logit"] = pa.array(numbers.numpy(), mask=none)
    return pa.table(columns)
