"""The next day: the effect of generating, pre-training and TF4CTR's loss on real logs, over all rows and on cold and tail rows.

    python benchmarks/nextday.py kuairand --seeds 5        is_click and long_view, 12 days, tested on the last
    python benchmarks/nextday.py globo --seeds 5 --users 16     4 days, tested on the fifth; articles die within one

Every arm trains once over the same days, pre-training in two passes before that, and is scored once on the test day; no setting
was tuned on the test day, and gamma was not tuned at all. The sfg arms are not the released form: `sfg` (dcnv2) adds the raw
vector but does not regenerate per layer, `crossnet sfg` does neither, none has the deep head. `sfg+tf` differs from `plain` in
three things: encoder, decoder and loss.
Slices are by how often the test row's user or item occurs in the training days; every table prints the rows of each slice, and
some are few. Ids are hashed, so a new id may share its row with a trained one. What the fields of a cardinality are worth to a
model is the AUC it loses when their values are shuffled between the rows of the test day, all of them together (permutation
importance). A difference is to the same decoder plain (`BASES`), seed by seed, with its 95 % interval over seeds: it does not
hold the error of a single test day. `train time` is the ratio of training seconds to that base, the median over seeds, of jobs
that ran two at a time. `--users 16` keeps every sixteenth user.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import yaml
from grid import ROOT, paired, read, spread
from stale import sampled

sys.path.insert(0, str(ROOT))

from data.days import write_day
from pipeline.training.metrics import auc_by_group

LOGS = {
    "kuairand": {
        "labels": ["is_click", "long_view"],
        "columns": ["user_id", "video_id"],
        "days": [*(f"2022-04-{day}" for day in range(25, 31)), *(f"2022-05-0{day}" for day in range(1, 7))],
        "test": "2022-05-08",
        "set": ("train.progressive_validation=false", "data.validation=[]", "data.test=[]"),
    },
    "globo": {
        "labels": ["label"],
        "columns": ["user_id", "article_id"],
        "days": [f"2017-10-0{day}" for day in range(1, 5)],
        "test": "2017-10-05",
        "set": ("train.progressive_validation=false", "data.days=2017-10-01..2017-10-04", "train.global_batch_rows=1024"),
    },
}
DENOISER = ("model={family: denoiser, dim: 16}", "model.hidden=32", "model.layers=2", "train.dense.lr=0.003")
PRETRAIN = "{name: pretrain, objective: denoise, train: {epochs: 2}, tables: {init: {kind: normal, scale: 0.05}}"
THEN_RANK = f"stages=[{PRETRAIN}}}, {{name: rank, load: {{stage: pretrain}}}}]"
ARMS = {
    "plain": (),
    "plain, normal start": ("tables.init={kind: normal, scale: 0.05}",),
    "sfg": ("model.encoder.kind=sfg", "model.encoder.residual=true"),
    **{
        name: (f"model.decoder={decoder}", f"model.decoder_options={options}", f"model.encoder={{kind: {kind}}}")
        for decoder, options in (("fm", "{}"), ("fwfm", "{first_order: filv}"), ("crossnet", "{}"))
        for name, kind in ((decoder, "none"), (f"{decoder} sfg", "sfg"))
    },
    "sfg+tf": (
        *("model.encoder.kind=sfg", "model.encoder.residual=true", "model.decoder=tf"),
        "model.decoder_options={easy_hidden: [64], hidden: [128, 64], dropout: 0.1}",
        "model.losses=[{name: tf, options: {alpha: 0.25, c: 0.7, gamma: 1}}]",
    ),
    "denoiser": ("stages=[{name: rank}]", *DENOISER),
    "diffusion": (THEN_RANK, *DENOISER),
    **{
        f"hetegen {balance}": (THEN_RANK, *DENOISER, f"model.balance={balance}")
        for balance in ("progress", "literal", "literal_raw", "literal_norm", "hard_track", "dro")
    },
    "tables to dcnv2": (
        f"stages=[{PRETRAIN}, model: {{family: denoiser, hidden: 32, layers: 2}}}}, "
        "{name: rank, load: {stage: pretrain, parts: tables, rescale: 0.05}}]",
    ),
}


BASES = {"fm": "", "fm sfg": "fm", "fwfm": "", "fwfm sfg": "fwfm", "crossnet": "", "crossnet sfg": "crossnet", "plain": ""}
"""What an arm is compared with: itself plain; for all others that is dcnv2, `plain`."""
BANDS = {"10 values or fewer": (0, 10), "11 to 1,000 values": (10, 1000), "over 1,000 values": (1000, float("inf"))}


def log_of(log: str, users: int, folder: Path) -> Path:
    """The log's days, and after the test day one for each band of fields: the test day with their values shuffled."""
    source, known = sampled(log, users, folder / "sampled"), LOGS[log]
    names = [*known["days"], known["test"]]
    for day in names:
        (folder / f"day={day}").symlink_to(source / f"day={day}")
    schema = yaml.safe_load((ROOT / "launch" / "configs" / f"{log}.schema.yaml").read_text())
    fields = [field.get("column", field["name"]) for field in schema["fields"]]
    trained = pa.concat_tables(pq.read_table(source / f"day={day}", columns=fields, partitioning=None) for day in known["days"])
    values = {field: pc.count_distinct(_flat(trained[field])).as_py() for field in fields}
    tested = pq.read_table(source / f"day={known['test']}", partitioning=None)
    order = np.random.default_rng(2026).permutation(len(tested))
    for day, (low, high) in zip(moved(log), BANDS.values(), strict=True):
        table = tested
        for field in fields:
            if low < values[field] <= high:
                table = table.set_column(table.column_names.index(field), field, tested[field].take(order))
        write_day(str(folder / f"day={day}"), [table])
    print({band: sum(low < count <= high for count in values.values()) for band, (low, high) in BANDS.items()}, "fields")
    return folder


