"""Where files live: a local path or an object store, read and written through one door."""

import io
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any, TypeVar, cast
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs
from iopath.common.file_io import PathHandler, PathManager

from data.errors import BadInput, GenctrError

T = TypeVar("T")

TRIES, WAIT = 5, 0.2
"""How often a store is asked, and how long [s] before the second time; twice as long before each further one."""

PREFIXES = ("file://", "s3://", "gs://", "abfs://", "hdfs://")


def relative_to(path: str) -> str:
    """Where a relative local path begins, as the end of a hint; "" for any other."""
    return "" if "://" in path or os.path.isabs(path) else f"; it is relative to {os.getcwd()}"


def filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The Arrow filesystem that holds `uri`, and the path inside it.

    Credentials, region and endpoint of an object store come from its usual environment variables
    (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …) or from the query part of the URI, where `${NAME}` is that variable of the
    environment: what is written down has the name, and not the key.

    Raises:
        GenctrError: the URI names a store that Arrow does not know, or a variable that is not set.
        OSError: the store does not answer; S3 is asked for the region of the bucket.
    """
    if "://" not in uri:
        return pyarrow.fs.LocalFileSystem(), uri
    whole = with_variables(uri)
    try:
        return cast(tuple[pyarrow.fs.FileSystem, str], pyarrow.fs.FileSystem.from_uri(whole))
    except OSError as error:
        raise OSError(f"cannot open {uri}: {str(error).replace(whole, uri)}") from None
    except pa.ArrowException as error:
        known, why = ", ".join(PREFIXES), str(error).replace(whole, uri)
        raise GenctrError(f"cannot open {uri}: {why}\n  expected: a local path, or one of {known}") from None


def with_variables(address: str) -> str:
    """An address with the variables of the environment that it names as `${NAME}`.

    Raises:
        GenctrError: one of them is not set.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise GenctrError(f"{address}: the environment has no variable {match[1]}\n  next: set it where the job starts")
        return os.environ[match[1]]

    return re.sub(r"\$\{(\w+)\}", value, address)


def plain(path: str) -> str:
    """The path of a `file://` URI, without a slash at its end; another path as it is. A file on disk is made whole by a rename,
    and locked, however it is called."""
    return (filesystem(path)[1] if path.startswith("file://") else path).rstrip("/")


def below(folder: str, name: str) -> str:
    """A path below a folder, the URI of which may end in a query. In a URI the name is escaped: stores undo it."""
    path, question, query = folder, "", ""
    if "://" in folder:
        path, question, query = folder.partition("?")
        name = quote(name, safe="/=+,:@")
    return (f"{path.rstrip('/')}/{name}" if name else path) + question + query


