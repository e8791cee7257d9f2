"""What a step takes on 1 to 128 GPUs, from the planner and data sheets alone, next to what was published.

    python benchmarks/scaling_model.py

The published runs are TorchRec's DLRM example on Criteo's 1TB log (facebookresearch/dlrm, torchrec_dlrm): eight A100 of 40 GB
a host (AWS p4d), fp32, tables of 128 columns. Their networks are counted manually, their tables are planned by `genctr plan`.
What is assumed is in `pipeline/distributed/hardware.py` and `pipeline/planning/estimate.py`. Nothing is fitted to these runs
but the fixed 7 ms of a step, to the one of 256 rows a GPU, which is left out here; the share of their peak that fp32 products
reach, .8, was chosen with DCN V2's larger batch in view.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from pathlib import Path

from data.errors import GenctrError
from data.schema import AnyIds, Schema
from pipeline.config.run import RunConfig, load
from pipeline.distributed.hardware import DEVICES
from pipeline.planning.dense_cost import Network
from pipeline.planning.estimate import ClusterSpec, StageEstimate, estimate

HERE = Path(__file__).parent
PER_HOST = 8


def products(*layers: int) -> int:
    """Weights of a stack of layers."""
    return sum(left * right for left, right in pairwise(layers))


BOTTOM, TOP = products(13, 512, 256, 128), (1024, 1024, 512, 256, 1)
FLAT, PAIRS = 27 * 128, 27 * 26 // 2
NETWORKS = {
    # Three cross layers of rank 512, then the network above.
    "DCN V2": BOTTOM + 3 * 2 * FLAT * 512 + products(FLAT, *TOP),
    # All dot products between 27 vectors, and the bottom's output next to them.
    "dot": BOTTOM + products(128 + PAIRS, *TOP),
}
EXTRA = {"DCN V2": 0, "dot": 27 * 27 * 128}
"""Products of a row that are not with weights."""


@dataclass(frozen=True)
class Published:
    """A run: its network, cards, rows of a step on each GPU, rows/s; whether rows have several ids of a field, and how large
    the largest tables are."""

    network: str
    cards: int
    rows: int
    rate: float
    several: bool
    tables: str


RUNS = [
    Published("DCN V2", 8, 16384, 1_190_000, several=True, tables="40 M"),
    Published("DCN V2", 8, 2048, 901_120, several=True, tables="40 M"),
    Published("dot", 8, 8192, 5_497_160, several=False, tables="40 M"),
    Published("dot", 8, 2048, 1_671_168, several=False, tables="49 M"),
    Published("dot", 16, 4096, 2_028_339, several=False, tables="80 M"),
    Published("dot", 80, 819, 459_950, several=False, tables="293 M"),
]

PARTS = ("lookup", "communication", "network", "gradients", "fixed")

LARGEST = {
    "40 M": {},
    "49 M": {0: 45_833_188, 9: 29_275_261, 10: 1_572_176, 19: 48_937_457, 20: 11_316_796, 21: 40_094_537},
    "80 M": {0: 80_000_000, 9: 80_000_000, 19: 80_000_000, 20: 40_790_948, 21: 80_000_000},
    "293 M": {0: 227_605_432, 9: 130_229_467, 19: 292_775_614, 20: 40_790_948, 21: 187_188_510},
}
"""Rows of tables that are not cut at 40 million, by the place of their field."""


def log(largest: dict[int, int], *, several: bool) -> tuple[RunConfig, Schema]:
    """The run file and the schema, with other tables, or one id a row."""
    config, schema = load(str(HERE / "configs" / "dlrm.yaml"))
    fields, at = [], 0
    for field in schema.fields:
        if isinstance(field, AnyIds):
            rows = {"rows": largest.get(at, field.rows)}
            field = field.model_copy(update=rows if several else rows | {"length": 1})
            at += 1
        fields.append(field)
    return config, schema.model_copy(update={"fields": tuple(fields)})


def predicted(run: Published, device: str = "a100-40gb") -> StageEstimate:
    """The plan of a run on paper."""
    config, schema = log(LARGEST[run.tables], several=run.several)
    train = config.train.model_copy(update={"global_batch_rows": run.rows * run.cards})
    # The optimizer was SGD for the dot products, Adagrad for DCN V2.
    tables = config.tables.model_copy(update={"optimizer": "adagrad" if run.network == "DCN V2" else "sgd"})
    config = config.model_copy(update={"train": train, "tables": tables})
    weights = NETWORKS[run.network]
    network = Network(weights, 6.0 * (weights + EXTRA[run.network]), 4.0 * (6 * FLAT + sum(TOP)))
    [paper] = estimate(config, schema, ClusterSpec(DEVICES[device], run.cards, ceil(run.cards / PER_HOST)), {}, network)
    return paper


def compared(runs: Sequence[Published]) -> list[dict[str, object]]:
    """Published runs next to predictions."""
    lines = []
    for run in runs:
        paper = predicted(run)
        assert paper.times is not None
        error = paper.rows_per_second / run.rate - 1
        lines.append({"run": run, "step": run.rows * run.cards / run.rate * 1e3, "times": paper.times, "error": error,
                      "predicted": paper.rows_per_second})  # fmt: skip
    return lines


def scaled(device: str, rows: int, cards: Sequence[int]) -> list[tuple[int, StageEstimate | None]]:
    """DCN V2 on more and more GPUs, as many rows on each."""
    found: list[tuple[int, StageEstimate | None]] = []
    for number in cards:
        try:
            paper = predicted(Published("DCN V2", number, rows, 0.0, several=True, tables="40 M"), device)
        except GenctrError:
            paper = None
        found.append((number, paper if paper is not None and paper.fits else None))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Predict and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cards", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128])
    parser.add_argument("--devices", nargs="+", default=["a100", "h100"])
    parser.add_argument("--results", type=Path, help="also write the comparison here, as JSON")
    arguments = parser.parse_args(argv)

    lines = compared(RUNS)
    headings = ("published: network, GPUs x rows", "rows/s", "ms a step", "predicted rows/s", "error", *PARTS)
    print(f"| {' | '.join(headings)} |\n|{'---|' * len(headings)}")
    for line in lines:
        run, times = line["run"], line["times"]
        parts = [f"{getattr(times, name):.1f}" for name in PARTS]
        ids = "several ids a field" if run.several else "one id a field"
        named = f"{run.network}, {ids}, {run.cards} x {run.rows:,}"
        figures = (f"{run.rate:,.0f}", f"{line['step']:.1f}", f"{line['predicted']:,.0f}", f"{line['error']:+.0%}")
        print(f"| {' | '.join((named, *figures, *parts))} |")

    for device in arguments.devices:
        print(f"\n| DCN V2, {device}, 16,384 rows a GPU | rows/s | ms a step | of one GPU's rate, each | fullest GPU |")
        print("|---|---|---|---|---|")
        first = None
        for number, paper in scaled(device, 16384, arguments.cards):
            if paper is None:
                print(f"| {number} | does not fit | | | |")
                continue
            each = paper.rows_per_second / number
            first = first or each
            fullest = max(line.memory for line in paper.ranks) / 2**30
            print(
                f"| {number} | {paper.rows_per_second:,.0f} | {paper.times.step:.1f} | {each / first:.0%} | {fullest:.1f} GiB |"
            )
    if arguments.results:
        told = [{**line["run"].__dict__, "predicted": line["predicted"], "error": line["error"]} for line in lines]
        arguments.results.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
