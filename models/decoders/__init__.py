"""Interaction decoders: score how well every field's generated vector meets the vectors of the others.

base.py           What every interaction and every decoder promises, and the sum over pairs of fields that many share.
cross.py          Decoders that cross the whole row with itself, layer by layer: CrossNet, DCN V2, GDCN, xDeepFM.
crosses/          Decoders that cross the whole row with itself, layer by layer, in other ways than those of `cross.py`.
dhen.py           DHEN: a stack of layers, in each of which several interaction modules read the same tokens.
factorization.py  Decoders that sum weighted products of pairs of fields: FM, DeepFM, FwFM, FmFM, FFM, IPNN.
gates/            Decoders that multiply vectors, or the layers of a network, by gates made of the raw vectors.
linear/           Decoders that need no product: the sum of all first-order terms, alone and next to a network.
networks.py       Decoders that are networks: MLP, FinalMLP, AutoInt. That they can generate is our own extension of SFG.
products/         Decoders whose networks read products of fields.
tf4ctr.py         Twin focus (TF4CTR): an encoder for easy rows and one for hard ones, on inputs of their own, and the fusion of the two.
tokens/           Decoders that turn the fields into tokens and stack equal layers over these; made to grow.
"""  # noqa: E501

from models.decoders.base import Decoder, Generate, Pairs, pair_sum
from models.decoders.cross import CIN
from models.decoders.factorization import FM

__all__ = ["CIN", "FM", "Decoder", "Generate", "Pairs", "pair_sum"]
