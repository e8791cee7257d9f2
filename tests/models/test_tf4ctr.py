"""Twin focus: every selection, fusion and pair of encoders on its own, and what the released code gets wrong."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from models.decoders.tf4ctr import BASES, SELECTIONS, TwinFocus
from models.encoders import FeatureGenerator, Identity
from models.heads.twin_focus import FUSIONS, TAU, TwinFocusHead
from models.inputs import FieldInfo, FieldVectors
from models.layers import Flat
from tests.models.flat import made_of

F, D, B = 3, 4, 6
FIELDS = [FieldInfo(f"field{at}") for at in range(F)]
CASES = [(base, ssem, dfm) for base in BASES for ssem in SELECTIONS for dfm in FUSIONS if base != "widedeep" or ssem == "none"]


def twin(base="mlp", ssem="none", dfm="wsf", *, sfg=False, **options):
    torch.manual_seed(0)
    generate = partial(FeatureGenerator if sfg else Identity, fields=F, width=D)
    sizes = {"easy_hidden": [5], "hidden": [7, 6], "units": [3]} | options
    made = made_of(TwinFocus, fields=FIELDS, width=D, generate=generate, base=base, ssem=ssem, **sizes)
    return made, TwinFocusHead(features=made.out, targets=["click", "buy"], fusion=dfm)


def sides_of(easy, hard):
    return Flat(easy + hard, {"easy": easy, "hard": hard})


def sides(output):
    """What both encoders say of `click`, (B, 2)."""
    return torch.stack([output.representations["click/easy"], output.representations["click/hard"]], dim=1)


def rows(made, count=B):
    generator = torch.Generator().manual_seed(1)
    second = torch.randn(count, F, D // 2, generator=generator) if made.second_width else None
    linear = torch.randn(count, F, generator=generator) if made.needs_linear else None
    return FieldVectors(torch.randn(count, F, D, generator=generator), linear, second)


@pytest.mark.parametrize("sfg", [False, True], ids=["plain", "sfg"])
@pytest.mark.parametrize(("base", "ssem", "dfm"), CASES)
def test_every_combination_gives_logits_of_the_model_and_of_both_encoders_and_trains_all_of_it(base, ssem, dfm, sfg):
    made, head = twin(base, ssem, dfm, sfg=sfg, batch_norm=True)
    output = head(made(rows(made, 64)))  # of few rows, none may reach a unit

    assert {task: logit.shape for task, logit in output.logits.items()} == {"click": (64,), "buy": (64,)}
    branches = list(output.representations.values())
    assert [logit.shape for logit in branches] == [(64,)] * 4
    sum(logit.square().sum() for logit in [*output.logits.values(), *branches]).backward()
    still = [name for part in (made, head) for name, p in part.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


@pytest.mark.parametrize(("base", "ssem", "dfm"), CASES)
def test_evaluation_is_the_same_every_time_and_training_noise_is_off(base, ssem, dfm):
    made, head = twin(base, ssem, dfm, dropout=0.5)
    inputs = rows(made)
    made.eval(), head.eval()

    one, other = (head(made(inputs)).logits["buy"] for _ in range(2))
    assert torch.equal(one, other)


def test_voting_is_random_while_training_alone():
    made, head = twin(dfm="vf")
    x = made(rows(made))

    assert not torch.equal(head(x).logits["click"], head(x).logits["click"])
    head.eval()
    output = head(x)
    easy, hard, _ = torch.split(x, list(made.out.parts.values()), dim=1)
    votes = torch.stack([head.votes[0](easy)[:, 0], head.votes[1](hard)[:, 0]], dim=1) / TAU
    expected = (votes.softmax(1) * sides(output)).sum(1)
    torch.testing.assert_close(output.logits["click"], expected)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_encoders_may_have_different_widths(fusion):
    head = TwinFocusHead(features=sides_of(2, 9), targets=["click"], fusion=fusion)

    assert head(torch.randn(B, 11)).logits["click"].shape == (B,)


def test_the_fusions_by_hand():
    x = torch.randn(B, 5)
    easy, hard = x[:, :2], x[:, 2:]
    heads = {fusion: TwinFocusHead(features=sides_of(2, 3), targets=["click"], fusion=fusion).eval() for fusion in FUSIONS}
    both = {fusion: sides(head(x)) for fusion, head in heads.items()}

    torch.testing.assert_close(both["none"], torch.cat([heads["none"].easy.score(easy), heads["none"].hard.score(hard)], dim=1))
    torch.testing.assert_close(heads["none"](x).logits["click"], both["none"].sum(1))
    torch.testing.assert_close(heads["wsf"](x).logits["click"], both["wsf"].sum(1) / 2, msg="weights begin at one half")
    torch.testing.assert_close(heads["cf"](x).logits["click"], heads["cf"].joint(x)[:, 0])
    gate, score = (mix(x) for mix in heads["moef"].mixed)
    torch.testing.assert_close(heads["moef"](x).logits["click"], (gate.softmax(1) * score).sum(1))


def test_an_encoder_that_returns_one_number_returns_a_logit():
    made, head = twin("widedeep")
    x = rows(made)
    easy = head(made(x)).representations["click/easy"]

    torch.testing.assert_close(easy, x.linear_BF.sum(1) + head.easy.score.bias[0])


def test_the_first_order_sum_joins_the_logit_of_xdeepfm():
    made, head = twin("xdeepfm", dfm="none")
    x = rows(made)
    one, other = (head(made(replace(x, linear_BF=own))).logits["click"] for own in (x.linear_BF, x.linear_BF + 1))

    torch.testing.assert_close(other - one, torch.full((B,), float(F)))


def test_the_gate_scales_what_it_looks_at_and_the_rest_goes_to_the_hard_encoder():
    made, _ = twin(ssem="gm")
    flat = torch.randn(B, F * D)
    easy, hard = made.select(flat)

    torch.testing.assert_close(easy + hard, flat)
    assert ((easy / flat)[:, :1] - easy / flat).abs().max() < 1e-5, "one number a row"


def test_the_experts_are_mixed_by_a_gate_of_each_encoder():
    made, _ = twin(ssem="moe")
    flat = torch.randn(B, F * D)
    experts = [expert(flat) for expert in made.select.experts]
    for mixed, gate in zip(made.select(flat), made.select.gates, strict=True):
        share = gate(flat)
        torch.testing.assert_close(mixed, share[:, :1] * experts[0] + share[:, 1:] * experts[1])


@pytest.mark.parametrize(
    ("ssem", "dfm", "easy_hidden", "published"),
    [
        ("none", "wsf", [400], 539_732),
        ("none", "cf", [400], 540_531),
        ("none", "vf", [400, 400], 701_732),
        ("none", "moef", [400, 400], 704_134),
        ("none", "none", [400, 400], 700_930),
        ("ser", "wsf", [400, 400], 711_996),
        ("gm", "none", [400], 546_291),
        ("gm", "cf", [400], 547_092),
        ("moe", "none", [400], 605_574),
        ("moe", "wsf", [400], 605_576),
    ],
)
def test_frappes_models_have_the_numbers_that_the_released_logs_count(ssem, dfm, easy_hidden, published):
    fields, width, values = 10, 16, 5383
    generate = partial(Identity, fields=fields, width=width)
    options = {"easy_hidden": easy_hidden, "hidden": [400, 400, 400], "dropout": 0.2, "batch_norm": True}
    made = made_of(
        TwinFocus,
        fields=[FieldInfo(f"field{at}") for at in range(fields)],
        width=width,
        generate=generate,
        ssem=ssem,
        **options,
    )
    parts = [*made.parameters(), *TwinFocusHead(features=made.out, targets=["label"], fusion=dfm).parameters()]

    assert sum(part.numel() for part in parts) + values * (width + made.second_width) == published


@pytest.mark.parametrize("ssem", ["gm", "moe"])
def test_what_selects_drops_hidden_units_while_training_as_the_encoders_do(ssem):
    made, _ = twin(ssem=ssem, dropout=0.5)
    flat = torch.randn(B, F * D)

    assert not torch.equal(made.select(flat)[0], made.select(flat)[0])


def test_separate_embeddings_halve_the_width_which_must_be_even():
    made, _ = twin(ssem="ser")
    assert made.second_width == D // 2
    with pytest.raises(ValueError, match="ser halves the width, and 5 is odd"):
        made_of(TwinFocus, fields=FIELDS, width=5, generate=partial(Identity, fields=F, width=5), ssem="ser")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"base": "fm"}, "no base 'fm'"),
        ({"ssem": "se"}, "no ssem 'se'"),
        ({"base": "widedeep", "ssem": "gm"}, "set ssem to none"),
    ],
)
def test_parts_that_are_not_there_are_told(options, told):
    with pytest.raises(ValueError, match=told):
        twin(**options)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_starts_at_the_logits_it_is_given(fusion: str) -> None:
    head = TwinFocusHead(features=Flat(8, {"easy": 3, "hard": 4, "rest": 1}), targets=("click", "buy"), fusion=fusion).eval()
    head.start_at([-5.0, -7.0])
    logits = head(torch.zeros(2, 8)).logits
    torch.testing.assert_close(logits["click"], torch.full((2,), -5.0))
    torch.testing.assert_close(logits["buy"], torch.full((2,), -7.0))


def test_a_head_that_needs_two_sides_refuses_a_decoder_without_and_a_fusion_it_has_not():
    with pytest.raises(ValueError, match="easy and the hard side of a decoder such as tf, and this one has none"):
        TwinFocusHead(features=Flat(7), targets=["click"])
    with pytest.raises(ValueError, match="no fusion 'wfs'; choose from"):
        TwinFocusHead(features=sides_of(2, 3), targets=["click"], fusion="wfs")
