"""The SFG encoder: the formula of the paper's code, number by number, and its identities."""

import pytest
import torch

from models.encoders import ACTIVATIONS, ENCODERS, FeatureGenerator, Identity


def encoder(**options) -> FeatureGenerator:
    """Two fields of width 1; field 0 is 1 a + 10 b, field 1 is 100 a - 1000 b."""
    made = FeatureGenerator(fields=2, width=1, **options)
    with torch.no_grad():
        made.linear.weight.copy_(torch.tensor([[1.0, 10.0], [100.0, -1000.0]]))
    return made


def test_every_generated_vector_reads_every_field():
    emb_BFD = torch.tensor([[[3.0], [5.0]]])

    #   field 0: relu(1 * 3 + 10 * 5)      field 1: relu(100 * 3 - 1000 * 5)
    torch.testing.assert_close(encoder()(emb_BFD), torch.tensor([[[53.0], [0.0]]]))


def test_gamma_scales_what_is_generated_and_not_the_residual():
    emb_BFD = torch.tensor([[[3.0], [5.0]]])

    #   field 0: 53 / 2 + 3      field 1: 0 / 2 + 5
    torch.testing.assert_close(encoder(gamma=0.5, residual=True)(emb_BFD), torch.tensor([[[29.5], [5.0]]]))


@pytest.mark.parametrize(
    ("activation", "expected"),
    [("linear", -2.0), ("relu", 0.0), ("tanh", -0.9640276), ("sigmoid", 0.1192029), ("silu", -0.2384058)],
)
def test_every_activation_is_the_function_of_its_name(activation, expected):
    made = FeatureGenerator(fields=1, width=1, activation=activation)
    with torch.no_grad():
        made.linear.weight.fill_(-1.0)

    torch.testing.assert_close(made(torch.tensor([[[2.0]]])), torch.tensor([[[expected]]]))
    assert activation in ACTIVATIONS


def test_an_unknown_activation_is_told_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no activation 'rellu'; choose from \['linear', 'relu'"):
        FeatureGenerator(fields=1, width=1, activation="rellu")


def test_the_encoder_is_one_matrix_without_bias_and_the_identity_is_nothing():
    assert sum(p.numel() for p in FeatureGenerator(fields=3, width=4).parameters()) == (3 * 4) ** 2
    assert list(Identity(fields=3, width=4).parameters()) == []


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_keeps_the_shape_even_of_no_rows(name):
    made = ENCODERS[name](fields=3, width=4)

    assert made(torch.randn(2, 3, 4)).shape == (2, 3, 4)
    assert made(torch.randn(0, 3, 4)).shape == (0, 3, 4)
