"""A small log and a run file that the job tests share."""

from pathlib import Path

import pytest
import yaml

from data.synthetic import write


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days of prime-like sizes, tiny batches, frequent saves, shuffle and prefetch on."""
    folder = tmp_path_factory.mktemp("log")
    write(str(folder / "log"), days=3, rows=701, seed=5)
    run = yaml.safe_load(Path("launch/configs/demo.yaml").read_text())
    run["schema"] = str(Path("launch/configs/demo.schema.yaml").resolve())
    run["data"] |= {
        "root": str(folder / "log"),
        "days": "2026-11-01..2026-11-03",
        "shuffle_buffer_rows": 512,
        "prefetch_batches": 2,
    }
    run["train"] |= {"global_batch_rows": 32, "ranks": 1, "log_every_steps": 3}
    run["checkpoint"] = {"every_steps": 5, "keep_last": 2}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    return path
