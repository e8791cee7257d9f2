"""Every decoder in both paradigms: the formulas worked out, and the laws that hold for all of them."""

from functools import partial

import pytest
import torch
from torch import nn

from models.decoders import CIN, FM, Decoder, pair_sum
from models.decoders.cross import DCNV2, CrossNet
from models.decoders.factorization import DeepFM
from models.decoders.networks import MLPDecoder
from models.encoders import FeatureGenerator, Identity
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, Flat, Tokens, flat
from models.options import options_of
from models.registries import DECODERS, ENCODERS, HEADS
from tests.models.flat import made_of, sfg

F, D, B = 4, 4, 5
FIELDS = [FieldInfo(name) for name in ("user", "item", "tab", "hour")]
TWO, THREE = FIELDS[:2], FIELDS[:3]
PLAIN = partial(Identity, fields=F, width=D)
SFG = partial(sfg, fields=F, width=D)
UNITY = partial(sfg, fields=F, width=D, activation="linear")
OPTIONS = {name: options_of(DECODERS[name], ("fields", "width", "generate", "make_mlp")) for name in DECODERS}
ENCODERS_IN = dict.fromkeys(DECODERS, 1) | {"crossnet": 3, "dcnv2": 3, "gdcn": 3, "tf": 2, "dhen": 2}
ENCODERS_IN |= {"dcn": 3, "edcn": 3, "dcnv3": 3, "fibinet": 2}
WITHOUT_MLP = ("fm", "fwfm", "fmfm", "ffm", "lr", "finalnet", "dcnv3", "rankmixer")
SMALL = {name: {"hidden": [6, 8]} if "hidden" in OPTIONS[name] else {} for name in DECODERS}
SMALL["finalmlp"] |= {"second_hidden": [4], "heads": 2, "gate_hidden": [6], "contexts": [["user"], ["item", "tab"]]}
SMALL["tf"] |= {"easy_hidden": [6]}
SMALL["masknet"] |= {"blocks": [6, 5]}
SMALL["fibinet"] |= {"reduction": 2}
SMALL["edcn"] |= {"bridge": "sum"}  # of a product of small numbers little is left to compare
SMALL["afn"] |= {"neurons": 6, "afn_hidden": [6]}
SMALL["finalnet"] |= {"second_hidden": [4]}
SMALL["dcnv3"] |= {"deep_layers": 2, "shallow_layers": 1}
SMALL["wukong"] |= {"layers": 2, "product_tokens": 2, "linear_tokens": 2, "rank": 2, "product_hidden": [6]}
SMALL["rankmixer"] |= {"tokens": 3, "token_width": 6}
SMALL["pepnet"] |= {"domains": ["tab"], "priors": ["user", "item"], "gate_hidden": [6]}
STACKED = [
    ["cross", {"mlp": {"hidden": [6, 8], "dropout": 0.0}}],
    [{"transformer": {"dropout": 0.0}}, {"masknet": {"dropout": 0.0}}],
]
SMALL["dhen"] = {"layers": STACKED}


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
    width = DECODERS[name].embedding_width(fields=F, dim=D)
    decoder = made_of(
        DECODERS[name], fields=FIELDS, width=width, generate=partial(generate, width=width), **SMALL[name] | options
    )
    torch.manual_seed(1)
    return decoder, HEADS[decoder.head](features=flat(decoder.out), targets=["click", "buy"])


def rows(decoder, rows_=B):
    """Embeddings, first-order terms and second embeddings, as far as the decoder wants them."""
    generator = torch.Generator().manual_seed(2)
    width = type(decoder).embedding_width(fields=F, dim=D)
    second = torch.randn(rows_, F, decoder.second_width, generator=generator) if decoder.second_width else None
    emb_BFD, linear_BF = torch.randn(rows_, F, width, generator=generator), torch.randn(rows_, F, generator=generator)
    return FieldVectors(emb_BFD, linear_BF, second)


def tensors(x):
    return x.emb_BFD, x.linear_BF, x.second_BFE


