"""Bidirectional layers: the formulas worked out, no positions, padding heard by nobody, and the guidance of attention."""

import math

import pytest
import torch

from models.diffusion.blocks import BLOCKS, GUIDANCE, HSTU, Guidance, Transformer

B, S, H, HEADS = 3, 5, 8, 2
VALID = torch.ones(B, S, dtype=torch.bool)


def block(name):
    torch.manual_seed(0)
    made = BLOCKS[name](hidden=H, heads=HEADS, dropout=0.3).eval()
    for parameter in made.parameters():  # of a size that matters
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def tokens():
    return torch.randn(B, S, H, generator=torch.Generator().manual_seed(1))


def test_hstu_by_hand():
    made, x = block("hstu"), tokens()
    normal = (x - x.mean(2, keepdim=True)) / torch.sqrt(x.var(2, unbiased=False, keepdim=True) + 1e-5)
    mixed = normal @ made.read.weight.T
    u, v, q, k = (mixed * torch.sigmoid(mixed)).split(H, dim=2)
    heads, width = [], H // HEADS
    for h in range(HEADS):
        own = slice(h * width, (h + 1) * width)
        scores = q[..., own] @ k[..., own].transpose(1, 2)
        heads.append((scores * torch.sigmoid(scores) / S) @ v[..., own])
    heard = torch.cat(heads, dim=2)
    heard = (heard - heard.mean(2, keepdim=True)) / torch.sqrt(heard.var(2, unbiased=False, keepdim=True) + 1e-5)

    torch.testing.assert_close(made(x, VALID), (u * heard) @ made.write.weight.T + made.write.bias + x)


def test_the_transformer_by_hand():
    made, x = block("transformer"), tokens()
    q, k, v = made.read(made.first(x)).split(H, dim=2)
    heads, width = [], H // HEADS
    for h in range(HEADS):
        own = slice(h * width, (h + 1) * width)
        heads.append((q[..., own] @ k[..., own].transpose(1, 2) / math.sqrt(width)).softmax(2) @ v[..., own])
    x = x + made.write(torch.cat(heads, dim=2))

    torch.testing.assert_close(made(tokens(), VALID), x + made.feed(made.second(x)))


@pytest.mark.parametrize("name", BLOCKS)
def test_the_order_of_the_tokens_does_not_matter(name):
    made, x, order = block(name), tokens(), torch.randperm(S)

    torch.testing.assert_close(made(x[:, order], VALID), made(x, VALID)[:, order])


@pytest.mark.parametrize("name", BLOCKS)
def test_what_is_not_valid_is_heard_by_nobody(name):
    made, x = block(name), tokens()
    valid = torch.tensor([[True, True, True, False, False]]).expand(B, S)
    other = x.clone()
    other[:, 3:] = 99.0

    torch.testing.assert_close(made(x, valid)[:, :3], made(other, valid)[:, :3])
    torch.testing.assert_close(made(x, valid)[:, :3], made(x[:, :3], VALID[:, :3]))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("kind", GUIDANCE)
def test_without_difficulties_the_guidance_changes_nothing(name, kind):
    made, x = block(name), tokens()

    torch.testing.assert_close(made(x, VALID, Guidance(kind, torch.ones(S))), made(x, VALID))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("kind", GUIDANCE[1:])
def test_with_difficulties_it_does(name, kind):
    made, x = block(name), tokens()
    guided = made(x, VALID, Guidance(kind, torch.tensor([0.5, 1.0, 2.0, 1.0, 1.0])))

    assert (guided - made(x, VALID)).abs().max() > 1e-3


def test_a_layer_norm_takes_the_size_of_the_published_guidance_back_and_postnorm_keeps_it():
    torch.manual_seed(3)
    made = HSTU(hidden=64, heads=2, dropout=0.0).eval()
    torch.nn.init.normal_(made.read.weight, std=0.3)
    x, factors = torch.randn(64, 16, 64), torch.ones(16)
    factors[0] = 2.0
    valid = torch.ones(64, 16, dtype=torch.bool)

    def moved(kind):
        plain, guided = made(x, valid) - x, made(x, valid, Guidance(kind, factors)) - x
        return ((guided - made.write.bias)[:, 0].norm() / (plain - made.write.bias)[:, 0].norm()).item()

    assert moved("query") == pytest.approx(1, abs=0.05)
    assert moved("query_postnorm") == pytest.approx(2 / (17 / 16), rel=1e-3)


def test_the_key_side_damps_converged_tokens_and_leaves_hard_ones_alone():
    guidance = Guidance("query+key", torch.tensor([0.5, 1.0, 1.5]))

    torch.testing.assert_close(guidance.key_S, torch.tensor([0.5, 1.0, 1.0]))


@pytest.mark.parametrize("kind", [HSTU, Transformer])
def test_no_rows_still_give_every_parameter_a_gradient(kind):
    made = kind(hidden=H, heads=HEADS, dropout=0.1)
    made(torch.zeros(0, S, H), VALID[:0]).sum().backward()

    assert all(parameter.grad is not None for parameter in made.parameters())
