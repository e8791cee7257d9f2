"""DCN v1: crosses of rank one."""

import pytest
import torch
from torch import nn

from models.decoders.cross import DCNV2
from models.decoders.crosses.dcn import DCN
from models.inputs import FieldVectors
from tests.models.flat import made_of
from tests.models.test_decoders import FIELDS, PLAIN, SFG, TWO, B, D, F, Twice, ones


def test_two_layers_by_hand():
    dcn = ones(made_of(DCN, fields=TWO, width=1, generate=Twice, layers=2, hidden=[]))

    #   gate (4, 6); layer 1: (2, 3) + 5 * (4, 6) + 1 = (23, 34); layer 2: (23, 34) + 57 * (4, 6) + 1
    torch.testing.assert_close(dcn(FieldVectors(torch.tensor([[[2.0], [3.0]]]))), torch.tensor([[252.0, 377.0]]))


def test_it_is_dcn_v2_with_matrices_of_rank_one():
    dcn = made_of(DCN, fields=FIELDS, width=D, generate=SFG, layers=2, hidden=[6, 8])
    second = made_of(DCNV2, fields=FIELDS, width=D, generate=SFG, layers=2, hidden=[6, 8])
    second.encoders.load_state_dict(dcn.encoders.state_dict())
    second.mlp.load_state_dict(dcn.mlp.state_dict())
    with torch.no_grad():
        for cross, weight in zip(dcn.crosses, second.weights, strict=True):
            weight.weight.copy_(cross.weigh.weight.expand(F * D, F * D))
    x = FieldVectors(torch.randn(B, F, D))

    torch.testing.assert_close(dcn(x), second(x))


def test_the_network_reads_raw_vectors():
    dcn = made_of(DCN, fields=TWO, width=1, generate=Twice, layers=1, hidden=[3])
    emb_BFD = torch.tensor([[[2.0], [3.0]]])

    torch.testing.assert_close(dcn(FieldVectors(emb_BFD))[:, 2:], dcn.mlp(emb_BFD.flatten(1)))


def test_the_operands_are_those_of_the_first_layer():
    dcn = made_of(DCN, fields=TWO, width=1, generate=Twice)
    generated, raw = dcn.operands(torch.ones(1, 2, 1))

    assert torch.equal(generated, 2 * raw)


def test_no_layer_is_refused():
    with pytest.raises(ValueError, match="dcn: layers is 0; expected 1 or more"):
        made_of(DCN, fields=FIELDS, width=D, generate=PLAIN, layers=0)


def test_biases_start_at_zero():
    assert not any(cross.bias_X.any() for cross in made_of(DCN, fields=TWO, width=1, generate=nn.Identity).crosses)
