"""Paths: one way to a file, wherever it lies. The object store here speaks the real S3 protocol over HTTP.

Run: pytest tests/data/test_paths.py
"""

import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pyarrow.fs
import pytest

from data.errors import GenctrError, masked
from data.paths import PATHS, TRIES, filesystem, plain, write_whole
from data.yaml_document import write_document
from pipeline.config.data import DataConfig

moto = pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """An empty bucket."""
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
        yield "s3://logs"
    server.stop()


@pytest.fixture(params=["plain", "file", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder in every kind of store."""
    if request.param == "s3":
        return f"{request.getfixturevalue('store')}/{tmp_path.name}"
    return str(tmp_path) if request.param == "plain" else tmp_path.as_uri()


def test_a_file_is_written_read_listed_moved_copied_and_removed(folder: str) -> None:
    PATHS.mkdirs(f"{folder}/run")
    with PATHS.open(f"{folder}/run/notes.txt", "w") as file:
        file.write("café\nsecond\n")

    with PATHS.open(f"{folder}/run/notes.txt", "r") as file:
        assert list(file) == ["café\n", "second\n"]
    assert PATHS.ls(f"{folder}/run") == ["notes.txt"]
    assert PATHS.isfile(f"{folder}/run/notes.txt")
    assert PATHS.isdir(f"{folder}/run")
    assert not PATHS.isdir(f"{folder}/run/notes.txt")

    PATHS.mv(f"{folder}/run/notes.txt", f"{folder}/run/moved.txt")
    assert PATHS.copy(f"{folder}/run/moved.txt", f"{folder}/run/copied.txt")
    PATHS.rm(f"{folder}/run/moved.txt")
    assert PATHS.ls(f"{folder}/run") == ["copied.txt"]
    assert not PATHS.exists(f"{folder}/run/moved.txt")


def test_bytes_stay_bytes(folder: str) -> None:
    PATHS.mkdirs(folder)
    with PATHS.open(f"{folder}/raw", "wb") as file:
        file.write(b"\x00\xff\n")

    with PATHS.open(f"{folder}/raw", "rb") as file:
        assert file.read() == b"\x00\xff\n"


def test_a_file_that_is_not_there_is_not_found(folder: str) -> None:
    with pytest.raises(FileNotFoundError):
        PATHS.open(f"{folder}/nothing", "r")


def test_what_paths_wrote_the_arrow_filesystem_reads(folder: str) -> None:
    PATHS.mkdirs(folder)
    with PATHS.open(f"{folder}/part", "wb") as file:
        file.write(b"rows")

    files, inner = filesystem(f"{folder}/part")
    assert files.open_input_file(inner).read() == b"rows"


def test_a_plain_path_is_local() -> None:
    files, inner = filesystem("logs/feed")

    assert isinstance(files, pyarrow.fs.LocalFileSystem)
    assert inner == "logs/feed"


def test_an_unknown_store_is_told_with_the_known_ones() -> None:
    with pytest.raises(GenctrError, match="cannot open tape://logs") as caught:
        filesystem("tape://logs")
    assert "s3://" in str(caught.value)


@pytest.mark.parametrize("call", [PATHS.exists, PATHS.isdir, PATHS.ls, PATHS.mkdirs, PATHS.rm, PATHS.open])
def test_a_store_that_does_not_answer_is_known_and_asked_again(
    call: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a bucket's region is, Arrow asks before anything else."""
    asked = []

    def unanswered(uri: str) -> None:
        asked.append(uri)
        raise OSError("When resolving region for bucket 'logs': could not resolve host")

    monkeypatch.setattr("data.paths.pyarrow.fs", SimpleNamespace(FileSystem=SimpleNamespace(from_uri=unanswered)))
    monkeypatch.setattr("data.paths.WAIT", 0.0)
    with pytest.raises(OSError, match="cannot open s3://logs/run: When resolving region"):
        call("s3://logs/run")
    assert asked == ["s3://logs/run"] * TRIES


def test_a_file_on_disk_is_written_whole_whatever_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole((tmp_path / "ledger.jsonl").as_uri(), "the old one")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("killed here")))
    with pytest.raises(OSError, match="killed here"):
        write_whole((tmp_path / "ledger.jsonl").as_uri(), "the new one")
    assert (tmp_path / "ledger.jsonl").read_text() == "the old one"


def test_a_uri_of_a_file_is_its_path() -> None:
    assert [plain(path) for path in ("file:///a/b/", "a/b", "s3://a/b/")] == ["/a/b", "a/b", "s3://a/b"]


def test_a_variable_in_a_uri_is_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOGS_HERE", str(tmp_path))

    assert filesystem("file://${LOGS_HERE}/a")[1] == f"{tmp_path}/a"
    with pytest.raises(GenctrError, match="no variable LOGS_NOWHERE"):
        filesystem("file:///${LOGS_NOWHERE}/a")


def test_the_key_in_a_uri_is_not_in_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGS_KEY", "abc123")
    with pytest.raises(GenctrError) as caught:
        filesystem("gopher://${LOGS_KEY}@x")

    assert "abc123" not in str(caught.value)
    assert "${LOGS_KEY}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://AKIA:se/cret@b/x", "s3://AKIA:se/cret@b/x"),  # a slash ends the host: it is no password
        ("s3://AKIA:secret@b/x", "s3://***@b/x"),
        ("s3://b/x?secret_key=abc&region=eu", "s3://b/x?secret_key=***&region=eu"),
        ("s3://b/x?secret_key=${KEY}", "s3://b/x?secret_key=${KEY}"),
        ("https://h/x?sig=abc", "https://h/x?sig=***"),
        ("token=abc of a log", "token=abc of a log"),
    ],
)
def test_passwords_of_uris_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown


@pytest.mark.parametrize(
    ("root", "mode"), [("s3://key:secret@logs", 0o600), ("s3://logs", 0o644), ("s3://logs?secret_key=${K}", 0o644)]
)
def test_a_document_with_a_password_is_its_users_alone(tmp_path: Path, root: str, mode: int) -> None:
    config = DataConfig.model_validate({"root": root, "days": "2026-11-01"})
    old = os.umask(0o022)
    write_document(str(tmp_path / "config.yaml"), config)
    os.umask(old)

    assert (tmp_path / "config.yaml").stat().st_mode & 0o777 == mode


def test_the_name_of_a_file_is_on_the_disk_as_its_content_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[bool, bool]] = []
    whole = tmp_path / "a.json"
    monkeypatch.setattr(os, "fsync", lambda own: synced.append((stat.S_ISDIR(os.fstat(own).st_mode), whole.exists())))
    write_whole(str(whole), "{}")

    assert synced == [(False, False), (True, True)]


def test_the_names_of_new_folders_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda own: synced.append(os.fstat(own).st_ino))

    PATHS.mkdirs(f"{tmp_path}/checkpoints/step-0000001/")
    PATHS.mkdirs(f"{tmp_path}/checkpoints/step-0000001/")

    assert sorted(synced) == sorted(folder.stat().st_ino for folder in (tmp_path, tmp_path / "checkpoints"))


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "manifest.json.tmp").symlink_to("/dev/full")

    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/manifest.json'"):
        write_whole(f"{tmp_path}/manifest.json", "{}")

    assert not os.listdir(tmp_path)
