"""Sequence encoders: the events of a row become one vector.

base         what all promise, and the events of a row in equal rows of slots
pooling      mean, sum, attention without weights
din          DIN: a network weighs every event by how it fits the target
bst          BST: a Transformer over the events and the target
transact     TransAct: a Transformer over events with actions, each beside the target
hstu         HSTU: a causal stack over the events
time_aware   TLSI: long and short interest, by the time of day and by how long ago
next_action  a loss of its own: which actions come next
"""

from models.sequences.base import SequenceEncoder

__all__ = ["SequenceEncoder"]
