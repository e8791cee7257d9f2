"""Decoders whose networks read products of fields.

afn.py       AFN+: a network that reads products of learnt powers of all fields, next to one that reads the raw vectors.
dlrm.py      DLRM: a network that reads the inner products of all pairs of fields.
fibinet.py   FiBiNET: a network that reads bilinear products of all pairs, of raw and of reweighed vectors.
finalnet.py  FinalNet: networks whose every layer multiplies two linear maps of what it reads.
"""
