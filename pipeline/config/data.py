"""Where the log is, which days are for what, and how they are read."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from data.day_names import goes_on_to, open_end, parse_days
from data.errors import GenctrError
from data.yaml_document import BadValue, Section
from pipeline.config.registry import named


class DataConfig(Section):
    """Where the log is, which days are for what, and how they are read."""

    root: str
    """Folder or URI (file, s3, gs, abfs or hdfs) that holds the days. A relative one begins where the command is started, as
    paths of the command line do; only `schema`, which belongs to the run file, begins at that file."""

    days: str | tuple[str, ...]
    """The days to train, in order: `2026-11-01..2026-11-20`, or a list of day names."""

    validation: str | tuple[str, ...] = ()
    """The days early stopping looks at; never trained."""

    test: str | tuple[str, ...] = ()
    """The days scored once, with the final model; nothing else ever looks at them."""

    statistics_days: str | tuple[str, ...] = ()
    """Days from which vocabularies and statistics are fitted. Empty: the training days, or only the first of them if
    train.progressive_validation. Days that any stage evaluates are then left out."""

    layout: str = "day={day}"
    """Where a day lies under the root: a folder per day, or one file per day such as `{day}.parquet`."""

    success_file: str | None = "_SUCCESS"
    """The file that marks a day's folder as complete; null takes every folder for complete."""

    reader: Annotated[str, named("genctr.readers")] = "parquet"
    """Name of the reader: parquet, csv, or one that an installed package adds."""

    reader_options: dict[str, Any] = {}
    """Settings of the reader, by its argument names."""

    shuffle_buffer_rows: int = Field(default=65_536, ge=0)
    """[rows] shuffled together, over all lanes; 0 reads in file order."""

    lanes: PositiveInt = 4
    """[lanes] a day is cut into; the most ranks that can share it, and a divisor of train.global_batch_rows."""

    prefetch_batches: int = Field(default=2, ge=0)
    """[batches] made ahead by a background thread; 0 makes them in the loop."""

    check: Literal["footer", "full"] = "footer"
    """What is read of a day's files before its first row trains: their footers, or every page."""

    bad_files: Literal["stop", "quarantine"] = "stop"
    """What a file that cannot be read does: stop the run, or be left out and named in the log."""

    bad_rows: Literal["stop", "skip"] = "stop"
    """What a row that is not what the schema says does: stop the run, or be left out and counted."""

    max_bad_rows_share: float = Field(default=0.01, ge=0, le=1)
    """[1] of the rows of a day that bad_rows: skip may leave out. More stop the run: then the schema is wrong, or the log."""

    @model_validator(mode="after")
    def _every_day_is_for_one_thing(self) -> "DataConfig":
        uses: dict[str, str] = {}
        for use in ("statistics_days", "days", "validation", "test"):
            try:
                names = parse_days(getattr(self, use))
            except GenctrError as error:
                raise BadValue(str(error), use) from error
            if use == "days" and not names:
                raise BadValue("no day to train", use)
            if use != "days" and open_end(getattr(self, use)):
                raise BadValue("only days may go on without an end: name the last one", use)
            for day in names if use != "statistics_days" else ():
                if day in uses or (use != "days" and goes_on_to(self.days, day)):
                    raise BadValue(f"{day} is in {uses.get(day, 'days')} already: no score would be honest", use)
                uses[day] = use
        return self
