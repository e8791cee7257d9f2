"""DHEN: what a stack makes of its modules, by hand and by law, and what each of its own modules computes."""

import math

import pytest
import torch
from torch import nn

from models.decoders import Decoder
from models.decoders.dhen import DHEN, MaskModule, PairsModule, StackOptions, TransformerModule, make_own
from models.diffusion.blocks import Transformer
from models.encoders import Identity
from models.inputs import FieldInfo, FieldVectors
from models.layers import MLP, Flat, Tokens
from models.registries import DECODERS, INTERACTIONS
from tests.models.flat import sfg

B, F, D = 5, 3, 4
FIELDS = [FieldInfo(name) for name in ("user", "item", "tab")]


def plain(width=D, bias=False):
    return Identity(fields=F, width=width)


def generating(width=D, bias=False):
    return sfg(fields=F, width=width, bias=bias)


GIVEN = {"fields": FIELDS, "width": D, "generate": plain, "make_mlp": MLP}


class Times(Decoder):
    """A module that is followed by hand."""

    def __init__(self, factor, fields, width):
        super().__init__()
        self.factor, self.encoder, self.out = factor, nn.Identity(), Tokens(len(fields), width)

    def forward(self, x):
        return self.factor * x.emb_BFD


def times(name, options, given):
    return Times(float(name), given["fields"], given["width"])


def stack(layers, generate=plain, make_interaction=make_own, **options):
    torch.manual_seed(0)
    made = DHEN(
        fields=FIELDS,
        width=D,
        generate=generate,
        layers=layers,
        make_interaction=make_interaction,
        stack=StackOptions(**options),
    )
    return made.eval()


def rows(count=B):
    return FieldVectors(torch.randn(count, F, D, generator=torch.Generator().manual_seed(1)))


def test_a_layer_by_hand():
    """a = (ln 3, 0) weighs 3/4 and 1/4; X and -X so weighed are X / 2; with the shortcut 3/2 X."""
    x = rows()
    layer = stack([["1", "-1"]], make_interaction=times, norm="none")
    with torch.no_grad():
        layer.layers[0].scores_k[0] = math.log(3)

    torch.testing.assert_close(layer(x), 1.5 * x.emb_BFD.flatten(1))
    [weights_k] = layer.observed().values()
    torch.testing.assert_close(weights_k, torch.tensor([0.75, 0.25]))


def test_the_norm_is_of_every_token_and_comes_last():
    x = rows()
    out_BX = stack([["1", "-1"]], make_interaction=times)(x)

    torch.testing.assert_close(out_BX, nn.functional.layer_norm(x.emb_BFD, (D,)).flatten(1))


@pytest.mark.parametrize("name", ["cross", "transformer"])
def test_one_module_without_shortcut_and_norm_is_the_module(name):
    made = stack([[name]], shortcut=False, norm="none")
    alone = next(own for own in made.modules() if isinstance(own, Decoder) and own is not made)

    assert torch.equal(made(rows()), alone(rows()).flatten(1))


@pytest.mark.parametrize("ensemble", ["weighted", "concat"])
def test_equal_modules_are_one(ensemble):
    """Three equal modules weighed are one; next to each other each has made its own token of the three."""
    x = rows()
    one = stack([["2"]], make_interaction=times, shortcut=False, norm="none")
    many = stack([["2", "2", "2"]], make_interaction=times, shortcut=False, norm="none", ensemble=ensemble)
    if ensemble == "concat":
        assert [project.out_features for project in many.layers[0].projections] == [D] * 3
        for at, project in enumerate(many.layers[0].projections):
            with torch.no_grad():
                project.weight.copy_(torch.eye(F * D)[at * D : (at + 1) * D])

    torch.testing.assert_close(many(x), one(x))


