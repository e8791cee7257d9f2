"""A sealed text gives back what was sealed, or says that it was altered."""

import json

import pytest

from data.seal import is_sealed, sealed, unsealed

VALUES = {"name": "größe", "nested": {"a": [1, 2.5, None]}, "last": "x"}


@pytest.mark.parametrize("layout", [{}, {"indent": 1}, {"sort_keys": True}])
def test_what_was_sealed_comes_back(layout: dict[str, int]) -> None:
    text = sealed(VALUES, **layout)
    assert is_sealed(text.encode())
    assert unsealed(text.encode()) == VALUES
    assert json.loads(text).keys() == {*VALUES, "sha256"}, "it is JSON, with one key more"


def test_every_flipped_bit_is_noticed() -> None:
    content = sealed(VALUES).encode()
    for at in range(len(content) * 8):
        altered = bytearray(content)
        altered[at // 8] ^= 1 << at % 8
        with pytest.raises(ValueError, match=r"."):
            unsealed(bytes(altered))


@pytest.mark.parametrize("content", [b"", b"7", b"[1]", b'{"a": 1', b"\xff", b"[" * 100_000])
def test_what_is_not_a_json_object_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unsealed(content)


def test_an_older_text_without_a_digest_is_read() -> None:
    assert not is_sealed(b'{"a": 1}')
    assert unsealed(b'{"a": 1}') == {"a": 1}
