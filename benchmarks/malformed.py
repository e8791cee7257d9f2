"""Malformed files: is each reported, or read right, and never silently less?  python benchmarks/malformed.py

Thirty damaged Parquet files and thirty odd CSV files, each a day of 200 known rows. A file that is read must give these rows,
all of them; any other must be refused with its name.
"""

import gzip
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.days import Days
from data.errors import GenctrError
from data.readers import CsvReader, ParquetReader
from data.schema import Schema

ROWS = 200
TABLE = pa.table(
    {"y": [n % 2 for n in range(ROWS)], "u": [f"user {n}" for n in range(ROWS)], "x": [n + 0.5 for n in range(ROWS)]}
)
FIELDS = [{"name": "u", "kind": "id"}, {"name": "x", "kind": "number"}]
SCHEMA = Schema.model_validate({"name": "log", "label": {"column": "y"}, "fields": FIELDS})
HEAD, LINES = "y,u,x", [f"{n % 2},user {n},{n + 0.5}" for n in range(ROWS)]


def parquet(folder: Path) -> dict[str, bytes]:
    pq.write_table(TABLE, folder / "whole", row_group_size=50, write_page_checksum=True)
    whole = (folder / "whole").read_bytes()
    size = len(whole)

    def flipped(at: int) -> bytes:
        return whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]

    def zeroed(at: int) -> bytes:
        return whole[:at] + bytes(min(64, size - at)) + whole[at + 64 :]

    first = pq.read_metadata(folder / "whole").row_group(0).column(1)
    pages = first.dictionary_page_offset, first.data_page_offset
    cases = {f"cut to {part} %": whole[: size * part // 100] for part in (0, 1, 10, 25, 50, 75, 90, 99)}
    cases |= {f"a bit at {part} %": flipped(size * part // 100) for part in (0, 5, 15, 30, 45, 60, 75)}
    cases |= {f"zeros at {part} %": zeroed(size * part // 100) for part in (0, 20, 40, 60, 80, 98)}
    cases |= {"a bit of a dictionary": flipped(pages[0] + 40), "a bit of a page": flipped(pages[1] + 30)}
    cases |= {"footer length": whole[:-8] + b"\xff\xff\xff\x7f" + whole[-4:], "no magic": whole[:-4] + b"1RAP"}
    cases |= {"encrypted magic": whole[:-4] + b"PARE", "garbage behind": whole + b"garbage", "twice": whole + whole[4:]}
    cases |= {"text": "\n".join(LINES).encode(), "gzip": gzip.compress(whole)}
    return cases


def csv(folder: Path) -> dict[str, bytes]:
    text = "\n".join([HEAD, *LINES]) + "\n"

    def line(at: int, instead: str) -> bytes:
        return "\n".join([HEAD, *LINES[:at], instead, *LINES[at + 1 :]]).encode() + b"\n"

    good = LINES[100]
    cases = {name: line(100, instead) for name, instead in {
        "a quote opens": '0,"user 100,100.5', "two quotes open": '0,"user 100,"100.5', "a quote inside": '0,user" 100,100.5',
        "a column more": good + ",7", "a column less": "0,user 100", "one value": "0", "a header again": HEAD,
        "text for a number": "0,user 100,abc", "a number of another land": '0,user 100,"100,5"',
        "semicolons": good.replace(",", ";"),
        "tabs": good.replace(",", "\t"), "an empty number": "0,user 100,", "a label of text": "yes,user 100,100.5",
        "a quoted line break": '0,"user\n100",100.5', "spaces": "   ",
    }.items()}  # fmt: skip
    cases |= {
        "nul": text.replace("user 7,", "user\0 7,").encode(),
        "latin 1": text.replace("user 7,", "üser 7,").encode("latin-1"),
    }
    cases |= {
        "utf-16": text.encode("utf-16"),
        "byte order mark": text.encode("utf-8-sig"),
        "cr lf": text.replace("\n", "\r\n").encode(),
    }
    cases |= {
        "cr": text.replace("\n", "\r").encode(),
        "no last line break": text[:-1].encode(),
        "blank lines": text.replace("\n", "\n\n").encode(),
    }
    cases |= {
        "cut in a line": text.encode()[:-9],
        "empty": b"",
        "header only": f"{HEAD}\n".encode(),
        "no header": text[len(HEAD) + 1 :].encode(),
    }
    cases |= {"a column twice": text.replace(HEAD, "y,u,u").encode(), "gzip cut short": gzip.compress(text.encode())[:-20]}
    cases |= {"binary": bytes(range(256)) * 8}
    return cases


def outcome(reader: ParquetReader | CsvReader, folder: Path, name: str, content: bytes) -> str:
    """right, reported, or what went wrong."""
    day = folder / "day=2026-11-01"
    day.mkdir(parents=True)
    (day / name).write_bytes(content)
    try:
        opened = Days(str(folder), reader=reader, success=None).open(
            "2026-11-01", TABLE.column_names, accept=SCHEMA.check, check="full"
        )
        (file,) = opened.files
        rows: list[dict] = []
        for unit in range(len(file.units)):
            with closing(reader.read(file.path, unit, TABLE.column_names, 0)) as batches:
                rows += [row for batch in batches for row in batch.select(TABLE.column_names).to_pylist()]
    except GenctrError as error:
        return "reported" if name in str(error) or "is empty" in str(error) else f"reported without its name: {error}"
    except Exception as error:  # noqa: BLE001 - a traceback is what is looked for
        return f"TRACEBACK {type(error).__name__}: {error}"
    if len(rows) != ROWS:
        return f"SILENT: {len(rows)} rows"
    wrong = [(row, known) for row, known in zip(rows, TABLE.to_pylist(), strict=True) if row != known]
    return "right" if not wrong else f"read as written: {len(wrong)} rows, such as {wrong[0][0]}"


def main() -> None:
    kinds: dict[str, tuple[Callable[[Path], dict[str, bytes]], ParquetReader | CsvReader, str]] = {
        "Parquet": (parquet, ParquetReader(), "p.parquet"),
        "CSV": (csv, CsvReader(), "p.csv"),
    }
    for kind, (make, reader, name) in kinds.items():
        with tempfile.TemporaryDirectory() as folder:
            cases = make(Path(folder))
            found = {}
            for number, (case, content) in enumerate(cases.items()):
                own = f"{name}.gz" if case.startswith("gzip cut") else name
                found[case] = outcome(reader, Path(folder) / str(number), own, content)
        for case, said in found.items():
            print(f"{kind:8} {case:26} {said[:90]}")
        counts = {
            word: sum(said.startswith(word) for said in found.values()) for word in ("reported", "right", "read as written")
        }
        rest = len(found) - sum(counts.values())
        told = ", ".join(f"{count} {word}" for word, count in counts.items())
        print(f"{kind}: {len(found)} files: {told}, {rest} silent or crashed")


if __name__ == "__main__":
    main()
