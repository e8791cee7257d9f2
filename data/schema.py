"""What a log means: which column is an id, a number, a list, a sequence, a vector, a label, a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import pyarrow as pa
from pydantic import Field, model_validator

from data.arrays import element_type, is_list, is_text
from data.errors import BadInput
from data.yaml_document import BadValue, Section, nearest

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]
Positive = Annotated[int, Field(ge=1)]

_LABEL = {"task": "target", "where": "valid_where"}

_MANAGED = {
    "admit": "admit_after",
    "admit_share": "admit_probability",
    "evict": "evict",
    "ttl_days": "ttl_days",
    "probe": "bucket_size",
    "unseen": "on_unseen",
    "unseen_rows": "unseen_rows",
}

RENAMED: Mapping[str, str] = {
    **{f"label.{old}": f"label.{new}" for old, new in _LABEL.items()},
    **{f"labels.*.{old}": f"labels.*.{new}" for old, new in _LABEL.items()},
    **{f"fields.*.{old}": f"managed: {{{new}: …}} of the field" for old, new in _MANAGED.items()},
    "fields.*.longer": "on_overflow of the field (refuse is error)",
}
"""Of a schema: the old key, and in words what it is now."""

Role: TypeAlias = Literal["user", "item", "context"]

BUCKET_SIZE = 64
"""[rows] that an id of a managed table may have, unless the schema says otherwise."""

MAX_ROWS = 2**32
"""[rows] of the largest table: id hashing reduces 32 well mixed bits."""


class _Column(Section):
    """A field and the Arrow column it is read from."""

    name: Name
    """What the field is called everywhere: letters, digits, _ and -."""

    column: str = Field(default_factory=lambda values: values["name"])
    """The column of the log. Left out: the column is called as the field."""

    role: Role | None = None
    """Whom the field describes: user, item or context. Models that treat users and items differently read it. Left out: user
    for the field that is read from the schema's `group`, context for all others."""


class Managed(Section):
    """How ids come to a managed table and leave it."""

    admit_after: Positive | None = None
    """[sights] of an id in training before it gets a row. Left out: 1."""

    admit_probability: Annotated[float, Field(gt=0, le=1)] | None = None
    """[1] instead of `admit_after`: the share of sights that give an id a row, chosen by a hash of id and step."""

    evict: Literal["lru", "lfu", "distance_lfu", "none"] = "lru"
    """Which id leaves a full bucket for a new one. lru: the one not seen for longest. lfu: the one seen least often.
    distance_lfu: the one with the fewest sights divided by steps since the last, if that is less than the new id has.
    none: no id leaves."""

    ttl_days: Positive | None = None
    """[days] that an id stays after its last event, by the schema's time or else by the day's name. Left out: for ever."""

    bucket_size: Positive | None = None
    """[rows] that an id may have, always the same ones. Left out: 64. Larger buckets fill the table better and are slower to
    search."""

    on_unseen: Literal["shared", "hashed", "zero"] = "shared"
    """What an id without a row reads: the row that all of them share, one of `unseen_rows` by its hash, or zeros."""

    unseen_rows: Positive | None = None
    """[rows], of the table's `rows`, for on_unseen: hashed."""

    @model_validator(mode="after")
    def _keys_agree(self) -> "Managed":
        if self.admit_after is not None and self.admit_probability is not None:
            raise BadValue(
                "an id is admitted after so many sights, or by chance: leave admit_after or admit_probability out",
                "admit_probability",
            )
        if (self.on_unseen == "hashed") != (self.unseen_rows is not None):
            raise BadValue("on_unseen: hashed and unseen_rows belong together: say both, or neither", "unseen_rows")
        return self


