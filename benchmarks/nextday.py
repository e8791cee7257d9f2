"""The day after: what generating, pre-training and twin focus bring on real logs, over all rows and on cold and tail ones.

    python benchmarks/nextday.py kuairand --seeds 5        is_click and long_view, 12 days, tested on the last
    python benchmarks/nextday.py globo --seeds 5           4 days, tested on the fifth; articles die within one

Every arm trains once over the same days, one pass a stage, and is scored once on the test day; no setting was tuned on it.
Slices are by how often the test row's user or item occurs in the training days. A difference is to `plain`, seed by seed, with
its 95 % interval.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import yaml
from grid import DATA, ROOT, paired, read, spread

sys.path.insert(0, str(ROOT))

from pipeline.meters import auc_by_group

LOGS = {
    "kuairand": {
        "labels": ["is_click", "long_view"],
        "columns": ["user_id", "video_id"],
        "days": [*(f"2022-04-{day}" for day in range(25, 31)), *(f"2022-05-0{day}" for day in range(1, 7))],
        "test": "2022-05-08",
        "set": ("train.score_first=false", "data.validation=[]"),
    },
    "globo": {
        "labels": ["label"],
        "columns": ["user_id", "article_id"],
        "days": [f"2017-10-0{day}" for day in range(1, 5)],
        "test": "2017-10-05",
        "set": ("train.score_first=false", "data.days=2017-10-01..2017-10-04", "data.test=2017-10-05"),
    },
}
DENOISER = ("model.denoiser.hidden=32", "model.denoiser.layers=2", "train.dense.lr=0.003")
PRETRAIN = "{name: pretrain, task: pretrain, train: {epochs: 2}, tables: {init: {kind: normal, scale: 0.05}}"
THEN_RANK = f"stages=[{PRETRAIN}}}, {{name: rank, load: {{stage: pretrain}}}}]"
ARMS = {
    "plain": (),
    "sfg": ("model.paradigm=sfg", "model.encoder.residual=true"),
    "sfg+tf": (
        *("model.paradigm=sfg", "model.encoder.residual=true", "model.decoder=tf", "model.loss=tf"),
        "model.options={easy_hidden: [64], hidden: [128, 64], dropout: 0.1}",
        "model.loss_options={alpha: 0.25, c: 0.7, gamma: 1}",
    ),
    "denoiser": ("model.paradigm=diffusion", "stages=[{name: rank}]", *DENOISER),
    "diffusion": ("model.paradigm=diffusion", THEN_RANK, *DENOISER),
    **{
        f"hetegen {balance}": ("model.paradigm=hetegen", f"model.denoiser.balance={balance}", THEN_RANK, *DENOISER)
        for balance in ("progress", "literal", "literal_norm", "hard_track", "dro")
    },
    "tables to dcnv2": (
        f"stages=[{PRETRAIN}, model: {{paradigm: diffusion, denoiser: {{hidden: 32, layers: 2}}}}}}, "
        "{name: rank, load: {stage: pretrain, what: tables, rescale: 0.05}}]",
    ),
}


def slices_of(log: str) -> dict[str, dict[str, np.ndarray]]:
    """For every file of the test day, the training count of each row's user and item: {file: {column: counts}}."""
    known = LOGS[log]
    counts = {}
    for column in known["columns"]:
        days = [pq.read_table(DATA / log / f"day={day}", columns=[column], partitioning=None) for day in known["days"]]
        found = pc.value_counts(pa.concat_tables(days)[column].combine_chunks())
        counts[column] = dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True))
    files = sorted((DATA / log / f"day={known['test']}").glob("*.parquet"))

    def looked_up(file: Path, column: str) -> np.ndarray:
        values = pq.read_table(file, columns=[column], partitioning=None)[column].to_pylist()
        return np.array([counts[column].get(value, 0) for value in values])

    return {file.name: {column: looked_up(file, column) for column in known["columns"]} for file in files}


def scores(predictions: Path, log: str, counts: dict[str, dict[str, np.ndarray]]) -> dict:
    """AUC and logloss per task, over all rows and per slice."""
    rows = pq.read_table(predictions, partitioning=None)
    names = [Path(name).name for name in rows["file"].to_pylist()]
    at = rows["row"].to_numpy()
    found = {}
    masks = {"all": np.ones(len(at), dtype=bool)}
    for column in LOGS[log]["columns"]:
        count = np.array([counts[name][column][row] for name, row in zip(names, at, strict=True)])
        masks |= {f"{column} unseen": count == 0, f"{column} 1-9": (count > 0) & (count < 10), f"{column} 10+": count >= 10}
    for task in LOGS[log]["labels"]:
        logit, label = (torch.tensor(rows[f"{task}_{kind}"].to_numpy()) for kind in ("logit", "label"))
        for name, mask in masks.items():
            own = torch.from_numpy(mask)
            one = torch.zeros(int(own.sum()), dtype=torch.int64)
            if len(one) and 0 < label[own].mean() < 1:
                auc, _ = auc_by_group(logit[own].double(), label[own], torch.ones(len(one)), one)
                found[f"{task}/{name}/auc"] = float(auc[0])
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logit[own], label[own])
                found[f"{task}/{name}/logloss"] = float(loss)
                found[f"{task}/{name}/rows"] = len(one)
    return found


