"""Arrow rows to one batch of tensors; what is wrong with a row is reported with its file and row, or the row is left out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data.arrays import Lists, element_type, integers_of, lists_of, nulls, positions_of, segment_sums, values_of
from data.bad_rows import UNIT_HINT, BadRows, label_hint, refuse
from data.batch import Batch, Tally
from data.cursor import Cursor
from data.errors import BadInput
from data.features import Features
from data.ids import MISSING, NO_ID, IdentityIds, Ints, RawIds, distinct, fingerprints, id_kind, spread
from data.payloads import values_of_events
from data.row_hash import RowHasher
from data.schema import AnyField, AnyIds, IdsField, Label, NumberField, SequenceField
from data.times import PER_SECOND, day_number, in_unit, other_units, seconds

Columns = Mapping[str, pa.Array]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

NO_GROUP = -(2**63)
"""The group of the rows whose group is null."""

MOST_ROWS = 2**20
"""[rows] of the largest batch: beyond, the sums of a tally would not be exact."""


class Collate:
    """Makes batches.

    Args:
        features: the fitted schema.
        bad_rows: what to do with a row that is not what the schema says. stop: raise `BadInput`; skip: leave it out and count
            it in the tally.

    Attributes:
        origins: whether batches say which file and row each of their rows is.
        reasons: what was wrong with the rows left out so far, and in how many.
    """

    def __init__(self, features: Features, *, bad_rows: Literal["stop", "skip"] = "stop") -> None:
        self.features = features
        self.origins = False
        self.reasons: Counter[str] = Counter()
        self._schema = features.schema
        self._skip = bad_rows == "skip"
        self._hasher = RowHasher(features)
        by_name = {field.name: field for field in features.schema.fields}
        self._bags = [by_name[key] for key in features.bag_keys]
        self._sequences = [by_name[key] for key in features.sequence_keys]
        self._numbers = [by_name[name] for name in features.number_fields]
        self._vectors = [(by_name[name], dim) for name, dim in features.vector_fields.items()]
        self._ages = any(
            isinstance(features.maps[field.name], RawIds) and field.managed is not None and field.managed.ttl_days is not None
            for field in features.schema.managed
        )
        self._carrying = [field for field in features.schema.fields if field.name in features.payloads]
        self._timed = any(own.time is not None for own in features.payloads.values())
        sequences = [own for own in features.schema.fields if isinstance(own, SequenceField)]
        leading = {own.events_of for own in sequences}
        self._leaders = {own.name: own for own in sequences if own.name in leading}
        self._checked: pa.Schema | None = None
        self._ones = torch.ones(0, dtype=torch.int64)

    def __call__(self, batch: pa.RecordBatch, *, files: Sequence[str], rows: int, cursor: Cursor) -> Batch:
        """Collate the rows of one rank's step.

        Args:
            batch: the columns of the schema, and `_file` (index into `files`) and `_row` (row in that file).
            files: what the files are called.
            rows: [rows] of the step over all ranks.
            cursor: where reading stands after this batch.

        Raises:
            BadInput: a column or, unless bad rows are skipped, a row is not what the schema says.
        """
        assert batch.num_rows <= MOST_ROWS
        if batch.schema != self._checked:
            self._check(batch.schema, files[batch.column("_file")[0].as_py()] if batch.num_rows else "(no rows)")
            self._checked = batch.schema
        skipped = np.zeros(len(files), dtype=np.int64)
        while True:
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            try:
                with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is refused, with its row
                    return self._collate(columns, batch.num_rows, skipped, rows, cursor)
            except BadRows as bad:
                file = integers_of(columns["_file"])
                if not self._skip:
                    at = int(np.argmax(bad.mask))
                    raise bad.as_bad_input(columns, at, files[file[at]]) from None
                self.reasons[bad.reason] += int(bad.mask.sum())
                skipped += np.bincount(file[bad.mask], minlength=len(files))
                batch = batch.filter(pa.array(~bad.mask))

    def _check(self, columns: pa.Schema, file: str) -> None:
        """Are the columns what the schema says, and the ids what they were when the run began?"""
        self._schema.check(columns, file)
        for field in [*self._bags, *self._sequences]:
            if not isinstance(field, AnyIds):
                continue
            kind = element_type(columns.field(field.column).type)
            known = self.features.statistics.kind(self._schema.owner(field).name)
            if known is not None and id_kind(kind) not in (None, known):
                raise BadInput(
                    f"column {field.column!r} holds {kind}",
                    file=file,
                    column=field.column,
                    expected=f'{known}, as when the run began: 7 and "7" are two ids, and none would be known any more',
                    hint="convert the column, or start a new run on days that have this type.",
                )

    def _collate(self, columns: Columns, count: int, skipped: Ints, rows: int, cursor: Cursor) -> Batch:
        labels, weights = self._labels(columns, count)
        numbers = self._dense_numbers(columns, count)
        vectors = self._dense_vectors(columns, count)
        groups = self._groups(columns, count)
        days = torch.from_numpy(self._days(columns, count, cursor.day)) if self._ages else None
        kept: dict[str, Lists] = {}
        bags = self._keyed(self._bags, columns, count, kept)
        sequences = self._keyed(self._sequences, columns, count, kept) if self._sequences else None
        payloads = {field.name: self._payload(field, kept[field.name], columns) for field in self._carrying}
        times = self._row_times(columns) if self._timed else None
        batch = Batch(
            bags=bags,
            sequences=sequences,
            numbers=torch.from_numpy(numbers),
            vectors=torch.from_numpy(vectors),
            labels=torch.from_numpy(labels),
            weights=torch.from_numpy(weights),
            groups=torch.from_numpy(groups),
            offsets=self._offsets(columns, count),
            days=days,
            times=times,
            payloads=payloads,
            rows=rows,
            cursor=cursor,
            tally=Tally.zeros(len(skipped)),
            origin=_origin(columns) if self.origins else None,
            ids_mapped=not any(isinstance(self.features.maps[field.name], RawIds) for field in self._schema.managed),
        )
        file, row = integers_of(columns["_file"]), integers_of(columns["_row"])
        batch.tally = self._hasher.tally(batch, files_B=file, rows_B=row, skipped=skipped)
        return batch

    # --- labels, weights, groups ---

    def _labels(self, columns: Columns, count: int) -> tuple[Floats, Floats]:
        """(B, T) labels and (B, T) weights."""
        labels = np.zeros((count, len(self._schema.targets)), dtype=np.float32)
        weights = np.ones((count, 1), dtype=np.float32) * self._row_weights(columns, count)[:, None]
        weights = np.repeat(weights, labels.shape[1], axis=1)
        for target, label in enumerate(self._schema.targets):
            counts = _counts(label, columns)
            values = values_of(columns[label.column])
            if label.kind == "amount":
                wrong, expected = ~(np.isfinite(values) & (values >= 0)), "a finite number, 0 or more, in every row that counts"
            elif label.positive_above is None:
                wrong, expected = ~((values == 0) | (values == 1)), "0 or 1 in every row that counts for the target"
            else:
                wrong, expected = np.isnan(values), "a number in every row that counts for the target"
                values = values > label.positive_above
            missing = nulls(columns[label.column])
            wrong |= missing
            if counts is not None:
                wrong &= counts
                values = np.where(counts, values, 0)
                weights[:, target] *= counts
            binary = label.kind == "binary" and label.positive_above is None
            other = binary and not missing[wrong].all()  # a value that is there, and is no label
            hint = label_hint(label) if other else None
            refuse(wrong, f"the label of target {label.target!r}", label.column, expected, hint=hint)
            labels[:, target] = values
        return labels, weights

    def _offsets(self, columns: Columns, count: int) -> torch.Tensor | None:
        """(B, T) -ln of the share of the target's rows of label 0 that are in the log; None if all are."""
        if all(label.sampling_rate is None for label in self._schema.targets):
            return None
        offsets = np.zeros((count, len(self._schema.targets)), dtype=np.float32)
        for at, label in enumerate(self._schema.targets):
            if isinstance(label.sampling_rate, str):
                column = columns[label.sampling_rate]
                rates = values_of(column).astype(np.float64)
                wrong = ~((rates > 0) & (rates <= 1)) | nulls(column)
                refuse(wrong, f"the sampling rate of target {label.target!r}", label.sampling_rate, "more than 0, at most 1")
                offsets[:, at] = -np.log(rates)
            elif label.sampling_rate is not None:
                offsets[:, at] = -np.log(label.sampling_rate)
        return torch.from_numpy(offsets)

    def _row_weights(self, columns: Columns, count: int) -> Floats:
        name = self._schema.weight
        if name is None:
            return np.ones(count, dtype=np.float32)
        weights = values_of(columns[name]).astype(np.float32)
        wrong = ~(np.isfinite(weights) & (weights >= 0)) | nulls(columns[name])
        refuse(wrong, "the weight of the row", name, "a finite number, 0 or more")
        return weights

    def _groups(self, columns: Columns, count: int) -> Ints:
        """(B,) the integer itself or the hash of the string; 0 if the schema has no group."""
        if self._schema.group is None:
            return np.zeros(count, dtype=np.int64)
        ids, back = distinct(columns[self._schema.group])
        groups = fingerprints(ids).copy()
        groups[nulls(ids)] = NO_GROUP
        if back is not None:
            groups = spread(groups, back, missing=NO_GROUP)
        return groups

    def _days(self, columns: Columns, count: int, day: str) -> Ints:
        """(B,) [days since 1970] of every row's event. A row is of the next date at most: a broken clock ages nothing."""
        time, known = self._schema.time, day_number(day)
        if time is None:
            if known is None:
                raise BadInput(
                    f"nothing says when a row of day {day!r} happened, and ttl_days needs to know",
                    expected="a time in the schema, or days named as dates",
                    hint="add `time` to the schema, or leave ttl_days out",
                )
            return np.full(count, known, dtype=np.int64)
        column = columns[time.column]
        times, here = in_unit(column, time.unit), 86_400 * PER_SECOND[time.unit]
        days = times // here
        if known is not None:
            unlike = other_units(np.full(count, known * here), times, time.unit) & ~nulls(column)
            refuse(unlike, "the time of the row", time.column, f"a time in {time.unit}, as the schema says", hint=UNIT_HINT)
        if known is None:
            refuse(nulls(column), "the time of the row", time.column, "a time, because ttl_days counts from it")
            return days
        return np.where(nulls(column), known, np.minimum(days, known + 1))

    # --- numbers and vectors ---

    def _dense_numbers(self, columns: Columns, count: int) -> Floats:
        """(B, N) after the transforms, 0 where there is none."""
        numbers = np.empty((count, len(self._numbers)), dtype=np.float32)
        for at, field in enumerate(self._numbers):
            assert isinstance(field, NumberField)
            values, missing = _present_numbers(columns[field.column])
            if field.transform == "log1p":
                values = np.copysign(np.log1p(np.abs(values)), values)
            elif field.transform == "standardise":
                moments = self.features.statistics.moments[field.name]
                values = (values - moments.mean) / moments.deviation
            numbers[:, at] = values
            if missing is not None:
                numbers[missing, at] = 0
        if not np.isfinite(numbers).all():
            for at, field in enumerate(self._numbers):
                refuse(~np.isfinite(numbers[:, at]), "the number", field.column, "null, or a number that fits 32-bit floats")
        return numbers

    def _dense_vectors(self, columns: Columns, count: int) -> Floats:
        """(B, sum of widths), zeros where there is none."""
        vectors = np.zeros((count, sum(dim for _, dim in self._vectors)), dtype=np.float32)
        start = 0
        for field, dim in self._vectors:
            column = columns[field.column]
            lengths, elements = lists_of(column)
            present = ~nulls(column)
            refuse(present & (lengths != dim), "the vector", field.column, f"{dim} numbers", measure="numbers")
            values = values_of(elements).astype(np.float32)
            values[nulls(elements)] = np.nan
            vectors[present, start : start + dim] = values.reshape(-1, dim)
            wrong = ~np.isfinite(vectors[:, start : start + dim]).all(axis=1)
            refuse(np.asarray(wrong), "the vector", field.column, "finite numbers")
            start += dim
        return vectors

    # --- ids ---

    def _keyed(self, fields: Sequence[AnyField], columns: Columns, count: int, kept: dict[str, Lists]) -> KeyedJaggedTensor:
        """The table rows of these fields, key after key, in one preallocated tensor; `kept` gets the lists they are of."""
        # Lists first: only their lengths say how long the tensor is.
        lists = {
            at: self._list(field, columns, kept)
            for at, field in enumerate(fields)
            if isinstance(field, IdsField | SequenceField)
        }
        sizes = [len(lists[at].elements) if at in lists else count for at in range(len(fields))]
        values = torch.empty(sum(sizes), dtype=torch.int64)
        rest = values.numpy()
        for at, (field, size) in enumerate(zip(fields, sizes, strict=True)):
            part, rest = rest[:size], rest[size:]
            if at in lists:
                self._map(field, lists[at].elements, part, lists[at])
            elif isinstance(field, NumberField):
                self._buckets(field, columns[field.column], part)
            else:
                self._map(field, columns[field.column], part, None)
        return KeyedJaggedTensor(
            keys=[field.name for field in fields],
            values=values,
            lengths=self._lengths(len(fields), count, lists),
            stride=count,
        )

    def _lengths(self, keys: int, count: int, lists: dict[int, Lists]) -> torch.Tensor:
        if not lists:
            if len(self._ones) != keys * count:
                self._ones = torch.ones(keys * count, dtype=torch.int64)
            return self._ones
        lengths = torch.ones(keys, count, dtype=torch.int64)
        for at, own in lists.items():
            lengths[at] = torch.from_numpy(own.lengths)
        return lengths.view(-1)

    def _map(self, field: AnyField, ids: pa.Array, out: Ints, lists: Lists | None) -> None:
        table = self.features.maps[field.name]
        table(ids, out)
        if isinstance(table, RawIds):
            wrong, expected = (out == NO_ID) & ~nulls(ids), f"any integer but {NO_ID}"
        elif isinstance(table, IdentityIds):
            wrong, expected = out < 0, f"0 … {table.rows - 2}, because the table says ids: identity"
        else:
            return
        if lists is not None and wrong.any():
            wrong = segment_sums(wrong, lists.lengths) > 0
        refuse(wrong, "the id", field.column, expected)

    def _buckets(self, field: NumberField, column: pa.Array, out: Ints) -> None:
        values, missing = _present_numbers(column)
        refuse(~np.isfinite(values), "the number", field.column, "a finite number, or null")
        out[:] = np.searchsorted(self.features.statistics.edges[field.name], values, side="right")
        out += 1
        if missing is not None:
            out[missing] = MISSING

    def _list(self, field: IdsField | SequenceField, columns: Columns, kept: dict[str, Lists]) -> Lists:
        """The ids of every row that count, see `_own_list`, or what belongs to those of another; `kept` has all lists."""
        if field.name not in kept:
            leader = field.events_of if isinstance(field, SequenceField) else None
            if leader is None:
                kept[field.name] = self._own_list(field, columns)
            else:
                own = self._list(self._leaders[leader], columns, kept)
                kept[field.name] = self._beside(field.column, own, self._leaders[leader], columns)
        return kept[field.name]

    def _beside(self, column: str, events: Lists, leader: SequenceField, columns: Columns) -> Lists:
        """What a column has of the events that are kept of another sequence."""
        lengths, elements = lists_of(columns[column])
        whole, _ = lists_of(columns[leader.column])
        expected = f"one value for every event of {leader.column!r}"
        refuse(lengths != whole, "the list", column, expected, measure="values")
        assert events.places is not None, "kept for events that carry something"
        if not np.array_equal(events.places, np.arange(len(elements))):
            elements = elements.take(pa.array(events.places))
        return Lists(events.lengths, elements, events.places)

    def _own_list(self, field: IdsField | SequenceField, columns: Columns) -> Lists:
        """The ids of every row that count: not null, of the past, oldest first where events have times, and not too many."""
        lengths, elements = lists_of(columns[field.column])
        carries = field.name in self.features.payloads or field.name in self._leaders
        lists = Lists(lengths, elements, np.arange(len(elements)) if carries else None)
        if isinstance(field, SequenceField) and field.time is not None:
            past, times = self._is_past(field, lists, columns)
            lists = lists.keep(past).ascending(times[past])
        if lists.elements.null_count:
            lists = lists.keep(~nulls(lists.elements))
        if field.length is None or lists.lengths.max(initial=0) <= field.length:
            return lists
        if field.on_overflow == "error":
            refuse(lists.lengths > field.length, "the list", field.column, f"at most {field.length} ids", measure="ids")
        if field.on_overflow == "keep_first":
            return lists.keep(positions_of(lists.lengths) < field.length)
        return lists.keep(positions_of(lists.lengths) >= np.repeat(lists.lengths - field.length, lists.lengths))

    def _payload(self, field: AnyField, events: Lists, columns: Columns) -> dict[str, torch.Tensor]:
        """What the events carry, in the order of the ids that were kept."""
        assert isinstance(field, SequenceField)
        assert field.payload is not None
        unit = self._schema.time.unit if self._schema.time is not None else "s"
        found = {}
        for name, column in field.payload.columns():
            carried = self._beside(column, events, field, columns)
            values, wrong, expected = values_of_events(name, field.payload, carried.elements, unit)
            if wrong.any():
                refuse(segment_sums(wrong, events.lengths) > 0, "the list", column, expected)
            found[name] = torch.from_numpy(values)
        return found

    def _row_times(self, columns: Columns) -> torch.Tensor:
        """(B,) [s since 1970] of every row's event."""
        time = self._schema.time
        assert time is not None, "checked when the schema was read"
        refuse(nulls(columns[time.column]), "the time of the row", time.column, "a time, because events are compared with it")
        times = seconds(columns[time.column], time.unit)
        return torch.from_numpy(times)

    def _is_past(self, field: SequenceField, events: Lists, columns: Columns) -> tuple[Mask, Ints]:
        """True for the events that happened before their row; an event without a time is not known to. And their times."""
        time = self._schema.time
        assert time is not None, "checked when the schema was read"
        assert field.time is not None
        lengths, times = lists_of(columns[field.time])
        refuse(lengths != events.lengths, "the list of times", field.time, f"one time for every event of {field.column!r}")
        refuse(nulls(columns[time.column]), "the time of the row", time.column, "a time, because events are compared with it")
        own, then = in_unit(columns[time.column], time.unit), in_unit(times, time.unit)
        now = np.repeat(own, lengths)
        known = ~nulls(times)
        unlike = other_units(now, then, time.unit) & known
        if unlike.any():
            what = f"timestamps, or integers in {time.unit} as the schema's time says, in {time.column!r} and here"
            refuse(segment_sums(unlike, lengths) > 0, "the list of times", field.time, what, hint=UNIT_HINT)
        return (then < now) & known, then


def _origin(columns: Columns) -> torch.Tensor:
    """File and row of every row, (B, 2)."""
    return torch.from_numpy(np.stack([integers_of(columns["_file"]), integers_of(columns["_row"])], axis=1))


def _counts(label: Label, columns: Columns) -> Mask | None:
    """The rows that count for a task; None: all."""
    if label.valid_where is None:
        return None
    column = columns[label.valid_where]
    values = values_of(column)
    wrong = ~((values == 0) | (values == 1)) | nulls(column)
    refuse(wrong, f"whether the row counts for target {label.target!r}", label.valid_where, "0 or 1")
    return np.asarray(values == 1)


def _present_numbers(column: pa.Array) -> tuple[NDArray[np.float64], Mask | None]:
    """The numbers, 0 for a null; and where the nulls are, if any."""
    values = values_of(column).astype(np.float64)
    if not column.null_count:
        return values, None
    missing = nulls(column)
    values[missing] = 0
    return values, missing
