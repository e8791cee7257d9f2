"""What daily training is worth: the model of the day before against models that were trained to an earlier day and then served.

    python benchmarks/stale.py globo --seeds 5 --users 8       articles die within a day
    python benchmarks/stale.py kuairand --seeds 5

`genctr daily` runs over all days and keeps a bundle of each; then every bundle scores every later day. `age` is the number of
days between a model's last training day and the day it scores: 1 is daily training, the most is train once and serve. `--users
8` keeps every eighth user (by a hash of the id) to make it fit a night on two cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from grid import DATA, ROOT, paired, read, spread

sys.path.insert(0, str(ROOT))

from data.days import write_day
from pipeline.builders.days import build_reader
from pipeline.serving.bundle import Bundle
from pipeline.serving.scorer import Scorer, score_file
from pipeline.training.metrics import auc_by_group

LABELS = {"globo": "label", "kuairand": "is_click"}
FIRST = {"globo": "2017-10-01", "kuairand": "2022-04-25"}
DENOISER = ("model={family: denoiser, dim: 16, balance: progress}", "model.hidden=32", "train.dense.lr=0.003")


def arms(log: str) -> dict[str, tuple[str, ...]]:
    """The models; the denoiser is pre-trained on the first day."""
    pretrain = (
        f"{{name: pretrain, objective: denoise, data: {{days: '{FIRST[log]}'}}, "
        "train: {epochs: 2, progressive_validation: false}, tables: {init: {kind: normal, scale: 0.05}}}"
    )
    return {
        "plain": (),
        "sfg": ("model.encoder.kind=sfg", "model.encoder.residual=true"),
        "hetegen": (*DENOISER, f"stages=[{pretrain}, {{name: rank, load: {{stage: pretrain}}}}]"),
    }


def sampled(log: str, users: int, folder: Path) -> Path:
    """The log with every k-th user; the log itself for 1."""
    if users == 1:
        return DATA / log
    for day in sorted((DATA / log).glob("day=*")):
        table = pq.read_table(sorted(day.glob("*.parquet")), partitioning=None)
        ids = table["user_id"].to_numpy().astype(np.uint64)
        kept = (ids * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)) % np.uint64(users) == 0
        write_day(str(folder / day.name), [table.filter(pa.array(kept))])
    return folder


def score(bundle: Path, day: Path, label: str) -> dict[str, float]:
    """AUC and logloss of a bundle on a day."""
    scorer = Scorer(Bundle(str(bundle)))
    logits, labels = [], []
    for file in sorted(day.glob("*.parquet")):
        logits += [table[f"{label}_logit"].to_numpy() for table in score_file(scorer, build_reader("parquet", {}), str(file))]
        labels.append(pq.read_table(file, columns=[label], partitioning=None)[label].to_numpy())
    x, y = torch.tensor(np.concatenate(logits)), torch.tensor(np.concatenate(labels)).double()
    auc, _ = auc_by_group(x.double(), y, torch.ones(len(y)), torch.zeros(len(y), dtype=torch.int64))
    return {"auc": float(auc[0]), "logloss": float(torch.nn.functional.binary_cross_entropy_with_logits(x.double(), y))}


def run(log: str, arm: str, seed: int, root: Path) -> dict | None:
    """One daily run, and every bundle on every later day."""
    days = sorted(day.name.removeprefix("day=") for day in root.glob("day=*"))
    config = ROOT / "launch" / "configs" / f"{log}.yaml"
    with tempfile.TemporaryDirectory() as folder:
        words = (
            *(f"data.root={root}", f"data.days='{days[0]}..'", "data.validation=[]", "data.test=[]"),
            *("daily.gates={}", f"daily.keep={len(days)}", *arms(log)[arm], f"seed={seed}"),
        )
        command = [sys.executable, "-m", "launch", "daily", str(config), "--out", f"{folder}/run", "--quiet"]
        command += [word for setting in words for word in ("--set", setting)]
        environment = dict(os.environ, PYTHONPATH=str(ROOT))
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            print(f"{arm} seed {seed} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
            return None
        bundles = {}
        for path in Path(folder, "run", "published").glob("20*"):
            bundles[path.name[:10]] = path
        line: dict = {"name": f"{log} {arm}", "seed": seed}
        for at, day in enumerate(days):
            for before in days[:at]:
                for metric, value in score(bundles[before], root / f"day={day}", LABELS[log]).items():
                    line[f"{day}/{before}/{metric}"] = value
    return line


def ages(line: dict) -> dict[int, list[float]]:
    """AUC by the age of the model, over the days that every age could score."""
    pairs = sorted(tuple(key.split("/")[:2]) for key in line if key.endswith("/auc"))
    days = sorted({day for pair in pairs for day in pair})
    found: dict[int, list[float]] = {}
    for day, before in pairs:
        found.setdefault(days.index(day) - days.index(before), []).append(line[f"{day}/{before}/auc"])
    return found


def draw(lines: list[dict], log: str, path: Path) -> None:
    """AUC by day: the model of the day before, and the one of the first day."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    for number, arm in enumerate(arms(log)):
        own = [line for line in lines if line["name"] == f"{log} {arm}"]
        if not own:
            continue
        days = sorted({key.split("/")[0] for key in own[0] if key.endswith("/auc")})
        first = min(key.split("/")[1] for key in own[0] if key.endswith("/auc"))
        for style, named, kind in (("-o", None, "daily"), ("--x", first, "trained once")):
            at = [np.mean([line[f"{day}/{named or max(_befores(line, day))}/auc"] for line in own]) for day in days]
            axes.plot(days, at, style, color=f"C{number}", label=f"{arm}, {kind}")
    axes.set_ylabel("AUC on the day")
    axes.tick_params(axis="x", rotation=30)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


