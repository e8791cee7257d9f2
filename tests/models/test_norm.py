"""Batch normalisation over all ranks: torch's own numbers on one rank, one big batch's numbers on several."""

from functools import partial

import pytest
import torch
from torch import nn

from models.norm import BatchNorm1d, _Normalise
from tests.helpers import on_ranks

C, STEPS = 4, 3
SHARES = [(3, 5), (1, 7), (0, 8), (8, 0)]  # rows of each rank


def norm(kind=BatchNorm1d):
    torch.manual_seed(0)
    made = kind(C).double()
    with torch.no_grad():
        made.weight.copy_(torch.randn(C))
        made.bias.copy_(torch.randn(C))
    return made


def steps(rows):
    """Inputs and gradients of a few steps."""
    draw = partial(torch.randn, rows, C, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return [(2 * draw() + 3, draw()) for _ in range(STEPS)]


def train(made, batches):
    """Outputs and input gradients of every step, then all parameter gradients and the state."""
    found = []
    for x_BC, grad_BC in batches:
        x_BC = x_BC.clone().requires_grad_()
        out_BC = made(x_BC)
        out_BC.backward(grad_BC)
        found.append((out_BC.detach(), x_BC.grad))
    return found, made.weight.grad, made.bias.grad, made.state_dict()


def train_shares(rank):
    """On two ranks: train every way of sharing the same eight rows."""
    found = []
    for share in SHARES:
        start = sum(share[:rank])
        mine = slice(start, start + share[rank])
        found.append(train(norm(), [(x_BC[mine], grad_BC[mine]) for x_BC, grad_BC in steps(8)]))
    return found


def evaluate_alone(rank):
    """On two ranks: only rank 0 evaluates; it must not wait for the other."""
    return norm().eval()(steps(2)[0][0]) if rank == 0 else None


def several_ranks(rank):
    return train_shares(rank), evaluate_alone(rank)


@pytest.fixture(scope="module")
def of_two_ranks():
    return on_ranks(2, several_ranks)


@pytest.mark.parametrize("share", SHARES)
def test_two_ranks_normalise_as_one_big_batch_however_uneven(of_two_ranks, share):
    (of_0, of_1), index = of_two_ranks, SHARES.index(share)
    (steps_0, weight_0, bias_0, state_0), (steps_1, weight_1, bias_1, state_1) = of_0[0][index], of_1[0][index]
    expected_steps, weight, bias, state = train(norm(nn.BatchNorm1d), steps(8))

    for (out_0, grad_0), (out_1, grad_1), (out_BC, grad_BC) in zip(steps_0, steps_1, expected_steps, strict=True):
        torch.testing.assert_close(torch.cat([out_0, out_1]), out_BC)
        torch.testing.assert_close(torch.cat([grad_0, grad_1]), grad_BC)
    torch.testing.assert_close(weight_0 + weight_1, weight)
    torch.testing.assert_close(bias_0 + bias_1, bias)
    for name, value in state.items():
        torch.testing.assert_close(state_0[name], value)
        assert torch.equal(state_0[name], state_1[name])


def test_evaluation_asks_no_other_rank(of_two_ranks):
    torch.testing.assert_close(of_two_ranks[0][1], norm(nn.BatchNorm1d).eval()(steps(2)[0][0]))


@pytest.mark.parametrize("rows", [2, 8])
def test_one_rank_is_torchs_own(rows):
    ours, torchs = train(norm(), steps(rows)), train(norm(nn.BatchNorm1d), steps(rows))

    torch.testing.assert_close(ours, torchs, rtol=0, atol=1e-6)


def test_the_formula_of_the_way_back_is_that_of_autograd():
    x_BC = torch.randn(5, C, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda x: _Normalise.apply(x, 1e-5)[0], x_BC)


def test_numbers_far_from_zero_keep_their_variance():
    x_BC = torch.randn(64, C, generator=torch.Generator().manual_seed(0)) + 1000  # E[x^2] - mean^2 would be off by a tenth

    normal_BC, _, var_C, _ = _Normalise.apply(x_BC, 0.0)

    torch.testing.assert_close(var_C, x_BC.double().var(0, correction=0).float(), rtol=1e-3, atol=0)
    torch.testing.assert_close(normal_BC.var(0, correction=0), torch.ones(C), rtol=1e-3, atol=0)


def test_one_row_comes_out_as_the_bias_and_leaves_the_running_variance_alone():
    made = norm()
    x_BC = torch.full((1, C), 7.0, dtype=torch.float64, requires_grad=True)

    out_BC = made(x_BC)
    out_BC.sum().backward()

    torch.testing.assert_close(out_BC[0], made.bias)
    torch.testing.assert_close(made.running_mean, torch.full((C,), 0.7, dtype=torch.float64))
    torch.testing.assert_close(made.running_var, torch.ones(C, dtype=torch.float64))
    assert not x_BC.grad.any()


def test_no_rows_are_no_error_move_no_average_and_parameters_get_a_zero_gradient():
    made = norm()
    made.running_mean.fill_(3.0)

    out_BC = made(torch.zeros(0, C, dtype=torch.float64, requires_grad=True))
    out_BC.sum().backward()

    assert out_BC.shape == (0, C)
    torch.testing.assert_close(made.running_mean, torch.full((C,), 3.0, dtype=torch.float64))
    torch.testing.assert_close(made.running_var, torch.ones(C, dtype=torch.float64))
    assert not made.weight.grad.any()
    assert not made.bias.grad.any()
    assert made.eval()(torch.zeros(0, C, dtype=torch.float64)).shape == (0, C)


def test_rows_are_counted_exactly_in_half_precision():
    x_BC = torch.ones(4097, C, dtype=torch.bfloat16, requires_grad=True)
    normal_BC, mean_C, _, rows = _Normalise.apply(x_BC, 1e-5)
    normal_BC.sum().backward()

    assert float(rows) == 4097
    assert mean_C.double().tolist() == [1] * C
    assert x_BC.grad.dtype == torch.bfloat16


def test_the_state_dict_is_torchs():
    nn.BatchNorm1d(C).load_state_dict(norm().state_dict())
