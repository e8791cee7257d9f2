"""A log in an object store is read like one on disk; the store here speaks the real S3 protocol over HTTP.

Run: pytest tests/data/test_s3.py
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pytest

from data.cursor import Cursor
from data.days import Day, Days, write_day
from data.errors import BadInput, GenctrError
from data.paths import filesystem
from data.readers import CsvReader, ParquetReader
from data.stream import DayStream

moto = pytest.importorskip("moto.server")

DAY = "2026-11-20"
READER = ParquetReader()


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A store with one bucket, `logs`."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        files, bucket = filesystem("s3://logs?allow_bucket_creation=true")
        files.create_dir(bucket)
        yield server
    server.stop()


@pytest.fixture
def root(server: Any, request: pytest.FixtureRequest) -> str:
    """A folder of its own for every test."""
    return f"s3://logs/{request.node.name}"


def table(rows: range) -> pa.Table:
    return pa.table({"id": pa.array(rows, pa.int64()), "unread": [f"row {row}" for row in rows]})


def read(day: Day, cursor: Cursor | None = None, *, rank: int = 0, ranks: int = 1) -> list[tuple[list[int], Cursor]]:
    def collate(batch: pa.RecordBatch, *, files: Sequence[str], rows: int, cursor: Cursor) -> tuple[list[int], Cursor]:
        return batch.column("id").to_pylist(), cursor

    options: dict[str, Any] = {"collate": collate, "batch_rows": 12, "shuffle_rows": 40, "prefetch": 2}
    stream = DayStream(day, READER, columns=["id"], rank=rank, ranks=ranks, **options)
    return list(stream.batches(cursor or stream.start()))


def test_a_day_in_a_bucket_is_listed_opened_and_read_exactly_once(root: str) -> None:
    write_day(f"{root}/day={DAY}", [table(range(70)), table(range(70, 101))], row_group_rows=30)
    write_day(f"{root}/day=2026-11-21", [table(range(1))])
    log = Days(root, reader=READER)

    assert log.list() == [DAY, "2026-11-21"]
    day = log.open(DAY, ["id"], check="full")
    assert [(file.path, file.units) for file in day.files] == [
        (f"{root}/day={DAY}/part-00000.parquet", (30, 30, 10)),
        (f"{root}/day={DAY}/part-00001.parquet", (30, 1)),
    ]
    assert sorted(row for ids, _ in read(day) for row in ids) == list(range(101))


def test_a_day_in_a_bucket_is_resumed_by_other_ranks_without_loss(root: str) -> None:
    write_day(f"{root}/day={DAY}", [table(range(101))], row_group_rows=30)
    day = Days(root, reader=READER).open(DAY, ["id"])

    begun = read(day)[:3]
    rest = [batch for rank in range(2) for batch in read(day, begun[-1][1], rank=rank, ranks=2)]

    assert sorted(row for ids, _ in begun + rest for row in ids) == list(range(101))


def test_a_day_without_its_mark_is_not_complete_in_a_bucket_either(root: str) -> None:
    write_day(f"{root}/day={DAY}", [table(range(3))])
    files, inner = filesystem(f"{root}/day={DAY}/_SUCCESS")
    files.delete_file(inner)

    assert Days(root, reader=READER).list() == []
    with pytest.raises(BadInput, match="is not complete"):
        Days(root, reader=READER).open(DAY, ["id"])


def test_a_day_that_fails_while_it_is_written_to_a_bucket_is_not_there(root: str) -> None:
    def tables() -> Iterator[pa.Table]:
        yield table(range(3))
        raise OSError("out of memory")

    with pytest.raises(OSError, match="out of memory"):
        write_day(f"{root}/day={DAY}", tables())
    assert Days(root, reader=READER, success=None).list() == []


def test_a_truncated_file_in_a_bucket_is_left_out_by_name(root: str) -> None:
    write_day(f"{root}/day={DAY}", [table(range(70)), table(range(70, 101))])
    files, inner = filesystem(f"{root}/day={DAY}/part-00000.parquet")
    content = files.open_input_file(inner).read()
    with files.open_output_stream(inner) as file:
        file.write(content[:-100])

    day = Days(root, reader=READER, bad_files="quarantine").open(DAY, ["id"])

    assert list(day.quarantined) == [f"{root}/day={DAY}/part-00000.parquet"]
    assert sorted(row for ids, _ in read(day) for row in ids) == list(range(70, 101))


def test_a_compressed_csv_in_a_bucket_is_read(root: str) -> None:
    files, inner = filesystem(root)
    files.create_dir(inner)
    with files.open_output_stream(f"{inner}/{DAY}.csv.gz") as file:
        pyarrow.csv.write_csv(table(range(50)), file)

    reader = CsvReader()
    day = Days(root, reader=reader, layout="{day}.csv.gz").open(DAY, ["id"])

    assert day.rows == 50
    assert next(reader.read(day.files[0].path, 0, ["id"], 48)).column("id").to_pylist() == [48, 49]


def test_options_of_the_store_may_stand_in_the_root(root: str) -> None:
    write_day(f"{root}/day={DAY}", [table(range(3))])

    day = Days(f"{root}?region=us-east-1", reader=READER).open(DAY, ["id"])

    assert day.files[0].path == f"{root}/day={DAY}/part-00000.parquet?region=us-east-1"
    assert sorted(row for ids, _ in read(day) for row in ids) == [0, 1, 2]


def test_an_object_that_is_gone_is_no_bad_file(root: str) -> None:
    with pytest.raises(GenctrError, match="cannot read s3://logs") as caught:
        READER.units(f"{root}/gone.parquet")
    assert not isinstance(caught.value, BadInput)


@pytest.mark.slow  # Arrow tries again for twelve seconds
def test_a_store_that_does_not_answer_is_no_bad_file(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens to the discard port

    with pytest.raises(GenctrError, match="cannot read s3://logs") as caught:
        READER.units(f"{root}/a.parquet")
    assert not isinstance(caught.value, BadInput)
