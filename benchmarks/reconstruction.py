"""What pre-training has learnt: the loss of restoring each field on a day it has not seen, against that of its unigrams.

    python benchmarks/reconstruction.py --seeds 5

KuaiRand, two passes over twelve days, the day after is restored (about half of its values hidden, the label too). The reference
is what guessing by how frequent values are costs on the same hidden values and candidates; a field is learnt if its loss is
below. The weight is what the balance gave the field at the end of the training, the mean over all fields being 1.
"""

import argparse
from pathlib import Path
from statistics import mean

from grid import DATA, Cell, paired, read, run_grid, spread

BALANCES = ("uniform", "progress", "literal")
SETTINGS = (
    f"data.root={DATA / 'kuairand'}",
    "data.validation=2022-05-07",
    "data.test=[]",
    "train.progressive_validation=false",
    "checkpoint.asynchronous=false",
    "stages=[{name: pretrain, objective: denoise, train: {epochs: 2}, tables: {init: {kind: normal, scale: 0.05}}}]",
    "model={family: denoiser, dim: 16}",
    "model.hidden=32",
    "model.layers=2",
    "train.dense.lr=0.003",
)


def keep(events: list[dict]) -> dict:
    """Per field the loss and the reference on the day that was not seen, and the last weight in training."""
    seen = [event for event in events if event["event"] == "validated"][-1]["metrics"]
    weights = [event for event in events if event["event"] == "trained"][-1]["metrics"]
    fields = {
        name: {"loss": own["loss"], "reference": own["reference"], "weight": weights[name].get("weight")}
        for name, own in seen.items()
    }
    return {"fields": fields}


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "reconstruction.jsonl")
    arguments = parser.parse_args()
    cells = [
        Cell(balance, 2026 + seed, (*SETTINGS, f"model.balance={balance}"))
        for seed in range(arguments.seeds)
        for balance in BALANCES
    ]
    run_grid("launch/configs/kuairand.yaml", cells, results=arguments.results, jobs=arguments.jobs, keep=keep)
    lines = read(arguments.results)
    rows = {name: {line["seed"]: line["fields"] for line in lines if line["name"] == name} for name in BALANCES}
    shared = [name for name in rows["uniform"][min(rows["uniform"])] if name != "all"]
    first = next(iter(rows["uniform"].values()))
    print("\n| field | unigram | " + " | ".join(f"{name}, loss | weight" for name in BALANCES) + " |\n" + "|---" * 8 + "|")
    for field in sorted(shared, key=lambda name: -first[name]["reference"]):
        figures = []
        for name in BALANCES:
            figures.append(spread([own[field]["loss"] for own in rows[name].values()]))
            figures.append(f"{mean(own[field]['weight'] or 0.0 for own in rows[name].values()):.3f}")
        print(
            f"| {field} | {mean(own[field]['reference'] for own in rows['uniform'].values()):.3f} | "
            + " | ".join(figures)
            + " |"
        )
    for name in BALANCES:
        learnt = [sum(own[field]["loss"] < own[field]["reference"] for field in shared) for own in rows[name].values()]
        print(f"{name}: {mean(learnt):.1f} of {len(shared)} fields below their unigrams, seeds {sorted(rows[name])}")
    hardest = max(shared, key=lambda name: first[name]["loss"])
    flat = {name: {seed: {"weight": own[hardest]["weight"]} for seed, own in rows[name].items()} for name in BALANCES}
    for name in BALANCES[1:]:
        print(f"weight of {hardest}, {name} to uniform: {paired(flat[name], flat['uniform'], 'weight')}")


if __name__ == "__main__":
    main()
