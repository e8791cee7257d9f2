"""From config to the days of a log: what is listed and opened before anything is built for training."""

from collections.abc import Collection, Mapping
from typing import Any

from data.days import Days
from data.readers import READERS, GuessesTypes, Reader
from pipeline.config.data import DataConfig
from pipeline.config.registry import bind, find


def build_reader(name: str, options: Mapping[str, Any], strings: Collection[str] = ()) -> Reader:
    """How the files of a log are read; `strings`: the columns whose ids were strings when the run began."""
    reader: Reader = bind(f"reader {name}", find("genctr.readers", name, READERS), options)
    return reader.with_strings(strings) if strings and isinstance(reader, GuessesTypes) else reader


def build_days(config: DataConfig, strings: Collection[str] = ()) -> Days:
    """The days of the log; `strings` as in `build_reader`."""
    reader = build_reader(config.reader, config.reader_options, strings)
    return Days(config.root, reader=reader, layout=config.layout, success=config.success_file, bad_files=config.bad_files)
