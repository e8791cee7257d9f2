"""RankMixer: slices that change tokens, and a network for each token."""

import pytest
import torch

from models.decoders.tokens.rankmixer import RankMixer, mix
from models.inputs import FieldVectors
from tests.models.flat import made_of
from tests.models.test_decoders import FIELDS, PLAIN, SFG, B, D, F, made


def test_every_token_holds_a_slice_of_every_token_once_mixed():
    x_BTW = torch.tensor([[[1, 2, 3, 4], [5, 6, 7, 8]]])

    assert mix(x_BTW).tolist() == [[[1, 2, 5, 6], [3, 4, 7, 8]]]


def test_mixing_twice_is_not_mixing():
    x_BTW = torch.randn(B, 3, 6)

    torch.testing.assert_close(mix(mix(x_BTW)), x_BTW)


def test_a_layer_token_by_token():
    layer = made("rankmixer", PLAIN)[0].layers[0]
    x_BTW = torch.randn(B, 3, 6)
    s_BTW = layer.mixed_norm(x_BTW + mix(x_BTW))

    def network(t):
        hidden = torch.nn.functional.gelu(s_BTW[:, t] @ layer.up.weight_TXY[t] + layer.up.bias_TY[t])
        return hidden @ layer.down.weight_TXY[t] + layer.down.bias_TY[t]

    expected = layer.norm(torch.stack([s_BTW[:, t] + network(t) for t in range(3)], 1))
    torch.testing.assert_close(layer(x_BTW), expected)


def test_tokens_are_chunks_of_the_generated_row_the_last_filled_up():
    decoder, _ = made("rankmixer", SFG, layers=1)  # 16 numbers in 3 chunks of 6
    emb_BFD = torch.randn(B, F, D)
    row = torch.cat([decoder.encoder(emb_BFD).flatten(1), torch.zeros(B, 2)], 1)
    own = decoder.tokenise
    tokens = [row[:, 6 * t : 6 * t + 6] @ own.weight_TXY[t] + own.bias_TY[t] for t in range(3)]

    expected = decoder.layers[0](torch.stack(tokens, 1)).mean(1)
    torch.testing.assert_close(decoder(FieldVectors(emb_BFD)), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 0}, "rankmixer: tokens is 0; expected 1 or more"),
        ({"layers": 0}, "rankmixer: layers is 0"),
        ({"expansion": 0}, "rankmixer: expansion is 0"),
        ({"tokens": 5}, "rankmixer: token_width is 64; expected a multiple of tokens, which is 5"),
        ({"tokens": 32}, "rankmixer: tokens is 32; expected at most fields times model.dim, which is 16"),
    ],
)
def test_options_without_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        made_of(RankMixer, fields=FIELDS, width=D, generate=PLAIN, **options)
