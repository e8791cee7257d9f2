"""Frappe: decoders plain and generative against the published test scores, SFG's gamma, its arms, and TF4CTR.

    python benchmarks/frappe.py published          the first eleven decoders, plain, five seeds
    python benchmarks/frappe.py decoders           all others, plain, five seeds; the cheapest first
    python benchmarks/frappe.py gamma              the eight decoders of the SFG paper, gamma by gamma, one seed
    python benchmarks/frappe.py sfg                the same at the gamma that was best on the validation rows, five seeds
    python benchmarks/frappe.py start              fm, fwfm and fmfm, plain, with the start and the matrices that their sfg has
    python benchmarks/frappe.py fwfm               what else could make a generating fwfm better, one seed
    python benchmarks/frappe.py pace               the decoders without a network by learning rate and decay, one seed
    python benchmarks/frappe.py paced              the same with those that were best on the validation rows, five seeds
    python benchmarks/frappe.py arms               encoders, sources and targets on dcnv2
    python benchmarks/frappe.py accumulator        dcnv2 with row-wise Adagrad, by what its sums begin with
    python benchmarks/frappe.py twin               TF4CTR: selection by fusion, the best published setting first

A grid goes on where it was stopped; `--seeds` and `--jobs` say how much of it to run.

Hyper-parameters are the BARS benchmark's for Frappe_x1, the same for plain and sfg. One is ours: crossnet, fmfm, and the
decoders without a network when they generate, start their tables at N(0, .1^2). From the usual N(0, 1e-4^2) a pure product of
embeddings learns so slowly that the rate is cut on the plateau before it (crossnet ends at AUC .943, in a plain torch loop of
thirty lines as well). Plain fm and fwfm do well from the usual start, but better from this one: `start`. The encoder of sfg is
one ReLU layer, for crossnet and dcnv2 with the raw embedding added and regenerated per layer, as the released SFG code has it.
Settings of dlrm (its products), dcnv3, rankmixer, finalnet, wukong and pepnet are not published for Frappe; ours are untuned.
Valid and test rows are the official ones; the training negatives are redrawn: compare within ±.003.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from grid import DATA, Cell, paired, read, run_grid, spread

NETWORK = ("model.decoder_options.hidden=[400,400,400]", "model.decoder_options.batch_norm=true")
WIDE_START = "tables.init.scale=0.1"
SETTINGS = {
    "fm": ("model.decoder_options={}", "tables.weight_decay=5e-6"),
    "fwfm": ("model.decoder_options={first_order: felv}", "tables.weight_decay=5e-6"),
    "fmfm": ("model.decoder_options={matrix: false}", "tables.weight_decay=1e-5", WIDE_START),
    "ffm": ("model.decoder_options={}", "tables.weight_decay=1e-6"),
    "crossnet": ("model.decoder_options={layers: 4, bias: true}", "tables.weight_decay=1e-3", WIDE_START),
    "mlp": ("model.decoder_options={}", *NETWORK, "model.decoder_options.dropout=0.2", "tables.weight_decay=0.05"),
    "ipnn": ("model.decoder_options={hidden: [400, 400, 400], dropout: 0.3}", "tables.weight_decay=0.05"),
    "deepfm": ("model.decoder_options={}", *NETWORK, "model.decoder_options.dropout=0.2", "tables.weight_decay=0.05"),
    "dcnv2": (
        *("model.decoder_options={layers: 4, bias: true}", *NETWORK, "model.decoder_options.dropout=0.4"),
        "tables.weight_decay=0.05",
    ),
    "xdeepfm": (
        *("model.decoder_options={units: [64]}", *NETWORK, "model.decoder_options.dropout=0.2"),
        "tables.weight_decay=0.1",
    ),
    "finalmlp": (
        "model.decoder_options={hidden: [400], second_hidden: [100], gate_hidden: [400], contexts: [[user], [item]], heads: 5}",
        "model.decoder_options.batch_norm=true",
        "model.decoder_options.dropout=0.4",
        "tables.weight_decay=0.05",
    ),
    "lr": ("model.decoder_options={}", "tables.weight_decay=1e-5"),
    "edcn": (
        "model.decoder_options={layers: 3, bridge: product, temperature: 5, batch_norm: true, dropout: 0.3}",
        "tables.weight_decay=0.05",
    ),
    "dcnv3": ("model.decoder_options={deep_dropout: 0.1, shallow_dropout: 0.3}", "tables.weight_decay=0.05"),
    "rankmixer": ("model.decoder_options={tokens: 10, token_width: 40}", "tables.weight_decay=0.05"),
    "dcn": ("model.decoder_options={layers: 3}", *NETWORK, "model.decoder_options.dropout=0.2", "tables.weight_decay=0.05"),
    "wide_deep": ("model.decoder_options={}", *NETWORK, "model.decoder_options.dropout=0.6", "tables.weight_decay=0.1"),
    "dlrm": ("model.decoder_options={}", *NETWORK, "model.decoder_options.dropout=0.2", "tables.weight_decay=0.05"),
    "masknet": ("model.decoder_options={blocks: [50, 50, 50], dropout: 0.1}", "tables.weight_decay=0.1"),
    "finalnet": (
        *("model.decoder_options={second_hidden: [400]}", *NETWORK, "model.decoder_options.dropout=0.4"),
        "tables.weight_decay=0.05",
    ),
    "wukong": ("model.decoder_options={}", *NETWORK, "model.decoder_options.dropout=0.2", "tables.weight_decay=0.05"),
    "pepnet": (
        *("model.decoder_options={domains: [country], priors: [user, item]}", *NETWORK, "model.decoder_options.dropout=0.2"),
        "tables.weight_decay=0.05",
    ),
    "fibinet": (
        *("model.decoder_options={bilinear: all, reduction: 2}", *NETWORK, "model.decoder_options.dropout=0.3"),
        "tables.weight_decay=0.05",
    ),
    "afn": (
        "model.decoder_options={neurons: 1000, afn_hidden: [400], afn_dropout: 0.4, hidden: [400, 400, 400], dropout: 0.2}",
        "tables.weight_decay=1e-3",
    ),
}
OTHERS = (
    *("lr", "edcn", "dcnv3", "rankmixer", "dcn", "wide_deep", "dlrm"),
    *("masknet", "finalnet", "wukong", "pepnet", "fibinet", "afn"),
)
"""The decoders of the grid `decoders`, the cheapest first."""
RESIDUAL = ("model.encoder.residual=true", "model.decoder_options.regenerate=true")
SFG = {
    "fm": (WIDE_START,),
    "deepfm": (),
    "fwfm": (WIDE_START,),
    "fmfm": ("model.decoder_options.matrix=true",),
    "ipnn": (),
    "xdeepfm": (),
    "crossnet": RESIDUAL,
    "dcnv2": RESIDUAL,
}
"""The decoders whose generative form is published, and what differs in it."""
START = ("fm", "fwfm", "fmfm")
"""Of these, those whose plain form could have that too."""

FWFM = {  # in each of its two other first orders
    "plain, usual start": ("model.encoder={kind: none}", "tables.init.scale=0.0001"),
    "plain, wide start": ("model.encoder={kind: none}",),
    "sfg": ("model.encoder.gamma=1",),
    "sfg, gamma 6": ("model.encoder.gamma=6",),
    "sfg, decay 5e-5": ("model.encoder.gamma=1", "tables.weight_decay=5e-5"),
    "sfg, raw added, gamma 0.1": ("model.encoder.gamma=0.1", "model.encoder.residual=true"),
}
PACED = ("fm", "fwfm", "fmfm", "crossnet")
"""The decoders without a network."""
PACES = ("0.02 5e-6", "0.02 1e-4", "0.02 1e-3", "0.005 5e-6")
"""Learning rate, of tables and of all that is dense, and decay of what is dense. The benchmark's rate is .001."""
GAMMAS = (0.005, 0.01, 0.1, 1, 6, 8, 36)
PUBLISHED = {  # test AUC, logloss: BARS, Frappe_x1
    "fm": (0.9671, 0.2065),
    "fwfm": (0.9776, 0.2030),
    "fmfm": (0.9749, 0.2004),
    "ffm": (0.9786, 0.1860),
    "crossnet": (0.9729, 0.2216),
    "mlp": (0.9833, 0.1622),
    "ipnn": (0.9841, 0.1540),
    "deepfm": (0.9842, 0.1482),
    "dcnv2": (0.9845, 0.1491),
    "xdeepfm": (0.9845, 0.1466),
    "masknet": (0.9837, 0.1696),
    "finalmlp": (0.9861, 0.1484),
    "lr": (0.9356, 0.3076),
    "wide_deep": (0.9841, 0.1490),
    "dcn": (0.9839, 0.1527),
    "fibinet": (0.9832, 0.1941),
    "edcn": (0.9850, 0.1547),
    "afn": (0.9826, 0.2139),
    "finalnet": (0.9857, 0.1311),
}
RAW_OUT = ("model.encoder.residual=false",)
"""Where the raw vector is added, restoring it is solved by generating nothing, and a hidden field is not hidden."""
ARMS = {  # on dcnv2, whose own is one ReLU layer from all fields to all, gamma 1
    "linear": ("model.encoder.activation=linear",),
    "silu": ("model.encoder.activation=silu",),
    "tanh": ("model.encoder.activation=tanh",),
    "sigmoid": ("model.encoder.activation=sigmoid",),
    "deep": ("model.encoder.transform=deep",),
    "field shared": ("model.encoder.transform=field_shared",),
    "attention": ("model.encoder.transform=attention",),
    "senet": ("model.encoder.transform=senet",),
    "source self": ("model.encoder.source=self",),
    "source others": ("model.encoder.source=others",),
    "only high": ("model.encoder.generate_for=high_cardinality", "model.encoder.num_fields=5"),
    "only low": ("model.encoder.generate_for=low_cardinality", "model.encoder.num_fields=5"),
    "target random": (*RAW_OUT, "model.encoder.training_target=random", "model.encoder.num_targets=5"),
    "target shared mask": (*RAW_OUT, "model.encoder.training_target=shared_mask", "model.encoder.num_targets=5"),
    "target field mask": (*RAW_OUT, "model.encoder.training_target=field_mask", "model.encoder.num_targets=5"),
    "target zero mask": (*RAW_OUT, "model.encoder.training_target=zero_mask", "model.encoder.num_targets=5"),
    "self-supervised": (*RAW_OUT, "model.encoder.supervision=self"),
    "raw not added": RAW_OUT,
    "learnt gamma": ("model.encoder.learn_gamma=true",),
}
TWIN = (  # TF4CTR's published setting for Frappe: D 16, 10,000 rows a step, L2 .1 on all tables, networks of 400
    *(
        "model.decoder=tf",
        "model.encoder={kind: none}",
        "model.dim=16",
        "train.global_batch_rows=10000",
        "tables.weight_decay=0.1",
    ),
    "model.losses=[{name: tf, options: {alpha: 0.25, c: 0.7, gamma: 1}}]",
    "model.decoder_options={easy_hidden: [400, 400], hidden: [400, 400, 400], batch_norm: true, dropout: 0.2}",
)
BEST_TWIN, PUBLISHED_TWIN = "twin ser wsf", (0.9872, 0.1475)
PLACE = (f"data.root={DATA / 'frappe'}", "data.layout='{day}.parquet'", "checkpoint.asynchronous=false")