def logits(decoder, head, x):
    return torch.stack(list(head(decoder(x).flatten(1)).logits.values()), dim=1)


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
    fm = FM(fields=THREE, width=1, generate=TenTimesTheFirst)
    emb_BFD, linear_BF = torch.tensor([[[2.0], [3.0], [5.0]]]), torch.tensor([[0.1, 0.2, 0.3]])

    #   pairs 01, 02, 12: 20 * 3 + 20 * 5 + 3 * 5      linear: 0.6
    torch.testing.assert_close(fm(FieldVectors(emb_BFD, linear_BF)), torch.tensor([[175.6]]))


def test_the_network_of_deepfm_reads_raw_vectors():
    deepfm = ones(made_of(DeepFM, fields=TWO, width=1, generate=Twice, hidden=[1]))
    emb_BFD, linear_BF = torch.tensor([[[2.0], [3.0]]]), torch.tensor([[0.1, 0.2]])

    #   pair: 4 * 3      linear: 0.3      network: relu(2 + 3 + 1) + 1, and not relu(4 + 6 + 1) + 1
    torch.testing.assert_close(deepfm(FieldVectors(emb_BFD, linear_BF)), torch.tensor([[12 + 0.3 + 7]]))


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
    crossnet = ones(made_of(CrossNet, fields=TWO, width=1, generate=Twice, layers=2, **options))

    torch.testing.assert_close(crossnet(FieldVectors(torch.tensor([[[2.0], [3.0]]]))), torch.tensor([expected]))


def test_the_weight_of_a_cross_layer_is_on_the_side_it_is_said_to_be():
    emb_BFD = torch.tensor([[[2.0], [3.0]]])
    code, paper = (
        made_of(CrossNet, fields=TWO, width=1, generate=TenTimesTheFirst, layers=1, weigh_generated=w) for w in (False, True)
    )
    with torch.no_grad():
        code.weights[0].weight.copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        paper.load_state_dict(code.state_dict())

    torch.testing.assert_close(code(FieldVectors(emb_BFD)), torch.tensor([[2.0 + 20.0 * 3.0, 3.0]]))  # x + gate * (W x)
    torch.testing.assert_close(paper(FieldVectors(emb_BFD)), torch.tensor([[2.0 + 3.0 * 2.0, 3.0]]))  # x + (W gate) * x
    torch.testing.assert_close(code.operands(emb_BFD)[0], torch.tensor([[[20.0], [3.0]]]))
    torch.testing.assert_close(code.operands(emb_BFD)[1], torch.tensor([[[3.0], [0.0]]]))


def test_dcnv2_puts_the_crossed_row_beside_the_network_of_the_raw_vectors():
    dcnv2 = ones(made_of(DCNV2, fields=TWO, width=1, generate=Twice, layers=1, hidden=[1]))

    torch.testing.assert_close(dcnv2(FieldVectors(torch.tensor([[[2.0], [3.0]]]))), torch.tensor([[22.0, 33.0, 6.0]]))


def test_the_deep_head_of_dcnv2_is_one_hidden_layer_twice_as_wide():
    dcnv2 = ones(made_of(DCNV2, fields=TWO, width=1, generate=Twice, layers=1, hidden=[1], deep_head=True))

    assert dcnv2.out.width == 6
    torch.testing.assert_close(dcnv2(FieldVectors(torch.tensor([[[2.0], [3.0]]]))), torch.full((1, 6), 22.0 + 33 + 6 + 1))


def test_the_deep_head_of_crossnet_reads_the_crossed_row():
    crossnet = ones(made_of(CrossNet, fields=TWO, width=1, generate=Twice, layers=1, deep_head=True))

    assert crossnet.out.width == 4
    torch.testing.assert_close(crossnet(FieldVectors(torch.tensor([[[2.0], [3.0]]]))), torch.full((1, 4), 22.0 + 33 + 1))


def test_the_mlp_reads_the_generated_vectors():
    mlp = ones(made_of(MLPDecoder, fields=TWO, width=1, generate=Twice, hidden=[2]))

    torch.testing.assert_close(mlp(FieldVectors(torch.tensor([[[2.0], [3.0]]]))), torch.full((1, 2), 4.0 + 6 + 1))


