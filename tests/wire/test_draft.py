import numpy as np
import pytest

from dspark.core.draft import DraftBlock, DraftStatus, RoundReply
from dspark.core.draft_laws import DraftLaws
from dspark.core.ids import Incarnation, SessionId
from dspark.core.sampling import Sampling, SamplingMode
from dspark.wire.draft import reply_from_wire, reply_to_wire
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


def test_laws_that_do_not_fit_together_are_refused() -> None:
    message = reply_to_wire(
        RoundReply(number=4, incarnation=Incarnation(5), blocks=(block(laws=LAWS),))
    )
    message.blocks[0].laws.ids.append(9)
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
