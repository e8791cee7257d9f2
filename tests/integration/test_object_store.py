"""Config, schema, log and run folder in an object store: a job that is stopped there goes on there."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from moto.server import ThreadedMotoServer

from data.paths import PATHS, filesystem, write_whole
from data.synthetic import write
from pipeline.run_folder.log import read_log
from tests.jobs import finish, start
from tests.tiny import genctr


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A store on this machine that speaks the real S3 protocol."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        files, path = filesystem("s3://feed?allow_bucket_creation=true")
        files.create_dir(path)
        yield "s3://feed"
    server.stop()


def test_a_job_in_an_object_store_is_stopped_and_goes_on(bucket: str) -> None:
    manifest = write(f"{bucket}/log", days=2, rows=300, seed=3)
    run = yaml.safe_load(Path("launch/configs/demo.yaml").read_text())
    run["data"] |= {"root": f"{bucket}/log", "days": "2026-11-01..2026-11-02", "shuffle_buffer_rows": 512}
    run["train"] |= {"global_batch_rows": 64}
    with PATHS.open(f"{bucket}/run.yaml", "w") as file:
        file.write(yaml.safe_dump(run))
    with PATHS.open(f"{bucket}/demo.schema.yaml", "w") as file:
        file.write(Path("launch/configs/demo.schema.yaml").read_text())

    finish(start(f"{bucket}/run.yaml", f"{bucket}/run", 1, "train.max_steps=4"))
    finish(start(f"{bucket}/run.yaml", f"{bucket}/run", 1, "train.max_steps=null"))

    events = read_log(f"{bucket}/run")
    resumed = [event for event in events if event["event"] == "resumed"]
    trained = {event["day"]: event["rows"] for event in events if event["event"] == "trained"}
    assert [event["step"] for event in resumed] == [4]
    assert trained == {day: values["rows"] for day, values in manifest["days"].items()}, json.dumps(events)


@pytest.mark.parametrize("words", [["status"], ["approve", "2026-11-01", "--reason", "x"]])
def test_a_slash_at_the_end_of_a_run_folder_is_no_part_of_its_name(bucket: str, words: list[str]) -> None:
    for name, to in (("demo.yaml", "config.yaml"), ("demo.schema.yaml", "demo.schema.yaml")):
        write_whole(f"{bucket}/begun/{to}", Path(f"launch/configs/{name}").read_text())

    without, with_it = (genctr(words[0], folder, *words[1:]) for folder in (f"{bucket}/begun", f"{bucket}/begun/"))

    assert with_it == without
    assert with_it.code == (0 if words == ["status"] else 2)