@pytest.mark.parametrize("name", ["fwfm", "fmfm", "ipnn", "ffm"])
def test_every_pair_is_generated_once_at_its_own_side_and_weight(name):
    decoder, _ = made(name, SFG)
    emb_BFD, linear_BF, _ = tensors(rows(decoder))
    generated_BFD, raw_BFD = decoder.operands(emb_BFD)
    pairs = [(i, j) for i in range(F) for j in range(i + 1, F)]
    if name == "fwfm":
        r = decoder.weigh.weight[0]
        expected = sum(r[p] * (generated_BFD[:, i] * raw_BFD[:, j]).sum(1) for p, (i, j) in enumerate(pairs)) + linear_BF.sum(1)
    elif name == "fmfm":
        m = decoder.weights
        expected = sum(((raw_BFD[:, i] @ m[p]) * generated_BFD[:, j]).sum(1) for p, (i, j) in enumerate(pairs)) + linear_BF.sum(
            1
        )
    elif name == "ffm":
        v, z = emb_BFD.view(B, F, F, D), {}
        for j in range(F):
            made_for_j = decoder.encoder(v[:, :, j])  # what all fields have for field j
            z |= {(i, j): made_for_j[:, i] for i in range(F)}
        expected = sum((z[i, j] * v[:, j, i]).sum(1) for i, j in pairs) + linear_BF.sum(1)
    else:
        products = [(generated_BFD[:, i] * raw_BFD[:, j]).sum(1) for i, j in pairs]
        expected = decoder.mlp(torch.cat([emb_BFD.flatten(1), torch.stack(products, 1)], 1))
    torch.testing.assert_close(decoder(FieldVectors(emb_BFD, linear_BF)).squeeze(1), expected)


@pytest.mark.parametrize("first_order", ["filv", "felv"])
def test_the_first_order_part_of_fwfm(first_order):
    decoder, _ = made("fwfm", PLAIN, first_order=first_order)
    emb_BFD, _, second_BFD = tensors(rows(decoder))
    pairs_B1 = decoder.weigh(decoder.pairs(emb_BFD, emb_BFD))
    first_B = (
        decoder.field_vectors(emb_BFD.flatten(1)) if first_order == "filv" else (emb_BFD * second_BFD).sum((1, 2))[:, None]
    )

    assert not decoder.needs_linear
    torch.testing.assert_close(decoder(FieldVectors(emb_BFD, None, second_BFD)), pairs_B1 + first_B)


def test_fmfm_may_weigh_the_generated_side_and_may_have_a_vector_per_pair():
    decoder, _ = made("fmfm", SFG, matrix=False, weigh_generated=True)
    emb_BFD, linear_BF, _ = tensors(rows(decoder))
    generated_BFD, raw_BFD = decoder.operands(emb_BFD)
    pairs = [(i, j) for i in range(F) for j in range(i + 1, F)]
    expected = sum((generated_BFD[:, i] * decoder.weights[p] * raw_BFD[:, j]).sum(1) for p, (i, j) in enumerate(pairs))

    torch.testing.assert_close(decoder(FieldVectors(emb_BFD, linear_BF)).squeeze(1), expected + linear_BF.sum(1))


def test_the_compressed_interaction_by_hand():
    emb_BFD = torch.randn(B, F, D)
    cin = CIN(fields=F, generate=SFG, units=[2, 3])
    x = [encoder(emb_BFD) for encoder in cin.encoders]
    first = [
        sum(cin.weights[0].weight[k, i * F + j] * x[0][:, i] * emb_BFD[:, j] for i in range(F) for j in range(F))
        + cin.weights[0].bias[k]
        for k in range(2)
    ]
    second = [
        sum(cin.weights[1].weight[k, i * 2 + j] * x[1][:, i] * first[j] for i in range(F) for j in range(2))
        + cin.weights[1].bias[k]
        for k in range(3)
    ]

    torch.testing.assert_close(cin(emb_BFD), torch.stack([own.sum(1) for own in [*first, *second]], dim=1))


def test_the_gate_of_gdcn():
    decoder, _ = made("gdcn", SFG, layers=1)
    emb_BFD = rows(decoder).emb_BFD
    x = emb_BFD.flatten(1)
    crossed = decoder.encoders[0](emb_BFD).flatten(1) * decoder.weights[0](x) * torch.sigmoid(decoder.gates[0](x))

    torch.testing.assert_close(decoder(FieldVectors(emb_BFD))[:, : F * D], x + crossed)


