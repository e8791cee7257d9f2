"""The systems of docs/systems.md, arm by arm, on public logs, each difference to `plain` seed by seed.

    python benchmarks/systems.py apg --seeds 3            generated dense layers, KuaiRand's is_click, by tab too
    python benchmarks/systems.py dhen --seeds 3           stacks of modules, KuaiRand's is_click
    python benchmarks/systems.py contrast --seeds 3       contrastive pre-training, KuaiRand's is_click
    python benchmarks/systems.py contrast-ml --seeds 3    the same on a tenth of MovieLens-1M, pre-trained on the other pairs
    python benchmarks/systems.py pre-trained --seeds 3    tables that a denoiser learnt, KuaiRand's long_view
    python benchmarks/systems.py histories --seeds 3      sequence encoders, KuaiRand with histories, is_click
    python benchmarks/systems.py denoiser --seeds 3       width and read-out of a denoiser, KuaiRand's validation day
    python benchmarks/systems.py steps --seeds 3          smaller batches and more passes for it, on that day
    python benchmarks/systems.py hand-over --seeds 1      what of a pre-training it takes over, at which rate, on that day
    python benchmarks/systems.py sfg-gamma --seeds 1      the scale of what SFG generates, on KuaiRand's validation day
    python benchmarks/systems.py sfg --seeds 5            SFG in its released form with the scale chosen there, and its control
    python benchmarks/systems.py accumulator --seeds 3    what row-wise Adagrad begins with, KuaiRand's validation day

Every arm trains once over the same days, pre-training before that where it has one, and is scored once on the test day; no
setting was tuned on it. What `--results` holds is not run again. A difference has two intervals of 95 %: Student's t over the
seeds, and a bootstrap that draws users and seeds, from the scores of all rows in the folder beside `--results`. Slices are of
the test day: by tab, and by how often the row's user or item occurs in the training days.
MovieLens has random folds and no time here, so that its other pairs, which know no
rating, may stand for broader data.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from grid import DATA, ROOT, paired, read, spread
from nextday import LOGS, PRETRAIN

sys.path.insert(0, str(ROOT))

from data.days import write_day
from pipeline.training.metrics import auc_by_group

COMMON = ("data.validation=[]", "train.progressive_validation=false", "checkpoint.asynchronous=false")
DENOISED = (
    f"stages=[{PRETRAIN}, model: {{family: denoiser, hidden: 32, layers: 2}}}}, "
    "{name: rank, load: {stage: pretrain, parts: tables, rescale: 0.05}}]"
)

NORMAL = ("tables.init={kind: normal, scale: 0.05}",)
"""What pre-trained tables begin with, without pre-training."""


def apg(condition: str) -> tuple[str, ...]:
    """DCN V2 whose network has generated weights."""
    return (f"model.dense={{kind: apg, rank: 4, factors: 32, condition: {condition}}}",)


def dhen(layers: str) -> tuple[str, ...]:
    """A stack instead of DCN V2."""
    return "model.decoder=dhen", f"model.decoder_options={{layers: {layers}}}"


def contrast(item: str, passes: int, days: str = "") -> tuple[str, ...]:
    """Both id tables learn from pairs first, on the days of the run or on others."""
    data = f"data: {{days: {days}}}, " if days else ""
    tables = "tables: {weight_decay: 0.0, init: {kind: normal, scale: 0.05}}"
    train = f"train: {{epochs: {passes}, global_batch_rows: 2048}}"
    pairs = f"{{name: pairs, objective: contrast, fields: [user_id, {item}], {data}{tables}, {train}}}"
    return (f"stages=[{pairs}, {{name: rank, load: {{stage: pairs, parts: tables, rescale: 0.05}}}}]",)


def contrast_arms(item: str, days: str = "") -> dict[str, tuple[str, ...]]:
    """One pass, five of them, and one pass after a pre-training of so many."""
    passes = {f"pairs x {count}": contrast(item, count, days) for count in (1, 5, 10)}
    return {"plain": (), "plain, normal start": NORMAL, "five passes": ("train.epochs=5",), **passes, "denoised": (DENOISED,)}


@dataclass(frozen=True)
class Study:
    """What is compared on which log.

    Args:
        config: the run file. label, item: columns. days, test: of the log. slices: further columns whose values are slices.
        arms: what differs from the run file. log: makes the log in a folder, where it is not there as it should be.
        bases: what an arm is compared with; those left out with `plain`.
    """

    config: str
    label: str
    item: str
    days: tuple[str, ...]
    test: str
    arms: dict[str, tuple[str, ...]]
    slices: tuple[str, ...] = ()
    log: Callable[[Path], Path] = lambda _: DATA / "kuairand"
    bases: Mapping[str, str] = field(default_factory=dict)


def movielens(folder: Path) -> Path:
    """Folds 0 to 7, fold 9, and the pairs that are not in the tenth, each as a day."""
    source = DATA / "ml-1m-tenth"
    users, items = (pq.read_table(source / f"{name}.parquet") for name in ("users", "items"))
    known = items.select(["item_id", "year"]), dict(zip(items["item_id"].to_pylist(), items["genres"].to_pylist(), strict=True))
    rated = pq.read_table(source / "ratings.parquet").join(users, "user_id").join(known[0], "item_id")
    genres = pa.array([known[1].get(item) or [] for item in rated["item_id"].to_pylist()], pa.list_(pa.string()))
    rated = rated.append_column("genres", genres)
    pairs = pq.read_table(source / "pairs.parquet")
    pairs = pairs.filter(pc.invert(pairs["in_tenth"])).select(["user_id", "item_id"])
    days = {
        "2000-01-01": rated.filter(pc.less(rated["fold"], 8)),
        "2000-01-02": rated.filter(pc.equal(rated["fold"], 9)),
        "2000-01-03": pairs.append_column("label", pa.array(np.ones(len(pairs), np.int8))),
    }
    for day, table in days.items():
        write_day(str(folder / f"day={day}"), [table])
    return folder


KUAIRAND = {
    "config": "launch/configs/kuairand.yaml",
    "label": "is_click",
    "item": "video_id",
    "days": tuple(LOGS["kuairand"]["days"]),
    "test": "2022-05-08",
    "slices": ("tab",),
}
STACKS = {
    **{f"{name} twice": dhen(f"[[{name}], [{name}]]") for name in ("mlp", "transformer", "masknet", "cross")},
    "mlp and cross": dhen("[[mlp, cross]]"),
}


def history(encoder: str, options: str = "{}", *, times: str = "history_ms") -> tuple[str, ...]:
    """A sequence encoder over videos and their authors, of the user's last 20 events."""
    return (
        f"model.sequences={{history: {{encoder: {encoder}, join: [history_author], options: {options}}}}}",
        f"schema.fields.history.payload={{time: {times}, action: history_actions}}",
    )


