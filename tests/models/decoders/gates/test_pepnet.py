"""PEPNet: what gates read, what they scale, and what they do not teach."""

import pytest
import torch
from torch import nn

from models.decoders.gates.pepnet import PEPNet
from models.inputs import FieldVectors
from tests.models.flat import made_of
from tests.models.test_decoders import FIELDS, PLAIN, SFG, B, D, F, made


def test_the_gates_scale_the_vectors_and_the_input_of_every_layer():
    decoder, _ = made("pepnet", SFG)  # domains tab, priors user and item
    emb_BFD = torch.randn(B, F, D)
    user, item, tab, _ = emb_BFD.unbind(1)
    row = emb_BFD.flatten(1)

    def gate(own, x):
        return 2 * torch.sigmoid(own.last(own.mlp(x)))

    vectors = gate(decoder.vector_gate, torch.cat([tab, row], 1)) * decoder.encoder(emb_BFD).flatten(1)
    read = torch.cat([user, item, vectors], 1)
    hidden = decoder.layers[0](gate(decoder.gates[0], read) * vectors)
    hidden = decoder.layers[1](gate(decoder.gates[1], read) * hidden)

    torch.testing.assert_close(decoder(FieldVectors(emb_BFD)), hidden)


def test_gates_at_one_leave_the_network_alone():
    decoder, _ = made("pepnet", PLAIN)
    for gate in (decoder.vector_gate, *decoder.gates):
        nn.init.zeros_(gate.last.weight)  # 2 sigmoid(0) = 1
    emb_BFD = torch.randn(B, F, D)

    network = nn.Sequential(*decoder.layers)
    torch.testing.assert_close(decoder(FieldVectors(emb_BFD)), network[1](network[0](emb_BFD.flatten(1))))


def test_a_gate_teaches_only_the_fields_it_names():
    decoder, _ = made("pepnet", PLAIN)
    emb_BFD = torch.randn(B, F, D, requires_grad=True)
    domains = emb_BFD[:, decoder.domains].flatten(1)
    decoder.vector_gate(torch.cat([domains, emb_BFD.flatten(1).detach()], 1), None).sum().backward()

    assert emb_BFD.grad.any(2).any(0).tolist() == [False, False, True, False]


def test_no_gradient_goes_back_through_what_a_gate_reads_of_the_row():
    decoder, _ = made("pepnet", PLAIN, domains=[], priors=[])
    emb_BFD = torch.randn(B, F, D, requires_grad=True)
    decoder(FieldVectors(emb_BFD)).sum().backward()
    own = emb_BFD.grad.clone()

    def scaled(values):  # the gates as numbers that hang on nothing
        other, gates = torch.tensor(values.detach().numpy(), requires_grad=True), [decoder.vector_gate, *decoder.gates]
        row = values.detach().flatten(1)
        vectors = gates[0](row, None).detach() * other.flatten(1)
        hidden, read = vectors, vectors.detach()
        for gate, layer in zip(gates[1:], decoder.layers, strict=True):
            hidden = layer(gate(read, None).detach() * hidden)
        hidden.sum().backward()
        return other.grad

    torch.testing.assert_close(own, scaled(emb_BFD))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domains": ["page"]}, r"pepnet: domains: no field 'page'; choose from \['user', 'item', 'tab', 'hour'\]"),
        ({"priors": [0]}, "pepnet: priors: 0 is not the name of a field"),
        ({"hidden": []}, "pepnet: there is no hidden layer"),
    ],
)
def test_options_without_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        made_of(PEPNet, fields=FIELDS, width=D, generate=PLAIN, **options)
