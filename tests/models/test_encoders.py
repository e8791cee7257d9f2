"""The SFG encoder: the formula of the paper's code, number by number, and its identities."""

import pytest
import torch

from models.encoders import ACTIVATIONS, FeatureGenerator, Identity
from models.encoders.ablations import TRANSFORMS
from models.registries import ENCODERS
from tests.helpers import on_ranks
from tests.models.flat import sfg


def encoder(**options) -> FeatureGenerator:
    """Two fields of width 1; field 0 is 1 a + 10 b, field 1 is 100 a - 1000 b."""
    made = sfg(fields=2, width=1, **options)
    with torch.no_grad():
        made.transform.weight.copy_(torch.tensor([[1.0, 10.0], [100.0, -1000.0]]))
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
    made = sfg(fields=1, width=1, activation=activation)
    with torch.no_grad():
        made.transform.weight.fill_(-1.0)

    torch.testing.assert_close(made(torch.tensor([[[2.0]]])), torch.tensor([[[expected]]]))
    assert activation in ACTIVATIONS


def test_an_unknown_activation_is_told_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no activation 'rellu'; choose from \['linear', 'relu'"):
        sfg(fields=1, width=1, activation="rellu")


def test_the_encoder_is_one_matrix_without_bias_and_the_identity_is_nothing():
    assert sum(p.numel() for p in sfg(fields=3, width=4).parameters()) == (3 * 4) ** 2
    assert list(Identity(fields=3, width=4).parameters()) == []


def test_a_bias_moves_what_is_activated_and_every_coordinate_has_its_own():
    made = sfg(fields=F, width=D, bias=True, gamma=2.0)
    emb_BFD = torch.randn(5, F, D)
    lin_BFD = made.transform(emb_BFD)
    torch.testing.assert_close(made(emb_BFD), 2 * lin_BFD.relu())
    with torch.no_grad():
        made.bias_FD.copy_(torch.randn(F, D))
    torch.testing.assert_close(made(emb_BFD), 2 * (lin_BFD + made.bias_FD).relu())


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_keeps_the_shape_even_of_no_rows(name):
    made = ENCODERS[name](fields=3, width=4)

    assert made(torch.randn(2, 3, 4)).shape == (2, 3, 4)
    assert made(torch.randn(0, 3, 4)).shape == (0, 3, 4)


# --- the arms ---

F, D, B = 4, 8, 6


def rows(count=B):
    return torch.randn(count, F, D, generator=torch.Generator().manual_seed(1))


def reads(made, emb_BFD):
    """Which field's vector each generated one depends on, (F, F)."""
    jacobian = torch.autograd.functional.jacobian(lambda x: made(x).sum((0, 2)), emb_BFD)  # (F, B, F, D)
    return jacobian.abs().sum((1, 3)) > 0


@pytest.mark.parametrize(
    ("source", "expected"),
    [("all", torch.ones(F, F)), ("self", torch.eye(F)), ("others", 1 - torch.eye(F))],
)
def test_a_field_is_generated_from_the_fields_it_is_said_to_be(source, expected):
    made = sfg(fields=F, width=D, source=source, activation="tanh")
    learn = torch.optim.SGD(made.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        assert torch.equal(reads(made, rows()), expected.bool())
        made(rows()).square().sum().backward()
        learn.step()


def test_each_transform_by_hand():
    emb_BFD = rows()
    flat = emb_BFD.flatten(1)

    def made(kind):
        torch.manual_seed(2)
        return sfg(fields=F, width=D, transform=kind, activation="linear", gamma=2.0).eval()

    shared = made("field_shared")
    torch.testing.assert_close(shared(emb_BFD), 2 * (flat @ shared.transform.weight.T).unsqueeze(1).expand(B, F, D))
    deep = made("deep")
    torch.testing.assert_close(
        deep(emb_BFD), 2 * deep.transform[3](torch.relu(deep.transform[1](deep.transform[0](flat)))).view(B, F, D)
    )
    senet = made("senet")
    weights = torch.relu(torch.relu(emb_BFD.mean(2) @ senet.transform.weigh[0].weight.T) @ senet.transform.weigh[2].weight.T)
    torch.testing.assert_close(senet(emb_BFD), 2 * emb_BFD * weights.unsqueeze(2))
    attention = made("attention")
    q, k, v = (emb_BFD @ attention.transform.read.weight.T).split(D, dim=2)
    heads = [
        ((q[..., h : h + 2] @ k[..., h : h + 2].transpose(1, 2)) / 2**0.5).softmax(2) @ v[..., h : h + 2]
        for h in range(0, D, 2)
    ]
    torch.testing.assert_close(attention(emb_BFD), 2 * torch.relu(attention.transform.norm(torch.cat(heads, dim=2))))


def test_gamma_can_be_learnt_and_begins_where_it_is_set():
    made = sfg(fields=F, width=D, gamma=3.0, learn_gamma=True)
    torch.testing.assert_close(made(rows()), 3 * torch.relu(made.transform(rows())))
    made(rows()).sum().backward()

    assert made.gamma.grad.item() == pytest.approx(torch.relu(made.transform(rows())).sum().item(), rel=1e-5)


def test_batch_norm_has_one_channel():
    made = sfg(fields=F, width=D, batch_norm=True, activation="linear")
    out = made(rows())

    assert made.norm.num_features == 1
    assert out.mean().item() == pytest.approx(0, abs=1e-5)
    assert out.var(unbiased=False).item() == pytest.approx(1, abs=1e-3)


def normed(rank, shares):
    torch.manual_seed(0)
    made = sfg(fields=F, width=D, batch_norm=True)
    start = sum(shares[:rank])
    return made(rows()[start : start + shares[rank]]).detach()


@pytest.mark.parametrize("shares", [(3, 3), (6, 0)])
def test_batch_norm_over_ranks_is_that_of_one(shares):
    (alone,) = on_ranks(1, normed, (B,))
    torch.testing.assert_close(torch.cat(on_ranks(2, normed, shares)), alone)


@pytest.mark.parametrize(("only", "expected"), [("high_cardinality", [1, 3]), ("low_cardinality", [0, 2])])
def test_fields_are_chosen_by_their_cardinality_and_the_others_stay_raw(only, expected):
    made = sfg(fields=F, width=D, cardinalities=[5, 900, 7, 80], generate_for=only, num_fields=2)
    emb_BFD = rows()
    out = made(emb_BFD)
    rest = [field for field in range(F) if field not in expected]

    assert torch.equal(out[:, rest], emb_BFD[:, rest])
    torch.testing.assert_close(out[:, expected], torch.relu(made.transform(emb_BFD))[:, expected])


@pytest.mark.parametrize("target", ["random", "shared_mask", "field_mask", "zero_mask"])
def test_while_training_so_many_fields_of_every_row_are_generated_and_in_evaluation_all(target):
    made = sfg(fields=F, width=D, training_target=target, num_targets=2, activation="sigmoid")
    emb_BFD = rows()
    generated = (made(emb_BFD) != emb_BFD).all(2)

    assert (generated.sum(1) == 2).all()
    assert len({tuple(row) for row in generated.tolist()}) > 1, "other fields in other rows"
    made.eval()
    assert torch.equal(made(emb_BFD), made(emb_BFD))
    torch.testing.assert_close(made(emb_BFD), torch.sigmoid(made.transform(emb_BFD)))


@pytest.mark.parametrize(
    ("target", "hides"), [("random", False), ("shared_mask", True), ("field_mask", True), ("zero_mask", True)]
)
def test_a_mask_hides_the_field_from_the_encoder_and_random_targets_are_not_hidden(target, hides):
    made = sfg(fields=F, width=D, training_target=target, num_targets=1, activation="linear")
    emb_BFD = rows()
    torch.manual_seed(5)
    out = made(emb_BFD)
    chosen = (out != emb_BFD).all(2)
    other = torch.where(chosen.unsqueeze(2), emb_BFD + 1, emb_BFD)
    torch.manual_seed(5)
    assert torch.allclose(made(other)[chosen], out[chosen]) == (target != "random")
    sizes = {"shared_mask": (1, D), "field_mask": (F, D)}
    assert (made.mask.shape if made.mask is not None else None) == sizes.get(target)


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_no_rows_still_give_every_parameter_a_gradient(kind):
    made = sfg(fields=F, width=D, transform=kind, learn_gamma=True, training_target="field_mask", num_targets=2)
    made(rows(0)).sum().backward()

    assert all(parameter.grad is not None for parameter in made.parameters())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"transform": "deeep"}, r"no transform 'deeep'; choose from \['attention', 'deep'"),
        ({"source": "none"}, "no source 'none'"),
        ({"training_target": "some"}, "no training_target 'some'"),
        ({"transform": "deep", "source": "self"}, "deep reads all the fields: set source to all"),
        ({"training_target": "random", "num_targets": 5}, "num_targets is 5, of 4 fields"),
        ({"transform": "senet", "training_target": "zero_mask", "num_targets": 1}, "zeros stay zeros"),
        ({"generate_for": "highest"}, "no generate_for 'highest'"),
        ({"generate_for": "high_cardinality", "num_fields": 4, "cardinalities": [1, 2, 3, 4]}, "chooses 4 of 4 fields"),
    ],
)
def test_arms_that_make_no_sense_are_told(options, told):
    with pytest.raises(ValueError, match=told):
        sfg(fields=F, width=D, **options)
