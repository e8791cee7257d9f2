"""DLRM: pairs of fields, and number fields as one vector."""

import pytest
import torch
from torch import nn

from models.decoders.products.dlrm import DLRM
from models.inputs import FieldInfo, FieldVectors
from tests.models.flat import made_of
from tests.models.test_decoders import PLAIN, THREE, B, D, TenTimesTheFirst, Twice, made

MIXED = [FieldInfo("price", kind="number"), FieldInfo("user"), FieldInfo("age", kind="number"), FieldInfo("item")]


def read_by(network):
    """What was handed to a network, call by call."""
    read = []
    network.register_forward_hook(lambda _, inputs, __: read.append(inputs[0]))
    return read


def test_the_network_reads_the_products_of_all_pairs_and_nothing_else():
    dlrm = made_of(DLRM, fields=THREE, width=1, generate=TenTimesTheFirst, hidden=[2])
    read = read_by(dlrm.mlp)
    dlrm(FieldVectors(torch.tensor([[[2.0], [3.0], [5.0]]])))

    #   pairs 01, 02, 12: 20 * 3, 20 * 5, 3 * 5
    torch.testing.assert_close(read[0], torch.tensor([[60.0, 100.0, 15.0]]))


def test_the_sum_of_what_the_network_reads_is_that_of_a_factorisation_machine():
    dlrm, _ = made("dlrm", PLAIN)
    fm, _ = made("fm", PLAIN)
    read = read_by(dlrm.mlp)
    emb_BFD = torch.randn(B, 4, D)
    dlrm(FieldVectors(emb_BFD))

    torch.testing.assert_close(read[0].sum(1, keepdim=True), fm(FieldVectors(emb_BFD, torch.zeros(B, 4))))


def test_number_fields_become_one_vector_that_meets_all_the_others():
    dlrm = made_of(DLRM, fields=MIXED, width=2, generate=Twice, hidden=[4], bottom_hidden=[3])
    read = read_by(dlrm.mlp)
    emb_BFD = torch.randn(B, 4, 2)
    price, user, age, item = emb_BFD.unbind(1)
    dlrm(FieldVectors(emb_BFD))

    dense = dlrm.bottom(torch.cat([price, age], 1))
    pairs = [(2 * user * item).sum(1), (2 * user * dense).sum(1), (2 * item * dense).sum(1)]
    torch.testing.assert_close(read[0], torch.cat([dense, torch.stack(pairs, 1)], 1))


def test_gradients_reach_the_network_below_and_the_vectors_of_numbers():
    dlrm = made_of(DLRM, fields=MIXED, width=3, generate=nn.Identity, hidden=[8], bottom_hidden=[8])
    emb_BFD = torch.randn(40, 4, 3, requires_grad=True)
    dlrm(FieldVectors(emb_BFD)).square().sum().backward()

    assert all(parameter.grad.any() for parameter in dlrm.parameters())
    assert emb_BFD.grad.any(0).all()


@pytest.mark.parametrize("kinds", [["id"], ["number", "number"]])
def test_fields_without_a_pair_are_refused(kinds):
    with pytest.raises(ValueError, match="dlrm: 1 vector has no pair; expected two or more"):
        made_of(DLRM, fields=[FieldInfo(str(at), kind=kind) for at, kind in enumerate(kinds)], width=2, generate=nn.Identity)
