"""WuKong against a factorisation machine, and layer by layer."""

import pytest
import torch
from torch import nn

from models.decoders.tokens.wukong import WuKong
from models.inputs import FieldVectors
from models.layers import Tokens
from tests.models.flat import made_of
from tests.models.test_decoders import FIELDS, PLAIN, SFG, B, D, F, made


@pytest.mark.parametrize("generate", [PLAIN, SFG], ids=["plain", "sfg"])
def test_one_layer_with_unit_sums_is_a_factorisation_machine(generate):
    decoder, _ = made("wukong", generate, layers=1, rank=F)
    fm, _ = made("fm", generate)
    fm.load_state_dict(decoder.encoder.state_dict(prefix="encoder."))
    nn.init.eye_(decoder.layers[0].sums.weight)
    emb_BFD = torch.randn(B, F, D)

    products_BFF = decoder.layers[0].products(*decoder.operands(emb_BFD))

    pairs = products_BFF.triu(1).sum((1, 2))[:, None]
    torch.testing.assert_close(pairs, fm(FieldVectors(emb_BFD, torch.zeros(B, F))))


def test_a_layer_by_hand():
    decoder, _ = made("wukong", SFG, layers=1, hidden=[])
    layer, emb_BFD = decoder.layers[0], torch.randn(B, F, D)
    left_BFD = decoder.encoder(emb_BFD)

    def sums(weight):
        return [sum(weight[t, f] * emb_BFD[:, f] for f in range(F)) for t in range(len(weight))]

    products = [(left_BFD[:, f] * own).sum(1) for f in range(F) for own in sums(layer.sums.weight)]
    made_BX = layer.made(layer.products_norm(torch.stack(products, 1)))
    tokens = [made_BX[:, :D], made_BX[:, D:], *sums(layer.compress.weight)]

    torch.testing.assert_close(decoder(FieldVectors(emb_BFD)), layer.norm(torch.stack(tokens, 1) + emb_BFD))


def test_tokens_whose_number_changes_are_mixed_before_they_are_added():
    decoder, _ = made("wukong", PLAIN, layers=2, product_tokens=3, linear_tokens=2)

    assert [layer.rest is None for layer in decoder.layers] == [False, True]
    assert tuple(decoder.layers[0].rest.weight.shape) == (5, F)


def test_without_a_last_network_it_returns_tokens():
    decoder, _ = made("wukong", PLAIN, hidden=[])

    assert decoder.out == Tokens(4, D)
    assert decoder(FieldVectors(torch.randn(B, F, D))).shape == (B, 4, D)


@pytest.mark.parametrize("option", ["layers", "product_tokens", "linear_tokens", "rank"])
def test_options_without_sense_are_refused(option):
    with pytest.raises(ValueError, match=f"wukong: {option} is 0; expected 1 or more"):
        made_of(WuKong, fields=FIELDS, width=D, generate=PLAIN, **{option: 0})