class _Ids(_Column):
    """A field of ids, looked up in an embedding table: its own, called as the field, or another field's."""

    table: Name | None = None
    """Look the ids up in the table of this other field instead of an own one."""

    ids: Literal["hash", "vocab", "identity", "managed"] | None = Field(
        default_factory=lambda values: None if values["table"] is not None else "vocab"
    )
    """How an id becomes a table row. hash: any id to one of `rows`; vocab: the ids seen in the fitted days (the default of
    an own table); identity: the ids are already 0 … rows - 1; managed: ids come and go in training, each with its own row."""

    rows: Annotated[int, Field(ge=2, le=MAX_ROWS)] | None = None
    """[rows] of the table for hash and managed, the missing id's row 0 among them; for identity how many ids there are. A
    vocabulary counts for itself."""

    min_count: Positive | None = None
    """[occurrences] an id needs in the fitted days to get its own row of a vocabulary. Left out: 1."""

    dim: Positive | None = None
    """[numbers] width of one embedding. Left out: the width of the model."""

    managed: Managed | None = Field(default_factory=lambda values: Managed() if values["ids"] == "managed" else None)
    """Who has a row of a managed table, and for how long. Only with ids: managed."""

    @property
    def reserved(self) -> int:
        """[rows] at the start of a managed table that no id owns: missing, unseen, and those shared by hash."""
        return 2 + ((self.managed and self.managed.unseen_rows) or 0)

    @property
    def bucket_rows(self) -> int:
        """[rows] of a managed table that an id may have."""
        assert self.rows is not None, "checked when the schema was read"
        assert self.managed is not None, "asked of managed tables only"
        return self.managed.bucket_size or min(BUCKET_SIZE, self.rows - self.reserved)

    @model_validator(mode="after")
    def _table_keys_agree(self) -> "_Ids":
        if self.table is not None:
            for key in ("ids", "rows", "min_count", "dim", "managed"):
                if getattr(self, key) is not None:
                    raise BadValue(f"the table belongs to {self.table!r}: say {key} there", key)
        elif self.ids in {"hash", "identity", "managed"}:
            if self.rows is None:
                raise BadValue(f"ids: {self.ids} needs the number of rows", "rows")
            if self.min_count is not None:
                raise BadValue(f"only a vocabulary counts ids; this field says ids: {self.ids}", "min_count")
        elif self.rows is not None:
            raise BadValue("a vocabulary has as many rows as ids it has seen: leave rows out, or say ids: hash", "rows")
        if self.managed is None:
            return self
        if self.ids != "managed":
            raise BadValue("only a managed table has it: say ids: managed, or leave managed out", "managed")
        bucket = self.managed.bucket_size or 1
        if self.rows is not None and self.rows < self.reserved + bucket:
            raise BadValue(f"{self.rows} rows are too few: {self.reserved} are reserved and a bucket has {bucket}", "rows")
        return self


class IdField(_Ids):
    """One id a row. A missing id is looked up too: it has row 0 of the table."""

    kind: Literal["id"]
    """id: one integer or string a row."""


class IdsField(_Ids):
    """Any number of ids a row, pooled to one vector. A missing list is an empty one."""

    kind: Literal["ids"]
    """ids: a list of integers or strings a row, without an order."""

    pool: Literal["mean", "sum"] = "mean"
    """How the embeddings of one row become one vector."""

    length: Positive | None = None
    """[ids] a row may have. Left out: any number."""

    on_overflow: Literal["error", "keep_first", "keep_last"] = "error"
    """What to do with a row that has more than `length` ids."""


class VectorPayload(Section):
    """Vectors of events."""

    column: str
    """The column with a list of vectors in every row: one vector for every event."""

    dim: Positive
    """[numbers] in every vector."""


class Payload(Section):
    """What the events of a sequence carry besides their ids, for models that read it: list columns as long as the sequence's
    own. What belongs to an event that is not read (too old, not of the past, a null id) is left out with it."""

    time: str | None = None
    """The time of every event, in the unit of the row's own time."""

    action: str | None = None
    """What the user did: an integer whose bits are actions. A null counts as no action."""

    session: str | None = None
    """The session of the event: an integer. A null becomes -1, which is not a session."""

    vector: VectorPayload | None = None
    """A vector of every event, such as of its content. A null counts as zeros."""

    ids: dict[Name, str] = {}
    """Further integers of every event, by the name that models call them. They are read as they are, and looked up in no table;
    a null becomes -1."""

    def columns(self) -> Iterator[tuple[str, str]]:
        """What is declared, by its name in a batch, and its column."""
        yield from ((name, own) for name in ("time", "action", "session") if (own := getattr(self, name)) is not None)
        if self.vector is not None:
            yield "vector", self.vector.column
        yield from ((f"ids.{name}", own) for name, own in self.ids.items())


