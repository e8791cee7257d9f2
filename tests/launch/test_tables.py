"""Names and values of a log are anybody's: nothing of them commands a terminal.

Run: pytest tests/launch/test_tables.py
"""

import io
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from data.errors import FILLERS, LONGEST, UNSEEN, BadInput
from data.inspection.inspect import inspect
from data.schema import Schema
from data.yaml_document import read_document
from launch.status import show
from launch.tables import print_table, table
from launch.terminal import Visible
from pipeline.daily.ledger import DayRecord, History
from pipeline.run_folder.progress import Progress
from tests.tiny import ROOT

HOSTILE = {
    "colour": "\x1b[31mred",
    "title": "\x1b]0;owned\x07",
    "clear": "\x1b[2J\x1b[H",
    "c1": "\x9b31mred",
    "carriage return": "published\rheld     ",
    "backspace": "held\b\b\b\bgood",
    "bell": "\a",
    "nul": "a\0b",
    "delete": "a\x7fb",
    "right to left": "\u202egpj.exe",
    "isolate": "\u2066x\u2069",
    "zero width": "user\u200b_id",
    "byte order": "\ufeffuser",
    "line separator": "a\u2028genctr: fine",
    "surrogate": "a\udcffb",
    "form feed": "a\fb",
    "link": "\x1b]8;;http://evil.example\x1b\\day\x1b]8;;\x1b\\",
    "tags": "user\U000e0041\U000e0042",
    "soft hyphen": "us\u00ader_id",
    "fillers": "user\u3164\u2800_id",
}
"""Twenty kinds."""


def is_clean(text: str) -> bool:
    return not any(unicodedata.category(letter) in UNSEEN or letter in FILLERS for letter in text.replace("\n", ""))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_shown_as_escapes(text: str) -> None:
    raw = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    stream = Visible(raw)
    stream.write(f"day {text} is done\n")
    stream.writelines([text])
    raw.flush()
    shown = raw.buffer.getvalue().decode()  # type: ignore[attr-defined]

    assert is_clean(shown)
    assert shown.startswith("day ")
    assert "\\x" in shown or "\\u" in shown.lower() or "\\r" in shown


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_cells_and_headings_are_shown_as_escapes(text: str) -> None:
    out = io.StringIO()
    Console(file=out, width=200).print(table([f"{text}>", "[bold]b[/bold]"], [[text, "[red]not a colour[/red]"]]))

    assert is_clean(out.getvalue())
    assert "[red]not a colour[/red]" in out.getvalue()


def test_there_are_as_many_kinds_as_the_page_says() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()

    assert f"| {len(HOSTILE)} kinds (" in page


def test_a_line_break_in_a_cell_draws_no_row() -> None:
    out = io.StringIO()
    Console(file=out, width=200).print(table(["day\nx", "state"], [["a\n│ 2026-11-03 │ published │", "held"]]))

    assert len(out.getvalue().splitlines()) == 5, "three lines of the frame, the headings and a row"
    assert "a\\n│" in out.getvalue()


def test_a_day_called_like_lines_of_status_stays_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    judged = {"answers": [], "publish": False, "bundle": "b"}
    show(History({"d": DayRecord("d\n  yes auc", judged=judged)}), [], gates=True)

    assert not any(line.startswith("  yes") for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("name", [*HOSTILE.values(), "x\nlabel: {column: evil}"], ids=[*HOSTILE, "line break"])
def test_no_name_of_a_column_adds_a_line_to_a_report_or_a_schema(name: str, tmp_path: Path) -> None:
    name = name.encode("utf-8", "replace").decode()  # Parquet holds no lone surrogates
    columns = {"click": [0, 1], "user": [1, 2], name: ["a", "b"], f"{name}_at": pa.array([1, 2], pa.timestamp("s"))}
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    report = inspect(str(tmp_path / "log.parquet"))
    (tmp_path / "schema.yaml").write_text(report.schema_yaml())

    assert is_clean(report.text())
    assert is_clean(report.schema_yaml())
    schema = read_document(str(tmp_path / "schema.yaml"), Schema)
    assert {own.column for own in schema.fields} | {schema.targets[0].column} >= {"click", "user", name}
    assert len(report.text().splitlines()) == 10


def test_a_name_that_nobody_can_read_to_its_end_is_shortened() -> None:
    error, out = BadInput("a bad row", file="log", column="x" * 100_000), io.StringIO()
    Console(file=out, width=200).print(table(["day"], [["y" * 100_000]]))

    assert len(str(error)) < 2 * LONGEST
    assert "99,000 more" in str(error)
    assert len(out.getvalue()) < 4 * LONGEST
    path = "s3://" + "/".join(["folder"] * 140)
    assert path in str(BadInput("a bad row", file=path)), "a path is there to be copied"


def test_a_file_called_like_a_message_stays_in_its_line() -> None:
    error = BadInput("a bad row", file="a\ngenctr: all is well\x1b[0m")

    assert str(error).splitlines() == ["a bad row", "  where: file a\\ngenctr: all is well\\x1b[0m"]


def test_a_day_called_like_a_command_does_not_command_the_progress_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(2, "train \x1b[2J", shown=True, plain=True) as progress:
        progress.advance(2, "loss \x1b[31m")

    assert is_clean(capsys.readouterr().err)


def test_letters_that_a_stream_has_not_are_escaped() -> None:
    raw = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Visible(raw).write("周一\n")
    raw.flush()

    assert raw.buffer.getvalue() == b"\\u5468\\u4e00\n"  # type: ignore[attr-defined]


def test_letters_of_any_language_stay() -> None:
    out = io.StringIO()
    Visible(out).write("2026周一 ä é 🙂\n")

    assert out.getvalue() == "2026周一 ä é 🙂\n"


def test_keys_are_whole_in_every_part_of_a_table_on_a_narrow_terminal() -> None:
    out = io.StringIO()
    days = ["2026-11-01", "2026-11-02+1"]
    headings = ["day", "of", *(f"metric_{at}>" for at in range(9))]
    lines = [[day, "long_view_after_click", *(f"{at}.{at}{at}{at}{at}" for at in range(9))] for day in days]
    print_table(headings, lines, keys=2, here=Console(file=out, width=80))
    shown = out.getvalue().splitlines()

    assert max(map(len, shown)) <= 80
    parts = out.getvalue().count("┏")
    assert parts > 1
    for word in (*days, "long_view_after_click"):
        assert sum(word in line for line in shown) == parts * (1 if word in days else 2)
    for at in range(9):
        assert sum(f"{at}.{at}{at}{at}{at}" in line for line in shown) == 2
        assert sum(f"metric_{at}" in line for line in shown) == 1


def test_a_column_that_is_too_wide_is_folded_and_its_keys_are_not() -> None:
    out = io.StringIO()
    print_table(["day", "why"], [["2026-11-01", "x" * 100]], here=Console(file=out, width=60))

    assert "2026-11-01" in out.getvalue()
    assert out.getvalue().count("x") == 100


def test_a_table_that_fits_is_one() -> None:
    out = io.StringIO()
    print_table(["day", "state"], [["2026-11-01", "held"]], here=Console(file=out, width=80))

    assert out.getvalue().count("┏") == 1
