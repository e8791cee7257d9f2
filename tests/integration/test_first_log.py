"""A first log as people have them: what `genctr inspect` suggests trains every night, is proven, and scores.

Run: pytest -m slow tests/integration/test_first_log.py
"""

import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from data.inspection.inspect import inspect
from tests.tiny import genctr

DAYS = ("20261101", "20261102", "20261103")
IDS = 2**63
"""From here on integers are beyond 64 bits with a sign."""


def write_log(folder: Path) -> None:
    """CSV with semicolons, hours in folders, lists in strings, a flag that follows a click, ids beyond 2^63."""
    draws = random.Random(1)
    for day in DAYS:
        for hour in ("00", "01"):
            lines = ["click;user;genres;price;is_conv;created;device"]
            for second in range(150):
                genres = "|".join(draws.sample(["drama", "crime", "sci-fi"], draws.choice([1, 2, 3])))
                flags = int(draws.random() < 0.3), draws.randrange(2)
                price, device = draws.lognormvariate(0, 2), IDS + draws.randrange(30)
                row = (flags[0], draws.randrange(40), genres, f"{price:.2f}", flags[1], 1_790_000_000 + second, device)
                lines.append(";".join(map(str, row)))
            (folder / f"dt={day}" / f"hour={hour}").mkdir(parents=True)
            (folder / f"dt={day}" / f"hour={hour}" / "part.csv").write_text("\n".join(lines) + "\n")
        (folder / f"dt={day}" / "_SUCCESS").touch()


@pytest.mark.slow
def test_what_inspect_suggests_trains_is_proven_and_scores(tmp_path: Path) -> None:
    write_log(tmp_path / "log")
    assert genctr("inspect", tmp_path / "log", "--schema", tmp_path / "schema.yaml").code == 0
    found = inspect(str(tmp_path / "log"))
    run = {
        "name": "first",
        "schema": "schema.yaml",
        "data": {"root": str(tmp_path / "log"), "layout": found.layout, "days": f"{DAYS[0]}..", **found.reading},
        "model": {"decoder": "mlp", "dim": 4, "decoder_options": {"hidden": [8]}},
        "train": {"global_batch_rows": 32, "device": "cpu"},
        "daily": {"gates": {}},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))

    night = genctr("daily", tmp_path / "run.yaml", "--out", tmp_path / "run", "--quiet")
    assert night.code == 0, night.err
    proof = genctr("verify", tmp_path / "run")
    assert "3 days proven, 900 rows" in proof.out, proof.err
    words = ("score", tmp_path / "run" / "published", "--data", tmp_path / "log" / f"dt={DAYS[2]}")
    assert genctr(*words, "--out", tmp_path / "scores", "--keys", "hour,device,genres").code == 0

    schema = yaml.safe_load((tmp_path / "schema.yaml").read_text())
    assert {field["name"]: field["kind"] for field in schema["fields"]} == {
        "user": "id", "genres": "ids", "price": "number", "device": "id", "hour": "id"
    }  # fmt: skip
    for hour in ("00", "01"):
        scores = pq.read_table(tmp_path / "scores" / f"hour={hour}" / "part.csv.scores.parquet", partitioning=None)
        assert set(scores["hour"].to_pylist()) == {hour}
        assert min(scores["device"].to_pylist()) >= IDS
        assert scores["click"].null_count == 0