ADAGRAD = ("tables.optimizer=rowwise_adagrad", "tables.lr=0.05", "tables.weight_decay=0")
GRIDS = ("published", "decoders", "gamma", "sfg", "start", "fwfm", "pace", "paced", "arms", "accumulator", "twin")
ENCODER = {"plain": "{kind: none}", "sfg": "{kind: sfg}"}


def of(decoder: str, paradigm: str, seed: int, name: str | None = None, *more: str) -> Cell:
    """One run of a decoder."""
    sfg = SFG.get(decoder, ()) if paradigm == "sfg" else ()
    settings = (*PLACE, f"model.decoder={decoder}", f"model.encoder={ENCODER[paradigm]}", *SETTINGS[decoder], *sfg, *more)
    return Cell(name or f"{decoder} {paradigm}", 2021 + seed, settings)


def keep(events: list[dict]) -> dict:
    """Test AUC and logloss, and how long it took."""
    tested = [event for event in events if event["event"] == "tested"][-1]
    trained = [event for event in events if event["event"] == "trained"]
    (scores,) = tested["metrics"].values()
    seconds = sum(event["seconds"] for event in trained)
    validated = [next(iter(event["metrics"].values())) for event in events if event["event"] == "validated"]
    valid = max(scores["auc"] for scores in validated)
    figures = {"auc": scores["auc"], "logloss": scores["logloss"], "valid_auc": valid}
    return {**figures, "epochs": len(trained), "seconds": seconds}