class ArrowHandler(PathHandler):
    """Serves `PATHS` from Arrow's filesystems.

    Ours, although iopath brings an S3 handler: that one holds whole files in memory and asks boto3 for credentials, so the
    logs and the run folder of one job could end up with two sets of them.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return list(PREFIXES)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **_: Any) -> IO[Any]:
        files, inner = filesystem(path)
        if "r" in mode:
            raw = files.open_input_file(inner)
        elif "a" in mode:
            raw = files.open_append_stream(inner, compression=None)
        else:
            raw = files.open_output_stream(inner, compression=None)
        return cast(IO[Any], raw if "b" in mode else io.TextIOWrapper(raw, encoding="utf-8"))

    def _kind(self, path: str) -> pyarrow.fs.FileType:
        files, inner = filesystem(path)
        return files.get_file_info(inner.rstrip("/")).type

    def _exists(self, path: str, **_: Any) -> bool:
        return bool(self._kind(path) != pyarrow.fs.FileType.NotFound)

    def _isfile(self, path: str, **_: Any) -> bool:
        return bool(self._kind(path) == pyarrow.fs.FileType.File)

    def _isdir(self, path: str, **_: Any) -> bool:
        return bool(self._kind(path) == pyarrow.fs.FileType.Directory)

    def _ls(self, path: str, **_: Any) -> list[str]:
        files, inner = filesystem(path)
        return [info.base_name for info in files.get_file_info(pyarrow.fs.FileSelector(inner.rstrip("/")))]

    def _mkdirs(self, path: str, **_: Any) -> None:
        files, inner = filesystem(path)
        files.create_dir(inner.rstrip("/"), recursive=True)

    def _rm(self, path: str, **_: Any) -> None:
        files, inner = filesystem(path)
        files.delete_file(inner)

    def _mv(self, src_path: str, dst_path: str, **_: Any) -> bool:
        files, inner = filesystem(src_path)
        files.move(inner, filesystem(dst_path)[1])
        return True

    def _copy(self, src_path: str, dst_path: str, overwrite: bool = False, **_: Any) -> bool:
        if not overwrite and self._exists(dst_path):
            return False
        files, inner = filesystem(src_path)
        files.copy_file(inner, filesystem(dst_path)[1])
        return True


@dataclass(frozen=True)
class Guard:
    """Whom to ask before anything below some folders is made, exchanged or removed.

    Args:
        folders: whose content is guarded. but: the beginning of the paths that are not, although they lie below.
        token: of the writer; names of files that are not whole yet carry it, so that no two writers share one.
        turn: enters when this writer may write, and keeps others from it meanwhile where a disk can lock; else it raises.
    """

    folders: tuple[str, ...]
    but: str
    token: str
    turn: Callable[[], AbstractContextManager[None]]

    def covers(self, path: str) -> bool:
        """Whether it is to be asked."""
        place = _place(path)
        return not place.startswith(_place(self.but)) and any(f"{place}/".startswith(f"{_place(own)}/") for own in self.folders)


def _place(path: str) -> str:
    return path.rstrip("/") if "://" in path else os.path.abspath(path)


_guards: list[Guard] = []


@contextmanager
def guarded(guard: Guard) -> Iterator[None]:
    """Ask this guard before anything is written through `PATHS` and the functions here, from any thread."""
    _guards.append(guard)
    try:
        yield
    finally:
        _guards.remove(guard)


@contextmanager
def turn(path: str) -> Iterator[None]:
    """The time to make, exchange or remove a file or a folder: its guards have been asked. Not to be nested."""
    with ExitStack() as stack:
        for guard in [own for own in _guards if own.covers(path)]:
            stack.enter_context(guard.turn())
        yield


def token_of(path: str) -> str:
    """The token of who writes there; empty if nobody guards it."""
    return next((own.token for own in _guards if own.covers(path)), "")


class Paths(PathManager):
    """iopath's manager, patient with stores: a call behind a scheme that fails is made again, a few times, ever later. What
    changes something asks the guards first.

    What is not there or not allowed stays so and is an error at once. Ours, because iopath has no retries.
    """

    def open(self, path: str, mode: str = "r", buffering: int = -1, **_: Any) -> IO[Any]:
        """Open a file."""
        with turn(path) if set(mode) & set("wax+") else nullcontext():
            return cast(IO[Any], patiently(path, lambda: super(Paths, self).open(path, mode, buffering)))

    def exists(self, path: str, **_: Any) -> bool:
        """Whether there is something."""
        return bool(patiently(path, lambda: super(Paths, self).exists(path)))

    def isdir(self, path: str, **_: Any) -> bool:
        """Whether it is a folder."""
        return bool(patiently(path, lambda: super(Paths, self).isdir(path)))

    def ls(self, path: str, **_: Any) -> list[str]:
        """The names in a folder."""
        return cast(list[str], patiently(path, lambda: super(Paths, self).ls(path)))

    def mkdirs(self, path: str, **_: Any) -> None:
        """Make a folder and those above it."""
        with turn(path):
            missing = _missing(path)
            patiently(path, lambda: super(Paths, self).mkdirs(path))
            for folder in missing:  # else a power cut could leave a ledger that speaks of a checkpoint whose folder is gone
                _keep_names(os.path.dirname(folder) or ".")

    def copy(self, src_path: str, dst_path: str, overwrite: bool = False, **_: Any) -> bool:
        """Copy a file inside a store."""
        with turn(dst_path):
            return bool(patiently(src_path, lambda: super(Paths, self).copy(src_path, dst_path, overwrite)))

    def rm(self, path: str, **_: Any) -> None:
        """Remove a file."""
        with turn(path):
            patiently(path, lambda: super(Paths, self).rm(path))


def _missing(path: str) -> list[str]:
    """The folders on disk that have to be made for this one."""
    folder, missing = "" if "://" in path else path.rstrip("/"), list[str]()
    while folder and not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    return missing


def patiently(path: str, call: Callable[[], T]) -> T:
    """What `call` returns; behind a scheme it is tried TRIES times."""
    for again in range(TRIES if "://" in path else 1, 0, -1):
        try:
            return call()
        except (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError):
            raise
        except OSError:
            if again == 1:
                raise
            time.sleep(WAIT * 2 ** (TRIES - again))
    raise AssertionError("the last try returns or raises")


def _paths() -> Paths:
    manager = Paths()
    manager.set_logging(False)
    manager.register_handler(ArrowHandler())
    return manager


PATHS = _paths()
"""Opens configs, schemas and run folders. A company's own store: `PATHS.register_handler(TheirHandler())`."""


def write_whole(path: str, content: str | bytes, *, private: bool = False) -> None:
    """Write a file so that a reader sees the old one or the new one, never a half.

    On disk: a temporary file, then a rename; with `private` nobody else may read it. Behind a scheme the store puts the object
    whole when it is closed.
    """
    mode, path = "w" if isinstance(content, str) else "wb", plain(path)
    if "://" in path:
        with naming(path):
            patiently(path, lambda: _put(path, mode, content))
        return
    token = token_of(path)
    temporary = f"{path}.{token}.tmp" if token else f"{path}.tmp"
    try:
        with naming(path):
            with PATHS.open(temporary, mode) as stream:
                if private:
                    os.fchmod(stream.fileno(), 0o600)
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.remove(temporary)
        raise


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Errors of the system have a file's name: those of writing to an open file, such as that the disk is full, have none."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None or path in str(error):
            raise
        raise OSError(error.errno, error.strerror, path) from error


