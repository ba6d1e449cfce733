import numpy as np
import pytest

from dspark.core.draft import DraftBlock, DraftStatus, Round, RoundReply, SessionRound
from dspark.core.draft_laws import DraftLaws
from dspark.core.ids import Incarnation, SessionId
from dspark.core.sampling import Sampling, SamplingMode
from dspark.wire.draft import reply_from_wire, reply_to_wire, round_from_wire, round_to_wire
from dspark.wire.sampling import sampling_from_wire, sampling_to_wire
from dspark.wire.v1 import common_pb2

LAWS = DraftLaws(
    counts=(2, 1),
    ids=np.array([4, 151_999, 7], dtype=np.int64),
    weights=np.array([0.75, 0.25, 1.0], dtype=np.float16),
)


def block(**changes: object) -> DraftBlock:
    fields: dict[str, object] = {
        "session": SessionId(3),
        "base_length": 9,
        "status": DraftStatus.OK,
        "tokens": (4, 7),
        "confidences": (0.5, 0.25),
    }
    return DraftBlock(**fields | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("laws", [None, LAWS])
def test_a_reply_crosses_with_its_laws(laws: DraftLaws | None) -> None:
    reply = RoundReply(number=4, incarnation=Incarnation(5), blocks=(block(laws=laws),))
    assert reply_from_wire(reply_to_wire(reply)) == reply


def test_a_round_crosses_with_its_rows_and_openings() -> None:
    sessions = (
        SessionRound(SessionId(1), 9, 7, 6, np.array([[1, 2], [3, 4], [5, 6]], np.float16), 3),
        SessionRound(SessionId(8), 5, 4, 5, np.zeros((0, 2), np.float16), 0),
        SessionRound(SessionId(2), 1, 3, 0, np.array([[7, 8]], np.float16), 7, Sampling(seed=5)),
    )
    for parts in (sessions, sessions[:1], ()):
        sent = Round(number=4, sessions=parts, released=(SessionId(11),))
        got = round_from_wire(round_to_wire(sent))
        assert (got.number, got.released, len(got.sessions)) == (4, (11,), len(parts))
        for ours, theirs in zip(parts, got.sessions, strict=True):
            assert ours._replace(rows=None) == theirs._replace(rows=None)
            assert np.array_equal(ours.rows, theirs.rows)
            assert ours.rows.shape == theirs.rows.shape


def test_blocks_of_unequal_lengths_cross() -> None:
    blocks = (
        block(),
        block(session=SessionId(1), status=DraftStatus.FULL, tokens=(), confidences=()),
        block(session=SessionId(2), laws=LAWS),
        block(session=SessionId(9), tokens=(5,), confidences=(1.0,)),
    )
    reply = RoundReply(number=4, incarnation=Incarnation(5), blocks=blocks)
    assert reply_from_wire(reply_to_wire(reply)) == reply


@pytest.mark.parametrize(
    ("column", "value"),
    [("anchors", 4), ("num_rows", 4), ("max_tokens", 1), ("base_lengths", 2), ("rows_starts", 2)],
)
def test_a_round_with_a_column_too_long_is_refused(column: str, value: int) -> None:
    part = SessionRound(SessionId(1), 1, 7, 0, np.zeros((1, 2), np.float16), 3)
    message = round_to_wire(Round(number=1, sessions=(part,)))
    getattr(message, column).append(value)
    with pytest.raises(ValueError, match="1 sessions with columns of"):
        round_from_wire(message)


def test_a_round_whose_rows_or_openings_do_not_fit_is_refused() -> None:
    part = SessionRound(SessionId(1), 1, 7, 0, np.zeros((1, 2), np.float16), 3, Sampling())
    message = round_to_wire(Round(number=1, sessions=(part,)))
    message.num_rows[0] = 2
    with pytest.raises(ValueError, match="for 2 rows of 1 sessions"):
        round_from_wire(message)
    message.num_rows[0] = 1
    message.openings[0].index = 1
    with pytest.raises(ValueError, match="an opening of session 1 of 1"):
        round_from_wire(message)


def test_a_reply_whose_columns_do_not_fit_is_refused() -> None:
    sent = RoundReply(number=4, incarnation=Incarnation(5), blocks=(block(laws=LAWS),))
    message = reply_to_wire(sent)
    message.statuses.append(message.statuses[0])
    with pytest.raises(ValueError, match="1 blocks with columns of"):
        reply_from_wire(message)
    message = reply_to_wire(sent)
    message.num_tokens[0] = 1
    with pytest.raises(ValueError, match="blocks of 1 tokens in all, but 2 tokens"):
        reply_from_wire(message)
    message = reply_to_wire(sent)
    message.laws[0].index = 1
    with pytest.raises(ValueError, match="laws of block 1 of 1"):
        reply_from_wire(message)


def test_laws_that_do_not_fit_together_are_refused() -> None:
    message = reply_to_wire(
        RoundReply(number=4, incarnation=Incarnation(5), blocks=(block(laws=LAWS),))
    )
    message.laws[0].laws.ids.append(9)
    with pytest.raises(ValueError, match="4 ids"):
        reply_from_wire(message)
    with pytest.raises(ValueError, match="1 tokens but 2 laws"):
        block(tokens=(4,), confidences=(0.5,), laws=LAWS)


@pytest.mark.parametrize("mode", list(SamplingMode))
def test_the_mode_crosses(mode: SamplingMode) -> None:
    sampling = Sampling(temperature=0.5, seed=3, mode=mode)
    assert sampling_from_wire(sampling_to_wire(sampling)) == sampling


def test_no_mode_means_coupled_and_an_unknown_one_is_refused() -> None:
    message = common_pb2.Sampling(temperature=0.5)
    assert sampling_from_wire(message).mode is SamplingMode.COUPLED
    message.mode = 9  # type: ignore[assignment]
    with pytest.raises(ValueError, match="sampling mode 9"):
        sampling_from_wire(message)


def test_the_first_laws_are_a_prefix() -> None:
    assert LAWS.first(1) == DraftLaws(counts=(2,), ids=LAWS.ids[:2], weights=LAWS.weights[:2])
    assert LAWS.first(2) == LAWS
