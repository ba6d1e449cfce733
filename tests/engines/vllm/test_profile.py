import asyncio

import pytest

from dspark.engines.vllm.profile import StepProbe, profile
from tests.engines.vllm.fake_engine import GAMMA, FakeEngine, round_note, step
from tests.fakes import VOCAB


class TimedEngine(FakeEngine):
    """Steps take 10 ms and one more for each token; a stray one is told of now and then."""

    def __init__(self, probe: StepProbe) -> None:
        super().__init__()
        self._probe = probe
        self.sizes: set[tuple[int, int]] = set()

    async def steps(self) -> None:
        for number in range(100_000):
            await asyncio.sleep(0)
            count = len(self.running)
            if not count:
                continue
            rounds = [round_note(0, 64, 0, verified=self.trial_tokens) for _ in range(count)]
            tokens = count * (1 + self.trial_tokens)
            self.sizes.add((count, tokens))
            self._probe.take(step(*rounds, turn_s=0.01 + 0.001 * tokens))
            if number % 5 == 0:
                self._probe.take(step(*rounds[1:], turn_s=9.0))
            if number % 7 == 0:
                self._probe.take(step(*rounds, turn_s=None))


async def test_whole_turns_of_every_size_that_fits_are_measured() -> None:
    probe = StepProbe()
    engine = TimedEngine(probe)
    running = asyncio.create_task(engine.steps())
    curve = await asyncio.wait_for(
        profile(
            engine, probe, gamma=GAMMA, max_sessions=4, max_batch_tokens=10, vocab_size=VOCAB,
            version="v", device="cpu, vLLM", repeats=2, sessions=(1, 2, 4, 8),
            context_tokens=(64, 512),
        ),
        60.0,
    )  # fmt: skip
    running.cancel()
    measured = {(point.sessions, point.batch_tokens): point.step_s for point in curve.points}
    assert set(measured) == {
        (1, 1), (1, 2), (1, 3), (1, 4), (2, 2), (2, 4), (2, 6), (2, 8), (4, 4), (4, 8),
    }  # fmt: skip
    assert all(
        seconds == pytest.approx(0.01 + 0.001 * tokens) for (_, tokens), seconds in measured.items()
    )
    assert {point.context_tokens for point in curve.points} == {64}  # 512 do not fit here
    assert not engine.running
    assert engine.trial_tokens == 0
    assert all(wishes.trial for wishes in engine.wishes)


async def test_an_engine_that_fits_nothing_has_no_curve() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        await profile(
            FakeEngine(), StepProbe(), gamma=GAMMA, max_sessions=1, max_batch_tokens=8,
            vocab_size=VOCAB, version="v", device="d", repeats=1, context_tokens=(4096,),
        )  # fmt: skip