def run(log: str, arm: str, seed: int, schema: Path, counts: dict) -> dict | None:
    """Train, evaluate and slice one arm."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            f"data.root={DATA / log}",
            "checkpoint.asynchronous=false",
            f"schema={schema}",
            *LOGS[log]["set"],
            *ARMS[arm],
            f"seed={seed}",
        ]
        settings = [word for setting in words for word in ("--set", setting)]
        train = ["train", f"launch/configs/{log}.yaml", "--out", f"{folder}/run", "--quiet", *settings]
        test = ["evaluate", f"{folder}/run", "--days", LOGS[log]["test"], "--predictions", f"{folder}/scores", "--quiet"]
        for command in (train, test):
            done = subprocess.run(
                [sys.executable, "-m", "launch", *command], cwd=ROOT, capture_output=True, text=True, check=False
            )
            if done.returncode:
                print(f"{arm} seed {seed} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
                return None
        events = [json.loads(line) for line in Path(folder, "run", "log.jsonl").read_text().splitlines()]
        line = {"name": f"{log} {arm}", "seed": seed, **scores(Path(folder, "scores"), log, counts)}
    evaluated = [event for event in events if event["event"] == "evaluated"][-1]
    for task, values in evaluated["tasks"].items():
        line |= {f"{task}/gauc": values["gauc"], f"{task}/calibration": values["calibration"]}
    restored = [event for event in events if event["event"] == "trained" and "fields" in event]
    if restored:
        fields = restored[-1]["fields"]
        line["fields"] = {name: {key: own.get(key) for key in ("loss", "reference", "weight")} for name, own in fields.items()}
    line["seconds"] = sum(event["seconds"] for event in events if event["event"] == "trained")
    return line


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", choices=list(LOGS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "nextday.jsonl")
    arguments = parser.parse_args()
    log, labels = arguments.log, LOGS[arguments.log]["labels"]
    counts = slices_of(log)
    known = {(line["name"], line["seed"]) for line in read(arguments.results)}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        schema = yaml.safe_load((ROOT / "launch" / "configs" / f"{log}.schema.yaml").read_text())
        schema.pop("label")
        path = Path(folder, "schema.yaml")
        path.write_text(yaml.safe_dump(schema | {"labels": [{"column": label} for label in labels]}, sort_keys=False))
        cells = [(arm, 2026 + seed) for seed in range(arguments.seeds) for arm in arguments.arms]

        def one(cell: tuple[str, int]) -> None:
            line = run(log, *cell, path, counts)
            if line is not None:
                with arguments.results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                aucs = "  ".join(f"{label} {line[f'{label}/all/auc']:.4f}" for label in labels)
                print(f"{cell[0]:22} seed {cell[1]}  {aucs}  {line['seconds']:.0f} s", flush=True)

        list(pool.map(one, [cell for cell in cells if (f"{log} {cell[0]}", cell[1]) not in known]))
    lines = read(arguments.results)
    by_arm = {arm: {line["seed"]: line for line in lines if line["name"] == f"{log} {arm}"} for arm in arguments.arms}
    for label in labels:
        print(f"\n{label}\n\n| arm | seeds | AUC | to plain | logloss | GAUC | calibration |\n" + "|---" * 7 + "|")
        for arm, rows in by_arm.items():
            if rows:
                keys = (f"{label}/all/auc", f"{label}/all/logloss", f"{label}/gauc", f"{label}/calibration")
                figures = [spread([row[key] for row in rows.values()]) for key in keys]
                against = "-" if arm == "plain" else paired(rows, by_arm["plain"], keys[0])
                print(f"| {arm} | {len(rows)} | {figures[0]} | {against} | " + " | ".join(figures[1:]) + " |")
        slices = [name for column in LOGS[log]["columns"] for name in (f"{column} unseen", f"{column} 1-9", f"{column} 10+")]
        print("\n| arm | " + " | ".join(slices) + " |\n" + "|---" * (1 + len(slices)) + "|")
        for arm, rows in by_arm.items():
            if rows:
                figures = []
                for name in slices:
                    key = f"{label}/{name}/auc"
                    values = [row[key] for row in rows.values() if key in row]
                    figures.append(
                        "-" if not values else spread(values) if arm == "plain" else paired(rows, by_arm["plain"], key)
                    )
                print(f"| {arm} | " + " | ".join(figures) + " |")


if __name__ == "__main__":
    main()
