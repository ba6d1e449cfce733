from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspark.gateway.codec import FolderCodec
from dspark.gateway.detokenize import Detokenizer
from tests.gateway.toy_model import write_toy_model

SPECIALS = (257, 258, 259)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> FolderCodec:
    return FolderCodec(write_toy_model(tmp_path_factory.mktemp("toy")))


@settings(deadline=None, max_examples=60)
@given(ids=st.lists(st.integers(0, 259), max_size=40))
def test_streamed_text_equals_the_whole_decode_whatever_the_tokens(
    codec: FolderCodec, ids: list[int]
) -> None:
    detokenizer = Detokenizer(codec.decode)
    out = "".join(detokenizer.push(token) for token in ids) + detokenizer.finish()
    assert out == codec.decode(ids)


@settings(deadline=None, max_examples=60)
@given(text=st.text(max_size=12))
def test_of_proper_text_every_piece_is_sent_as_soon_as_its_last_byte_is_there(
    codec: FolderCodec, text: str
) -> None:
    text = text.replace("�", "?")
    ids = codec.encode(text)
    detokenizer = Detokenizer(codec.decode)
    sent = ""
    for count, token in enumerate(ids, start=1):
        sent += detokenizer.push(token)
        assert sent == codec.decode(ids[:count]).rstrip("�")
    assert sent == text


def test_half_a_character_is_never_sent(codec: FolderCodec) -> None:
    detokenizer = Detokenizer(codec.decode)
    assert [detokenizer.push(token) for token in codec.encode("é€")] == ["", "é", "", "", "€"]


def test_an_end_inside_a_character_is_shown_as_such(codec: FolderCodec) -> None:
    detokenizer = Detokenizer(codec.decode)
    assert detokenizer.push(codec.encode("€")[0]) == ""
    assert detokenizer.finish() == "�"


def test_an_endless_run_of_broken_bytes_is_not_held_back_for_ever(codec: FolderCodec) -> None:
    broken = codec.encode("€")[1]
    detokenizer = Detokenizer(codec.decode)
    assert len("".join(detokenizer.push(broken) for _ in range(100))) > 80


def test_a_decoder_that_drops_a_leading_space_keeps_those_between_words() -> None:
    words = ["▁Hello", "▁big", "▁world"]

    def decode(ids: Sequence[int]) -> str:
        return "".join(words[i] for i in ids).replace("▁", " ").lstrip(" ")

    detokenizer = Detokenizer(decode)
    assert [detokenizer.push(i) for i in range(3)] == ["Hello", " big", " world"]


def test_a_token_decoded_alone_again_is_the_same_and_special_ones_stay_out(
    codec: FolderCodec,
) -> None:
    for _ in range(2):
        assert codec.decode([65]) == codec.decode([65, 257])
        assert codec.decode([257]) == ""
