"""The values of a row as slots: one for an id, several for a list, one for a vector, one for each label.

B rows, S slots, N ids of a field in the whole batch, L slots of a list.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
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
