"""One piece of a checkpoint's file: what `torch.save` wrote of a tensor or a value, and whether it is still that.

The archive is a ZIP file with a CRC-32 for each record, stored when it was written. torch does not check it when it loads
(its ZIP reader is built without), so it is checked here: the small records as they are, the numbers as they were loaded.
"""

import io
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 2**20
"""[bytes] of an archive that is read at once: a store is asked once, not six times."""


class Place(Protocol):
    """Where in a file an archive lies, as DCP's metadata has it."""

    @property
    def offset(self) -> int:
        """[bytes] before it."""
        ...

    @property
    def length(self) -> int:
        """[bytes] of it."""
        ...


class Altered(ValueError):
    """An archive that does not hold what was written."""


class _View(io.RawIOBase):
    """Some bytes of an open file as a file of their own. Ours, because DCP's does not count from the end as files do."""

    def __init__(self, file: IO[bytes], info: Place) -> None:
        self._file, self._from, self._length, self._at = file, info.offset, info.length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        if at < 0:
            raise ValueError("a place before the file begins")
        self._at = at
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._from + self._at)
        room = memoryview(buffer)[: max(0, self._length - self._at)]
        count: int = cast(io.RawIOBase, self._file).readinto(room) or 0
        self._at += count
        return count


def view(file: IO[bytes], info: Place) -> IO[bytes]:
    """One archive in an open file, as a file."""
    if info.length > SMALL:
        return cast(IO[bytes], io.BufferedReader(_View(file, info)))
    file.seek(info.offset)
    return io.BytesIO(file.read(info.length))


def stored_crc(archive: IO[bytes]) -> int:
    """The CRC-32 that was stored with a tensor's numbers. Every other record is read, and its own CRC-32 checked.

    Raises:
        Altered: a record is not what was written, or there is no archive.
    """
    try:
        with zipfile.ZipFile(archive) as records:
            found = 0
            for record in records.infolist():
                if record.filename.endswith("/data/0"):
                    found = record.CRC
                else:
                    records.read(record)
            return found
    except OSError:
        raise
    except Exception as error:  # what a damaged ZIP file raises is not listed anywhere
        raise Altered(f"it is not the archive that was written ({_line(error)})") from error


def check_value(archive: IO[bytes]) -> None:
    """Check every record of a plain value's archive.

    Raises:
        Altered: one is not what was written.
    """
    try:
        with zipfile.ZipFile(archive) as records:
            for record in records.infolist():
                records.read(record)
    except OSError:
        raise
    except Exception as error:  # what a damaged ZIP file raises is not listed anywhere
        raise Altered(f"it is not the archive that was written ({_line(error)})") from error


def crc_of(tensor: "Tensor", before: int = 0) -> int:
    """The CRC-32 of a tensor's numbers, going on from that of what came before them. Other threads run meanwhile."""
    import torch  # records are read without it

    return zlib.crc32(memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy()), before)  # type: ignore[arg-type]


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0] or type(error).__name__
