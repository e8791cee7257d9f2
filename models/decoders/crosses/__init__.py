"""Decoders that cross the whole row with itself, layer by layer, in other ways than those of `cross.py`.

dcn.py    DCN v1: cross layers of one weight vector each, next to a network.
dcnv3.py  DCN V3: a network of crosses whose order doubles with every layer, and one whose order grows by one, each with a mask.
edcn.py   EDCN: cross layers and dense layers that exchange what they know after every layer.
"""
