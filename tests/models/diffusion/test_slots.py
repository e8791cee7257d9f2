"""Slots: ids, lists and what is missing of them, side by side."""

import torch
from torchrec import KeyedJaggedTensor

from models.diffusion.slots import Slot, ids_of, vectors_of

ITEM = Slot("item", "table", 2, "item", 99, 1)
PAST = Slot("past", "table", 2, "item", 99, 1, length=3)


def jagged(**lists):
    flat = [i for rows in lists.values() for row in rows for i in row]
    lengths = [len(row) for rows in lists.values() for row in rows]
    stride = len(next(iter(lists.values())))
    return KeyedJaggedTensor(keys=list(lists), values=torch.tensor(flat), lengths=torch.tensor(lengths), stride=stride)


BATCH = {"past": [[5, 6], [], [1, 2, 3, 4]], "item": [[7], [8], [9]]}


def test_a_list_fills_its_first_slots_and_of_a_longer_one_the_last_ids_are_read():
    ids = ids_of(jagged(**BATCH), [ITEM, PAST])

    assert ids.ids.tolist() == [[7, 5, 6, 0], [8, 0, 0, 0], [9, 2, 3, 4]]
    assert ids.there.tolist() == [[True, True, True, False], [True, False, False, False], [True] * 4]


def test_places_lead_back_to_the_ids_of_the_batch():
    batch = jagged(**BATCH)
    ids = ids_of(batch, [ITEM, PAST])

    assert torch.equal(batch.values()[ids.places[ids.there]], ids.ids[ids.there])


def test_looked_up_vectors_stand_where_their_ids_do_and_nothing_stands_elsewhere():
    batch = jagged(**BATCH)
    ids = ids_of(batch, [ITEM, PAST])
    values = batch["past"].values().float().unsqueeze(1).expand(-1, 2)  # a vector that says its id

    dense = vectors_of(values, ids, "past", torch.tensor([1, 2, 3]))
    assert torch.equal(dense[:, :, 0], ids.ids[:, 1:].float())


def test_a_batch_without_rows_or_without_ids():
    empty = KeyedJaggedTensor(
        keys=["item"], values=torch.empty(0, dtype=torch.int64), lengths=torch.empty(0, dtype=torch.int64)
    )
    assert ids_of(empty, [ITEM]).ids.shape == (0, 1)

    none = ids_of(jagged(past=[[], []]), [PAST])
    assert none.ids.tolist() == [[0] * 3] * 2
    assert not none.there.any()
