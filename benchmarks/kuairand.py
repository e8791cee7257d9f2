"""KuaiRand-Pure, is_click: 12 days trained in order, each scored before it trains; test AUC of the last day.

    python benchmarks/kuairand.py --seeds 3 --jobs 2

An untuned FM, trained on the same 12 days and tested on the same day, has AUC .737.
"""

import argparse
from pathlib import Path
from statistics import mean

from grid import DATA, Cell, run_grid, spread

PARADIGMS = {"plain": ("model.encoder={kind: none}",), "sfg": ("model.encoder={kind: sfg, residual: true}",)}


def keep(events: list[dict]) -> dict:
    """Test scores and the AUC of every day before it was trained."""
    tested = [event for event in events if event["event"] == "tested"][-1]["metrics"]["is_click"]
    days = {event["day"]: event["metrics"]["is_click"] for event in events if event["event"] == "scored"}
    return {"auc": tested["auc"], "logloss": tested["logloss"], "gauc": tested["gauc"], "days": days}


def main() -> None:
    """Run what is missing; print the test scores and the day-by-day table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "kuairand.jsonl")
    arguments = parser.parse_args()
    place = (f"data.root={DATA / 'kuairand'}", "checkpoint.asynchronous=false", *arguments.overrides)
    grid = [Cell(name, 2026 + seed, (*place, *extra)) for seed in range(arguments.seeds) for name, extra in PARADIGMS.items()]
    lines = run_grid("launch/configs/kuairand.yaml", grid, results=arguments.results, jobs=arguments.jobs, keep=keep)
    print("\n| model | seeds | test AUC | logloss | GAUC |\n|---|---|---|---|---|")
    for name in PARADIGMS:
        rows = [line for line in lines if line["name"] == name]
        figures = [spread([row[key] for row in rows]) for key in ("auc", "logloss", "gauc")]
        print(f"| dcnv2 {name} | {len(rows)} | " + " | ".join(figures) + " |")
    print("\n| day, scored before it trains | " + " | ".join(f"{name} AUC | NE | calibration" for name in PARADIGMS) + " |")
    print("|---" * (1 + 3 * len(PARADIGMS)) + "|")
    for day in lines[0]["days"]:
        figures = []
        for name in PARADIGMS:
            rows = [line["days"][day] for line in lines if line["name"] == name]
            figures += [spread([row["auc"] for row in rows])]
            figures += [f"{mean(row[key] for row in rows):.4f}" for key in ("ne", "calibration")]
        print(f"| {day} | " + " | ".join(figures) + " |")


if __name__ == "__main__":
    main()
