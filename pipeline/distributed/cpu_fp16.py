"""Tables of half precision on CPU: rounded at random, so that small steps count, and no row touched before it is trained.

FBGEMM rounds fp16 tables to the nearest number on CPU, and a step smaller than half the distance to it is lost, however often
it is taken. Here it is rounded up or down at random, so that the mean of many small steps is what it should be.

A row of zero bits stands for its first value, which is a function of (seed, table, row): it is computed when the row is
looked up, and written when the row is first trained. The memory is mapped and not filled, so a table of a billion rows costs
nothing to begin with, and then the pages in which rows were trained. Checkpoints hold the same bits.
"""

import hashlib
import mmap
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as functional
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import PoolingMode, SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor
from torchrec.distributed.embedding_types import GroupedEmbeddingConfig

from data.ids import mix
from pipeline.distributed.cpu_kernels import CustomTables

GROUP = 4
"""[columns] that share one random word of 64 bits; FBGEMM's widths, and shards of them, are multiples of it."""

LARGEST, LEAST_EXPONENT, FRACTION_BITS = 65504.0, -14, 10
"""Of fp16: the largest number, the exponent below which numbers are evenly spaced, the bits after the point."""


@dataclass(frozen=True)
class FirstValues:
    """How the rows of a table begin: each a function of (seed, table, row, column), whatever the plan.

    Args:
        kind: normal is N(0, scale^2), uniform lies between -scale and scale.
        scale: the spread.
        seed: of the run.
    """

    kind: Literal["normal", "uniform"]
    scale: float
    seed: int

    def key(self, table: str) -> int:
        """64 bits for a table."""
        return _word(f"{self.seed}/{table}/first")

    def __call__(self, keys: Tensor, rows: Tensor, width: int, column: Tensor | int = 0) -> Tensor:
        """The initial values of some rows.

        Args:
            keys: of every row's table. rows: numbers in the whole table. column: the first of the `width` columns, of all rows
                or of each.

        Shape:
            keys (N,), rows (N,) -> (N, D) fp16
        """
        u_ND = lots(keys, rows, width, column)
        values_ND = torch.special.ndtri(u_ND) if self.kind == "normal" else u_ND.mul_(2).sub_(1)
        return values_ND.mul_(self.scale).half()

    def filled(self, part: Tensor, table: str, rows: Tensor, column: int = 0) -> Tensor:
        """Some stored rows of a table as a look-up sees them, in fp32.

        Args:
            part: the rows, or some columns of them from `column` on. rows: their numbers in the whole table.

        Shape:
            part (N, D) fp16, rows (N,) -> (N, D)
        """
        keys, columns = (torch.tensor(own).expand(len(rows)) for own in (self.key(table), column))
        return self._filled(part, keys, columns, rows)

    def _filled(self, part: Tensor, keys: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
        values = part.float()
        fresh = _is_blank(part).nonzero().flatten()
        if len(fresh):
            values[fresh] = self(keys[fresh], rows[fresh], part.shape[1], columns[fresh]).float()
        return values


@dataclass(frozen=True)
class StochasticFp16:
    """How a group of fp16 tables learns.

    With g the gradient of a row (that of all its look-ups in the step, summed) and D its width:

        sgd                w = round(w - lr g)
        rowwise_adagrad    m = m + |g|^2 / D        w = round(w - lr g / (sqrt(m + begin) + eps))

    round takes the next number below or above, above as often as the result is near it: its mean is the result. The draw is a
    function of (seed, table, step, row, column): the same for every plan, and after a restart.

    Args:
        optimizer: as above. eps: as above. m is fp32.
        first: how rows begin.
        clip: largest absolute value of a coordinate of the gradient of a looked-up vector; None does not clip.
        begin: what is added to m, which is 0 in rows that were never touched, so that their memory need not be there.
    """

    optimizer: Literal["sgd", "rowwise_adagrad"]
    eps: float
    first: FirstValues
    clip: float | None = None
    begin: float = 0.0

    @property
    def base_optimizer(self) -> EmbOptimType:
        """FBGEMM's optimizer of that name, for its state."""
        return EmbOptimType.EXACT_SGD if self.optimizer == "sgd" else EmbOptimType.EXACT_ROWWISE_ADAGRAD

    def memory(self, numbers: int, rows: int) -> dict[str, Tensor]:
        """Memory of zeros that takes no page until it is written."""
        moments = {} if self.optimizer == "sgd" else {"momentum1": untouched(rows, torch.float)}
        return {"weights": untouched(numbers, torch.half), **moments}

    def wrap(self, tables: SplitTableBatchedEmbeddingBagsCodegen, config: GroupedEmbeddingConfig) -> "Fp16Tables":
        """Take over a group's tables."""
        corners = [table.local_metadata.shard_offsets if table.local_metadata else (0, 0) for table in config.embedding_tables]
        tops, lefts = ([corner[at] for corner in corners] for at in (0, 1))
        return Fp16Tables(tables, self, names=[table.name for table in config.embedding_tables], tops=tops, lefts=lefts)


class Fp16Tables(CustomTables):
    """A TBE of equally wide fp16 CPU tables that look initial values up and round at random.

    Args:
        tables: made with fp16 weights, and SGD or row-wise Adagrad.
        rule: how the tables learn.
        names: of the tables. tops: the row of the whole table that is a table's first one here. lefts: the same for columns.
    """

    def __init__(
        self,
        tables: SplitTableBatchedEmbeddingBagsCodegen,
        rule: StochasticFp16,
        *,
        names: list[str],
        tops: list[int],
        lefts: list[int],
    ) -> None:
        super().__init__(tables)
        self.rule, self.names = rule, names
        moves = [top - first for top, first in zip(tops, self.firsts, strict=True)]
        self.register_buffer("edges", torch.tensor(self.firsts[1:], dtype=torch.int64), persistent=False)
        self.register_buffer("moves", torch.tensor(moves, dtype=torch.int64), persistent=False)
        self.register_buffer("lefts", torch.tensor(lefts, dtype=torch.int64), persistent=False)
        keys = [rule.first.key(name) for name in names]
        self.register_buffer("keys", torch.tensor(keys, dtype=torch.int64), persistent=False)

    @torch.no_grad()
    def look(self, indices: Tensor, offsets: Tensor) -> Tensor:
        """What the rows hold, or begin with; fixes ids that are out of bounds in place."""
        indices, offsets, _, _ = self.tables.prepare_inputs(indices, offsets)
        values = self._values(self.physical(indices.long(), offsets.long()))
        if self.tables.is_nobag:
            return values
        mode = "mean" if self.tables.pooling_mode == PoolingMode.MEAN else "sum"
        order = torch.arange(len(values))
        bags = functional.embedding_bag(order, values, offsets.long(), mode=mode, include_last_offset=True)
        fields = len(self.starts)
        return bags.view(fields, -1, self.width).transpose(0, 1).reshape(-1, fields * self.width)

    @torch.no_grad()
    def update(self, indices: Tensor, offsets: Tensor, grad: Tensor) -> None:
        """Move the tables by one step, given the gradient of what `forward` returned."""
        if self.rule.clip is not None:
            grad = grad.clamp(-self.rule.clip, self.rule.clip)
        rows, summed = self.summed(indices.long(), offsets.long(), grad)
        step = int(self.tables.iter)
        if len(rows):
            if self.rule.optimizer == "rowwise_adagrad":
                moments = self.tables.momentum1_host.detach()
                moment = moments.index_select(0, rows) + summed.square().mean(1)
                moments.index_copy_(0, rows, moment)
                summed = summed / ((moment + self.rule.begin).sqrt() + self.rule.eps).unsqueeze(1)
            wanted = self._values(rows).sub_(summed, alpha=self.tables.get_learning_rate())
            of_tables = self._tables(rows)
            keys = torch.tensor([_word(f"{self.rule.first.seed}/{name}/round/{step}") for name in self.names])
            u = lots(keys[of_tables], rows + self.moves[of_tables], self.width, self.lefts[of_tables])
            self._memory().index_copy_(0, rows, marked(rounded(wanted, u)))
        self.tables.iter.add_(1)

    def _memory(self) -> Tensor:
        memory: Tensor = self.tables.weights_host.detach()
        return memory.view(-1, self.width)

    def _tables(self, rows: Tensor) -> Tensor:
        """Which table of the group each row of the memory belongs to."""
        return torch.bucketize(rows, self.edges, right=True)

    def _values(self, rows: Tensor) -> Tensor:
        of_tables = self._tables(rows)
        stored = self._memory().index_select(0, rows)
        return self.rule.first._filled(stored, self.keys[of_tables], self.lefts[of_tables], rows + self.moves[of_tables])


def untouched(numbers: int, kind: torch.dtype) -> Tensor:
    """Zeros that take no page of memory until they are written; `torch.zeros` writes them all.

    Pages stay small (4 KiB): with huge ones a billion rows spread by a hash would take all of their memory in the first steps,
    and the minute it takes to find it; later steps would be faster, see benchmarks/table_scale.py.

    Shape:
        () -> (numbers,)
    """
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # a shared mapping would take pages to read them
    return torch.frombuffer(mmap.mmap(-1, numbers * kind.itemsize, flags=private), dtype=kind)


def rounded(values: Tensor, u: Tensor) -> Tensor:
    """Every value as one of the two fp16 numbers around it, the upper one if `u` is below the share of the way to it.

    Shape:
        values (N, D) fp32, u (N, D) in (0, 1) -> (N, D) fp16
    """
    values = values.clamp(-LARGEST, LARGEST)
    # What is left of a number without its fraction is a power of two; a fp16 number has 10 bits after it.
    power = (values.view(torch.int32) & 0x7F800000).view(torch.float).clamp(min=2.0**LEAST_EXPONENT)
    spacing = power.mul_(2.0**-FRACTION_BITS)
    steps = values / spacing
    below = steps.floor()
    return below.add_(u < steps - below).mul_(spacing).half()


def lots(keys: Tensor, rows: Tensor, width: int, column: Tensor | int = 0) -> Tensor:
    """Uniform numbers of 16 bits, each a function of (key, row, column); `column` is the first one, of all rows or of each.

    Shape:
        keys (N,), rows (N,) -> (N, D) in (0, 1)
    """
    groups = torch.arange(width // GROUP) + torch.as_tensor(column // GROUP).unsqueeze(-1)
    counters = (rows.unsqueeze(1) << 16 | groups).bitwise_xor_(keys.unsqueeze(1)).numpy().view(np.uint64)
    words = np.empty_like(counters)
    mix(counters, np.uint64(0), words, np.empty_like(counters))
    u = torch.from_numpy(words.view(np.uint16).astype(np.float32))
    return u.add_(0.5).mul_(2.0**-16)


def _is_blank(stored: Tensor) -> Tensor:
    """Which rows are zero bits.

    Shape:
        (N, D) fp16 -> (N,)
    """
    return stored.contiguous().view(torch.int64).eq(0).all(1)


def marked(rows: Tensor) -> Tensor:
    """Trained rows as they are stored: one that is all zeros gets a minus in front of its first, so that it is not blank."""
    rows[_is_blank(rows), 0] = -0.0
    return rows


def _word(text: str) -> int:
    """64 bits for a text, as a signed integer."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
