"""DCN V3: two cross networks, each crossing masked."""

import pytest
import torch
from torch import nn

from models.decoders.crosses.dcnv3 import DCNV3
from models.inputs import FieldInfo, FieldVectors
from models.registries import HEADS
from tests.models.flat import made_of
from tests.models.test_decoders import FIELDS, PLAIN, SFG, B, D, F, made


def naive(cross, source_BFD, x_BFD):
    """A layer, row by row and field by field."""
    out = torch.empty_like(x_BFD)
    generated_BFD = cross.encoder(source_BFD)
    for row in range(B):
        c = cross.weigh.weight @ x_BFD[row].flatten()
        m = c * ((c - c.mean()) / (c.var(unbiased=False) + 1e-5).sqrt()).clamp(min=0)
        for f in range(F):
            own = slice(f * D // 2, (f + 1) * D // 2)
            out[row, f] = x_BFD[row, f] + generated_BFD[row, f] * (torch.cat([c[own], m[own]]) + cross.bias_FD[f])
    return out


def test_the_exponential_network_crosses_with_itself_and_the_linear_one_with_the_row():
    decoder, _ = made("dcnv3", SFG, deep_layers=2, shallow_layers=2)
    emb_BFD = torch.randn(B, F, D)
    deep = naive(decoder.deep[0], emb_BFD, emb_BFD)
    deep = naive(decoder.deep[1], deep, deep)
    shallow = naive(decoder.shallow[1], emb_BFD, naive(decoder.shallow[0], emb_BFD, emb_BFD))

    torch.testing.assert_close(decoder(FieldVectors(emb_BFD)), torch.cat([shallow.flatten(1), deep.flatten(1)], 1))


def test_the_orders_of_the_two_networks():
    """Without masks and biases a field's number meets itself: x (1 + w x) once, and once more with all of it or with x."""
    options = {"deep_layers": 2, "shallow_layers": 2}
    decoder = made_of(DCNV3, fields=[FieldInfo("a")], width=2, generate=nn.Identity, **options)
    with torch.no_grad():
        for cross in (*decoder.deep, *decoder.shallow):
            cross.weigh.weight.copy_(torch.tensor([[1.0, 0.0]]))
            cross.bias_FD.zero_()  # and one number is its own average: no mask passes it

    linear, _, exponential, _ = decoder(FieldVectors(torch.tensor([[[2.0, 7.0]]])))[0].tolist()

    #   layer 1: 2 + 2 * 2 = 6 in both; layer 2: 6 + 2 * 6 against 6 + 6 * 6
    assert (linear, exponential) == (18.0, 42.0)


def test_a_head_may_score_the_two_networks_one_by_one():
    decoder, _ = made("dcnv3", PLAIN)
    head = HEADS["twin_focus"](features=decoder.out, targets=["click"])

    output = head(decoder(FieldVectors(torch.randn(B, F, D))))

    mean = (output.representations["click/easy"] + output.representations["click/hard"]) / 2
    torch.testing.assert_close(output.logits["click"], mean)


def test_each_network_has_a_dropout_of_its_own():
    decoder, _ = made("dcnv3", PLAIN, deep_dropout=0.5)
    first, second = (decoder(FieldVectors(torch.ones(B, F, D))) for _ in range(2))

    assert torch.equal(first[:, : F * D], second[:, : F * D])
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deep_layers": 0}, "dcnv3: deep_layers is 0; expected 1 or more"),
        ({"shallow_layers": 0}, "dcnv3: shallow_layers is 0; expected 1 or more"),
        ({"width": 5}, "the width 5 is odd: choose an even model.dim"),
    ],
)
def test_options_without_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        made_of(DCNV3, **{"fields": FIELDS, "width": D, "generate": PLAIN} | options)
