"""Paced engines: exact, calibrated, timed by their pace alone."""

import pytest

from dspark.config.model import ModelSettings
from dspark.config.paced import EnginePace, PacedSettings
from dspark.core.curve import step_seconds
from dspark.core.draft import DraftRequest
from dspark.core.sampling import Sampling, SamplingMode
from dspark.paced.clock import PaperClock
from dspark.paced.drafter import PacedDrafter
from dspark.paced.load import profiled_on_paper
from dspark.paced.target import PacedTarget
from dspark.paced.text import PacedText
from dspark.verifier.profile import profile
from dspark.verifier.target_port import Segment

PACE = EnginePace(
    fixed_s=0.001, weights_s=0.004, token_s=0.0001, context_token_s=1e-6, tile_tokens=8
)
TEXT = PacedText(97, avoid=(0, 5), acceptance=(0.9, 0.7))
GAMMA = 7


def a_target() -> PacedTarget:
    target = PacedTarget(
        TEXT, PACE, dilation=2.0, hidden_size=4, rows_dtype="float16", max_context_tokens=4096
    )
    target.clock = PaperClock()
    return target


def a_drafter() -> PacedDrafter:
    drafter = PacedDrafter(TEXT, PACE, gamma=GAMMA, dilation=2.0, max_sessions=8)
    drafter.clock = PaperClock()
    return drafter


def a_segment(tokens: tuple[int, ...], start: int, sampling: Sampling, **more) -> Segment:  # type: ignore[no-untyped-def]
    return Segment(
        tokens=tokens, start=start, pages=(0,), choose=len(tokens), sampling=sampling, **more
    )


def decode(sampling: Sampling, count: int, *, drafting: bool) -> tuple[list[int], list[int]]:
    """Return (tokens, accepted drafts of each round)."""
    target, drafter = a_target(), a_drafter()
    drafter.open("s", sampling)
    tokens, accepted = [11], []
    while len(tokens) <= count:
        base = len(tokens) - 1
        drafts: tuple[int, ...] = ()
        if drafting:
            cached = drafter.cached("s") or 0
            drafter.append("s", cached, target.rows((0,), cached, base))
            request = DraftRequest(key="s", anchor=tokens[-1], base_length=base, max_tokens=GAMMA)
            drafts = drafter.draft([request])[0].tokens
        (chosen,) = target.step([a_segment((tokens[-1], *drafts), base, sampling)])
        kept = 0
        while kept < len(drafts) and drafts[kept] == chosen[kept]:
            kept += 1
        accepted.append(kept)
        tokens += chosen[: kept + 1]
    return tokens[: count + 1], accepted


def test_a_step_takes_what_its_roofline_says() -> None:
    assert PACE.step_seconds(tokens=1, context_tokens=0) == pytest.approx(0.005)
    assert PACE.step_seconds(tokens=40, context_tokens=1000) == pytest.approx(0.006)
    # 41 tokens are padded to 48.
    assert PACE.step_seconds(tokens=41, context_tokens=0) == pytest.approx(0.0058)
    target = a_target()
    target.step([a_segment((1,), 0, Sampling())])
    assert target.clock.now() == pytest.approx(2 * 0.005)


def test_a_profile_on_paper_is_exact_and_leaves_the_real_clock() -> None:
    target = a_target()
    before = target.clock
    curve = profiled_on_paper(
        target,
        lambda clock: profile(
            target, num_pages=4096, page_tokens=16, max_sessions=8, max_batch_tokens=64,
            version="v", device="paced", clock=clock, repeats=1,
        ),
    )  # fmt: skip
    assert target.clock is before
    measured_s = step_seconds(curve, sessions=8, batch_tokens=64, context_tokens=64)
    assert measured_s == pytest.approx(2 * PACE.step_seconds(tokens=64, context_tokens=8 * 64))


@pytest.mark.parametrize("sampling", [Sampling(seed=3), Sampling(temperature=0.9, seed=4)])
def test_drafting_saves_steps_and_changes_no_token(sampling: Sampling) -> None:
    plain, none = decode(sampling, 200, drafting=False)
    drafted, accepted = decode(sampling, 200, drafting=True)
    assert drafted == plain
    assert len(accepted) < 0.6 * len(none)


def test_drafts_are_right_as_often_as_their_confidences_say() -> None:
    expected = right = 0.0
    for position in range(1, 4000):
        sampling = Sampling(seed=position % 50)
        token, confidence = TEXT.draft(7, position, sampling)
        expected += confidence
        right += token == TEXT.next_token(7, position, sampling)
    assert right == pytest.approx(expected, abs=4 * (4000 * 0.25) ** 0.5)


def test_tokens_that_end_a_generation_never_come() -> None:
    seen = {TEXT.next_token(1, position, Sampling(seed=1)) for position in range(3000)}
    assert seen == set(range(97)) - {0, 5}


def test_by_rejection_the_same_text_comes_out() -> None:
    sampling = Sampling(temperature=1.0, seed=9, mode=SamplingMode.REJECTION)
    drafter, target = a_drafter(), a_target()
    drafter.open("s", sampling)
    request = DraftRequest(key="s", anchor=3, base_length=0, max_tokens=GAMMA)
    proposal = drafter.draft([request])[0]
    assert proposal.laws is not None
    (judged,) = target.step([a_segment((3, *proposal.tokens), 0, sampling, laws=proposal.laws)])
    before = 3
    for position, token in enumerate(judged, 1):
        assert token == TEXT.next_token(before, position, sampling)
        before = token
    kept = len(judged) - 1
    assert judged[:kept] == proposal.tokens[:kept]
    assert kept == GAMMA or judged[kept] != proposal.tokens[kept]


def test_a_paced_model_must_be_called_paced() -> None:
    paced = PacedSettings(name="x", target=PACE, drafter=PACE)
    with pytest.raises(ValueError, match="must begin with 'paced'"):
        ModelSettings(name="qwen3", paced=paced)
    assert ModelSettings(name="paced-qwen3", paced=paced).paced == paced
