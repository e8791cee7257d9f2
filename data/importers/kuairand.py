"""KuaiRand-Pure's standard log (kuairand.com), joined with its user and video tables and cut into days by date."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.errors import GenctrError
from data.importers.raw import DayBuckets, RawFile, Tap, day_name, days_of_dates, find

LOG = {
    **dict.fromkeys(["user_id", "video_id", "date", "hourmin"], pa.int32()),
    "time_ms": pa.int64(),
    **dict.fromkeys(["is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view"], pa.int8()),
    **dict.fromkeys(["play_time_ms", "duration_ms", "profile_stay_time", "comment_stay_time"], pa.int64()),
    **dict.fromkeys(["is_profile_enter", "is_rand", "tab"], pa.int8()),
}
# Whole numbers that the original writes as 3.0 where a column has gaps.
MAYBE = [f"onehot_feat{k}" for k in (4, *range(12, 18))]
USERS = {
    "user_id": pa.int32(),
    "user_active_degree": pa.string(),
    **dict.fromkeys(["is_lowactive_period", "is_live_streamer", "is_video_author"], pa.int64()),
    "follow_user_num": pa.int64(),
    "follow_user_num_range": pa.string(),
    "fans_user_num": pa.int64(),
    "fans_user_num_range": pa.string(),
    "friend_user_num": pa.int64(),
    "friend_user_num_range": pa.string(),
    "register_days": pa.int64(),
    "register_days_range": pa.string(),
    **{f"onehot_feat{k}": pa.float64() if f"onehot_feat{k}" in MAYBE else pa.int64() for k in range(18)},
}
VIDEOS = {
    "video_id": pa.int32(),
    "author_id": pa.int64(),
    **dict.fromkeys(["video_type", "upload_dt", "upload_type"], pa.string()),
    **dict.fromkeys(["visible_status", "video_duration", "server_width", "server_height"], pa.float64()),
    "music_id": pa.int64(),
    "music_type": pa.float64(),
    "tag": pa.string(),
}


def form(types: Mapping[str, pa.DataType]) -> str:
    """What a file must look like, in words."""
    return f"comma-separated with a header that has {', '.join(types)}"


class KuaiRand:
    """The log's columns, `hour`, and the columns of the row's user and video (null where a table lacks it), by time.

    What happens after the exposure (is_like, is_follow, is_comment, is_forward, is_hate, long_view, play_time_ms,
    profile_stay_time, comment_stay_time, is_profile_enter) is for labels, never for features. Memory: the two tables,
    27 thousand users and 7 thousand videos, and one day of the log.

    Args:
        source: the unpacked KuaiRand-Pure folder, or its data folder.
    """

    def __init__(self, source: str) -> None:
        self._logs = [RawFile(path) for path in find(source, ["log_standard_*.csv", "log_standard_*.csv.gz"], form(LOG))]
        self._users = RawFile(_only(source, "user_features_pure.csv*", USERS))
        self._videos = RawFile(_only(source, "video_features_basic_pure.csv*", VIDEOS))
        self.files = [*self._logs, self._users, self._videos]

    def days(self, scratch: Path) -> Iterator[tuple[str, Iterator[pa.Table]]]:
        """Every day's name and rows."""
        users, videos = _table(self._users, USERS), _table(self._videos, VIDEOS)
        buckets = DayBuckets(scratch)
        for file in self._logs:
            for table in Tap(self._dated(file)).pour():
                buckets.add(table["_day"].to_numpy(), table.drop_columns("_day"))
        for day in buckets.days:
            rows = buckets.sorted(day, "time_ms")
            joined = (_join(_join(piece, users, "user_id"), videos, "video_id") for piece in Tap([rows]).pour())
            yield day_name(day), joined

    def _dated(self, file: RawFile) -> Iterator[pa.Table]:
        for line, batch in file.batches(LOG, delimiter=",", form=form(LOG), header=True):
            days, real = days_of_dates(batch["date"].fill_null(0).to_numpy().astype(np.int64))
            file.insist(real, line, "date is not a date", form(LOG))
            hour = pc.divide(batch["hourmin"], 100).cast(pa.int8())
            yield pa.Table.from_batches([batch]).append_column("hour", hour).append_column("_day", pa.array(days))


def _only(source: str, pattern: str, types: Mapping[str, pa.DataType]) -> Path:
    found = find(source, [pattern], form(types))
    if len(found) > 1 or not Path(source).is_dir():
        raise GenctrError(f"{source}: expected a folder with one file {pattern}, found {', '.join(map(str, found))}")
    return found[0]


def _table(file: RawFile, types: Mapping[str, pa.DataType]) -> pa.Table:
    """A whole side table; its first column is the key, each value once."""
    table = pa.Table.from_batches(
        [batch for _, batch in file.batches(types, delimiter=",", form=form(types), header=True, quotes=True)]
    )
    key = table.column_names[0]
    if pc.count_distinct(table[key]).as_py() < table.num_rows:
        raise GenctrError(f"{file.path}: a {key} occurs twice\n  expected: one line each")
    for name in MAYBE:
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.int64()))
    return table.combine_chunks()


def _join(rows: pa.Table, side: pa.Table, key: str) -> pa.Table:
    """The columns of `side` behind those of `rows`, in the order of `rows`."""
    found = side.drop_columns(key).take(pc.index_in(rows[key].combine_chunks(), value_set=side[key].combine_chunks()))
    for name in found.column_names:
        rows = rows.append_column(name, found[name])
    return rows
