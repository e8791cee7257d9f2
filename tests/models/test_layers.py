"""Dense layers: their order and how they start."""

import torch
from torch import nn

from models.layers import MLP, linear
from models.norm import BatchNorm1d


def test_a_layer_is_linear_then_norm_then_relu_then_dropout():
    mlp = MLP(3, hidden=[4, 5], dropout=0.1, batch_norm=True)

    assert [type(layer) for layer in mlp] == [nn.Linear, BatchNorm1d, nn.ReLU, nn.Dropout] * 2
    assert mlp.out_features == 5


def test_options_that_are_off_leave_nothing_behind():
    assert [type(layer) for layer in MLP(3, hidden=[4])] == [nn.Linear, nn.ReLU]


def test_no_hidden_layer_is_the_identity():
    row_BX = torch.randn(2, 3)

    assert torch.equal(MLP(3, hidden=[])(row_BX), row_BX)
    assert MLP(3, hidden=[]).out_features == 3


def test_weights_start_xavier_normal_and_biases_zero():
    torch.manual_seed(0)
    layer = linear(300, 500)

    assert abs(layer.weight.std().item() - (2 / 800) ** 0.5) < 5e-4
    assert layer.weight.abs().max() > 0.1, "a uniform start would end at sqrt(6 / 800) = 0.087"
    assert not layer.bias.any()
