"""FiBiNET against loops over pairs."""

import pytest
import torch
from torch import nn

from models.decoders.products.fibinet import BILINEAR, FiBiNET
from models.inputs import FieldInfo, FieldVectors
from tests.models.flat import made_of
from tests.models.test_decoders import FIELDS, SFG, B, D, F, made


@pytest.mark.parametrize("bilinear", BILINEAR)
def test_both_products_of_every_pair_reach_the_network(bilinear):
    decoder, _ = made("fibinet", SFG, bilinear=bilinear)
    emb_BFD, linear_BF = torch.randn(B, F, D), torch.randn(B, F)
    weighed_BFD = decoder.reweighed(emb_BFD)
    pairs = [(i, j) for i in range(F) for j in range(i + 1, F)]

    products = []
    for side, raw in enumerate((emb_BFD, weighed_BFD)):
        left, weight = decoder.encoders[side](raw), decoder.products[side].weight_MDD
        for at, (i, j) in enumerate(pairs):
            matrix = weight[{"all": 0, "each": i, "interaction": at}[bilinear]]
            products.append((left[:, i] @ matrix) * raw[:, j])
    deep = decoder.last(decoder.mlp(torch.cat(products, 1)))

    torch.testing.assert_close(decoder(FieldVectors(emb_BFD, linear_BF)), deep + linear_BF.sum(1, keepdim=True))


def test_the_importance_of_a_field_is_made_of_the_means_of_all():
    decoder = made_of(FiBiNET, fields=[FieldInfo("a"), FieldInfo("b")], width=2, generate=nn.Identity, reduction=2, hidden=[2])
    with torch.no_grad():
        decoder.squeeze.weight.copy_(torch.tensor([[1.0, 10.0]]))
        decoder.excite.weight.copy_(torch.tensor([[1.0], [-1.0]]))

    #   means 2 and 3: 2 + 30 = 32, and for the second field relu(-32)
    weighed = decoder.reweighed(torch.tensor([[[1.0, 3.0], [2.0, 4.0]]]))
    torch.testing.assert_close(weighed, torch.tensor([[[32.0, 96.0], [0.0, 0.0]]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bilinear": "pair"}, r"fibinet: no bilinear 'pair'; choose from \['all', 'each', 'interaction'\]"),
        ({"reduction": 0}, "fibinet: reduction is 0; expected more than 0"),
        ({"fields": FIELDS[:1]}, "fibinet: one field has no pair"),
    ],
)
def test_options_without_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        made_of(FiBiNET, **{"fields": FIELDS, "width": D, "generate": nn.Identity} | options)