def _befores(line: dict, day: str) -> list[str]:
    return [key.split("/")[1] for key in line if key.startswith(f"{day}/") and key.endswith("/auc")]


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", choices=list(LABELS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--users", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--arms", nargs="+")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "stale.jsonl")
    arguments = parser.parse_args()
    log, names = arguments.log, arguments.arms or list(arms(arguments.log))
    known = {(line["name"], line["seed"]) for line in read(arguments.results)}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        cells = [(arm, 2026 + seed) for seed in range(arguments.seeds) for arm in names]
        todo = [cell for cell in cells if (f"{log} {cell[0]}", cell[1]) not in known]
        root = sampled(log, arguments.users, Path(folder)) if todo else DATA / log

        def one(cell: tuple[str, int]) -> None:
            line = run(log, *cell, root)
            if line is not None:
                with arguments.results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                told = {age: f"{np.mean(own):.4f}" for age, own in sorted(ages(line).items())}
                print(cell, told, flush=True)

        list(pool.map(one, todo))
    lines = read(arguments.results)
    by_arm = {arm: {line["seed"]: line for line in lines if line["name"] == f"{log} {arm}"} for arm in names}
    keys = sorted(key for key in next(iter(next(iter(by_arm.values())).values())) if key.endswith("/auc"))
    days, first = sorted({key.split("/")[0] for key in keys}), min(key.split("/")[1] for key in keys)
    print("\n| day | " + " | ".join(f"{arm}, daily | trained once | difference" for arm in by_arm) + " |")
    print("|---" * (1 + 3 * len(by_arm)) + "|")
    for day in days:
        cells_of = []
        for rows in by_arm.values():
            fresh = {seed: {"auc": line[f"{day}/{max(_befores(line, day))}/auc"]} for seed, line in rows.items()}
            stale = {seed: {"auc": line[f"{day}/{first}/auc"]} for seed, line in rows.items()}
            cells_of += [spread([own["auc"] for own in part.values()]) for part in (fresh, stale)]
            cells_of.append(paired(fresh, stale, "auc"))
        print(f"| {day} | " + " | ".join(cells_of) + " |")
    draw([line for rows in by_arm.values() for line in rows.values()], log, arguments.results.parent / f"stale_{log}.png")


if __name__ == "__main__":
    main()
