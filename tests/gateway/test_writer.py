import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspark.core.session import FinishReason
from dspark.gateway.codec import FolderCodec
from dspark.gateway.detokenize import Detokenizer
from dspark.gateway.stops import StopMatcher
from dspark.gateway.writer import Writer
from tests.gateway.toy_model import write_toy_model

EOS = 258


def spell(token: int) -> bytes:
    return str(token).encode()


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> FolderCodec:
    return FolderCodec(write_toy_model(tmp_path_factory.mktemp("toy")))


def write(
    codec: FolderCodec, batches: list[list[int]], stops: list[str], *, stop_tokens: set[int]
) -> tuple[str, list[int], FinishReason | None]:
    writer = Writer(Detokenizer(codec.decode), StopMatcher(stops), frozenset(stop_tokens), spell)
    text, ids = "", list[int]()
    for index, batch in enumerate(batches):
        last = index == len(batches) - 1
        delta = writer.push(batch, FinishReason.LENGTH if last else None)
        text += delta.text
        ids += delta.token_ids
        if delta.finish is not None:
            assert writer.num_tokens == len(ids)
            return text, ids, delta.finish
    raise AssertionError("no finish")


@settings(deadline=None, max_examples=60)
@given(
    text=st.text(alphabet="thaé ", max_size=20),
    stops=st.lists(st.text(alphabet="tha", min_size=1, max_size=3), max_size=3),
    size=st.integers(2, 9),
)
def test_the_grouping_of_tokens_changes_nothing(
    codec: FolderCodec, text: str, stops: list[str], size: int
) -> None:
    ids = [*codec.encode(text), 0]
    singly = write(codec, [[token] for token in ids], stops, stop_tokens=set())
    grouped = [ids[start : start + size] for start in range(0, len(ids), size)]
    assert write(codec, grouped, stops, stop_tokens=set()) == singly


def test_tokens_are_counted_up_to_the_one_that_completes_a_stop_string(
    codec: FolderCodec,
) -> None:
    ids = codec.encode("one two three")
    assert write(codec, [ids], ["two"], stop_tokens=set()) == (
        "one ",
        codec.encode("one two"),
        FinishReason.STOP,
    )


def test_the_stop_token_is_counted_but_not_written(codec: FolderCodec) -> None:
    ids = [*codec.encode("x"), codec.encode("y")[0]]
    assert write(codec, [ids], [], stop_tokens={ids[-1]})[:2] == ("x", ids)


def test_what_was_held_back_is_sent_at_the_end(codec: FolderCodec) -> None:
    assert write(codec, [codec.encode("tw")], ["two"], stop_tokens=set())[0] == "tw"


def test_a_stop_string_in_the_last_broken_character_is_found(codec: FolderCodec) -> None:
    ids = codec.encode("€")[:1]
    assert write(codec, [ids], ["�"], stop_tokens=set()) == ("", ids, FinishReason.STOP)