def shuffled_times(folder: Path) -> Path:
    """KuaiRand with histories, and beside every history one whose events happened as long ago as some others' did."""
    source, chance = DATA / "kuairand-history", np.random.default_rng(2026)
    for day in sorted(source.glob("day=*")):
        table = pq.read_table(day, partitioning=None)
        lists = table["history_ms"].combine_chunks()
        lengths = pc.list_value_length(lists).fill_null(0).to_numpy()
        rows = np.repeat(np.arange(len(table)), lengths)
        now = table["time_ms"].to_numpy()[rows]
        ago = chance.permutation(now - pc.list_flatten(lists).to_numpy())
        order = np.lexsort((-ago, rows))  # oldest first
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        others = pa.ListArray.from_arrays(offsets, pa.array(now - ago[order]))
        write_day(str(folder / day.name), [table.append_column("history_other_ms", others)])
    return folder


NETWORK = "hidden: [128, 64], dropout: 0.1"
RELEASED = {
    "fm": ("", ""),
    "deepfm": (NETWORK, ""),
    "crossnet": ("deep_head: true", ", regenerate: true"),
    "dcnv2": (f"layers: 2, {NETWORK}, deep_head: true", ", regenerate: true"),
}
"""Decoders of the SFG paper: the options that both sides of its released comparison have, and those of the generative one."""