def moved(log: str) -> list[str]:
    """The days that stand for the test day with a band of fields shuffled."""
    test = date.fromisoformat(LOGS[log]["test"])
    return [str(test + timedelta(days)) for days in range(1, 1 + len(BANDS))]


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.list_flatten(column) if pa.types.is_list(column.type) else column


def slices_of(log: str, root: Path) -> dict[str, dict[str, np.ndarray]]:
    """For every file of the test day, the training count of each row's user and item: {file: {column: counts}}."""
    known = LOGS[log]
    counts = {}
    for column in known["columns"]:
        days = [pq.read_table(root / f"day={day}", columns=[column], partitioning=None) for day in known["days"]]
        found = pc.value_counts(pa.concat_tables(days)[column].combine_chunks())
        counts[column] = dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True))
    files = sorted((root / f"day={known['test']}").glob("*.parquet"))

    def looked_up(file: Path, column: str) -> np.ndarray:
        values = pq.read_table(file, columns=[column], partitioning=None)[column].to_pylist()
        return np.array([counts[column].get(value, 0) for value in values])

    return {file.name: {column: looked_up(file, column) for column in known["columns"]} for file in files}


def scores(predictions: Path, log: str, counts: dict[str, dict[str, np.ndarray]]) -> dict:
    """AUC and logloss per target, over all rows and per slice."""
    rows = pq.read_table(predictions, partitioning=None)
    rows = rows.filter(pc.match_substring(rows["file"].cast(pa.string()), f"day={LOGS[log]['test']}/"))
    names = [Path(name).name for name in rows["file"].to_pylist()]
    at = rows["row"].to_numpy()
    found = {}
    masks = {"all": np.ones(len(at), dtype=bool)}
    for column in LOGS[log]["columns"]:
        count = np.array([counts[name][column][row] for name, row in zip(names, at, strict=True)])
        masks |= {f"{column} unseen": count == 0, f"{column} 1-9": (count > 0) & (count < 10), f"{column} 10+": count >= 10}
    for target in LOGS[log]["labels"]:
        logit, label = (torch.tensor(rows[f"{target}_{kind}"].to_numpy()) for kind in ("logit", "label"))
        for name, mask in masks.items():
            own = torch.from_numpy(mask)
            one = torch.zeros(int(own.sum()), dtype=torch.int64)
            if len(one) and 0 < label[own].mean() < 1:
                auc, _ = auc_by_group(logit[own].double(), label[own], torch.ones(len(one)), one)
                found[f"{target}/{name}/auc"] = float(auc[0])
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logit[own], label[own])
                found[f"{target}/{name}/logloss"] = float(loss)
                found[f"{target}/{name}/rows"] = len(one)
    return found