class SequenceField(_Ids):
    """What happened before this row, oldest first. A missing list is an empty one."""

    kind: Literal["sequence"]
    """sequence: a list of integers or strings a row, oldest first."""

    length: Positive
    """[events] of the past that are read."""

    on_overflow: Literal["error", "keep_first", "keep_last"] = "keep_last"
    """What to do with a row that has more than `length` events."""

    time: str | None = None
    """The list column with the time of every event, as `Time` says of the row's own. Events that are not before the row's own
    time are dropped: they would reveal the future. So are events without a time, and those that cannot be told from the row's
    time in the schema's unit. The others are read oldest first, in whatever order they are stored. A row without a time is a
    bad row."""

    payload: Payload | None = None
    """What the events carry besides their ids. Left out: nothing."""

    events_of: Name | None = None
    """The sequence whose events these are further ids of, such as their authors: a list as long, of which the same events are
    read. A null is then a missing id, with row 0 of the table. Left out: events of their own."""

    @model_validator(mode="before")
    @classmethod
    def _the_model_says_how_it_pools(cls, values: Any) -> Any:
        name = values.get("name", "FIELD") if isinstance(values, dict) else ""
        for key in ("pool", "query") if isinstance(values, dict) else ():
            if key in values:
                encoder = {"attention": "target_attention"}.get(str(values.get("pool")), values.get("pool", "target_attention"))
                query = f", query: {values['query']}" if values.get("query") else ""
                raise BadValue(
                    f"the run file says it now: model: {{sequences: {{{name}: {{encoder: {encoder}{query}}}}}}}; "
                    "without it, mean",
                    key,
                )
        return values


class NumberField(_Column):
    """One number a row; a missing one counts as 0 after the transform."""

    kind: Literal["number"]
    """number: one integer, float or boolean a row."""

    transform: Literal["none", "log1p", "standardise", "buckets"] = "none"
    """log1p: sign(x) log(1 + |x|). standardise: (x - mean) / deviation over the fitted days. buckets: the number becomes an id,
    the bucket between two quantiles of the fitted days."""

    buckets: Annotated[int, Field(ge=2, le=65536)] | None = None
    """[buckets] for transform: buckets."""

    @model_validator(mode="after")
    def _buckets_belong_to_their_transform(self) -> "NumberField":
        if self.transform == "buckets" and self.buckets is None:
            raise BadValue("transform: buckets needs their number", "buckets")
        if self.transform != "buckets" and self.buckets is not None:
            raise BadValue(f"there are no buckets with transform: {self.transform}", "buckets")
        return self


class VectorField(_Column):
    """A list of numbers of fixed width a row; a missing one counts as zeros."""

    kind: Literal["vector"]
    """vector: a list of floats a row, all of the same width."""

    dim: Positive
    """[numbers] in every vector."""


AnyIds: TypeAlias = IdField | IdsField | SequenceField
AnyField: TypeAlias = Annotated[AnyIds | NumberField | VectorField, Field(discriminator="kind")]


class Label(Section):
    """A target: what a model learns to predict."""

    column: str
    """The column with 0 or 1 (or false and true) in every row; with `positive_above` any numbers, of an amount 0 or more."""

    target: Name = Field(default_factory=lambda values: values["column"], validate_default=True)
    """What the target is called in logs and reports: letters, digits, _ and -. Left out: as the column."""

    kind: Literal["binary", "amount"] = "binary"
    """binary: whether something happened; the model learns its probability. amount: how much of something there was, 0 or more,
    such as seconds watched or money spent; the model learns its mean, by a loss for amounts."""

    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """[1] factor of the target in every loss; metrics do not know it."""

    sampling_rate: Annotated[float, Field(gt=0, le=1)] | str | None = None
    """[1] the share of the rows with label 0 that is left in the log, if not all of them are; or the column that says it row
    by row. The model learns the probabilities of the whole log, and a bundle's scores are these. Losses and metrics are of the
    rows as they lie here; `calibration_whole` is of the whole log."""

    positive_above: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """[1] the label is 1 where the column is greater than this, else 0: 0 for -1 and 1 or for a count, 3 for stars of which 4
    and 5 are good. Left out: the column holds the label itself."""

    valid_where: str | None = None
    """Only rows where this column is 1 (or true) count for the target; in the others the label may be missing."""

    @model_validator(mode="after")
    def _keys_agree(self) -> "Label":
        for key in ("positive_above", "sampling_rate"):
            if self.kind == "amount" and getattr(self, key) is not None:
                raise BadValue(f"an amount is learnt as it is: leave {key} out, or say kind: binary", key)
        return self