GAMMAS = (0.005, 0.01, 0.1, 1.0)
CHOSEN = dict.fromkeys(RELEASED, 1.0)
"""By decoder, the best of GAMMAS on the validation day."""


def sfg(decoder: str, gamma: float, activation: str = "relu") -> tuple[str, ...]:
    """A decoder with SFG as it was released: generated again in every layer, and the raw vectors added."""
    both, own = RELEASED[decoder]
    encoder = f"{{kind: sfg, residual: true, activation: {activation}, gamma: {gamma}}}"
    return f"model.decoder={decoder}", f"model.decoder_options={{{both}{own}}}", f"model.encoder={encoder}"


def released() -> dict[str, tuple[str, ...]]:
    """Every decoder plain, generative, and with a linear encoder, which has as many weights and generates nothing new."""
    arms = {}
    for decoder, (both, _) in RELEASED.items():
        arms[decoder] = (f"model.decoder={decoder}", f"model.decoder_options={{{both}}}")
        arms[f"{decoder} sfg"] = sfg(decoder, CHOSEN[decoder])
        arms[f"{decoder} linear"] = sfg(decoder, CHOSEN[decoder], "linear")
    return arms


DENOISERS = {
    f"denoiser {hidden}{name}": (
        "model={family: denoiser, dim: 16}",
        f"model.hidden={hidden}",
        "model.layers=2",
        "train.dense.lr=0.003",
        f"model.readout={readout}",
        "stages=[{name: rank}]",
    )
    for hidden in (32, 64, 128)
    for name, readout in (("", "[]"), (" read out", "[128, 64]"))
}
SMALL = DENOISERS["denoiser 32"][:-1]
STEPS = {
    "denoiser": DENOISERS["denoiser 32"],
    "batches of 128": (*DENOISERS["denoiser 32"], "train.global_batch_rows=128"),
    **{f"{passes} passes": (*DENOISERS["denoiser 32"], f"train.epochs={passes}") for passes in (2, 4)},
}


def handed_over(parts: str, *, lr: float = 0.05, label_weight: float = 1.0) -> tuple[str, ...]:
    """The small denoiser, pre-trained for two passes, ranks with parts of what that learnt and its own rate for rows."""
    first = f"{PRETRAIN}, model: {{label_weight: {label_weight}}}}}"
    start = "init: {kind: normal, scale: 0.05}"
    rank = f"{{name: rank, load: {{stage: pretrain, parts: {parts}}}, tables: {{lr: {lr}, {start}}}}}"
    alone = f"{{name: rank, tables: {{lr: {lr}, {start}}}}}"
    return *SMALL, f"stages=[{alone}]" if parts == "none" else f"stages=[{first}, {rank}]"


HANDED_OVER = {
    **{parts: handed_over(parts) for parts in ("none", "tables", "network", "all")},
    **{f"{parts}, rows at .005": handed_over(parts, lr=0.005) for parts in ("none", "all")},
    **{f"all, labels x {weight}": handed_over("all", label_weight=weight) for weight in (10, 70)},
}
"""Of the 73 nats of a row's fields in pre-training two labels are 1.1: times 10 they are a seventh of all, times 70 half."""

