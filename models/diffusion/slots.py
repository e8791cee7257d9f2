"""The values of a row as slots: one for an id, several for a list, one for a vector, one for each label.

B rows, S slots, S' those of one width, F fields with tables, D their width, N ids of a field in the whole batch, L slots of a
list.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor


@dataclass(frozen=True)
class Slot:
    """One field, as a denoiser sees it.

    Args:
        name: of the field. source: "table", or "vector" for a given one, which is read and never hidden.
        dim: width of its table or of the vector.
        table: that its ids are looked up in. rows: [rows] of that table.
        reserved: [rows] at the table's start that stand for no value, missing or unseen: read, never hidden.
        length: L, 1 for a field with one id a row. Of a longer list the last L ids are read.
    """

    name: str
    source: Literal["table", "vector"]
    dim: int
    table: str = ""
    rows: int = 0
    reserved: int = 0
    length: int = 1


@dataclass(frozen=True)
class Ids:
    """The ids of a batch, slot by slot.

    Shape:
        ids (B, S); there (B, S) bool: the slot holds an id; places (B, S): where it stands among the batch's ids.

    Args:
        starts: field -> where its first id stands there.
    """

    ids: Tensor
    there: Tensor
    places: Tensor
    starts: Mapping[str, int]


def ids_of(batch: KeyedJaggedTensor, slots: Sequence[Slot]) -> Ids:
    """Lay the ids of the table fields side by side, in the order of `slots`, each list's last ids first to last."""
    rows, values = batch.stride(), batch.values()
    keys = batch.keys()
    lengths_KB = batch.lengths().view(len(keys), rows)
    ends_KB = batch.lengths().cumsum(0).view(len(keys), rows)
    key_S = torch.tensor([keys.index(slot.name) for slot in slots for _ in range(slot.length)], device=values.device)
    back_S = torch.tensor([slot.length - at for slot in slots for at in range(slot.length)], device=values.device)
    lengths_BS, ends_BS = lengths_KB[key_S].T, ends_KB[key_S].T
    longest_S = torch.tensor([slot.length for slot in slots for _ in range(slot.length)], device=values.device)
    # A short list fills its first slots: the j-th of its ids stands in slot j.
    back_BS = back_S - (longest_S - lengths_BS).clamp(min=0)
    there_BS = back_BS > 0
    places_BS = torch.where(there_BS, ends_BS - back_BS, 0).long()
    ids_BS = values[places_BS] if len(values) else torch.zeros_like(places_BS)
    starts = dict(zip(keys, batch.offset_per_key(), strict=False))
    return Ids(torch.where(there_BS, ids_BS, 0), there_BS, places_BS, starts)


def vectors_of(values_ND: Tensor, ids: Ids, field: str, slots: Tensor) -> Tensor:
    """Return a field's looked-up vectors in its slots, (B, L, D); zeros where there is no id.

    Args:
        values_ND: its vectors, (N, D). slots: (L,) its slots.
    """
    places_BL, there_BL = ids.places[:, slots] - ids.starts[field], ids.there[:, slots]
    padded_ND = torch.cat([values_ND, values_ND.new_zeros(1, values_ND.shape[1])])
    return padded_ND[torch.where(there_BL, places_BL, len(values_ND))]


class SlotLayout(nn.Module):
    """Which field, width and table every slot is of. Slots of table fields come first, then given vectors, then labels.

    Args:
        slots: the fields, those with tables first.
        labels: the number of labels.

    Attributes:
        tables, vectors: the fields with tables and those with given vectors.
        widths: of the tables, ascending. table_names: in the order of their first fields.
        field_S: (S,) the field of every slot, labels among them.
        reserved_S: [rows] at the start of its table that stand for no value, for every slot of a table field.
    """

    field_S: Tensor
    reserved_S: Tensor

    def __init__(self, slots: Sequence[Slot], *, labels: int) -> None:
        super().__init__()
        self.tables = [slot for slot in slots if slot.source == "table"]
        self.vectors = [slot for slot in slots if slot.source == "vector"]
        self.widths = sorted({slot.dim for slot in self.tables})
        self.table_names = list(dict.fromkeys(slot.table for slot in self.tables))
        owners = [at for at, slot in enumerate(self.tables) for _ in range(slot.length)]
        others = range(len(self.tables), len(self.tables) + len(self.vectors) + labels)
        self._keep("field_S", [*owners, *others])
        self._keep("reserved_S", [self.tables[at].reserved for at in owners])
        for dim in self.widths:
            fields = self.fields_of_width(dim)
            wide = [owner for owner in owners if owner in fields]
            self._keep(f"places_{dim}", [fields.index(owner) for owner in wide])
            self._keep(f"slots_{dim}", [at for at, owner in enumerate(owners) if owner in fields])
            for name in {self.tables[at].table for at in fields}:
                own = [at for at, owner in enumerate(wide) if self.tables[owner].table == name]
                self._keep(f"own_{self.table_names.index(name)}", own)

    def _keep(self, name: str, numbers: Sequence[int]) -> None:
        """Keep them on the model's device and out of its state."""
        self.register_buffer(name, torch.tensor(numbers, dtype=torch.int64), persistent=False)

    def fields_of_width(self, dim: int) -> list[int]:
        """The fields with tables of this width, by their place among the fields with tables."""
        return [at for at, slot in enumerate(self.tables) if slot.dim == dim]

    def slots_of_width(self, dim: int) -> Tensor:
        """Return the slots of tables of this width, (S',)."""
        return self.get_buffer(f"slots_{dim}")

    def places_of_width(self, dim: int) -> Tensor:
        """Return which of the fields of this width each of their slots is of, (S',)."""
        return self.get_buffer(f"places_{dim}")

    def own_slots(self, table: str) -> Tensor:
        """Return the slots of a table, counted among those of its width."""
        return self.get_buffer(f"own_{self.table_names.index(table)}")

    def slots_of(self, table: str) -> Tensor:
        """Return the slots that hold ids of a table."""
        return self.slots_of_width(self.width_of(table))[self.own_slots(table)]

    def width_of(self, table: str) -> int:
        """The width of a table."""
        return next(slot.dim for slot in self.tables if slot.table == table)

    def vectors_of_width(self, found: Mapping[str, Tensor], ids: Ids, dim: int) -> Tensor:
        """Return the looked-up vectors in the slots of this width, (B, S', D).

        Args:
            found: field -> its vectors, (N, D).
        """
        whole = []
        for at in self.fields_of_width(dim):
            slot = self.tables[at]
            if slot.length == 1 and len(found[slot.name]) == len(ids.ids):  # one id a row: only to be put side by side
                whole.append(found[slot.name].unsqueeze(1))
            else:
                slots = (self.field_S == at).nonzero().squeeze(1)
                whole.append(vectors_of(found[slot.name], ids, slot.name, slots))
        return torch.cat(whole, dim=1)

    def averaged(self, vectors_BSD: Tensor, ids: Ids) -> Tensor:
        """Return one vector per field, (B, F, D): lists averaged. Only if all tables have one width."""
        there_BS1 = ids.there.unsqueeze(2)
        fields = self.field_S[: vectors_BSD.shape[1]]
        shape = (len(vectors_BSD), len(self.tables))
        sums_BFD = vectors_BSD.new_zeros(*shape, vectors_BSD.shape[2]).index_add(1, fields, vectors_BSD * there_BS1)
        counts_BF1 = vectors_BSD.new_zeros(*shape, 1).index_add(1, fields, there_BS1.to(vectors_BSD.dtype))
        return sums_BFD / counts_BF1.clamp(min=1)
