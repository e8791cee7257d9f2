"""Columns that a file has in another form: lists in strings with a separator, and values in its path."""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from data.errors import BadInput, GenctrError
from data.yaml_document import nearest

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
"""What Hive and Spark call the folder of rows without a value."""

NOTHING: Mapping[str, Any] = MappingProxyType({})


def check_lists(lists: Mapping[str, str], schema: pa.Schema, path: str) -> None:
    """Raises BadInput if a column of the option `lists` is not in the file."""
    for column, separator in lists.items():
        if column not in schema.names:
            raise BadInput("reader option lists: no such column", file=path, column=column, hint=nearest(column, schema.names))
        if not separator:
            raise GenctrError(f"reader option lists.{column}: an empty separator\n  expected: what is between two values")


def split_lists(batch: pa.RecordBatch, lists: Mapping[str, str], types: Mapping[str, pa.DataType] = NOTHING) -> pa.RecordBatch:
    """The batch, the strings of these columns as the lists that their separators say."""
    for column in lists.keys() & set(batch.schema.names):
        at, kind = batch.schema.get_field_index(column), pa.list_(types.get(column, pa.string()))
        texts = batch.column(at).cast(pa.string())
        texts = pc.if_else(pc.equal(texts, ""), None, texts)  # a list without values, not one of an empty string
        batch = batch.set_column(at, pa.field(column, kind), pc.split_pattern(texts, lists[column]).cast(kind))
    return batch


def partitioned(schema: pa.Schema, names: Sequence[str], path: str) -> pa.Schema:
    """The schema and what the path says in addition to the file."""
    for name in values_in_path(path, names):
        if name in schema.names:
            raise BadInput("reader option partitions: the column is in the file, too", file=path, column=name,
                           hint="leave it out of partitions to read the file's")  # fmt: skip
        schema = schema.append(pa.field(name, pa.string()))
    return schema


def values_in_path(path: str, names: Collection[str]) -> dict[str, str | None]:
    """The values of folders such as hour=07 by their names.

    Raises:
        BadInput: one of them is not there.
    """
    if not names:
        return {}
    parts = (path.partition("?")[0] if "://" in path else path).split("/")[:-1]
    found = {unquote(name): unquote(value) for name, equals, value in (part.partition("=") for part in parts) if equals}
    for name in names:
        if name not in found:
            raise BadInput("reader option partitions: no such folder above the file", file=path, column=name,
                           expected=f"a folder such as {name}=…", hint=nearest(name, list(found)))  # fmt: skip
    return {name: None if found[name] == HIVE_NULL else found[name] for name in names}


def in_file(values: Mapping[str, str | None], columns: Sequence[str]) -> list[str]:
    """The columns without those whose values the path has."""
    return [column for column in columns if column not in values]


def with_values(batch: pa.RecordBatch, values: Mapping[str, str | None]) -> pa.RecordBatch:
    """The batch with a column of one value for each of these."""
    for name, value in values.items():
        batch = batch.append_column(pa.field(name, pa.string()), pa.repeat(pa.scalar(value, pa.string()), batch.num_rows))
    return batch
