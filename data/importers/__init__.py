"""Turn the original files of public logs into day folders: one class a set, each reading its files as a stream.

avazu.py      Avazu's click log (Kaggle's train.csv, plain or gzipped), cut into days by its hour column.
criteo.py     Criteo's click logs: Kaggle's train.txt and the 1TB log's day_0 … day_23, tab-separated, plain or gzipped.
frappe.py     Frappe in libFM format, as the published benchmarks split it: train, validation and test.
kuairand.py   KuaiRand-Pure's standard log (kuairand.com), joined with its user and video tables and cut into days by date.
movielens.py  MovieLens (grouplens.org): ml-100k and ml-1m, ratings joined with users and movies and ordered by time.
raw.py        The files of a public set as they were published: read as a stream, every mistake reported with its line.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.fs

from data.days import write_day
from data.errors import GenctrError
from data.importers.avazu import Avazu
from data.importers.criteo import Criteo
from data.importers.frappe import Frappe
from data.importers.kuairand import KuaiRand
from data.importers.movielens import MovieLens
from data.importers.raw import RawFile
from data.paths import PATHS, below, filesystem, write_whole
from data.yaml_document import nearest


class Importer(Protocol):
    """What a public set must offer. The constructor takes the source and the set's own options, by name."""

    files: list[RawFile]

    def days(self, scratch: Path) -> Iterator[tuple[str, Iterator[pa.Table]]]:
        """Every day's name and rows, one table a file. A day is used up before the next is asked for.

        Args:
            scratch: an empty folder on disk, removed afterwards.
        """


IMPORTERS: Mapping[str, type[Importer]] = MappingProxyType(
    {
        "avazu": Avazu,
        "criteo": Criteo,
        "frappe": Frappe,
        "kuairand": KuaiRand,
        "movielens": MovieLens,
    }
)


@dataclass(frozen=True)
class ImportReport:
    """What an import wrote.

    Args:
        days: [rows] of every day, in the order of the days.
        rows: [rows] in all.
    """

    days: dict[str, int]
    rows: int


def run_import(name: str, source: str, out: str, options: Mapping[str, Any] = MappingProxyType({})) -> ImportReport:
    """Write a public set as `day=…` folders with `_SUCCESS`, and `import.json`, which comes last and says where it is from.

    A failed import removes the days it wrote; a killed one leaves whole days without `import.json`.

    Args:
        name: a key of `IMPORTERS`.
        source: the original file, or the folder it was unpacked to; local.
        out: an empty or new folder, local or in an object store.
        options: the importer's own, such as {"days": 7}.

    Raises:
        GenctrError: no such importer or option; `out` has something in it.
        BadInput: a source file is not as it was published; names the file and the line.
    """
    importer = _build(name, source, options)
    files, inner = filesystem(out)
    if files.get_file_info(pyarrow.fs.FileSelector(inner, allow_not_found=True)):
        raise GenctrError(
            f"{out} is not empty{'' if PATHS.exists(below(out, 'import.json')) else ', and not a finished import'}"
            "\n  next: name a new folder, or delete this one"
        )
    files.create_dir(inner, recursive=True)
    # Beside the result, where there is room for it: /tmp may be small, or memory.
    beside = inner if isinstance(files, pyarrow.fs.LocalFileSystem) else None
    days: dict[str, int] = {}
    try:
        with tempfile.TemporaryDirectory(prefix=".scratch-", dir=beside) as scratch:
            for day, tables in importer.days(Path(scratch)):
                days[day] = 0
                write_day(below(out, f"day={day}"), _counted(tables, days, day))
        report = ImportReport(dict(sorted(days.items())), sum(days.values()))
        write_whole(below(out, "import.json"), json.dumps(_provenance(name, options, importer, report), indent=1) + "\n")
    except BaseException:
        for day in days:
            if files.get_file_info(f"{inner}/day={day}").type == pyarrow.fs.FileType.Directory:
                files.delete_dir(f"{inner}/day={day}")
        raise
    return report


def _build(name: str, source: str, options: Mapping[str, Any]) -> Importer:
    if name not in IMPORTERS:
        raise GenctrError(f"no importer {name!r}; {nearest(name, list(IMPORTERS))}")
    own = [parameter for parameter in signature(IMPORTERS[name]).parameters if parameter != "source"]
    for option in options:
        if option not in own:
            raise GenctrError(f"import {name}: no option {option!r}; {nearest(option, own)}")
    return IMPORTERS[name](source, **options)  # type: ignore[call-arg]  # each importer's own constructor


def _counted(tables: Iterator[pa.Table], days: dict[str, int], day: str) -> Iterator[pa.Table]:
    for table in tables:
        days[day] += table.num_rows
        yield table


def _provenance(name: str, options: Mapping[str, Any], importer: Importer, report: ImportReport) -> dict[str, Any]:
    return {
        "importer": name,
        "options": dict(options),
        "rows": report.rows,
        "days": report.days,
        "source": [file.record() for file in importer.files],
    }