class Time(Section):
    """When a row happened."""

    column: str
    """The column with the time: an integer in `unit` since 1970, or an Arrow timestamp, which has a unit of its own. Timestamps
    with a time zone and without one are not compared with each other; next to integers, one without counts as UTC."""

    unit: Literal["s", "ms", "us", "ns"]
    """What the integers count; times of events count the same. Timestamps are compared in it, rounded down; a time too far from
    1970 for 64 bits of it counts as the last or the first that they can say."""


class Schema(Section):
    """What a log means."""

    renamed: ClassVar[Mapping[str, str]] = RENAMED

    name: Name
    """What the log is called in reports."""

    label: Label | None = None
    """The one thing to predict …"""

    labels: Annotated[tuple[Label, ...], Field(min_length=1)] | None = None
    """… or several."""

    time: Time | None = None
    """When the row happened; needed by sequences that have times."""

    group: str | None = None
    """The column whose values group the rows for GAUC, usually the user."""

    weight: str | None = None
    """The column with the weight of the row in every loss on labels and every metric. What is restored, in a pre-training or by
    an encoder, counts all rows alike. Left out: 1."""

    fields: Annotated[tuple[AnyField, ...], Field(min_length=1)]
    """The features of a row."""

    @property
    def targets(self) -> tuple[Label, ...]:
        """The labels, in the order of the targets."""
        return self.labels or ((self.label,) if self.label is not None else ())

    @property
    def target_names(self) -> tuple[str, ...]:
        """The targets, in the order of a batch's labels."""
        return tuple(label.target for label in self.targets)

    def owner(self, field: AnyIds) -> AnyIds:
        """The field whose table `field` looks its ids up in: itself, unless it says otherwise."""
        owners = (own for own in self.fields if isinstance(own, AnyIds) and own.name == (field.table or field.name))
        return next(owners)

    @property
    def managed(self) -> "tuple[AnyIds, ...]":
        """The fields that own a managed table."""
        return tuple(field for field in self.fields if isinstance(field, AnyIds) and field.ids == "managed")

    def query(self, field: SequenceField) -> str | None:
        """The first id field of the table of a sequence, with which attention compares its events; None if there is none."""
        table = self.owner(field).name
        same = (own.name for own in self.fields if isinstance(own, IdField) and self.owner(own).name == table)
        return next(same, None)

    def role(self, field: AnyField) -> Role:
        """Whom a field describes."""
        return field.role or ("user" if field.column == self.group else "context")

    def columns(self) -> list[str]:
        """The columns a run reads, in a fixed order, each once."""
        return list(dict.fromkeys(name for name, _, _ in self._needs()))

    def reading(self, fields: Sequence[str]) -> "Schema":
        """The same log, of which only these fields are read; they stay in the order of the schema.

        Raises:
            ValueError: no such field, or one that looks its ids up in a table whose field is left out.
        """
        known = [field.name for field in self.fields]
        for name in fields:
            if name not in known:
                raise ValueError(f"no field {name!r}; {nearest(name, known)}")
        kept = [field.model_dump() for field in self.fields if field.name in fields]
        return Schema.model_validate({**self.model_dump(exclude={"fields"}), "fields": kept})

    def bucketed(self, buckets: int) -> "Schema":
        """The same log, with every number as an id: the bucket between two quantiles."""
        as_buckets = {"transform": "buckets", "buckets": buckets}
        fields = [
            field.model_copy(update=as_buckets) if isinstance(field, NumberField) and field.buckets is None else field
            for field in self.fields
        ]
        return self.model_copy(update={"fields": tuple(fields)})

    def check(self, columns: pa.Schema, file: str) -> None:
        """Compare the columns of a file with this schema.

        Raises:
            BadInput: a column is missing or there twice, or its type cannot be read as this schema says.
        """
        for name, what, fits in self._needs():
            index = columns.get_field_index(name)
            if columns.names.count(name) > 1:
                hint = "write the file again with one column of that name."
                raise BadInput(
                    f"column {name!r} is there twice", file=file, column=name, expected="every column once", hint=hint
                )
            if index < 0:
                hint = f"{nearest(name, columns.names)} (a field may say its column in the schema)"
                raise BadInput(f"column {name!r} is missing", file=file, column=name, expected=what, hint=hint)
            kind = columns.field(index).type
            if not fits(kind):
                hint = _TIME_ADVICE if fits in (_is_time, _are_times) else _advice(kind)
                raise BadInput(f"column {name!r} holds {kind}", file=file, column=name, expected=what, hint=hint)
        self._check_zones(columns, file)
        self._check_shared_tables(columns, file)

    def _check_zones(self, columns: pa.Schema, file: str) -> None:
        """A timestamp with a time zone is a moment, one without is what a clock showed: which one is earlier is not known."""
        for field in self.fields:
            if not isinstance(field, SequenceField) or field.time is None:
                continue
            assert self.time is not None, "checked when the schema was read"
            own, events = (element_type(columns.field(name).type) for name in (self.time.column, field.time))
            stamps = pa.types.is_timestamp(own) and pa.types.is_timestamp(events)
            if stamps and (own.tz is None) != (events.tz is None):
                raise BadInput(
                    f"column {field.time!r} holds {events}, and {self.time.column!r}, which it is compared with, {own}",
                    file=file,
                    column=field.time,
                    expected="a time zone in both or in neither",
                    hint="write both columns with the time zone, such as timestamp[us, tz=UTC].",
                )

    def _check_shared_tables(self, columns: pa.Schema, file: str) -> None:
        """Integers and strings never share a table: 7 and "7" would be two ids without anyone noticing."""
        first: dict[str, str] = {}
        for field in self.fields:
            if not isinstance(field, AnyIds):
                continue
            kind = element_type(columns.field(field.column).type)
            if pa.types.is_null(kind):
                continue
            owner = self.owner(field)
            ours = first.setdefault(owner.name, field.column)
            if is_text(kind) != is_text(element_type(columns.field(ours).type)):
                raise BadInput(
                    f"columns {ours!r} and {field.column!r} share the table {owner.name!r}, but only one holds strings",
                    file=file,
                    column=field.column,
                    expected="one type in both",
                    hint="convert one of the columns, or give the field a table of its own.",
                )
            if owner.ids == "identity" and is_text(kind):
                raise BadInput(
                    f"column {field.column!r} holds {kind}",
                    file=file,
                    column=field.column,
                    expected="integers, because the table says ids: identity",
                    hint="say ids: hash or ids: vocab for strings.",
                )

    def _needs(self) -> Iterator[tuple[str, str, Callable[[pa.DataType], bool]]]:
        """Every column a run reads, what it must hold, and the test of it."""
        for field in self.fields:
            yield field.column, *_FITS[field.kind]
            if isinstance(field, SequenceField) and field.time is not None:
                assert self.time is not None, "checked when the schema was read"
                yield field.time, "lists of integers or timestamps", _are_times
                yield self.time.column, "integers or timestamps", _is_time
            if isinstance(field, SequenceField) and field.payload is not None:
                yield from ((column, *_FITS_PAYLOAD.get(name, _OF_INTEGERS)) for name, column in field.payload.columns())
                if field.payload.time is not None:
                    assert self.time is not None, "checked when the schema was read"
                    yield self.time.column, "integers or timestamps", _is_time
            if isinstance(field, AnyIds) and field.managed and field.managed.ttl_days and self.time is not None:
                yield self.time.column, "integers or timestamps", _is_time
        for label in self.targets:
            yield label.column, "numbers" if label.kind == "amount" else "0 and 1, or false and true", _is_number
            if label.valid_where is not None:
                yield label.valid_where, "0 and 1, or false and true", _is_number
            if isinstance(label.sampling_rate, str):
                yield label.sampling_rate, "numbers", _is_number
        if self.weight is not None:
            yield self.weight, "numbers", _is_number
        if self.group is not None:
            yield self.group, "integers or strings", _is_id

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Schema":
        if (self.label is None) == (self.labels is None):
            raise BadValue("expected either label or labels", "label" if self.label is not None else "fields")
        names = {field.name: field for field in self.fields}
        for at, field in enumerate(self.fields):
            if names[field.name] is not field:
                raise BadValue(f"two fields are called {field.name!r}", "fields", at, "name")
            if field.column in {label.column for label in self.targets}:
                raise BadValue(f"{field.column!r} is a label: a field must not read it", "fields", at, "column")
            if isinstance(field, AnyIds):
                _check_table(field, names, at)
            if isinstance(field, SequenceField):
                self._check_times(field, at)
                _check_events_of(field, names, at)
        targets = self.target_names
        if len(set(targets)) < len(targets):
            raise BadValue(f"two labels have the same target: {', '.join(targets)}", "labels")
        if self.targets[0].kind == "amount":
            where = ("label", "kind") if self.label is not None else ("labels", 0, "kind")
            raise BadValue("gates and early stopping look at the first target: name one of kind binary first", *where)
        self._check_pools()
        return self

    def _check_times(self, field: SequenceField, at: int) -> None:
        if field.time is not None and self.time is None:
            raise BadValue("event times need the row's own time: the schema must say time", "fields", at, "time")
        if field.payload is not None and field.payload.time is not None and self.time is None:
            where = ("fields", at, "payload", "time")
            raise BadValue("event times need the row's own time: the schema must say time", *where)

    def _check_pools(self) -> None:
        """TorchRec pools a whole table in one way."""
        first: dict[str, IdsField] = {}
        for at, field in enumerate(self.fields):
            if isinstance(field, IdsField):
                ours = first.setdefault(self.owner(field).name, field)
                if ours.pool != field.pool:
                    raise BadValue(
                        f"{ours.name!r} shares the table and says pool: {ours.pool}; the fields of one table pool alike",
                        "fields",
                        at,
                        "pool",
                    )


