"""Decoders that multiply vectors, or the layers of a network, by gates made of the raw vectors.

masknet.py  MaskNet: blocks that multiply what they read by a mask made of the whole row.
pepnet.py   PEPNet: gates made of chosen fields, over the vectors and over every layer of a network.
"""