def run(log: str, arm: str, seed: int, root: Path, schema: Path, counts: dict) -> dict | None:
    """Train, evaluate and slice one arm."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            f"data.root={root}",
            "checkpoint.asynchronous=false",
            f"schema={schema}",
            *LOGS[log]["set"],
            *ARMS[arm],
            f"seed={seed}",
        ]
        settings = [word for setting in words for word in ("--set", setting)]
        train = ["train", f"launch/configs/{log}.yaml", "--out", f"{folder}/run", "--quiet", *settings]
        test = [
            "evaluate",
            f"{folder}/run",
            "--days",
            f"{LOGS[log]['test']}..{moved(log)[-1]}",
            "--predictions",
            f"{folder}/scores",
            "--quiet",
        ]
        for command in (train, test):
            done = subprocess.run(
                [sys.executable, "-m", "launch", *command], cwd=ROOT, capture_output=True, text=True, check=False
            )
            if done.returncode:
                print(f"{arm} seed {seed} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
                return None
        events = [json.loads(line) for line in Path(folder, "run", "log.jsonl").read_text().splitlines()]
        line = {"name": "", "seed": seed, **scores(Path(folder, "scores"), log, counts)}
    evaluated = {event["day"]: event["metrics"] for event in events if event["event"] == "evaluated"}
    for target, values in evaluated[LOGS[log]["test"]].items():
        line |= {f"{target}/gauc": values["gauc"], f"{target}/calibration": values["calibration"]}
        for day, band in zip(moved(log), BANDS, strict=True):
            line[f"{target}/{band}/lost"] = values["auc"] - evaluated[day][target]["auc"]
    restored = [event for event in events if event["event"] == "trained" and "all" in event["metrics"]]
    if restored:
        fields = restored[-1]["metrics"]
        line["fields"] = {name: {key: own.get(key) for key in ("loss", "reference", "weight")} for name, own in fields.items()}
    line["seconds"] = sum(event["seconds"] for event in events if event["event"] == "trained")
    return line


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", choices=list(LOGS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--users", type=int, default=1)
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "nextday.jsonl")
    arguments = parser.parse_args()
    log, labels = arguments.log, LOGS[arguments.log]["labels"]
    of = log if arguments.users == 1 else f"{log}/{arguments.users}"
    known = {(line["name"], line["seed"]) for line in read(arguments.results)}
    cells = [(arm, 2026 + seed) for seed in range(arguments.seeds) for arm in arguments.arms]
    todo = [(arm, seed) for arm, seed in cells if (f"{of} {arm}", seed) not in known]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        schema = yaml.safe_load((ROOT / "launch" / "configs" / f"{log}.schema.yaml").read_text())
        schema.pop("label")
        path = Path(folder, "schema.yaml")
        path.write_text(yaml.safe_dump(schema | {"labels": [{"column": label} for label in labels]}, sort_keys=False))
        if todo:
            root = log_of(log, arguments.users, Path(folder))
            counts = slices_of(log, root)

        def one(cell: tuple[str, int]) -> None:
            line = run(log, *cell, root, path, counts)
            if line is not None:
                line["name"] = f"{of} {cell[0]}"
                with arguments.results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                aucs = "  ".join(f"{label} {line[f'{label}/all/auc']:.4f}" for label in labels)
                print(f"{cell[0]:22} seed {cell[1]}  {aucs}  {line['seconds']:.0f} s", flush=True)

        list(pool.map(one, todo))
    lines = read(arguments.results)
    by_arm = {arm: {line["seed"]: line for line in lines if line["name"] == f"{of} {arm}"} for arm in arguments.arms}
    by_arm = {arm: rows for arm, rows in by_arm.items() if rows}
    slices = [name for column in LOGS[log]["columns"] for name in (f"{column} unseen", f"{column} 1-9", f"{column} 10+")]
    for label in labels:
        rows_of = _rows(lines, of, label)
        headings = ("seeds", "AUC", "to plain", "logloss", "GAUC", "calibration", "train time")
        print(f"\n| {label}{rows_of.get('all', '')} | " + " | ".join(headings) + " |\n" + "|---" * 8 + "|")
        for arm, rows in by_arm.items():
            keys = (f"{label}/all/auc", f"{label}/all/logloss", f"{label}/gauc", f"{label}/calibration")
            figures = [spread([row[key] for row in rows.values()]) for key in keys]
            base = by_arm.get(BASES.get(arm, "plain"))
            against = paired(rows, base, keys[0]) if base else "-"
            print(f"| {arm} | {len(rows)} | {figures[0]} | {against} | " + " | ".join((*figures[1:], _time(rows, base))) + " |")
        for title, names, key in (("AUC", slices, "auc"), ("AUC that fields are worth", list(BANDS), "lost")):
            titles = [name + rows_of.get(name, "") for name in names]
            print(f"\n| {label} {title}, to plain | " + " | ".join(titles) + " |\n" + "|---" * (1 + len(names)) + "|")
            for arm, rows in by_arm.items():
                base = by_arm.get(BASES.get(arm, "plain"))
                print(f"| {arm} | " + " | ".join(_cell(rows, base, f"{label}/{name}/{key}") for name in names) + " |")


def _rows(lines: list[dict], of: str, label: str) -> dict[str, str]:
    """The rows of every slice of the test day as a heading has them: {slice: " (358 rows)"}. All arms score the same rows."""
    counts: dict[str, set[int]] = {}
    for line in lines:
        for key, value in line.items():
            if line["name"].startswith(f"{of} ") and key.startswith(f"{label}/") and key.endswith("/rows"):
                counts.setdefault(key.split("/")[1], set()).add(value)
    return {name: f" ({' or '.join(f'{count:,}' for count in sorted(of_name))} rows)" for name, of_name in counts.items()}


def _time(rows: dict[int, dict], base: dict[int, dict] | None) -> str:
    """The training seconds in those of the base, seed by seed; the median."""
    ratios = [row["seconds"] / base[seed]["seconds"] for seed, row in rows.items() if base and seed in base]
    return f"{median(ratios):.2f}" if ratios else "-"


def _cell(rows: dict[int, dict], base: dict[int, dict] | None, key: str) -> str:
    """What an arm has of its own, or the difference to its base."""
    have = {seed: row for seed, row in rows.items() if key in row}
    if not have:
        return "-"
    if base is None:
        return spread([row[key] for row in have.values()])
    return paired(have, {seed: row for seed, row in base.items() if key in row}, key)


if __name__ == "__main__":
    main()
