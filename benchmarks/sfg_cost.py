"""What SFG costs over its base: a step's time and the process's memory, paired on the same batches in one process.

    python benchmarks/sfg_cost.py

dcnv2 with F fields of width D and a network of 400-400-400, plain and sfg, over small tables and over tables of 10 million rows
in all. Every pair trains the same random batches in turn; printed is the median of the paired ratios, and the ratio of the
floating-point operations next to it. Memory is that of parameters, gradients and optimizer state, which is what grows.
"""

import argparse
import statistics
import sys
import time
from functools import partial
from itertools import pairwise

import torch
from grid import ROOT
from torch import nn
from torchrec import KeyedJaggedTensor

sys.path.insert(0, str(ROOT))

from models.decoders.cross import CrossOptions
from models.field_embedding import Field, FieldEmbedding
from models.heads.base import LinearHead
from models.inputs import FieldInfo, Inputs
from models.layers import MLPOptions, flat
from models.ranker import Ranker
from models.registries import DECODERS, ENCODERS
from models.sparse import SparseArch, Table
from pipeline.config.tables import TableConfig
from pipeline.distributed.shard import shard
from pipeline.distributed.world import world

HIDDEN = (400, 400, 400)
CROSS = 3


class Task(nn.Module):
    """A ranker and its loss."""

    def __init__(self, model: Ranker) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: KeyedJaggedTensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss."""
        empty = torch.zeros(len(labels), 0)
        logits = self.model(Inputs(ids, None, empty, empty)).logits["click"]
        return nn.functional.binary_cross_entropy_with_logits(logits, labels)


def flops(paradigm: str, fields: int, width: int) -> int:
    """Multiplications and additions of a row's forward pass, dense part."""
    flat = fields * width
    layers = [flat, *HIDDEN]
    network = sum(2 * a * b for a, b in pairwise(layers))
    cross = CROSS * (2 * flat * flat + 3 * flat)
    return network + cross + (CROSS * 2 * flat * flat if paradigm == "sfg" else 0)


def model(paradigm: str, fields: int, width: int, rows: int):
    """A sharded model and its dense optimizer."""
    torch.manual_seed(0)
    generate = partial(ENCODERS["sfg" if paradigm == "sfg" else "none"], fields=fields, width=width)
    decoder = DECODERS["dcnv2"](
        fields=[FieldInfo(f"f{at}") for at in range(fields)],
        width=width,
        generate=generate,
        cross=CrossOptions(layers=CROSS),
        network=MLPOptions(hidden=HIDDEN),
    )
    names = [f"f{at}" for at in range(fields)]
    tables = [Table(name, rows, width, (name,)) for name in names]
    embed = FieldEmbedding([Field(name, "table", width) for name in names], width=width, linear=False)
    sparse = SparseArch(tables, device=torch.device("meta"))
    head = LinearHead(features=flat(decoder.out), targets=["click"])
    task = Task(Ranker(sparse=sparse, embed=embed, decoder=decoder, head=head))
    sharded = shard(task, tables={name: TableConfig() for name in names}, device=torch.device("cpu"), batch_rows=4096, seed=1)
    return sharded.model, torch.optim.Adam(sharded.dense_parameters.values(), lr=1e-3), sharded


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--batch", type=int, default=2048)
    arguments = parser.parse_args()
    print("| fields | width | rows of all tables | step, ms plain | step, ms sfg | time | FLOP | memory |\n" + "|---" * 8 + "|")
    with world("cpu"):
        for fields, width, rows in ((10, 10, 500), (20, 16, 500), (20, 16, 500_000), (20, 64, 500), (20, 64, 500_000)):
            pair = {paradigm: model(paradigm, fields, width, rows) for paradigm in ("plain", "sfg")}
            times = {paradigm: [] for paradigm in pair}
            for step in range(arguments.steps):
                generator = torch.Generator().manual_seed(step)
                size = (fields * arguments.batch,)
                ids = (torch.rand(size, generator=generator) ** 3 * rows).long()
                keys = [f"f{at}" for at in range(fields)]
                batch = KeyedJaggedTensor(keys=keys, values=ids, lengths=torch.ones(size, dtype=torch.int64))
                labels = torch.randint(0, 2, (arguments.batch,), generator=generator).float()
                for paradigm, (own, learn, _) in pair.items():
                    since = time.perf_counter()
                    learn.zero_grad()
                    own(batch, labels).backward()
                    learn.step()
                    times[paradigm].append(time.perf_counter() - since)
            ratio = statistics.median(b / a for a, b in zip(times["plain"][3:], times["sfg"][3:], strict=True))
            dense = {k: sum(p.numel() for p in own[2].dense_parameters.values()) for k, own in pair.items()}
            table = fields * rows * (width + 1)  # row-wise Adagrad keeps one number a row
            memory = (4 * dense["sfg"] + table) / (4 * dense["plain"] + table)  # weight, gradient, two moments
            step = {k: statistics.median(v[3:]) * 1e3 for k, v in times.items()}
            operations = flops("sfg", fields, width) / flops("plain", fields, width)
            figures = f"{step['plain']:.1f} | {step['sfg']:.1f} | {ratio:.2f} | {operations:.2f} | {memory:.3f}"
            print(f"| {fields} | {width} | {fields * rows:,} | {figures} |", flush=True)
            del pair


if __name__ == "__main__":
    main()
