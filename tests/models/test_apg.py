"""Generated dense layers: the formula by hand, what they are without a condition, and what goes through them."""

from functools import partial

import pytest
import torch
from torch import nn

from models.apg import APGMLP, APGLinear, make_apg
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, Dropout, fold
from models.norm import BatchNorm1d

B, N, M, Z, K, P = 7, 6, 5, 3, 2, 4
FIELDS = [FieldInfo("user"), FieldInfo("tab"), FieldInfo("hour")]
D = 2


@pytest.fixture
def layer():
    torch.manual_seed(0)
    layer = APGLinear(N, M, condition=Z, rank=K, factors=P)
    nn.init.normal_(layer.bias)
    return layer


def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, N, generator=generator), torch.randn(B, Z, generator=generator)


def emb(rows=B):
    return FieldVectors(torch.randn(rows, len(FIELDS), D, generator=torch.Generator().manual_seed(2)))


def product(one, other):
    return one @ other


def test_the_formula_by_hand():
    layer = APGLinear(2, 2, condition=1, rank=1, factors=1)
    with torch.no_grad():
        layer.down[0].copy_(torch.tensor([[1.0], [1.0]]))
        layer.down[1].fill_(1.0)
        layer.generate.weight.fill_(2.0)
        layer.up[0].fill_(1.0)
        layer.up[1].copy_(torch.tensor([[1.0, -1.0]]))

    #   S = 1 + 2 * .5 = 2      (1 + 2) * 2 * (1, -1)
    out = layer(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5]]))
    torch.testing.assert_close(out, torch.tensor([[6.0, -6.0]]))


def test_every_row_has_the_full_product_of_its_own_matrices(layer):
    h_BN, z_BZ = inputs()
    u_NK, v_KM = product(*layer.down), product(*layer.up)
    wanted = [
        h_N @ u_NK @ (torch.eye(K) + (layer.generate.weight @ z_Z).view(K, K)) @ v_KM + layer.bias
        for h_N, z_Z in zip(h_BN, z_BZ, strict=True)
    ]

    torch.testing.assert_close(layer(h_BN, z_BZ), torch.stack(wanted))


def test_a_generator_of_zeros_is_the_static_layer_to_the_bit(layer):
    h_BN, z_BZ = inputs()
    nn.init.zeros_(layer.generate.weight)
    static = APGLinear(N, M, condition=0, rank=K, factors=P)
    static.load_state_dict({name: value for name, value in layer.state_dict().items() if name != "generate.weight"})

    assert static.generate is None
    assert torch.equal(layer(h_BN, z_BZ), static(h_BN))


def test_folded_is_unfolded(layer):
    h_BN, z_BZ = inputs()
    before = layer(h_BN, z_BZ)
    fold(nn.Sequential(layer))

    assert [tuple(own.shape) for own in (*layer.down, *layer.up)] == [(N, K), (K, M)]
    torch.testing.assert_close(layer(h_BN, z_BZ), before)


def test_the_rank_of_what_comes_out_is_that_of_the_layer(layer):
    h_BN, z_BZ = inputs()

    assert torch.linalg.matrix_rank(layer(h_BN, z_BZ) - layer.bias) == K


def test_the_condition_decides_what_becomes_of_a_row(layer):
    h_BN, z_BZ = inputs()
    same_BN = h_BN[:1].expand(B, N)
    out_BM = layer(same_BN, z_BZ)

    assert not torch.isclose(out_BM[0], out_BM[1]).any()


def test_gradients_reach_every_factor_the_generator_and_the_bias(layer):
    layer(*inputs()).square().sum().backward()

    assert {name for name, own in layer.named_parameters() if own.grad is not None and own.grad.any()} == {
        *("down.0", "down.1", "up.0", "up.1", "generate.weight", "bias")
    }


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"rank": 6}, "rank is 6; expected 1 to 5 for a layer of 6 to 5"),
        ({"rank": 0}, "rank is 0; expected 1 to 5"),
        ({"rank": 4, "factors": 3}, "factors is 3; expected the rank, 4, or more"),
    ],
)
def test_a_rank_that_does_not_fit_is_refused(options, why):
    with pytest.raises(ValueError, match=why):
        APGLinear(N, M, condition=Z, **options)


def test_a_network_is_as_a_plain_one_but_for_its_linear_layers():
    mlp = APGMLP(6, hidden=[5, 4], dropout=0.1, batch_norm=True)

    assert [type(layer) for layer in mlp] == [APGLinear, BatchNorm1d, nn.ReLU, Dropout] * 2
    assert mlp.out_features == 4
    assert torch.equal(APGMLP(3, hidden=[])(row := torch.randn(2, 3)), row)


def test_by_itself_every_layer_is_generated_from_its_own_input():
    mlp = APGMLP(6, hidden=[5, 4])

    assert [layer.generate.in_features for layer in mlp if isinstance(layer, APGLinear)] == [6, 5]
    first, relu, second, _ = mlp
    row_BX = torch.randn(B, 6)
    hidden_BX = relu(first(row_BX, row_BX))
    assert torch.equal(mlp(row_BX), second(hidden_BX, hidden_BX).relu())


def test_by_fields_every_layer_is_generated_from_their_vectors():
    mlp = make_apg(fields=FIELDS, width=D, condition=["hour", "user"])(6, hidden=[5, 4])
    x = emb()
    before = mlp(row_BX := torch.randn(B, 6), x)
    x.emb_BFD[:, 1] += 1.0
    assert torch.equal(mlp(row_BX, x), before), "tab is not among them"
    first, relu, second, _ = mlp
    z_BZ = torch.cat([x.emb_BFD[:, 2], x.emb_BFD[:, 0]], dim=1)
    torch.testing.assert_close(second(relu(first(row_BX, z_BZ)), z_BZ).relu(), before)


def test_without_a_condition_nothing_is_generated():
    mlp = make_apg(fields=FIELDS, width=D, condition="none")(6, hidden=[5])

    assert [name for name, _ in mlp.named_parameters()] == ["0.bias", "0.down.0", "0.down.1", "0.up.0", "0.up.1"]


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        (["usr"], r"condition: no field 'usr'; choose from \['user', 'tab', 'hour'\]"),
        ("tab", r"condition is 'tab'; expected self, none or a list of fields such as \[tab\]"),
        ([], "condition is an empty list; expected fields, or none"),
    ],
)
def test_a_condition_that_is_none_is_refused(condition, why):
    with pytest.raises(ValueError, match=why):
        make_apg(fields=FIELDS, width=D, condition=condition)


def test_a_row_of_constants_gets_a_layer_for_every_row_of_the_condition():
    mlp = make_apg(fields=FIELDS, width=D, condition=["user"])(6, hidden=[5])
    constant_1X = torch.randn(1, 6)

    torch.testing.assert_close(mlp(constant_1X, emb()), mlp(constant_1X.expand(B, 6), emb()))


@pytest.mark.parametrize("make", [partial(APGMLP, rank=2), MLP])
def test_no_rows_come_out_as_no_rows(make):
    assert make(6, hidden=[5])(torch.zeros(0, 6), emb(0)).shape == (0, 5)