def replace(old: str, new: str) -> None:
    """Give a file on disk another name, instead of the file that has it now; after a power cut it has the one or the other."""
    with turn(new):
        os.replace(old, new)
        for folder in {os.path.dirname(own) or "." for own in (new, old)}:
            _keep_names(folder)


def _keep_names(folder: str) -> None:
    """Have the disk keep the names in a folder, which it may write later than a file's content."""
    with suppress(OSError):  # some network file systems cannot
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _put(path: str, mode: str, content: str | bytes) -> None:
    with PATHS.open(path, mode) as stream:
        stream.write(content)


def list_folder(path: str) -> list[str]:
    """The names in a folder; a folder that is not there is empty. iopath's stores answer with names or with full keys."""
    try:
        entries = PATHS.ls(f"{path}/")
    except FileNotFoundError:
        return []
    inside = [entry for entry in entries if not f"{path}/".endswith(f"/{entry}")]
    return [entry.rstrip("/").rsplit("/", 1)[-1] for entry in inside]


def is_ignored(name: str) -> bool:
    """Whether a name, or a folder it is in, is one that Spark, Hive and Hadoop write next to the data: `_SUCCESS`,
    `_temporary/`, `.part-0.parquet.crc`, `part-0.parquet.crc`. Nothing else in a folder of data is passed over."""
    return name.endswith(".crc") or any(part.startswith(("_", ".")) for part in name.split("/"))


def list_data(folder: str) -> dict[str, int]:
    """What `list_files` finds, without what is ignored."""
    return {name: size for name, size in list_files(folder).items() if not is_ignored(name)}


def list_files(folder: str) -> dict[str, int]:
    """[bytes] of all that is in a folder and below it, by its name there and in the order of the names.

    -1: it is there and no file that can be opened: a link whose target is gone, a link to a folder around it, a pipe.

    Raises:
        GenctrError: a folder cannot be listed. OSError: the store does not answer.
    """
    files, inner = filesystem(folder)
    if isinstance(files, pyarrow.fs.LocalFileSystem):
        try:
            found = dict(_walk(inner, "", ()))
        except OSError as error:
            raise GenctrError(f"cannot list {error.filename}: {error.strerror}\n  next: make the folder readable") from error
    else:
        infos = files.get_file_info(pyarrow.fs.FileSelector(inner, recursive=True))
        there = {info.path[len(inner) :].strip("/"): info for info in infos if info.type != pyarrow.fs.FileType.Directory}
        found = {name: -1 if info.size is None else info.size for name, info in there.items()}
    return dict(sorted(found.items()))


def _walk(folder: str, inside: str, above: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Name and size. Not Arrow's own listing, which leaves out links without a target, and follows one to a folder above it."""
    above = (*above, os.path.realpath(folder))
    with os.scandir(folder) as entries:
        for entry in entries:
            name = inside + entry.name
            if not is_utf8(name):  # Arrow cannot be given it
                yield name, -1
                continue
            try:
                status = entry.stat()
            except OSError:
                yield name, -1
                continue
            loop = entry.is_symlink() and os.path.realpath(entry.path) in above
            if stat.S_ISDIR(status.st_mode) and not loop:
                if not is_ignored(name):
                    yield from _walk(entry.path, f"{name}/", above)
            else:
                yield name, status.st_size if stat.S_ISREG(status.st_mode) else -1


def is_utf8(name: str) -> bool:
    """Whether a name of a file on disk is text: Python has surrogates for other bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def cannot_open(path: str) -> BadInput:
    """The error for what `list_data` lists without a size."""
    return BadInput(
        "it is listed and cannot be opened: a link whose target is not there, a link to a folder around it, not a file, or its "
        "name is not UTF-8",
        file=path,
        expected="a file",
        hint="bring its target back, or delete it; data.bad_files: quarantine trains without it",
    )


def file_bytes(path: str) -> int:
    """[bytes] of a file. iopath has no such call, but every file can be asked for its end."""
    with PATHS.open(path, "rb") as file:
        file.seek(0, io.SEEK_END)
        return file.tell()


def modified(path: str) -> datetime | None:
    """When a file was last written; None where the store does not say."""
    try:
        files, inner = filesystem(path)
        time: datetime | None = files.get_file_info(inner).mtime
    except (OSError, GenctrError):  # a company's own store
        return None
    return time


def remove_folder(path: str) -> None:
    """Remove a folder of files. iopath has no such call: on disk shutil's, else file by file."""
    if "://" not in path:
        with turn(path):
            shutil.rmtree(path)
        return
    for name in list_folder(path):
        PATHS.rm(f"{path}/{name}")
    with suppress(OSError, GenctrError):  # many stores keep an object for the folder itself; a company's own may not
        files, inner = filesystem(path)
        files.delete_dir(inner)
