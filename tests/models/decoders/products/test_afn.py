"""AFN: products of powers."""

import pytest
import torch
from torch import nn

from models.decoders.products.afn import AFN
from models.inputs import FieldVectors
from tests.models.flat import made_of
from tests.models.test_decoders import FIELDS, PLAIN, THREE, D, made, rows


def exact(decoder):
    """In evaluation, with norms that have seen nothing yet and change nothing."""
    decoder.eval()
    decoder.log_norm.eps = decoder.exp_norm.eps = 0.0
    return decoder


def test_unit_weights_give_the_product_of_all_fields():
    afn = exact(made_of(AFN, fields=THREE, width=2, generate=nn.Identity, neurons=1))
    nn.init.ones_(afn.powers.weight)

    products = afn.products(torch.tensor([[[2.0, 1.0], [-3.0, 0.5], [5.0, 4.0]]]))

    torch.testing.assert_close(products, torch.tensor([[[30.0, 2.0]]]))


def test_weights_are_exponents():
    afn = exact(made_of(AFN, fields=THREE, width=1, generate=nn.Identity, neurons=2))
    with torch.no_grad():
        afn.powers.weight.copy_(torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]]))

    #   the square of 2 over 4, and 3 times the root of 4
    torch.testing.assert_close(afn.products(torch.tensor([[[2.0], [3.0], [4.0]]])), torch.tensor([[[1.0], [6.0]]]))


def test_nothing_is_nearer_to_zero_than_the_floor():
    afn = exact(made_of(AFN, fields=THREE, width=1, generate=nn.Identity, neurons=1))
    nn.init.ones_(afn.powers.weight)

    torch.testing.assert_close(afn.products(torch.tensor([[[0.0], [1.0], [2.0]]])), torch.tensor([[[2e-5]]]))


def normal(x_BCD):
    """Every channel over all rows and coordinates."""
    mean_C, var_C = x_BCD.mean((0, 2), keepdim=True), x_BCD.var((0, 2), unbiased=False, keepdim=True)
    return (x_BCD - mean_C) / (var_C + 1e-5).sqrt()


def test_while_training_fields_and_products_are_normalised_over_rows_and_coordinates():
    afn = made_of(AFN, fields=FIELDS, width=D, generate=PLAIN, neurons=3)
    emb_BFD = torch.randn(50, 4, D)
    logs_BFD = normal(emb_BFD.abs().log())
    powers_BND = torch.stack([sum(weight[f] * logs_BFD[:, f] for f in range(4)) for weight in afn.powers.weight], 1)

    torch.testing.assert_close(afn.products(emb_BFD), normal(powers_BND.exp()), atol=1e-4, rtol=1e-4)


def test_the_second_network_reads_vectors_of_its_own():
    decoder, _ = made("afn", PLAIN)
    x = rows(decoder)
    decoder.eval()

    torch.testing.assert_close(decoder(x)[:, 6:], decoder.mlp(x.second_BFE.flatten(1)))


def test_without_a_second_network_there_are_no_second_vectors():
    decoder, _ = made("afn", PLAIN, hidden=[])

    assert decoder.second_width == 0
    assert decoder(FieldVectors(torch.randn(3, 4, D))).shape == (3, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"neurons": 0}, "afn: neurons is 0; expected 1 or more"), ({"afn_hidden": []}, "afn: there is no hidden layer")],
)
def test_options_without_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        made_of(AFN, fields=FIELDS, width=D, generate=PLAIN, **options)
