"""What `genctr inspect` suggests for counts and floats, buckets, against the same numbers scaled, on KuaiRand-Pure.

    python benchmarks/transforms.py --seeds 3

The suggested schema as it is, and with `transform: log1p` for each number that has more values than buckets; twelve days
trained in order, scored on the last. Decoders fm and dcnv2, vectors of 8 numbers, nothing tuned.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import yaml
from grid import DATA, ROOT, Cell, paired, run_grid, spread

sys.path.insert(0, str(ROOT))

from data.inspection.inspect import inspect
from data.inspection.schema_suggestion import BUCKETS

DECODERS = {"fm": "{}", "dcnv2": "{layers: 2, hidden: [64, 32]}"}
ARMS = ("log1p", "buckets")


def keep(events: list[dict]) -> dict:
    """Scores of the test day."""
    tested = [event for event in events if event["event"] == "tested"][-1]["metrics"]["is_click"]
    return {key: tested[key] for key in ("auc", "logloss", "gauc")}


def write_run(folder: Path, log: str) -> tuple[Path, list[str]]:
    """A run file with the suggested schema, and the names of its numbers."""
    found = inspect(log, sample_rows=200_000)
    schema = yaml.safe_load(found.schema_yaml())
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema))
    days = [day.name for day in found.days]
    data = {"root": log, "layout": found.layout, "days": days[:-2], "test": days[-1:], **found.reading}
    train = {"global_batch_rows": 1024, "device": "cpu", "dense": {"lr": 0.002}}
    run = {"name": "transforms", "schema": "schema.yaml", "data": data, "model": {"dim": 8}, "train": train}
    run["tables"] = {"optimizer": "rowwise_adagrad", "lr": 0.05}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return folder / "run.yaml", [own["name"] for own in schema["fields"] if own.get("buckets") == BUCKETS]


def main() -> None:
    """Run what is missing, and print both arms of each decoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "transforms.jsonl")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config, numbers = write_run(Path(folder), str(DATA / "kuairand"))
        scaled = [f"schema.fields.{name}.{to}" for name in numbers for to in ("transform=log1p", "buckets=null")]
        cells = [
            Cell(f"{decoder} {arm}", 2026 + seed, (*own, *(scaled if arm == "log1p" else ())))
            for decoder, options in DECODERS.items()
            for own in [(f"model.decoder={decoder}", f"model.decoder_options={options}")]
            for arm in ARMS
            for seed in range(arguments.seeds)
        ]
        lines = run_grid(str(config), cells, results=arguments.results, jobs=arguments.jobs, keep=keep)
    print("\n| numbers | seeds | AUC | to log1p | logloss | GAUC |\n|---|---|---|---|---|---|")
    for decoder in DECODERS:
        rows = {arm: {own["seed"]: own for own in lines if own["name"] == f"{decoder} {arm}"} for arm in ARMS}
        for arm in ARMS:
            figures = {key: spread([own[key] for own in rows[arm].values()]) for key in ("auc", "logloss", "gauc")}
            gain = paired(rows[arm], rows["log1p"], "auc") if arm != "log1p" else "-"
            print(
                f"| {decoder} {arm} | {len(rows[arm])} | {figures['auc']} | {gain} | {figures['logloss']} | {figures['gauc']} |"
            )


if __name__ == "__main__":
    main()
