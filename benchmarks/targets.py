"""Four targets of KuaiRand: a model for each, or one for all: shared features, towers, experts, and a loss over the history.

    python benchmarks/targets.py --seeds 3

Trained once over eleven days, tested on the three after: is_click, long_view of clicked rows, is_like and is_profile_enter (88,
62, 3.4 and 3.7 thousand positives in twelve days; the other actions are too rare to compare). No setting was tuned. Differences
are to `one each`, seed by seed, with a 95 % interval of Student's t.
"""

import argparse
from pathlib import Path

from grid import DATA, ROOT, Cell, paired, run_grid, spread

TARGETS = ("is_click", "long_view", "is_like", "is_profile_enter")
SCHEMA = ROOT / "benchmarks" / "configs" / "kuairand_targets.schema.yaml"
COMMON = (
    f"schema={SCHEMA}",
    f"data.root={DATA / 'kuairand-history'}",
    "data.days=2022-04-25..2022-05-05",
    "data.validation=[]",
    "data.test=2022-05-06..2022-05-08",
    "train.progressive_validation=false",
    "checkpoint.asynchronous=false",
    "model.sequences={history: {encoder: transact, join: [], options: {actions: 8}}, history_author: {encoder: mean}}",
)
NEXT = "model.next_action={sequence: history, actions: 8, weight: 0.1}"
ALONE = {f"{target} alone": (f"model.losses=[{{name: bce, targets: [{target}]}}]",) for target in TARGETS}
ARMS = {
    "shared": (),
    "towers": ("model.head=towers", "model.head_options={hidden: [64]}"),
    "mmoe": ("model.head=mmoe", "model.head_options={experts: 4, expert_hidden: [64], hidden: [32]}"),
    "ple": ("model.head=ple", "model.head_options={expert_hidden: [64], hidden: [32]}"),
    "towers, next action": ("model.head=towers", "model.head_options={hidden: [64]}", NEXT),
}


def aucs(events: list[dict]) -> dict[str, float]:
    """The test AUC of every target."""
    tested = next(event["metrics"] for event in reversed(events) if event["event"] == "tested")
    return {target: tested[target]["auc"] for target in TARGETS}


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "targets.jsonl")
    arguments = parser.parse_args()
    seeds = range(2026, 2026 + arguments.seeds)
    cells = [Cell(name, seed, (*COMMON, *own)) for seed in seeds for name, own in (ALONE | ARMS).items()]
    lines = run_grid(
        "benchmarks/configs/kuairand_history.yaml", cells, results=arguments.results, jobs=arguments.jobs, keep=aucs
    )
    rows = {name: {line["seed"]: line for line in lines if line["name"] == name} for name in ALONE | ARMS}
    each = {
        seed: {target: rows[f"{target} alone"][seed][target] for target in TARGETS}
        for seed in seeds
        if all(seed in rows[f"{target} alone"] for target in TARGETS)
    }
    print("\n| model | " + " | ".join(TARGETS) + " |\n" + "|---" * (1 + len(TARGETS)) + "|")
    print("| one each | " + " | ".join(spread([own[target] for own in each.values()]) for target in TARGETS) + " |")
    for name in ARMS:
        print(f"| {name} | " + " | ".join(paired(rows[name], each, target) for target in TARGETS) + " |")


if __name__ == "__main__":
    main()
