"""Avazu's click log (Kaggle's train.csv, plain or gzipped), cut into days by its hour column."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.importers.raw import DayBuckets, RawFile, Tap, day_name, days_of_dates, find

FORM = "comma-separated with the header id,click,hour,C1,banner_pos,site_id,… and hours such as 14102100 (YYMMDDHH)"
STRINGS = [f"{what}_{of}" for what in ("site", "app") for of in ("id", "domain", "category")]
DEVICE = ["device_id", "device_ip", "device_model"]
TYPES = {
    "id": pa.string(),  # beyond int64
    "click": pa.int8(),
    "hour": pa.int32(),
    "C1": pa.int32(),
    "banner_pos": pa.int32(),
    **dict.fromkeys([*STRINGS, *DEVICE], pa.string()),
    "device_type": pa.int32(),
    "device_conn_type": pa.int32(),
    **{f"C{k}": pa.int32() for k in range(14, 22)},
}


class Avazu:
    """The original columns, and hour_of_day (0-23) and weekday (0 is Monday), int8. A day's rows keep the file's order.

    Args:
        source: train.csv, train.csv.gz or a folder with one of them.
    """

    def __init__(self, source: str) -> None:
        self.files = [RawFile(path) for path in find(source, ["train.csv", "train.csv.gz", "train.gz"], FORM)]

    def days(self, scratch: Path) -> Iterator[tuple[str, Iterator[pa.Table]]]:
        """Every day's name and rows."""
        buckets = DayBuckets(scratch)
        for file in self.files:
            lines = self._with_times(file)
            for table in Tap(lines).pour():
                buckets.add(table["_day"].to_numpy(), table.drop_columns("_day"))
        for day in buckets.days:
            yield day_name(day), Tap(buckets.tables(day)).pour()

    def _with_times(self, file: RawFile) -> Iterator[pa.Table]:
        for line, batch in file.batches(TYPES, delimiter=",", form=FORM, header=True):
            hours = batch["hour"].fill_null(-1).to_numpy().astype(np.int64)
            days, real = days_of_dates(20_000_000 + hours // 100)
            file.insist(real & (hours % 100 < 24), line, "the hour is not an hour of a day", FORM)
            file.insist(pc.is_in(batch["click"], value_set=pa.array([0, 1], pa.int8())), line, "click is not 0 or 1", FORM)
            table = pa.Table.from_batches([batch])
            table = table.append_column("hour_of_day", pa.array((hours % 100).astype(np.int8)))
            # 1970-01-01 was a Thursday.
            table = table.append_column("weekday", pa.array(((days + 3) % 7).astype(np.int8)))
            yield table.append_column("_day", pa.array(days))
