"""The reader of a log gives a column the type that the run began with.

Run: pytest tests/pipeline/builders/test_days.py
"""

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.builders.days import build_days, build_reader
from pipeline.config.data import DataConfig


@pytest.mark.parametrize(("strings", "kind"), [((), pa.int64()), (("code",), pa.string())])
def test_a_column_that_began_with_strings_is_strings_on_a_day_of_digits(
    tmp_path: Path, strings: tuple[str, ...], kind: pa.DataType
) -> None:
    (tmp_path / "day=2026-11-01").mkdir()
    (tmp_path / "day=2026-11-01" / "a.csv").write_text("code\n12\n")
    config = DataConfig.model_validate({"root": str(tmp_path), "days": "2026-11-01", "reader": "csv", "success_file": None})

    assert build_days(config, strings).open("2026-11-01", ["code"]).schema.field("code").type == kind


def test_a_reader_whose_files_have_types_needs_none() -> None:
    assert type(build_reader("parquet", {}, {"code"})) is type(build_reader("parquet", {}))