VALIDATION = KUAIRAND | {"test": "2022-05-07"}
STUDIES = {
    "histories": Study(
        **{key: own for key, own in KUAIRAND.items() if key not in ("config", "slices")},
        config="benchmarks/configs/kuairand_history.yaml",
        arms={
            "plain": (f"schema={ROOT}/launch/configs/kuairand.schema.yaml", "model.sequences={}"),
            "mean": ("model.sequences={history: {encoder: mean}, history_author: {encoder: mean}}",),
            "attention": history("target_attention"),
            "din": history("din"),
            "dien": history("dien"),
            "bst": history("bst"),
            "transact": history("transact", "{actions: 8}"),
            "hstu": history("hstu", "{actions: 8}"),
            "long": history("time_aware", "{short: false, weekday: false, timezone_hours: 8}"),
            "long and short": history("time_aware", "{weekday: false, timezone_hours: 8}"),
            "long, other times": history(
                "time_aware", "{short: false, weekday: false, timezone_hours: 8}", times="history_other_ms"
            ),
        },
        log=shuffled_times,
    ),
    "sfg-gamma": Study(
        **VALIDATION,
        arms={f"{decoder} {gamma}": sfg(decoder, gamma) for decoder in RELEASED for gamma in GAMMAS},
        bases={f"{decoder} {gamma}": f"{decoder} 1.0" for decoder in RELEASED for gamma in GAMMAS},
    ),
    "sfg": Study(**KUAIRAND, arms=released(), bases={f"{own} {kind}": own for own in RELEASED for kind in ("sfg", "linear")}),
    "denoiser": Study(**VALIDATION, arms={"plain": ()} | DENOISERS),
    "steps": Study(**VALIDATION, arms=STEPS, bases=dict.fromkeys(STEPS, "denoiser")),
    "hand-over": Study(**VALIDATION, arms=HANDED_OVER, bases=dict.fromkeys(HANDED_OVER, "none")),
    "accumulator": Study(
        **VALIDATION,
        arms={
            "plain": (),
            **{f"begins with {begin}": (f"tables.initial_accumulator={begin}",) for begin in ("1e-6", "1e-4", "1e-2")},
            "pre-trained": (DENOISED,),
            "pre-trained, with 1e-6": (DENOISED, "tables.initial_accumulator=1e-6"),
            "pre-trained, with 1e-4": (DENOISED, "tables.initial_accumulator=1e-4"),
        },
        bases={f"pre-trained, with {begin}": "pre-trained" for begin in ("1e-6", "1e-4")},
    ),
    "apg": Study(
        **KUAIRAND,
        arms={
            "plain": (),
            "apg static": apg("none"),
            "apg self": apg("self"),
            "apg fields": apg("[tab, user_active_degree]"),
        },
    ),
    "dhen": Study(**KUAIRAND, arms={"plain": (), "dhen": dhen("[[mlp, transformer], [mlp, masknet]]"), **STACKS}),
    "pre-trained": Study(
        **KUAIRAND | {"label": "long_view"}, arms={"plain": (), "plain, normal start": NORMAL, "denoised": (DENOISED,)}
    ),
    "contrast": Study(**KUAIRAND, arms=contrast_arms("video_id")),
    "contrast-ml": Study(
        "benchmarks/configs/ml1m.yaml",
        "label",
        "item_id",
        ("2000-01-01",),
        "2000-01-02",
        contrast_arms("item_id", "2000-01-03"),
        log=movielens,
    ),
}


def masks_of(study: Study, root: Path) -> dict[str, np.ndarray]:
    """The slices of the test day's rows, in the order of its files."""

    def rows(day: str, columns: list[str]) -> pa.Table:
        files = sorted((root / f"day={day}").glob("*.parquet"))
        return pa.concat_tables(pq.read_table(file, columns=columns, partitioning=None) for file in files)

    ids = ["user_id", study.item]
    tested = rows(study.test, [*ids, *study.slices])
    found = {"all": np.ones(len(tested), dtype=bool)}
    for column in study.slices:
        values = tested[column].to_numpy()
        found |= {f"{column} {value}": values == value for value in np.unique(values) if (values == value).mean() > 0.02}
    trained = pa.concat_tables(rows(day, ids) for day in study.days)
    for column in ids:
        values, counts = np.unique(trained[column].to_numpy(), return_counts=True)
        known = dict(zip(values.tolist(), counts.tolist(), strict=True))
        count = np.array([known.get(value, 0) for value in tested[column].to_pylist()])
        found |= {f"{column} unseen": count == 0, f"{column} 1-9": (count > 0) & (count < 10), f"{column} 10+": count >= 10}
    return found


