"""Every decoder in both paradigms: the formulas by hand, and the laws that hold for all of them."""

from functools import partial

import pytest
import torch
from torch import nn

from models.decoders import DCNV2, DECODERS, FM, CrossNet, DeepFM, MLPDecoder, pair_sum
from models.encoders import ENCODERS, FeatureGenerator, Identity
from models.heads import Head

F, D, B = 3, 4, 5
PLAIN = partial(Identity, fields=F, width=D)
SFG = partial(FeatureGenerator, fields=F, width=D)
UNITY = partial(FeatureGenerator, fields=F, width=D, activation="linear")
ENCODERS_IN = {"fm": 1, "deepfm": 1, "crossnet": 3, "dcnv2": 3, "mlp": 1}


class TenTimesTheFirst(nn.Module):
    """An encoder that treats fields differently."""

    def forward(self, emb_BFD):
        return torch.cat([10 * emb_BFD[:, :1], emb_BFD[:, 1:]], dim=1)


class Twice(nn.Module):
    """An encoder whose work is easy to follow."""

    def forward(self, emb_BFD):
        return 2 * emb_BFD


def made(name, generate, **options):
    """A decoder with a head of two tasks, always from the same seed."""
    torch.manual_seed(0)
    decoder = DECODERS[name](fields=F, width=D, generate=generate, **options)
    torch.manual_seed(1)
    return decoder, Head(features=decoder.out_features, tasks=["click", "buy"])


def rows(rows_=B):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(rows_, F, D, generator=generator), torch.randn(rows_, F, generator=generator)


