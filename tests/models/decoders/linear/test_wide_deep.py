"""Wide & Deep: two parts, one sum."""

import torch

from models.decoders.linear.wide_deep import WideDeep
from models.inputs import FieldVectors
from tests.models.flat import made_of
from tests.models.test_decoders import TWO, Twice, ones


def test_the_score_is_the_first_order_sum_and_the_network():
    decoder = ones(made_of(WideDeep, fields=TWO, width=1, generate=Twice, hidden=[1]))
    x = FieldVectors(torch.tensor([[[2.0], [3.0]]]), torch.tensor([[0.1, 0.2]]))

    #   wide: 0.3      deep, of generated vectors: relu(4 + 6 + 1) + 1
    torch.testing.assert_close(decoder(x), torch.tensor([[12.3]]))


def test_a_first_order_term_counts_once():
    decoder = made_of(WideDeep, fields=TWO, width=1, generate=torch.nn.Identity, hidden=[2])
    emb_BFD, linear_BF = torch.tensor([[[2.0], [3.0]]]), torch.tensor([[0.1, 0.2]])

    added = decoder(FieldVectors(emb_BFD, linear_BF + 1)) - decoder(FieldVectors(emb_BFD, linear_BF))

    torch.testing.assert_close(added, torch.tensor([[2.0]]))