def test_tokens_that_modules_cannot_share_evenly_go_to_the_first_ones():
    made = stack([["1", "1"]], make_interaction=times, ensemble="concat")

    assert [project.out_features // D for project in made.layers[0].projections] == [2, 1]
    assert made(rows()).shape == (B, F * D)


def test_weights_start_equal_and_a_sum_is_k_times_as_much():
    x, layers = rows(), [["1", "3", "5", "7"]]
    weighted = stack(layers, make_interaction=times, shortcut=False, norm="none")
    added = stack(layers, make_interaction=times, shortcut=False, norm="none", ensemble="sum")

    assert torch.equal(weighted.layers[0].weights(), torch.full((4,), 0.25))
    torch.testing.assert_close(added(x), 4 * weighted(x))


def test_a_projection_stands_only_where_the_width_is_another():
    made = stack([["cross", "mlp", "fm"]])

    assert [type(own) for own in made.layers[0].projections] == [nn.Identity, nn.Linear, nn.Linear]
    assert [own.in_features for own in made.layers[0].projections[1:]] == [128, F * (F - 1) // 2]


@pytest.mark.parametrize(("name", "same"), [("transformer", True), ("mlp", False), ("cross", False)])
def test_whether_the_order_of_the_fields_matters(name, same):
    made, x = stack([[name]]), rows()
    swapped = FieldVectors(x.emb_BFD.flip(1))
    back_BFD = made(swapped).view(B, F, D).flip(1)

    assert torch.allclose(back_BFD, made(x).view(B, F, D), atol=1e-6) is same


@pytest.mark.parametrize("ensemble", ["weighted", "sum", "concat"])
@pytest.mark.parametrize("generate", [plain, generating], ids=["plain", "sfg"])
def test_gradients_reach_every_parameter(ensemble, generate):
    made = stack([["mlp", "transformer", "cross"], ["mlp", "masknet", "fm"]], generate, ensemble=ensemble)
    (made(rows()) * torch.randn(B, F * D)).sum().backward()

    assert [name for name, own in made.named_parameters() if own.grad is None or not own.grad.any()] == []


def test_only_the_first_layer_reads_what_is_generated():
    made = stack([["mlp", "cross"], ["mlp", "cross"]], generating)
    generators = [name for name, own in made.named_modules() if type(own) is type(generating())]

    assert len(generators) == 2
    assert all(name.startswith("layers.0.") for name in generators)
    emb_BFD = rows().emb_BFD
    generated_BFD, raw_BFD = made.operands(emb_BFD)
    assert torch.equal(raw_BFD, emb_BFD)
    assert torch.equal(generated_BFD, made.layers[0].parts["0_mlp"].encoder(emb_BFD))


def test_the_transformer_is_the_pre_norm_layer_of_the_project():
    torch.manual_seed(3)
    module = TransformerModule(**GIVEN).eval()
    torch.manual_seed(3)
    block = Transformer(hidden=D, heads=2, dropout=0.1).eval()

    torch.testing.assert_close(module(rows()), block(rows().emb_BFD, torch.ones(B, F, dtype=torch.bool)))


def test_the_mask_is_of_raw_vectors_and_multiplies_generated_ones():
    torch.manual_seed(4)
    module, emb_BFD = MaskModule(**GIVEN | {"generate": lambda: nn.Linear(D, D)}, units=2, hidden=6).eval(), rows().emb_BFD
    v, _, u = module.mask
    w, norm, _, _ = module.read
    mask_BX = u(v(emb_BFD.flatten(1)).relu())

    wanted_BH = norm(w(mask_BX * module.encoder(emb_BFD).flatten(1))).relu()
    torch.testing.assert_close(module(FieldVectors(emb_BFD)), wanted_BH)


def test_the_pairs_are_all_products_of_two_fields():
    emb_BFD = torch.tensor([[[2.0, 0, 0, 0], [3.0, 0, 0, 0], [5.0, 0, 0, 0]]])

    torch.testing.assert_close(PairsModule(**GIVEN)(FieldVectors(emb_BFD)), torch.tensor([[6.0, 10.0, 15.0]]))


def test_cross_is_one_layer_of_the_cross_network():
    module, x = INTERACTIONS["cross"](**GIVEN), rows()
    row_BX = x.emb_BFD.flatten(1)

    torch.testing.assert_close(module(x), row_BX + row_BX * module.weights[0](row_BX))


@pytest.mark.parametrize("name", [name for name in DECODERS if name not in INTERACTIONS])
def test_every_decoder_is_a_module_unless_tokens_lack_what_it_reads(name):
    width = DECODERS[name].embedding_width(fields=F, dim=D)
    decoder = DECODERS[name](**GIVEN | {"width": width, "generate": lambda width=width, bias=False: plain(width)})
    if decoder.needs_linear or decoder.second_width or width != D:
        why = f"layers: {name} reads first-order terms or second vectors|{name}: .*vectors of 4 cannot"
        with pytest.raises(ValueError, match=why):
            stack([[name]])
    else:
        assert stack([[name], ["mlp"]])(rows()).shape == (B, F * D)


@pytest.mark.parametrize(
    ("layers", "options", "why"),
    [
        ([], {}, r"layers is \[\]; expected a list of lists, such as \[\[mlp, transformer\]"),
        (["mlp", "cross"], {}, "expected a list of lists"),
        ([["mlp"], []], {}, "expected a list of lists"),
        ([[{"mlp": {}, "cross": {}}]], {}, "is not a module; expected a name such as mlp, or {mlp: {hidden: "),
        ([["mlp"]], {"ensemble": "mean"}, "no ensemble 'mean'; choose from"),
        ([["mlp"]], {"norm": "batch"}, "no norm 'batch'; choose from"),
        ([["mlp"] * 4], {"ensemble": "concat"}, "4 modules cannot share 3 tokens"),
        ([[{"transformer": {"heads": 3}}]], {}, "heads is 3; expected a divisor of the vectors' width, 4"),
        ([[{"masknet": {"units": 0}}]], {}, "hidden is 128, units 0; expected each 1 or more"),
    ],
)
def test_a_stack_that_cannot_be_is_refused(layers, options, why):
    with pytest.raises(ValueError, match=why):
        stack(layers, **options)


def test_what_a_stack_returns_is_one_row_of_the_width_of_the_embeddings():
    assert stack([["mlp"]]).out == Flat(F * D)
