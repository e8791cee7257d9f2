"""How files of an unknown log are best read: their delimiter, a missing header line, strings that are lists."""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data.arrays import is_bytes, is_text
from data.errors import GenctrError
from data.paths import filesystem
from data.readers import CsvReader, ParquetReader, Reader

HEAD_BYTES = 65_536
"""[bytes] at the beginning of a text file in which its delimiter is looked for."""

HEAD_LINES = 20

HEAD_ROWS = 8192
"""[rows] at the beginning of a file in which lists are looked for."""

DELIMITERS = (",", "\t", ";", "|")

NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")

NUMBERS_OF_DATA = 0.25
"""[1] share of numbers among the names of columns above which the first line is taken for data: no log calls columns so."""

ROWS_WITH_LISTS = 0.1
"""[1] share of the values with a separator above which a column holds lists."""

SEPARATORS: Mapping[str, str] = MappingProxyType({"|": r"^[^|]*$", ";": r"^[\w.:/-]*$", ",": r"^[\w.:/-]*$", " ": r"^\d+$"})
"""What may be between the elements of a list in a string, and what every element then is: prose has commas and blanks too."""

FORMATS: Mapping[str, Callable[..., Reader]] = MappingProxyType({"parquet": ParquetReader, "csv": CsvReader})


def suggest_reader(form: str, file: str, partitions: Sequence[str] = ()) -> tuple[Reader, dict[str, Any]]:
    """What reads files such as this one, and what run.yaml has to say of it in `data`; nothing for Parquet without lists.

    Args:
        form: parquet, csv or tsv. file: one of the log. partitions: the names of folders such as hour=07 in a day.
    """
    name = "parquet" if form == "parquet" else "csv"
    options = {} if name == "parquet" else _text_options(file, {"csv": ",", "tsv": "\t"}[form])
    try:
        there = FORMATS[name](**options).schema(file).names
    except GenctrError:
        there = [*partitions]  # whoever reads the file reports it
    if partitions := [own for own in partitions if own not in there]:
        options |= {"partitions": partitions}
    reader = FORMATS[name](**options)
    try:
        lists, types = _lists(reader, file)
    except GenctrError:
        return reader, _said(name, options)  # whoever reads the file reports it
    if lists:
        options |= {"lists": lists, **({"types": types} if types and name == "csv" else {})}
        reader = FORMATS[name](**options)
    return reader, _said(name, options)


def _said(name: str, options: dict[str, Any]) -> dict[str, Any]:
    reader = {"reader": name} if name != "parquet" else {}
    return reader | ({"reader_options": options} if options else {})


def _text_options(file: str, delimiter: str) -> dict[str, Any]:
    """The delimiter, if it is not a comma, and names, if the first line has none."""
    try:
        files, inner = filesystem(file)
        with files.open_input_stream(inner) as source:
            head = source.read(HEAD_BYTES).decode("utf-8", "replace").removeprefix("\ufeff")
    except (pa.ArrowException, OSError):
        return {"delimiter": delimiter} if delimiter != "," else {}
    lines = [line for line in head.splitlines()[:HEAD_LINES] if line]
    counts = {own: {line.count(own) for line in lines} for own in DELIMITERS}
    # Every line has as many. Names have no decimal commas: a first line without the usual delimiter has another.
    constant = {own: min(found) for own, found in counts.items() if len(found) == 1 and found != {0}}
    if constant and lines and delimiter not in lines[0]:
        delimiter = max(constant, key=lambda own: constant[own])
    options: dict[str, Any] = {"delimiter": delimiter} if delimiter != "," else {}
    names = next(csv.reader(lines[:1], delimiter=delimiter), [])
    numbers = [name for name in names if NUMBER.fullmatch(name.strip())]
    counted = [name for name in names if name] == [str(at) for at in range(len([name for name in names if name]))]
    if len(numbers) > NUMBERS_OF_DATA * len(names) and not counted:  # pandas calls columns without names 0, 1, 2, …
        options["names"] = [f"column_{at}" for at in range(len(names))]
    return options


def _lists(reader: Reader, file: str) -> tuple[dict[str, str], dict[str, str]]:
    """Separators by column, of the strings that are lists; and the types of the elements that are integers."""
    schema = reader.schema(file)
    names = [own.name for own in schema if is_text(own.type) and schema.names.count(own.name) == 1]
    # A text file is one unit, whose rows are counted by parsing it whole.
    units = [1] if isinstance(reader, CsvReader) else reader.units(file)
    unit = next((at for at, rows in enumerate(units) if rows), None)
    if not names or unit is None:
        return {}, {}
    with closing(reader.read(file, unit, names, 0)) as batches:
        first = next(iter(batches), None)
    if first is None:
        return {}, {}
    lists: dict[str, tuple[str, bool]] = {}
    for name in names:
        column = first.column(name).slice(0, HEAD_ROWS)
        values = (column.dictionary_decode() if pa.types.is_dictionary(column.type) else column).drop_null()
        found = None if is_bytes(values.type) else _separator(values)
        if found is not None:
            lists[name] = found
    separators = {name: separator for name, (separator, _) in lists.items()}
    return separators, {name: "int64" for name, (_, whole) in lists.items() if whole}


def _separator(values: pa.Array) -> tuple[str, bool] | None:
    """What is between the elements of these strings, and whether all elements are integers; None if they are no lists."""
    values = values.filter(pc.not_equal(values, ""))
    for separator, element in SEPARATORS.items():
        share = pc.mean(pc.match_substring(values, separator)).as_py()
        if not share or share < ROWS_WITH_LISTS:
            continue
        lists = pc.split_pattern(values, separator)
        elements = lists.flatten()
        # Always as many elements are the parts of one key, and elements that never come again are no vocabulary.
        varied = len(pc.list_value_length(lists).unique()) > 1 and len(elements.unique()) < len(elements)
        if varied and pc.all(pc.match_substring_regex(elements, element)).as_py():
            return separator, bool(pc.all(pc.match_substring_regex(elements, r"^(0|[1-9]\d{0,17})$")).as_py())
    return None
