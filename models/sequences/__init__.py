"""Sequence encoders: the events of a row become one vector.

base.py         What all sequence encoders promise, and the events of a row in equal rows of slots.
bst.py          BST: a Transformer over the events and the target.
dien.py         DIEN: a recurrent cell reads the events, a second one what of them fits the target.
din.py          DIN: a network weighs every event by how it fits the target.
hstu.py         HSTU: a causal stack over the events.
next_action.py  A loss of its own over a history: which actions come next.
pooling.py      Sequence encoders without weights: mean, sum, attention.
time_aware.py   TLSI: long and short interest, by the time of day and by how long ago.
transact.py     TransAct: a Transformer over events with actions, each beside the target.
"""

from models.sequences.base import SequenceEncoder

__all__ = ["SequenceEncoder"]