def test_the_bilinear_fusion_of_finalmlp():
    decoder, _ = made("finalmlp", SFG)
    emb_BFD = rows(decoder).emb_BFD
    x = decoder.first(decoder.gates[0](FieldVectors(emb_BFD)) * decoder.encoder(emb_BFD).flatten(1))
    y = decoder.second(decoder.gates[1](FieldVectors(emb_BFD)) * emb_BFD.flatten(1))
    heads = sum(((x[:, 4 * h : 4 * h + 4] @ decoder.heads_HXY[h]) * y[:, 2 * h : 2 * h + 2]).sum(1) for h in range(2))

    torch.testing.assert_close(decoder(FieldVectors(emb_BFD)), decoder.score(torch.cat([x, y], 1)) + heads[:, None])


def test_a_gate_without_context_is_learnt_and_the_same_for_every_row():
    decoder, _ = made("finalmlp", PLAIN, contexts=[[], []])

    assert decoder.gates[0](FieldVectors(torch.randn(B, F, D))).shape == (1, F * D)


def test_the_gates_of_finalmlp_read_the_fields_they_name():
    decoder, _ = made("finalmlp", PLAIN, contexts=[["tab"], []])
    emb_BFD = rows(decoder).emb_BFD
    other_BFD = emb_BFD.index_fill(1, torch.tensor([2]), 1.0)  # another tab

    assert not torch.equal(decoder.gates[0](FieldVectors(emb_BFD)), decoder.gates[0](FieldVectors(other_BFD)))
    torch.testing.assert_close(
        decoder.gates[0](FieldVectors(emb_BFD)),
        decoder.gates[0](FieldVectors(emb_BFD.index_fill(1, torch.tensor([0, 1, 3]), 1.0))),
    )


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        ([["usr"], []], r"contexts: no field 'usr'; choose from \['user', 'item', 'tab', 'hour'\]"),
        ([[0], []], "contexts: 0 is not the name of a field; fields are named now, not counted"),
        ([[]], "expected two lists of field names"),
    ],
)
def test_contexts_that_name_no_field_are_refused(contexts, message):
    with pytest.raises(ValueError, match=message):
        made("finalmlp", PLAIN, contexts=contexts)


class Product(Decoder):
    """A decoder of another package: one number, the product of all the fields' generated and raw vectors."""

    def __init__(self, *, fields, width, generate, make_mlp=MLP):
        super().__init__()
        self.encoder, self.out = generate(), Flat(1)

    def forward(self, x):
        return (self.encoder(x.emb_BFD) * x.emb_BFD).sum((1, 2)).unsqueeze(1)


def test_a_decoder_of_another_package_generates_without_a_word_about_it():
    plain, sfg = (Product(fields=FIELDS, width=D, generate=generate) for generate in (PLAIN, SFG))
    emb_BFD = torch.randn(B, F, D)

    torch.testing.assert_close(plain(FieldVectors(emb_BFD)), emb_BFD.square().sum((1, 2))[:, None])
    torch.testing.assert_close(sfg(FieldVectors(emb_BFD)), (sfg.encoder(emb_BFD) * emb_BFD).sum((1, 2))[:, None])
    assert sum(p.numel() for p in sfg.parameters()) == (F * D) ** 2


# the laws


