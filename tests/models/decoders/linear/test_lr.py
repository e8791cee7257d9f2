"""Logistic regression: a sum of weights, one for every value."""

import torch

from models.decoders.linear.lr import LR
from models.inputs import FieldInfo, FieldVectors
from tests.models.test_decoders import THREE, TenTimesTheFirst, rows


def test_the_score_is_the_sum_of_the_weights_of_a_rows_values():
    lr = LR(fields=THREE, width=1, generate=torch.nn.Identity)

    torch.testing.assert_close(lr(FieldVectors(torch.tensor([[[0.5], [-2.0], [3.0]]]))), torch.tensor([[1.5]]))


def test_an_encoder_generates_what_is_summed():
    lr = LR(fields=THREE, width=1, generate=TenTimesTheFirst)

    torch.testing.assert_close(lr(FieldVectors(torch.tensor([[[0.5], [-2.0], [3.0]]]))), torch.tensor([[6.0]]))


def test_its_vectors_are_one_number_whatever_the_width_of_the_model():
    assert LR.embedding_width(fields=7, dim=64) == 1
    assert rows(LR(fields=[FieldInfo("a")], width=1, generate=torch.nn.Identity)).emb_BFD.shape[2] == 1
