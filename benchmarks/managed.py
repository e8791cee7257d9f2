"""Managed ids against hashed ones: AUC of the next day, over all rows and by how new the item is, and memory.

    python benchmarks/managed.py globo --seeds 2 --users 8
    python benchmarks/managed.py kuairand --seeds 2 --days 6

Every day is scored by the model of the days before it, then trained. `/10` arms have a tenth of the rows in every hashed table
of the log's schema, managed arms the same tables as managed ones, of the same rows. An item is new on a day if no earlier day
has it. Memory is that of these tables with their optimizer's state, and of the maps. `ttl N` keeps ids N days.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from grid import DATA, ROOT, paired, read, spread

sys.path.insert(0, str(ROOT))

from stale import LABELS, sampled

from data.cursor import Cursor
from pipeline.builders.job import build
from pipeline.config.run import load
from pipeline.distributed.world import world
from pipeline.jobs.day_run import train_rows
from pipeline.jobs.evaluate import evaluate
from pipeline.training.loop import TrainState
from pipeline.training.metrics import auc_by_group

ITEM = {"globo": "article_id", "kuairand": "video_id"}
TABLES = {"globo": ("user_id", "article_id"), "kuairand": ("user_id", "video_id", "author_id", "music_id")}

ARMS = {
    "hash": (1, None),
    "managed": (1, {}),
    "hash /10": (10, None),
    "managed /10": (10, {}),
    "managed /10, admit 3": (10, {"admit_after": 3}),
    "managed /10, distance_lfu": (10, {"evict": "distance_lfu"}),
    "managed, ttl 1": (1, {"ttl_days": 1}),
    "managed, ttl 2": (1, {"ttl_days": 2}),
    "managed, ttl 3": (1, {"ttl_days": 3}),
}
"""What the rows are divided by, and what a managed table says; None for hashed ones."""


def schema_of(log: str, arm: str) -> dict:
    """The log's schema with the tables of the arm."""
    schema = yaml.safe_load((ROOT / "launch" / "configs" / f"{log}.schema.yaml").read_text())
    divisor, managed = ARMS[arm]
    for field in schema["fields"]:
        if field["name"] in TABLES[log]:
            field["rows"] = -(-field["rows"] // divisor)
            if managed is not None:
                field |= {"ids": "managed", "managed": managed}
    return schema


def items_of(root: Path, day: str, column: str) -> np.ndarray:
    """The items of a day's rows, file after file."""
    files = sorted((root / f"day={day}").glob("*.parquet"))
    return np.concatenate([pq.read_table(file, columns=[column], partitioning=None)[column].to_numpy() for file in files])


def auc(rows: pa.Table, label: str, mask: np.ndarray) -> float | None:
    """AUC of these rows."""
    logits, labels = (torch.tensor(rows[f"{label}_{kind}"].to_numpy()[mask]).double() for kind in ("logit", "label"))
    if not 0 < labels.mean() < 1:
        return None
    found, _ = auc_by_group(logits, labels, torch.ones(len(labels)), torch.zeros(len(labels), dtype=torch.int64))
    return float(found[0])


def run(log: str, arm: str, seed: int, root: Path, most: int) -> dict:
    """One model over all days, or so many."""
    days = sorted(day.name.removeprefix("day=") for day in root.glob("day=*"))[:most]
    label, column = LABELS[log], ITEM[log]
    with tempfile.TemporaryDirectory() as folder:
        config = yaml.safe_load((ROOT / "launch" / "configs" / f"{log}.yaml").read_text())
        config |= {"schema": "schema.yaml", "seed": seed, "checkpoint": {"every_steps": 10**9}}
        config["data"] = {"root": str(root), "days": days, "shuffle_buffer_rows": config["data"]["shuffle_buffer_rows"]}
        config["train"] |= {"diagnose_every_steps": 0, "device": "cpu"}
        Path(folder, "run.yaml").write_text(yaml.safe_dump(config))
        Path(folder, "schema.yaml").write_text(yaml.safe_dump(schema_of(log, arm)))
        line: dict = {"name": f"{log} {arm}", "seed": seed}
        with world("cpu") as here, closing(build(*load(f"{folder}/run.yaml"), f"{folder}/run", here)) as job:
            state, known = TrainState(0, 0, Cursor(0, days[0], 0, config["data"].get("lanes", 4))), np.array([], np.int64)
            for at, day in enumerate(days):
                items = items_of(root, day, column)
                if at:
                    evaluate(job, [day], step=state.step, quiet=True, predictions=f"{folder}/scores")
                    rows = pq.read_table(f"{folder}/scores/day={day}", partitioning=None)
                    order = {Path(file).name: n for n, file in enumerate(sorted((root / f"day={day}").glob("*.parquet")))}
                    assert len(order) == 1, "one file a day"
                    new = ~np.isin(items, known)[rows["row"].to_numpy()]
                    for name, mask in (("all", np.ones(len(new), bool)), ("new", new), ("known", ~new)):
                        line[f"{day}/{name}"], line[f"{day}/{name}/rows"] = auc(rows, label, mask), int(mask.sum())
                known = np.union1d(known, items)
                state = replace(state, cursor=Cursor(0, day, 0, state.cursor.lanes))
                state, _, _ = train_rows(job, job.open(day, state.step), state, {}, quiet=True)
                if job.ids is not None:
                    line[f"{day}/ids"] = job.ids.summary()
            line |= memory(job, log)
    return line


def memory(job, log: str) -> dict:
    """[MiB] of the arm's tables with their optimizer's state, and of their maps; and their rows in use."""
    own = {*TABLES[log], *(f"{name}_linear" for name in TABLES[log])}
    tables = 0
    for key, value in job.sharded.model.state_dict().items():
        if len(key.split(".")) > 2 and key.split(".")[-2] in own:
            tables += sum(shard.tensor.numel() * 4 for shard in value.local_shards())
    for key, state in job.sharded.fused.state_dict()["state"].items():
        if key.split(".")[-2] in own:
            tables += sum(shard.tensor.numel() * 4 for value in state.values() for shard in value.local_shards())
    found = {"tables_mib": tables / 2**20, "maps_mib": 0.0}
    for table in job.ids.tables if job.ids is not None else ():
        found["maps_mib"] += sum(value.numel() * value.element_size() for value in table.map.state.values()) / 2**20
    return found


def averaged(line: dict, name: str) -> float:
    """The mean over the scored days but the first, whose model has seen a single day."""
    days = sorted({key.split("/")[0] for key in line if key.endswith("/all")})[1:]
    return float(np.mean([line[f"{day}/{name}"] for day in days]))


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", choices=list(ITEM))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--users", type=int, default=1, help="keep every k-th")
    parser.add_argument("--days", type=int, default=99, help="the first ones")
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--cell", nargs=3, metavar=("ARM", "SEED", "ROOT"), help="one run, as a line of JSON")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "managed.jsonl")
    arguments = parser.parse_args()
    if arguments.cell:
        arm, seed, root = arguments.cell
        print(json.dumps(run(arguments.log, arm, int(seed), Path(root), arguments.days)))
        return
    log = arguments.log
    known = {(line["name"], line["seed"]) for line in read(arguments.results)}
    todo = [
        (arm, 2026 + seed)
        for seed in range(arguments.seeds)
        for arm in arguments.arms
        if (f"{log} {arm}", 2026 + seed) not in known
    ]
    with tempfile.TemporaryDirectory() as folder:
        root = sampled(log, arguments.users, Path(folder)) if todo else DATA / log
        for arm, seed in todo:
            command = [sys.executable, __file__, log, "--cell", arm, str(seed), str(root), "--days", str(arguments.days)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{arm} seed {seed} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
                continue
            with arguments.results.open("a") as file:
                file.write(done.stdout.splitlines()[-1] + "\n")
            line = json.loads(done.stdout.splitlines()[-1])
            print(arm, seed, {name: round(averaged(line, name), 4) for name in ("all", "new", "known")}, flush=True)
    table(log, arguments.arms, read(arguments.results))


def table(log: str, arms: list[str], lines: list[dict]) -> None:
    """Print the measurements as Markdown."""
    rows = {arm: {line["seed"]: line for line in lines if line["name"] == f"{log} {arm}"} for arm in arms}
    scores = {
        arm: {seed: {name: averaged(line, name) for name in ("all", "new", "known")} for seed, line in own.items()}
        for arm, own in rows.items()
    }
    print("| arm | seeds | AUC | to hash | new items | known items | tables, MiB | maps, MiB | held | hit rate | churn |")
    print("|---" * 11 + "|")
    for arm, own in rows.items():
        if not own:
            continue
        some = next(iter(own.values()))
        cells = [spread([score[name] for score in scores[arm].values()]) for name in ("all", "new", "known")]
        last = max((key for key in some if key.endswith("/ids")), default=None)
        told = some[last][ITEM[log]] if last else None
        managed = [f"{told['held']:,}", f"{told['hit_rate']:.3f}", f"{told['churn']:.2f}"] if told else ["", "", ""]
        difference = paired(scores[arm], scores["hash"], "all") if arm != "hash" and scores.get("hash") else ""
        sizes = [f"{some['tables_mib']:.1f}", f"{some['maps_mib']:.1f}"]
        print("| " + " | ".join([arm, str(len(own)), cells[0], difference, *cells[1:], *sizes, *managed]) + " |")


if __name__ == "__main__":
    main()
