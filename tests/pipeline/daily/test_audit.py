"""What `genctr verify` says without reading a row; the rest is in tests/integration."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.daily.audit import verify
from pipeline.daily.ledger import Ledger

DAY = "2026-11-01"


@pytest.mark.parametrize("files", [{}, {"a": {"rows": 3, "hash": 5, "skipped": 0, "size": 9}}])
def test_rows_hashed_in_another_format_are_told_as_that_and_not_as_other_content(tmp_path: Path, files: dict[str, Any]) -> None:
    ledger, said = Ledger(str(tmp_path)), []
    trained = {"day": DAY, "step": 3, "rows": 3, "files": files, "quarantined": {}, "schema": "s", "row_hash": "0"}
    ledger.append("trained", trained)
    source = SimpleNamespace(days=SimpleNamespace(list=lambda: [DAY]))

    proof = verify(lambda schema, bad_files: source, ledger, {"step": 3}, str(tmp_path), say=said.append)

    told = "its rows were hashed in format 0, and this version has format 1: verify it with the version before"
    assert (proof.days, proof.wrong, said) == (0, [told], [f"{DAY}: {told}"])