def users_of(study: Study, root: Path) -> np.ndarray:
    """The user of every row of the test day, in the order of its files, as a number from 0."""
    files = sorted((root / f"day={study.test}").glob("*.parquet"))
    users = np.concatenate(
        [pq.read_table(file, columns=["user_id"], partitioning=None)["user_id"].to_numpy() for file in files]
    )
    return np.unique(users, return_inverse=True)[1]


def weighed_auc(order: np.ndarray, label: np.ndarray, weight: np.ndarray) -> float:
    """AUC of rows that count so often, ascending by score in `order`; scores are floats, of which few are equal."""
    positive = (weight * label)[order]
    negative = (weight * (1 - label))[order]
    return float((positive * (negative.cumsum() - negative / 2)).sum() / (positive.sum() * negative.sum()))


def bootstrapped(arm: dict[int, np.ndarray], base: dict[int, np.ndarray], label: np.ndarray, users: np.ndarray) -> str:
    """The 95 % interval of the mean difference of AUC, over users and seeds drawn with replacement."""
    seeds, chance = sorted(arm.keys() & base.keys()), np.random.default_rng(2026)
    if not seeds:
        return "-"
    orders = {seed: (arm[seed].argsort(kind="stable"), base[seed].argsort(kind="stable")) for seed in seeds}
    found = []
    for _ in range(400):
        weight = np.bincount(chance.integers(users.max() + 1, size=users.max() + 1), minlength=users.max() + 1)[users]
        drawn = [orders[seed] for seed in chance.choice(seeds, len(seeds))]
        found.append(np.mean([weighed_auc(own, label, weight) - weighed_auc(other, label, weight) for own, other in drawn]))
    low, high = np.quantile(found, [0.025, 0.975])
    return f"{low:+.4f} … {high:+.4f}"


