"""From config to the days of a log: what is listed and opened before anything is built for training."""

from collections.abc import Mapping
from typing import Any

from data.days import Days
from data.readers import READERS, Reader
from pipeline.config.data import DataConfig
from pipeline.config.registry import bind, find


def build_reader(name: str, options: Mapping[str, Any]) -> Reader:
    """How the files of a log are read."""
    reader: Reader = bind(f"reader {name}", find("genctr.readers", name, READERS), options)
    return reader


def build_days(config: DataConfig) -> Days:
    """The days of the log."""
    reader = build_reader(config.reader, config.reader_options)
    return Days(config.root, reader=reader, layout=config.layout, success=config.success_file, bad_files=config.bad_files)