def ones(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(1.0)
    return module


# the formulas


def test_the_pair_sum_is_the_double_loop_over_pairs():
    left_BFD, right_BFD = torch.randn(B, F, D, dtype=torch.float64), torch.randn(B, F, D, dtype=torch.float64)
    loop = sum((left_BFD[:, i] * right_BFD[:, j]).sum(1) for j in range(F) for i in range(j))

    torch.testing.assert_close(pair_sum(left_BFD, right_BFD), loop.unsqueeze(1))


def test_the_pair_sum_of_one_field_is_zero():
    torch.testing.assert_close(pair_sum(torch.ones(2, 1, 3), torch.ones(2, 1, 3)), torch.zeros(2, 1))


def test_fm_generates_the_vector_of_the_smaller_index():
    fm = FM(fields=3, width=1, generate=TenTimesTheFirst)
    emb_BFD, linear_BF = torch.tensor([[[2.0], [3.0], [5.0]]]), torch.tensor([[0.1, 0.2, 0.3]])

    #   pairs 01, 02, 12: 20 * 3 + 20 * 5 + 3 * 5      linear: 0.6
    torch.testing.assert_close(fm(emb_BFD, linear_BF), torch.tensor([[175.6]]))


def test_the_network_of_deepfm_reads_raw_vectors():
    deepfm = ones(DeepFM(fields=2, width=1, generate=Twice, hidden=[1]))
    emb_BFD, linear_BF = torch.tensor([[[2.0], [3.0]]]), torch.tensor([[0.1, 0.2]])

    #   pair: 4 * 3      linear: 0.3      network: relu(2 + 3 + 1) + 1, and not relu(4 + 6 + 1) + 1
    torch.testing.assert_close(deepfm(emb_BFD, linear_BF), torch.tensor([[12 + 0.3 + 7]]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        #  gate (4, 6) each layer; W x sums x: layer 1: (2, 3) + 5 * (4, 6) = (22, 33); layer 2: + 55 * (4, 6)
        ({}, [242.0, 363.0]),
        #  gate 2 x each layer: layer 1 the same; layer 2: (22, 33) + 55 * (44, 66)
        ({"regenerate": True}, [2442.0, 3663.0]),
        #  W gate = 10 each layer, times x: (2, 3) + 10 * (2, 3) = (22, 33); (22, 33) + 10 * (22, 33)
        ({"weigh_generated": True}, [242.0, 363.0]),
        #  W gate = 10, then 110: (22, 33) + 110 * (22, 33)
        ({"regenerate": True, "weigh_generated": True}, [2442.0, 3663.0]),
    ],
)
def test_cross_layers_by_hand(options, expected):
    crossnet = ones(CrossNet(fields=2, width=1, generate=Twice, layers=2, **options))

    torch.testing.assert_close(crossnet(torch.tensor([[[2.0], [3.0]]])), torch.tensor([expected]))


def test_the_weight_of_a_cross_layer_is_on_the_side_it_is_said_to_be():
    emb_BFD = torch.tensor([[[2.0], [3.0]]])
    code, paper = (CrossNet(fields=2, width=1, generate=TenTimesTheFirst, layers=1, weigh_generated=w) for w in (False, True))
    with torch.no_grad():
        code.weights[0].weight.copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        paper.load_state_dict(code.state_dict())

    torch.testing.assert_close(code(emb_BFD), torch.tensor([[2.0 + 20.0 * 3.0, 3.0]]))  # x + gate * (W x)
    torch.testing.assert_close(paper(emb_BFD), torch.tensor([[2.0 + 3.0 * 2.0, 3.0]]))  # x + (W gate) * x
    torch.testing.assert_close(code.operands(emb_BFD)[0], torch.tensor([[[20.0], [3.0]]]))
    torch.testing.assert_close(code.operands(emb_BFD)[1], torch.tensor([[[3.0], [0.0]]]))


def test_dcnv2_puts_the_crossed_row_beside_the_network_of_the_raw_vectors():
    dcnv2 = ones(DCNV2(fields=2, width=1, generate=Twice, layers=1, hidden=[1]))

    torch.testing.assert_close(dcnv2(torch.tensor([[[2.0], [3.0]]])), torch.tensor([[22.0, 33.0, 6.0]]))


def test_the_deep_head_of_dcnv2_is_one_hidden_layer_twice_as_wide():
    dcnv2 = ones(DCNV2(fields=2, width=1, generate=Twice, layers=1, hidden=[1], deep_head=True))

    assert dcnv2.out_features == 6
    torch.testing.assert_close(dcnv2(torch.tensor([[[2.0], [3.0]]])), torch.full((1, 6), 22.0 + 33 + 6 + 1))


def test_the_mlp_reads_the_generated_vectors():
    mlp = ones(MLPDecoder(fields=2, width=1, generate=Twice, hidden=[2]))

    torch.testing.assert_close(mlp(torch.tensor([[[2.0], [3.0]]])), torch.full((1, 2), 4.0 + 6 + 1))


# the laws


@pytest.mark.parametrize("name", DECODERS)
def test_sfg_with_a_linear_activation_and_unit_weights_is_the_plain_model(name):
    plain, plain_head = made(name, PLAIN)
    sfg, sfg_head = made(name, UNITY)
    missing, unexpected = sfg.load_state_dict(plain.state_dict(), strict=False)
    assert len(missing) == ENCODERS_IN[name]
    assert not unexpected
    for module in sfg.modules():
        if isinstance(module, FeatureGenerator):
            nn.init.eye_(module.linear.weight)

    torch.testing.assert_close(sfg_head(sfg(*rows())), plain_head(plain(*rows())), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", DECODERS)
def test_sfg_with_other_weights_is_another_model(name):
    plain, plain_head = made(name, PLAIN)
    sfg, sfg_head = made(name, UNITY)
    sfg.load_state_dict(plain.state_dict(), strict=False)

    assert (sfg_head(sfg(*rows())) - plain_head(plain(*rows()))).abs().max() > 1e-3


@pytest.mark.parametrize("name", DECODERS)
def test_sfg_adds_one_square_matrix_per_encoder_and_nothing_else(name):
    counts = [sum(p.numel() for p in made(name, generate)[0].parameters()) for generate in (PLAIN, SFG)]

    assert counts[1] - counts[0] == ENCODERS_IN[name] * (F * D) ** 2


@pytest.mark.parametrize("generate", [PLAIN, SFG], ids=["plain", "sfg"])
@pytest.mark.parametrize("name", DECODERS)
def test_the_gradient_reaches_every_parameter_and_every_embedding(name, generate):
    decoder, head = made(name, generate)
    emb_BFD, linear_BF = (tensor.requires_grad_() for tensor in rows())

    head(decoder(emb_BFD, linear_BF)).square().sum().backward()

    for parameter_name, parameter in [*decoder.named_parameters(), *head.named_parameters()]:
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.any(), parameter_name
    assert emb_BFD.grad.flatten(1).any(0).all()
    assert (linear_BF.grad is not None) == decoder.needs_linear


@pytest.mark.parametrize("generate", [PLAIN, SFG], ids=["plain", "sfg"])
@pytest.mark.parametrize("name", DECODERS)
def test_no_rows_still_give_every_parameter_a_gradient(name, generate):
    decoder, head = made(name, generate, **({} if name in ("fm", "crossnet") else {"batch_norm": True}))

    out_BH = decoder(*rows(0))
    head(out_BH).sum().backward()

    assert out_BH.shape == (0, decoder.out_features)
    assert all(parameter.grad is not None for parameter in [*decoder.parameters(), *head.parameters()])


@pytest.mark.parametrize("name", DECODERS)
def test_evaluation_is_the_same_bits_every_time_and_needs_no_other_rows(name):
    drops = {"fm": {}, "crossnet": {"cross_dropout": 0.5}, "dcnv2": {"cross_dropout": 0.5, "dropout": 0.5, "batch_norm": True}}
    decoder, _ = made(name, SFG, **drops.get(name, {"dropout": 0.5, "batch_norm": True}))
    emb_BFD, linear_BF = rows()
    if name != "fm":
        assert not torch.equal(decoder(emb_BFD, linear_BF), decoder(emb_BFD, linear_BF)), "dropout is off in training"
    decoder.eval()

    assert torch.equal(decoder(emb_BFD, linear_BF), decoder(emb_BFD, linear_BF))
    torch.testing.assert_close(decoder(emb_BFD[:1], linear_BF[:1]), decoder(emb_BFD, linear_BF)[:1])


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("name", DECODERS)
def test_the_operands_have_the_shape_of_the_embeddings(name, encoder):
    decoder, _ = made(name, partial(ENCODERS[encoder], fields=F, width=D))

    generated_BFD, raw_BFD = decoder.operands(rows()[0])

    assert generated_BFD.shape == raw_BFD.shape == (B, F, D)


@pytest.mark.parametrize("name", DECODERS)
def test_a_misspelt_option_is_a_type_error(name):
    with pytest.raises(TypeError, match="unexpected keyword argument 'hiden'"):
        DECODERS[name](fields=F, width=D, generate=PLAIN, hiden=[3])


def test_options_without_sense_are_told():
    with pytest.raises(ValueError, match="layers is 0; expected 1 or more"):
        CrossNet(fields=F, width=D, generate=PLAIN, layers=0)
    with pytest.raises(ValueError, match="last hidden layer has 1 unit"):
        MLPDecoder(fields=F, width=D, generate=PLAIN, hidden=[8, 1])