def _check_table(field: AnyIds, names: dict[str, AnyField], at: int) -> None:
    if field.table is None:
        return
    owners = [name for name, other in names.items() if isinstance(other, AnyIds) and other.table is None]
    if field.table not in owners:
        raise BadValue(f"no field {field.table!r} with a table; {nearest(field.table, owners)}", "fields", at, "table")


def _check_events_of(field: SequenceField, names: dict[str, AnyField], at: int) -> None:
    if field.events_of is None:
        return
    leader = names.get(field.events_of)
    if not isinstance(leader, SequenceField) or leader.events_of is not None:
        known = [name for name, own in names.items() if isinstance(own, SequenceField) and own.events_of is None]
        raise BadValue(
            f"no sequence {field.events_of!r} with events; {nearest(field.events_of, known)}", "fields", at, "events_of"
        )
    for key in ("time", "payload"):
        if getattr(field, key) is not None:
            raise BadValue(f"the events are those of {leader.name!r}: say {key} there", "fields", at, key)
    for key in ("length", "on_overflow"):
        if getattr(field, key) != getattr(leader, key):
            raise BadValue(f"the events are those of {leader.name!r}: give both the same {key}", "fields", at, key)


# --- Arrow types ---


def _is_id(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind))


def _is_integer(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind))


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_null(kind))


