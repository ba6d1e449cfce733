import pytest

from dspark.engines.vllm.notes import StepNote, decode, encode
from tests.engines.vllm.fake_engine import round_note, step


def test_a_note_arrives_as_it_was() -> None:
    note = step(
        round_note(1, 9, 2, mode="rejection"),
        round_note(2, 5, 0, drafted=(), confidences=(), verified=0),
        entry=-1,
        outcomes={"hit": 3},
        round_trips_s=(0.5, 0.25),
        failure="x",
        epoch=4,
        term=2,
        unsent=1,
    )
    assert decode(encode(note)) == note
    assert decode(encode(StepNote(batch_tokens=4, prompt_tokens=4, step_s=0.5, turn_s=None)))


@pytest.mark.parametrize("datagram", [b"", b"[]", b"[1,2]", b"[[1],[]]", b"\xff", b"[[],[[1]]]"])
def test_what_is_no_note_is_said_so(datagram: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        decode(datagram)