def run(study: Study, arm: str, seed: int, root: Path, masks: dict[str, np.ndarray], scores: Path) -> dict | None:
    """Train, evaluate and slice one arm; the logits of all rows go to a file of their own."""
    words = [
        f"data.root={root}",
        *COMMON,
        *study.arms[arm],
        f"seed={seed}",
    ]
    settings = [word for setting in words for word in ("--set", setting)]
    with tempfile.TemporaryDirectory() as folder:
        for command in (
            ["train", study.config, "--out", f"{folder}/run", "--quiet", *settings],
            ["evaluate", f"{folder}/run", "--days", study.test, "--predictions", f"{folder}/scores", "--quiet"],
        ):
            done = subprocess.run(
                [sys.executable, "-m", "launch", *command], cwd=ROOT, capture_output=True, text=True, check=False
            )
            if done.returncode:
                print(f"{arm} seed {seed} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
                return None
        events = [json.loads(line) for line in Path(folder, "run", "log.jsonl").read_text().splitlines()]
        scored = pq.read_table(Path(folder, "scores"), partitioning=None)
    order = np.lexsort((scored["row"].to_numpy(), scored["file"].cast(pa.string()).to_numpy(zero_copy_only=False)))
    logit, label = (torch.tensor(scored[f"{study.label}_{kind}"].to_numpy()[order]) for kind in ("logit", "label"))
    scores.parent.mkdir(parents=True, exist_ok=True)
    np.savez(scores, logit=logit.numpy().astype(np.float32), label=label.numpy().astype(np.int8))
    metrics = next(event["metrics"] for event in reversed(events) if event["event"] == "evaluated")[study.label]
    line = {name: metrics[name] for name in ("gauc", "logloss", "calibration")}
    for name, mask in masks.items():
        own = torch.from_numpy(mask)
        ones = torch.ones(int(own.sum()))
        if len(ones) and 0 < label[own].float().mean() < 1:
            line[name] = float(auc_by_group(logit[own].double(), label[own], ones, torch.zeros(len(ones)).long())[0][0])
    return {**line, "seconds": sum(event["seconds"] for event in events if event["event"] == "trained")}


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--arms", nargs="+")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "systems.jsonl")
    arguments = parser.parse_args()
    study, arms = STUDIES[arguments.study], arguments.arms or list(STUDIES[arguments.study].arms)
    known = {(line["name"], line["seed"]) for line in read(arguments.results)}
    cells = [(arm, 2026 + seed) for seed in range(arguments.seeds) for arm in arms]
    todo = [(arm, seed) for arm, seed in cells if (f"{arguments.study} {arm}", seed) not in known]
    beside = arguments.results.with_suffix("")

    def scores_of(arm: str, seed: int) -> Path:
        return beside / f"{arguments.study} {arm} {seed}.npz"

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        if todo:
            root = study.log(Path(folder))
            masks = masks_of(study, root)
            np.save(beside.parent / f"{beside.name} {arguments.study} users.npy", users_of(study, root))

        def one(cell: tuple[str, int]) -> None:
            line = run(study, *cell, root, masks, scores_of(*cell))
            if line is not None:
                with arguments.results.open("a") as file:
                    file.write(json.dumps({"name": f"{arguments.study} {cell[0]}", "seed": cell[1], **line}) + "\n")
                print(f"{cell[0]:16} seed {cell[1]}  AUC {line['all']:.4f}  {line['seconds']:.0f} s", flush=True)

        list(pool.map(one, todo))
    lines = read(arguments.results)
    by_arm = {arm: {own["seed"]: own for own in lines if own["name"] == f"{arguments.study} {arm}"} for arm in arms}
    by_arm = {arm: rows for arm, rows in by_arm.items() if rows}
    logits: dict[str, dict[int, np.ndarray]] = {}
    label = users = np.zeros(0)
    for arm, seed in cells:
        if scores_of(arm, seed).exists():
            held = np.load(scores_of(arm, seed))
            logits.setdefault(arm, {})[seed], label = held["logit"], held["label"]
            users = np.load(beside.parent / f"{beside.name} {arguments.study} users.npy")
    heading = ("arm", "seeds", "AUC", "to its base", "over users and seeds", "logloss", "GAUC", "to its base", "s")
    print("\n| " + " | ".join(heading) + " |\n" + "|---" * len(heading) + "|")
    for arm, rows in by_arm.items():
        auc, loss, gauc = (spread([row[key] for row in rows.values()]) for key in ("all", "logloss", "gauc"))
        seconds = sum(row["seconds"] for row in rows.values()) / len(rows)
        base = study.bases.get(arm, "plain")
        alone = base == arm or base not in by_arm
        to_base = ["-" if alone else paired(rows, by_arm[base], key) for key in ("all", "gauc")]
        over_users = "-" if alone else bootstrapped(logits.get(arm, {}), logits.get(base, {}), label, users)
        told = (arm, len(rows), auc, to_base[0], over_users, loss, gauc, to_base[1], f"{seconds:.0f}")
        print("| " + " | ".join(str(own) for own in told) + " |")
    slices = [key for key in next(iter(by_arm.values()))[min(next(iter(by_arm.values())))] if " " in key]
    print("\n| AUC, to its base | " + " | ".join(slices) + " |\n" + "|---" * (1 + len(slices)) + "|")
    for arm, rows in by_arm.items():
        base = study.bases.get(arm, "plain")
        alone = base == arm or base not in by_arm
        cells_of = [spread([r[key] for r in rows.values()]) if alone else paired(rows, by_arm[base], key) for key in slices]
        print(f"| {arm} | " + " | ".join(cells_of) + " |")


if __name__ == "__main__":
    main()
