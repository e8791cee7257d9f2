"""MaskNet: masks over normalised vectors."""

import pytest
import torch
from torch import nn

from models.decoders.gates.masknet import MaskNet
from models.inputs import FieldVectors
from tests.models.flat import made_of
from tests.models.test_decoders import FIELDS, PLAIN, SFG, TWO, B, D, F, made, rows


def test_the_first_mask_multiplies_vectors_that_are_normalised_field_by_field():
    decoder, _ = made("masknet", PLAIN)
    read = []
    decoder.blocks[0].register_forward_hook(lambda _, inputs, __: read.append(inputs))
    emb_BFD = torch.tensor([[[1.0, 3.0, 1.0, 3.0]] * F]) * torch.tensor([1.0, 10.0, -1.0, 0.5])[:, None]
    decoder(FieldVectors(emb_BFD))

    normal, raw = read[0]
    signs = torch.tensor([[-1.0, 1.0, -1.0, 1.0]] * F) * torch.tensor([1.0, 1.0, -1.0, 1.0])[:, None]
    torch.testing.assert_close(normal, signs.flatten()[None], atol=1e-3, rtol=0)
    torch.testing.assert_close(raw, emb_BFD.flatten(1))


def test_a_block_on_a_normalised_input_by_hand():
    decoder = made_of(MaskNet, fields=TWO, width=2, generate=nn.Identity, parallel=False, blocks=[2])
    block = decoder.blocks[0]
    with torch.no_grad():
        for layer in (block.mask[0], block.mask[2], block.out[0]):
            layer.weight.fill_(1.0)
        block.mask[2].bias.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0]))
        block.out[0].weight[1].fill_(2.0)
        normal, raw = torch.tensor([[-1.0, 1.0, -1.0, 1.0]]), torch.tensor([[1.0, 3.0, 0.0, 2.0]])

        #   mask: 8 units that each see 6, summed 48, 49 in the second place; times normal -48 + 49 - 48 + 48 = 1
        #   W makes 1 and 2 of it, LayerNorm -1 and 1, relu 0 and 1
        torch.testing.assert_close(block(normal, raw), torch.tensor([[0.0, 1.0]]), atol=1e-4, rtol=0)


def test_every_field_has_weights_of_its_own_in_the_normalisation():
    decoder, _ = made("masknet", PLAIN)
    with torch.no_grad():
        decoder.norm.weight_FD.copy_(torch.arange(F)[:, None].expand(F, D))

    normal = decoder.norm(rows(decoder).emb_BFD)
    torch.testing.assert_close(normal.square().mean((0, 2)), torch.arange(F).square().float(), atol=1e-3, rtol=1e-3)


def test_small_vectors_reach_the_blocks_at_full_size():
    decoder, _ = made("masknet", PLAIN)
    emb_BFD = 0.1 * rows(decoder).emb_BFD

    assert decoder.norm(emb_BFD).square().mean().sqrt() > 0.99


def test_without_the_normalisation_masks_multiply_the_generated_vectors():
    decoder, _ = made("masknet", SFG, embedding_norm=False)
    emb_BFD = rows(decoder).emb_BFD
    generated, raw = decoder.encoder(emb_BFD).flatten(1), emb_BFD.flatten(1)

    expected = decoder.mlp(torch.cat([block(generated, raw) for block in decoder.blocks], 1))
    torch.testing.assert_close(decoder(FieldVectors(emb_BFD)), expected)


def test_blocks_may_stand_in_a_row():
    decoder, _ = made("masknet", SFG, parallel=False, blocks=[6, 5])
    emb_BFD = rows(decoder).emb_BFD
    first, second = decoder.blocks
    normal, raw = decoder.norm(decoder.encoder(emb_BFD)).flatten(1), emb_BFD.flatten(1)

    torch.testing.assert_close(decoder(FieldVectors(emb_BFD)), second(first(normal, raw), raw))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": []}, "masknet: there is no hidden layer"),
        ({"blocks": []}, r"masknet: blocks are \[\]"),
        ({"reduction": -1}, "masknet: reduction is -1"),
        ({"parallel": False, "blocks": [8, 1]}, "masknet: the last hidden layer has 1 unit"),
        ({"width": 1}, "masknet: vectors of one number are all the same once normalised: set embedding_norm to false"),
    ],
)
def test_options_without_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        made_of(MaskNet, **{"fields": FIELDS, "width": D, "generate": PLAIN} | options)


def test_vectors_of_one_number_do_without_the_normalisation():
    decoder = made_of(MaskNet, fields=TWO, width=1, generate=nn.Identity, embedding_norm=False, hidden=[2])

    assert decoder(FieldVectors(torch.randn(B, 2, 1))).shape == (B, 2)
