"""The schema after fitting: which tables there are, how long, who reads them, and the order of everything in a batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from data.errors import GenctrError
from data.ids import MISSING, UNKNOWN, HashIds, IdentityIds, IdMap, RawIds, VocabIds, seed_of
from data.schema import AnyField, AnyIds, IdField, IdsField, NumberField, Payload, Schema, SequenceField, VectorField
from data.statistics import Statistics

Pool: TypeAlias = Literal["mean", "sum", "events"]

LIST_LENGTH = 10
"""[ids] of a list without a length that are looked at one by one."""


@dataclass(frozen=True)
class TableSpec:
    """One embedding table.

    Args:
        name: the field that owns it.
        rows: [rows] V, the missing id's row 0 among them.
        dim: [numbers] width of one embedding; None: the width of the model.
        fields: the fields that look ids up in it, in schema order.
        pooled: False if a field of it is read event by event, for attention.
        pool: how a row with several ids becomes one vector, if pooled.
        reserved: [rows] at the start of the table that stand for no value: missing, and not in the vocabulary.
    """

    name: str
    rows: int
    dim: int | None
    fields: tuple[str, ...]
    pooled: bool
    pool: Literal["mean", "sum"]
    reserved: int


class Features:
    """A fitted schema.

    Args:
        schema: what the log means.
        statistics: what was fitted; None will do if the schema has no vocabulary, standardised number or bucket.
        pooled: False keeps every table unpooled, for a model that looks at single ids.
        pools: how sequences become one vector. A sequence that is not named is pooled as the lists that share its table; if
            there are none, to the mean.
        admitted: the maps of managed tables as a trained model left them; else their ids stay as they are, for a model in
            training to map.

    Attributes:
        tables: the tables, in schema order.
        fields: all fields, in schema order.
        bag_keys, sequence_keys: the keys of a batch's two KeyedJaggedTensors, table by table.
        number_fields: the columns of a batch's numbers.
        vector_fields: the widths of the parts of a batch's vectors.
        lengths: for every list or sequence how many of its ids a model looks at one by one.
        pools: for every list or sequence how its ids become one vector; events: a model looks at them one by one.
        queries: for every sequence that is looked at event by event the id field it is compared with, if the schema knows any.
        maps: for every field with ids the id map of its table.
        kinds, roles: of every field, what it is and whom it describes.
        payloads: for every sequence whose events carry more than ids, what they carry.

    Raises:
        GenctrError: the schema needs statistics that are not there.
    """

    def __init__(
        self,
        schema: Schema,
        statistics: Statistics | None = None,
        *,
        pooled: bool = True,
        admitted: Mapping[str, IdMap] = MappingProxyType({}),
        pools: Mapping[str, Pool] = MappingProxyType({}),
    ) -> None:
        self.schema, self._admitted = schema, admitted
        self._pooled = pooled
        self.statistics = statistics if statistics is not None else Statistics.nothing()
        missing = sorted(Statistics.names(schema) - self.statistics.fitted)
        if missing:
            raise GenctrError(
                f"{', '.join(missing)}: nothing fitted for these fields\n"
                "  next: fit the statistics with this schema, or load those that were stored with the run."
            )
        lists = [field for field in schema.fields if isinstance(field, IdsField | SequenceField)]
        self.fields = tuple(field.name for field in schema.fields)
        self.number_fields = [
            field.name for field in schema.fields if isinstance(field, NumberField) and field.transform != "buckets"
        ]
        self.vector_fields = {field.name: field.dim for field in schema.fields if isinstance(field, VectorField)}
        self.lengths = {field.name: field.length or LIST_LENGTH for field in lists}
        of_lists = {schema.owner(field).name: field.pool for field in lists if isinstance(field, IdsField)}
        said: dict[str, Pool] = {field.name: of_lists.get(schema.owner(field).name, "mean") for field in lists}
        self.pools = MappingProxyType({**said, **pools})
        self.queries = MappingProxyType(_queries(schema, self.pools))
        self.kinds = MappingProxyType({field.name: field.kind for field in schema.fields})
        self.roles = MappingProxyType({field.name: schema.role(field) for field in schema.fields})
        self.payloads = MappingProxyType(_payloads(schema))
        with_ids = [field for field in schema.fields if isinstance(field, AnyIds)]
        tables = {field.name: self._map(field) for field in with_ids if field.table is None}
        self.maps = {field.name: tables[schema.owner(field).name] for field in with_ids}
        self.tables = [table for field in schema.fields if (table := self._table(field)) is not None]
        self.bag_keys = [key for table in self.tables if table.pooled for key in table.fields]
        self.sequence_keys = [key for table in self.tables if not table.pooled for key in table.fields]

    def cardinality(self, name: str) -> int:
        """[values] of a field: the rows of its table without the reserved ones, 1 if it has none."""
        return next((table.rows - table.reserved for table in self.tables if name in table.fields), 1)

    def _map(self, field: AnyIds) -> IdMap:
        if field.ids == "vocab":
            return VocabIds(values=self.statistics.vocabularies[field.name])
        assert field.rows is not None, "checked when the schema was read"
        if field.ids == "hash":
            return HashIds(rows=field.rows, seed=seed_of(field.name))
        if field.ids == "managed":
            return self._admitted.get(field.name) or RawIds(rows=field.rows)
        return IdentityIds(ids=field.rows)

    def _table(self, owner: AnyField) -> TableSpec | None:
        """The table that a field owns, if it owns one."""
        if isinstance(owner, NumberField) and owner.buckets is not None:
            return TableSpec(owner.name, owner.buckets + 1, None, (owner.name,), self._pooled, "sum", reserved=1)
        if not isinstance(owner, AnyIds) or owner.table is not None:
            return None
        readers = [field for field in self.schema.fields if isinstance(field, AnyIds) and self.schema.owner(field) is owner]
        pools = {self.pools[field.name] for field in readers if not isinstance(field, IdField)}
        if pools == {"mean", "sum"}:
            raise GenctrError(f"the fields of table {owner.name!r} pool by mean and by sum; those of one table pool alike")
        return TableSpec(
            name=owner.name,
            rows=self.maps[owner.name].rows,
            dim=owner.dim,
            fields=tuple(field.name for field in readers),
            pooled=self._pooled and "events" not in pools,
            pool="mean" if "mean" in pools else "sum",
            reserved={"vocab": UNKNOWN + 1, "managed": owner.reserved}.get(owner.ids or "", MISSING + 1),
        )


def _queries(schema: Schema, pools: Mapping[str, Pool]) -> dict[str, str]:
    """For the sequences that are looked at event by event, the id fields they are compared with."""
    sequences = [field for field in schema.fields if isinstance(field, SequenceField) and pools[field.name] == "events"]
    return {field.name: query for field in sequences if (query := schema.query(field)) is not None}


def _payloads(schema: Schema) -> dict[str, Payload]:
    """For the sequences whose events carry more than ids, what they carry."""
    sequences = [field for field in schema.fields if isinstance(field, SequenceField)]
    return {field.name: field.payload for field in sequences if field.payload is not None}