def best_gamma(lines: Sequence[dict], decoder: str) -> str:
    """The gamma with the best validation AUC, as the command line says it."""
    tried = [line for line in lines if line["name"].startswith(f"{decoder} gamma ")]
    return max(tried, key=lambda line: line["valid_auc"])["name"].rsplit(" ", 1)[1]


def at_pace(decoder: str, paradigm: str, seed: int, name: str, pace: str) -> Cell:
    """One run with a learning rate and a decay of its own."""
    rate, decay = pace.split()
    settings = (f"tables.lr={rate}", f"train.dense.lr={rate}", f"train.dense.weight_decay={decay}")
    return of(decoder, paradigm, seed, name, *settings)


def best_pace(lines: Sequence[dict], decoder: str, paradigm: str) -> str:
    """The pace with the best validation AUC."""
    tried = {line["name"]: line["valid_auc"] for line in lines if " pace " in line["name"]}
    return max(PACES, key=lambda pace: tried.get(f"{decoder} {paradigm} pace {pace}", 0.0))


def grid_of(name: str, seeds: int, lines: Sequence[dict], decoders: Sequence[str]) -> list[Cell]:
    """The runs of one grid, seed by seed so that a stopped grid is a smaller one."""
    if name == "published":
        first = [decoder for decoder in PUBLISHED if decoder not in OTHERS]
        return [of(decoder, "plain", seed) for seed in range(seeds) for decoder in decoders or first]
    if name == "decoders":
        return [of(decoder, "plain", seed) for seed in range(seeds) for decoder in decoders or OTHERS]
    if name == "gamma":
        return [
            of(decoder, "sfg", 0, f"{decoder} gamma {gamma}", f"model.encoder.gamma={gamma}")
            for decoder in decoders or SFG
            for gamma in GAMMAS
        ]
    if name == "sfg":
        gammas = {decoder: best_gamma(lines, decoder) for decoder in decoders or SFG}
        return [
            of(decoder, "sfg", seed, f"{decoder} sfg tuned", f"model.encoder.gamma={gamma}")
            for seed in range(seeds)
            for decoder, gamma in gammas.items()
        ]
    if name == "start":
        return [
            of(decoder, "plain", seed, f"{decoder} plain, sfg's start", *SFG[decoder])
            for seed in range(seeds)
            for decoder in decoders or START
        ]
    if name == "fwfm":
        return [
            of("fwfm", "sfg", 0, f"fwfm {first}, {what}", f"model.decoder_options.first_order={first}", *more)
            for first in ("filv", "lw")
            for what, more in FWFM.items()
        ]
    both = [(decoder, paradigm) for decoder in decoders or PACED for paradigm in ("plain", "sfg")]
    if name == "pace":
        return [at_pace(*each, 0, f"{' '.join(each)} pace {pace}", pace) for pace in PACES for each in both]
    if name == "paced":
        paces = {each: best_pace(lines, *each) for each in both}
        return [at_pace(*each, seed, f"{' '.join(each)} paced", paces[each]) for seed in range(seeds) for each in both]
    if name == "arms":
        known = [of("dcnv2", paradigm, seed) for seed in range(seeds) for paradigm in ("plain", "sfg")]
        return known + [of("dcnv2", "sfg", seed, f"dcnv2 {arm}", *more) for seed in range(seeds) for arm, more in ARMS.items()]
    if name == "accumulator":
        return [
            of("dcnv2", "plain", seed, f"dcnv2 begins with {begin}", *ADAGRAD, f"tables.initial_accumulator={begin}")
            for seed in range(seeds)
            for begin in ("0", "1e-6", "1e-4")
        ]
    twins = [
        Cell(
            f"twin {ssem} {dfm}",
            2021 + seed,
            (*PLACE, *TWIN, f"model.decoder_options.ssem={ssem}", f"model.head_options.fusion={dfm}"),
        )
        for seed in range(seeds)
        for ssem in ("none", "ser", "gm", "moe")
        for dfm in ("none", "wsf", "vf", "cf", "moef")
    ]
    return sorted(twins, key=lambda cell: cell.name != BEST_TWIN)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", choices=GRIDS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--decoders", nargs="+", default=[])
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "frappe.jsonl")
    arguments = parser.parse_args()
    grid = grid_of(arguments.grid, arguments.seeds, read(arguments.results), arguments.decoders)
    run_grid("launch/configs/frappe.yaml", grid, results=arguments.results, jobs=arguments.jobs, keep=keep)
    lines = read(arguments.results)
    against = "sfg" if arguments.grid == "arms" else "plain"
    print(f"\n| run | seeds | test AUC | published | logloss | published | against {against} | epochs |\n" + "|---" * 8 + "|")
    for name in dict.fromkeys(cell.name for cell in grid):
        rows = {line["seed"]: line for line in lines if line["name"] == name}
        if not rows:
            continue
        decoder = name.split()[0]
        other = "twin none none" if decoder == "twin" else f"{decoder} {against}{' paced' * name.endswith(' paced')}"
        base = {line["seed"]: line for line in lines if line["name"] == other}
        known = PUBLISHED.get(decoder) if name.endswith("plain") else PUBLISHED_TWIN if name == BEST_TWIN else None
        auc, logloss = (f"{value:.4f}" for value in known) if known else ("-", "-")
        difference = "-" if name == other else paired(rows, base, "auc")
        epochs = round(mean(row["epochs"] for row in rows.values()))
        figures = [spread([row[key] for row in rows.values()]) for key in ("auc", "logloss")]
        label = f"{name} {best_gamma(lines, decoder)}" if name.endswith("tuned") else name
        label = f"{name} {best_pace(lines, decoder, name.split()[1])}" if name.endswith("paced") else label
        print(f"| {label} | {len(rows)} | {figures[0]} | {auc} | {figures[1]} | {logloss} | {difference} | {epochs} |")


if __name__ == "__main__":
    main()