def _of_lists(fits: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    return lambda kind: bool(pa.types.is_null(kind) or (is_list(kind) and fits(kind.value_type)))


_are_times = _of_lists(_is_time)

_FITS: dict[str, tuple[str, Callable[[pa.DataType], bool]]] = {
    "id": ("integers or strings", _is_id),
    "ids": ("lists of integers or strings", _of_lists(_is_id)),
    "sequence": ("lists of integers or strings", _of_lists(_is_id)),
    "number": ("integers, floats or booleans", _is_number),
    "vector": ("lists of floats or integers", _of_lists(_is_number)),
}

_OF_INTEGERS = ("lists of integers", _of_lists(_is_integer))

_FITS_PAYLOAD: dict[str, tuple[str, Callable[[pa.DataType], bool]]] = {
    "time": ("lists of integers or timestamps", _are_times),
    "vector": ("lists of lists of floats or integers", _of_lists(_of_lists(_is_number))),
}
"""Other payloads are lists of integers."""

_TIME_ADVICE = "write times as timestamps, or as integers in the unit of the schema's time."


def _advice(kind: pa.DataType) -> str:
    if pa.types.is_floating(kind):
        return "floats lose ids above 2^53: write the ids as int64, or say kind: number."
    if pa.types.is_temporal(kind):
        return "a time is neither an id nor a number: write what matters of it (hour, age, …) as an integer."
    if pa.types.is_decimal(kind):
        return "write the column as int64 or float64."
    if is_list(kind):
        return "say kind: ids, sequence or vector for lists."
    if is_text(kind):
        return "say kind: id for strings, or write the column as numbers."
    return "say what the column holds in the schema, or convert the column."
