"""Embedding look-ups: ids in, one vector per field (or per event) out, over TorchRec tables that can be sharded.

B rows, F fields, D width of a table, N events of a field in the whole batch.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingCollection, KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType

from models.table_names import LINEAR, SECOND


@dataclass(frozen=True)
class Table:
    """One embedding table and the fields that read it.

    Attributes:
        name: no dots: it becomes part of state dict keys.
        rows: [rows] ids are 0 .. rows - 1.
        dim: D.
        fields: keys of the KeyedJaggedTensor.
        pool: how the ids of a field in one row become one vector; "none" keeps a vector per id.
        linear: also keep first-order weights, in a table `<name>_linear` with D = 1, pooled alike.
        second: width of a second embedding of every id, in a table `<name>_second`, pooled alike; 0 for none.

    FBGEMM wants widths that are multiples of 4, so a table stores `width` columns and only the first D are read; the others
    get no gradient. A row-wise optimizer averages the squared gradient over all of them: its steps are sqrt(width / D)
    longer.
    """

    name: str
    rows: int
    dim: int
    fields: tuple[str, ...]
    pool: Literal["sum", "mean", "none"] = "sum"
    linear: bool = False
    second: int = 0

    @property
    def width(self) -> int:
        """[columns] stored: D, rounded up to a multiple of 4."""
        return -(-self.dim // 4) * 4

    @property
    def parts(self) -> "tuple[Table, ...]":
        """The table itself and its companions: first-order weights, second embeddings."""
        widths = {LINEAR: 1 if self.linear else 0, SECOND: self.second}
        made = (Table(self.name + own, self.rows, dim, self.fields, self.pool) for own, dim in widths.items() if dim)
        return self, *made


def table_dims(model: nn.Module) -> dict[str, int]:
    """The width that is read of every table of a model; what is stored may be wider."""
    return {name: dim for module in model.modules() if isinstance(module, SparseArch) for name, dim in module.dims.items()}


@dataclass
class JaggedEvents:
    """The vectors of a field's events, row after row, and how many events each row has.

    Shape:
        values (N, D), lengths (B,)
    """

    values: Tensor
    lengths: Tensor


@dataclass
class Lookups:
    """What the look-ups found.

    Attributes:
        vectors: field of a pooled table -> (B, D).
        linear: field of a pooled table with `linear` -> (B, 1).
        events: field of an unpooled table -> one vector per event.
        linear_events: field of an unpooled table with `linear` -> one weight per event, D = 1.
        second: what was found in the second embeddings; None if there are none.
    """

    vectors: dict[str, Tensor] = field(default_factory=dict)
    linear: dict[str, Tensor] = field(default_factory=dict)
    events: dict[str, JaggedEvents] = field(default_factory=dict)
    linear_events: dict[str, JaggedEvents] = field(default_factory=dict)
    second: "Lookups | None" = None


class SparseArch(nn.Module):
    """All embedding tables of a model.

    Build it on the meta device and let DistributedModelParallel shard and fill it, or on a real device to use it as it
    is. Results are taken by key, never by position: the order of a KeyedTensor depends on the sharding plan.

    Args:
        tables: every field belongs to exactly one of them.
        device: where the tables live.

    Attributes:
        bags: the EmbeddingBagCollection of the pooled tables, None if there are none.
        sequences: the EmbeddingCollections of the unpooled tables, one per width (TorchRec wants one width each),
            None if there are none.
        dims: the width that is read of every table and companion, by name.

    Shape:
        bags, sequences: KeyedJaggedTensors of B rows with the fields of the pooled and of the unpooled tables -> Lookups
    """

    def __init__(self, tables: Sequence[Table], *, device: torch.device) -> None:
        super().__init__()
        _check(tables)
        parts = [part for table in tables for part in table.parts]
        self.dims = {part.name: part.dim for part in parts}
        companions = [part.name for table in tables for part in table.parts[1:]]
        self._linear = {name for name in companions if name.endswith(LINEAR)}
        self._second = {name for name in companions if name.endswith(SECOND)}
        pooled = [part for part in parts if part.pool != "none"]
        kept = [part for part in parts if part.pool == "none"]
        self._read = {"bags": _reads(pooled)}
        self.bags: EmbeddingBagCollection | None = None
        self.sequences: nn.ModuleDict | None = None
        if pooled:
            self.bags = EmbeddingBagCollection(tables=[_bag_config(part) for part in pooled], device=device)
        if kept:
            self.sequences = nn.ModuleDict()
            for width in sorted({part.width for part in kept}):
                same = [part for part in kept if part.width == width]
                configs = [_config(part) for part in same]
                self.sequences[f"width_{width}"] = EmbeddingCollection(tables=configs, device=device)
                self._read[f"width_{width}"] = _reads(same)

    def forward(self, bags: KeyedJaggedTensor | None, sequences: KeyedJaggedTensor | None) -> Lookups:
        """Return what every table holds for these ids."""
        # Training pipelines trace this method symbolically: no decision here may look at the ids.
        looked = Lookups(second=Lookups() if self._second else None)
        if self.bags is not None:
            found = self.bags(bags).to_dict()
            for table, name, key in self._read["bags"]:
                part = looked.second if table.name in self._second else looked
                assert part is not None
                vectors = part.linear if table.name in self._linear else part.vectors
                vectors[name] = _columns(found[key], table)
        if self.sequences is not None:
            for width, collection in self.sequences.items():
                found = collection(sequences)
                for table, name, key in self._read[width]:
                    part = looked.second if table.name in self._second else looked
                    assert part is not None
                    events = part.linear_events if table.name in self._linear else part.events
                    events[name] = JaggedEvents(_columns(found[key].values(), table), found[key].lengths())
        return looked


def _columns(stored: Tensor, table: Table) -> Tensor:
    return stored if table.width == table.dim else stored[:, : table.dim]


def _bag_config(table: Table) -> EmbeddingBagConfig:
    return EmbeddingBagConfig(
        name=table.name,
        num_embeddings=table.rows,
        embedding_dim=table.width,
        feature_names=list(table.fields),
        pooling=PoolingType.MEAN if table.pool == "mean" else PoolingType.SUM,
    )


def _config(table: Table) -> EmbeddingConfig:
    return EmbeddingConfig(
        name=table.name, num_embeddings=table.rows, embedding_dim=table.width, feature_names=list(table.fields)
    )


def _reads(tables: Sequence[Table]) -> list[tuple[Table, str, str]]:
    """Return (table, field, key of the result): TorchRec says field@table if several tables of a collection read it."""
    shared = Counter(name for table in tables for name in table.fields)
    return [(t, name, f"{name}@{t.name}" if shared[name] > 1 else name) for t in tables for name in t.fields]


def _check(tables: Sequence[Table]) -> None:
    names = [part.name for table in tables for part in table.parts]
    fields = [name for table in tables for name in table.fields]
    for kind, found in (("table", names), ("field", fields)):
        if twice := sorted({name for name in found if found.count(name) > 1}):
            raise ValueError(f"sparse: {kind} names {twice} occur twice; every table and every field needs its own")
    # Table names become keys of an nn.ModuleDict, which allows no dots and none of its own attributes ("type", "values").
    if reserved := [name for name in names if "." in name or hasattr(nn.ModuleDict(), name)]:
        raise ValueError(f"sparse: torch cannot name tables {reserved}; name the fields otherwise (their columns may stay)")
