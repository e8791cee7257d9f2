"""What is sent in fewer bytes arrives nearly as it was, however small it is and however many rows there are."""

import pytest
import torch
from torchrec.distributed.types import CommOp, QuantizedCommCodecs

from data.errors import GenctrError
from pipeline.distributed.comm_codecs import check_communication, make_sharders

ALL_TO_ALL, SUM = CommOp.POOLED_EMBEDDINGS_ALL_TO_ALL.name, CommOp.POOLED_EMBEDDINGS_REDUCE_SCATTER.name


def codecs(name: str, operation: str, *, width: int = 32, batch_rows: int = 2**20) -> QuantizedCommCodecs:
    pooled, events = make_sharders(name, batch_rows, {"t": width})
    assert pooled.qcomm_codecs_registry == events.qcomm_codecs_registry
    return pooled.qcomm_codecs_registry[operation]


def arrived(codec, sent: torch.Tensor) -> torch.Tensor:
    notes = codec.create_context()
    return codec.decode(codec.encode(sent, notes), notes)


def test_fp32_is_sent_as_it_is() -> None:
    assert [own.qcomm_codecs_registry for own in make_sharders("fp32", 8, {"t": 4})] == [None, None]


@pytest.mark.parametrize("name", ["fp16", "int8"])
@pytest.mark.parametrize("operation", [ALL_TO_ALL, SUM])
def test_gradients_that_fp16_could_not_hold_arrive(name: str, operation: str) -> None:
    """A millionth of a mean over a million rows: 1e-7 alone has one digit in fp16, whose steps there are 6e-8."""
    sent = torch.linspace(-1, 1, 64).view(2, 32) * 1e-7

    got = arrived(codecs(name, operation).backward, sent)

    torch.testing.assert_close(got, sent, rtol=1e-3, atol=0)
    assert (sent.half().float() - sent).abs().max() > 0.1 * 1e-7, "which it could not"


@pytest.mark.parametrize(("width", "bytes_"), [(32, 40), (64, 80), (16, 24), (48, 72)])
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_an_int8_vector_has_a_byte_a_number_and_eight_for_every_part(width: int, bytes_: int, rows: int) -> None:
    codec = codecs("int8", ALL_TO_ALL, width=width).forward
    sent = torch.linspace(-1, 1, rows * width).view(rows, width)
    notes = codec.create_context()

    assert codec.encode(sent, notes).numel() == rows * bytes_
    assert codec.calc_quantized_size(rows * width, notes) == rows * bytes_
    torch.testing.assert_close(arrived(codec, sent).view_as(sent), sent, rtol=0, atol=2 / 255)


def test_sums_over_ranks_of_int8_jobs_travel_as_fp16() -> None:
    sent = torch.linspace(-1, 1, 32).view(1, 32)

    assert codecs("int8", SUM).forward.encode(sent).dtype == torch.float16


@pytest.mark.parametrize("width", [4, 8, 24])
def test_widths_that_int8_cannot_cut_are_refused(width: int) -> None:
    with pytest.raises(GenctrError, match=rf"table 't' is {width} wide\n  next: set it to fp16"):
        make_sharders("int8", 8, {"t": width})


def test_bf16_is_for_cards() -> None:
    check_communication("bf16", torch.device("cuda"))
    with pytest.raises(GenctrError, match="gloo cannot add bf16"):
        check_communication("bf16", torch.device("cpu"))
    assert codecs("bf16", SUM).backward.encode(torch.ones(1, 32)).dtype == torch.bfloat16
