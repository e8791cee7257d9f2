"""Dense layers: their order and how they start."""

import pytest
import torch
from torch import nn

from models.layers import MLP, Dropout, linear
from models.norm import BatchNorm1d


def test_a_layer_is_linear_then_norm_then_relu_then_dropout():
    mlp = MLP(3, hidden=[4, 5], dropout=0.1, batch_norm=True)

    assert [type(layer) for layer in mlp] == [nn.Linear, BatchNorm1d, nn.ReLU, Dropout] * 2
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


@pytest.mark.parametrize("p", [0.1, 0.4, 0.9])
def test_dropout_keeps_the_share_it_should_and_the_mean_of_what_it_is_given(p):
    torch.manual_seed(1)
    x = torch.full((333, 1001), 2.0, requires_grad=True)
    out = Dropout(p)(x)
    (grad,) = torch.autograd.grad(out.sum(), x)
    kept = out != 0
    assert abs(kept.double().mean() - (1 - p)) < 4 * (p * (1 - p) / x.numel()) ** 0.5
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 2 / (1 - p)))
    torch.testing.assert_close(grad, out / 2)


def test_a_dropout_that_is_next_to_none_keeps_next_to_all():
    out = Dropout(1e-6)(torch.ones(1 << 12))

    assert (out != 0).sum() >= (1 << 12) - 3


def test_dropout_draws_for_every_element_on_its_own_and_again_from_the_same_seed():
    torch.manual_seed(1)
    first = Dropout(0.5)(torch.ones(1 << 18)).sign() * 2 - 1
    again = Dropout(0.5)(torch.ones(1 << 18)).sign() * 2 - 1
    torch.manual_seed(1)
    assert torch.equal(first, Dropout(0.5)(torch.ones(1 << 18)).sign() * 2 - 1)
    for other in (again, *(first.roll(step) for step in range(1, 9))):  # four share a draw of 64 bits
        assert abs((first * other).mean()) < 5 / (1 << 9)


def test_dropout_leaves_evaluation_and_empty_rows_alone_and_does_not_mind_strides():
    x = torch.randn(7, 5)
    assert Dropout(0.4).eval()(x) is x
    assert Dropout(0.4)(x[:0]).shape == (0, 5)
    assert not Dropout(1.0)(x).any()
    assert torch.equal(Dropout(0.0)(x), x)
    out = Dropout(0.4)(x.T)
    torch.testing.assert_close(out[out != 0], x.T[out != 0] / 0.6)