@pytest.mark.parametrize("name", DECODERS)
def test_sfg_with_a_linear_activation_and_unit_weights_is_the_plain_model(name):
    plain, plain_head = made(name, PLAIN)
    sfg, sfg_head = made(name, UNITY)
    missing, unexpected = sfg.load_state_dict(plain.state_dict(), strict=False)
    assert sum(key.endswith("transform.weight") for key in missing) == ENCODERS_IN[name]
    assert all(key.endswith(("transform.weight", "bias_FD")) for key in missing)
    assert not unexpected
    for module in sfg.modules():
        if isinstance(module, FeatureGenerator):
            nn.init.eye_(module.transform.weight)

    torch.testing.assert_close(logits(sfg, sfg_head, rows(sfg)), logits(plain, plain_head, rows(plain)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", DECODERS)
def test_sfg_with_other_weights_is_another_model(name):
    plain, plain_head = made(name, PLAIN)
    sfg, sfg_head = made(name, UNITY)
    sfg.load_state_dict(plain.state_dict(), strict=False)

    difference = logits(sfg, sfg_head, rows(sfg)) - logits(plain, plain_head, rows(plain))
    assert difference.abs().max() > 1e-3


@pytest.mark.parametrize("name", DECODERS)
def test_sfg_adds_one_square_matrix_per_encoder_and_nothing_else(name):
    counts = [sum(p.numel() for p in made(name, generate)[0].parameters()) for generate in (PLAIN, SFG)]
    squares = {
        "tf": (F * D) ** 2 + (F * D // 2) ** 2,  # its easy side reads vectors of half the width
        "fwfm": (F * D) ** 2 + F * D,  # its encoder has a bias
        "lr": F**2,  # its vectors are one number wide
    }

    assert counts[1] - counts[0] == squares.get(name, ENCODERS_IN[name] * (F * D) ** 2)


@pytest.mark.parametrize("generate", [PLAIN, SFG], ids=["plain", "sfg"])
@pytest.mark.parametrize("name", DECODERS)
def test_the_gradient_reaches_every_parameter_and_every_embedding(name, generate):
    decoder, head = made(name, generate)
    x = rows(decoder)
    emb_BFD, linear_BF, _ = tensors(x)
    emb_BFD.requires_grad_(), linear_BF.requires_grad_()

    output = head(decoder(x))
    branches = list(output.representations.values())
    sum(logit.square().sum() for logit in [*output.logits.values(), *branches]).backward()

    for parameter_name, parameter in [*decoder.named_parameters(), *head.named_parameters()]:
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.any(), parameter_name
    unused = torch.zeros(F, emb_BFD.shape[2], dtype=torch.bool)
    if name == "ffm":  # a field's vector for itself; a generated one reads it, but of field 0's pairs none is generated
        own = torch.eye(F, dtype=torch.bool).repeat_interleave(D, dim=1)
        unused = own if generate is PLAIN else own & (torch.arange(F) == 0)[:, None]
    assert (emb_BFD.grad.any(0) | unused).all()
    assert (linear_BF.grad is not None) == decoder.needs_linear


@pytest.mark.parametrize("generate", [PLAIN, SFG], ids=["plain", "sfg"])
@pytest.mark.parametrize("name", DECODERS)
def test_no_rows_still_give_every_parameter_a_gradient(name, generate):
    decoder, head = made(name, generate, **({"batch_norm": True} if "batch_norm" in OPTIONS[name] else {}))

    out_BH = decoder(rows(decoder, 0))
    output = head(out_BH)
    branches = list(output.representations.values())
    sum(logit.sum() for logit in [*output.logits.values(), *branches]).backward()

    assert out_BH.shape == (0, decoder.out.width)
    assert all(parameter.grad is not None for parameter in [*decoder.parameters(), *head.parameters()])


@pytest.mark.parametrize("name", DECODERS)
def test_evaluation_is_the_same_bits_every_time_and_needs_no_other_rows(name):
    drops = {option: 0.5 for option in OPTIONS[name] if option.endswith("dropout")}
    if name == "dhen":
        drops = {"layers": [["mlp", "transformer"]]}
    norms = {"batch_norm": True} if "batch_norm" in OPTIONS[name] else {}
    decoder, head = made(name, SFG, **drops, **norms)
    inputs = rows(decoder)
    if drops:
        assert not torch.equal(logits(decoder, head, inputs), logits(decoder, head, inputs)), "dropout is off in training"
    decoder.eval(), head.eval()

    assert torch.equal(logits(decoder, head, inputs), logits(decoder, head, inputs))
    first = FieldVectors(*(own[:1] if own is not None else None for own in tensors(inputs)))
    torch.testing.assert_close(logits(decoder, head, first), logits(decoder, head, inputs)[:1])


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("name", DECODERS)
def test_the_operands_have_the_shape_of_the_embeddings(name, encoder):
    decoder, _ = made(name, partial(ENCODERS[encoder], fields=F))
    emb_BFD = rows(decoder).emb_BFD

    generated_BFD, raw_BFD = decoder.operands(emb_BFD)

    assert generated_BFD.shape == raw_BFD.shape == emb_BFD.shape


@pytest.mark.parametrize("name", DECODERS)
def test_a_misspelt_option_is_a_type_error(name):
    with pytest.raises(TypeError, match="unexpected keyword argument 'hiden'"):
        made_of(DECODERS[name], fields=FIELDS, width=D, generate=PLAIN, hiden=[3])


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("mlp", {"hidden": []}, "mlp: there is no hidden layer"),
        ("ipnn", {"hidden": []}, "ipnn: there is no hidden layer"),
        ("tf", {"easy_hidden": []}, "tf: there is no hidden layer"),
        ("dcnv2", {"hidden": [-3]}, r"the hidden widths are \[-3\]"),
        ("dcnv2", {"hidden": [0]}, r"the hidden widths are \[0\]"),
        ("finalmlp", {"heads": 0}, "finalmlp: heads is 0"),
        ("autoint", {"layers": 0}, "autoint: layers is 0"),
        ("autoint", {"heads": 0}, "heads 0"),
        ("autoint", {"attention_width": 0}, "attention_width 0"),
    ],
)
def test_networks_without_layers_units_or_heads_are_told(name, options, told):
    with pytest.raises(ValueError, match=told):
        made_of(DECODERS[name], fields=FIELDS, width=D, generate=PLAIN, **options)


def test_options_without_sense_are_told():
    with pytest.raises(ValueError, match="layers is 0; expected 1 or more"):
        made_of(CrossNet, fields=FIELDS, width=D, generate=PLAIN, layers=0)
    with pytest.raises(ValueError, match="last hidden layer has 1 unit"):
        made_of(MLPDecoder, fields=FIELDS, width=D, generate=PLAIN, hidden=[8, 1])
    with pytest.raises(ValueError, match="ipnn: the last hidden layer has 1 unit"):
        made_of(DECODERS["ipnn"], fields=FIELDS, width=D, generate=PLAIN, hidden=[1])
    with pytest.raises(ValueError, match="tf: the last hidden layer has 1 unit"):
        made_of(DECODERS["tf"], fields=FIELDS, width=D, generate=PLAIN, easy_hidden=[1])


class Seen(MLP):
    """Dense layers that note the fields they were given, as layers that depend on them would."""

    given = 0

    def forward(self, row_BX, fields=None):
        Seen.given += isinstance(fields, FieldVectors)
        return super().forward(row_BX)


@pytest.mark.parametrize("name", [name for name in DECODERS if name not in WITHOUT_MLP])
def test_every_dense_network_comes_from_make_mlp_and_is_given_the_fields(name):
    Seen.given = 0
    options = {"ssem": "moe"} if name == "tf" else {"hidden": [5]} if name == "autoint" else {}
    decoder, _ = made(name, PLAIN, make_mlp=Seen, **options)
    decoder(rows(decoder))

    networks = [module for module in decoder.modules() if isinstance(module, MLP)]
    assert {type(network) for network in networks} == {Seen}
    assert Seen.given == len(networks)


class Thirds(Decoder):
    """An interaction of another package that returns tokens: three of them, each D wide, and knows whose fields it reads."""

    def __init__(self, *, fields, width, generate, make_mlp=MLP):
        super().__init__()
        self.encoder, self.out = generate(), Tokens(3, width)
        self.items = [at for at, field in enumerate(fields) if field.role == "item"]

    def forward(self, x):
        return self.encoder(x.emb_BFD)[:, self.items].mean(1, keepdim=True).expand(-1, 3, -1)


def test_a_decoder_may_return_tokens_and_knows_the_names_and_roles_of_its_fields():
    fields = [FieldInfo("user", "user"), FieldInfo("item", "item"), FieldInfo("brand", "item"), FieldInfo("hour")]
    decoder = Thirds(fields=fields, width=D, generate=PLAIN)
    head = HEADS["linear"](features=flat(decoder.out), targets=["click"])
    emb_BFD = torch.randn(B, F, D)

    tokens_BTD = decoder(FieldVectors(emb_BFD))
    torch.testing.assert_close(tokens_BTD[:, 2], emb_BFD[:, 1:3].mean(1))
    assert flat(decoder.out) == Flat(3 * D)
    assert head(tokens_BTD.flatten(1)).logits["click"].shape == (B,)
