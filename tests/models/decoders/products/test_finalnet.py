"""FinalNet: layers that multiply."""

import pytest
import torch

from models.decoders.products.finalnet import FinalNet
from models.inputs import FieldVectors
from tests.models.flat import made_of
from tests.models.test_decoders import FIELDS, PLAIN, SFG, TWO, B, D, F, Twice, made, ones


@pytest.mark.parametrize(
    ("residual", "expected"),
    [
        #   h = 2 + 3 + 1, its partner of generated vectors 4 + 6 + 1: concat(6, 66), or 6 + 66
        ("concat", [6.0, 66.0]),
        ("sum", [72.0, 72.0]),
    ],
)
def test_a_layer_multiplies_a_map_of_generated_with_one_of_raw_vectors(residual, expected):
    options = {"hidden": [2], "second_hidden": [], "gate": False, "residual": residual}
    finalnet = ones(made_of(FinalNet, fields=TWO, width=1, generate=Twice, **options))

    torch.testing.assert_close(finalnet(FieldVectors(torch.tensor([[[2.0], [3.0]]]))), torch.tensor([expected]))


def test_layers_above_the_first_multiply_what_they_read_with_itself():
    decoder, _ = made("finalnet", SFG, second_hidden=[], gate=False)
    emb_BFD = torch.randn(B, F, D)
    first, second = decoder.first.layers

    def layer(own, left, right):
        h = own.right(right)
        return torch.relu(torch.cat([h, h * own.left(left)], 1))

    x = layer(first, decoder.encoder(emb_BFD).flatten(1), emb_BFD.flatten(1))
    torch.testing.assert_close(decoder(FieldVectors(emb_BFD)), layer(second, x, x))


def test_only_the_first_block_has_the_gate():
    decoder, _ = made("finalnet", SFG)
    with torch.no_grad():
        decoder.gate.mix.weight.normal_()
    emb_BFD = torch.randn(B, F, D)
    generated_BFD = decoder.encoder(emb_BFD)

    def gated(side):
        gates = torch.stack([side.transpose(1, 2) @ decoder.gate.mix.weight[f] + decoder.gate.mix.bias[f] for f in range(F)], 1)
        return torch.cat([side, side * gates], 1).flatten(1)

    first = decoder.first(gated(generated_BFD), gated(emb_BFD))
    second = decoder.second(generated_BFD.flatten(1), emb_BFD.flatten(1))
    torch.testing.assert_close(decoder(FieldVectors(emb_BFD)), torch.cat([first, second], 1))


def test_the_gate_starts_at_one():
    decoder, _ = made("finalnet", PLAIN)
    emb_BFD = torch.randn(B, F, D)

    torch.testing.assert_close(decoder.gate(emb_BFD), torch.cat([emb_BFD, emb_BFD], 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"residual": "add"}, r"finalnet: no residual 'add'; choose from \['concat', 'sum'\]"),
        ({"hidden": [4, 7]}, "finalnet: residual concat halves hidden widths, and 7 is odd"),
        ({"second_hidden": [5]}, "5 is odd"),
        ({"hidden": []}, "finalnet: there is no hidden layer"),
    ],
)
def test_options_without_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        made_of(FinalNet, fields=FIELDS, width=D, generate=PLAIN, **options)
