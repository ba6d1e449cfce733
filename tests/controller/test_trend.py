import asyncio
from contextlib import suppress

import pytest

from dspark.config.controller import ControllerSettings
from dspark.controller.api.trend import Trend
from tests.controller.served import a_controller
from tests.fleet_examples import a_report

SETTINGS = ControllerSettings(max_cohorts=1, activation_sessions=1, dwell_s=0.0)


def test_a_sample_says_what_the_pool_does_and_what_it_may() -> None:
    controller, trend = a_controller(SETTINGS), Trend()
    trend.sample(controller, now_s=1.0, unix_s=100.0)
    (sample,) = trend.since(0).samples
    assert (sample.pool, sample.unix_s, sample.active_sessions) == ("verifier", 100.0, 4)
    assert sample.entries == {"knee": 4}
    assert (sample.step_ms, sample.batch_tokens) == (None, None), "no step was run"


def test_a_reader_asks_for_what_is_new_and_a_restart_shows() -> None:
    controller, trend = a_controller(SETTINGS), Trend()
    for second in range(3):
        trend.sample(controller, now_s=1.0, unix_s=float(second))
    assert [sample.unix_s for sample in trend.since(2).samples] == [2.0]
    assert trend.since(3).samples == []
    restarted = Trend()
    restarted.sample(controller, now_s=1.0, unix_s=50.0)
    answer = restarted.since(3)
    assert (answer.newest, len(answer.samples)) == (1, 1), "all of it, with a lower number"


def test_the_ring_is_bounded() -> None:
    controller, trend = a_controller(SETTINGS), Trend(kept=8)
    for second in range(8 + 5):
        trend.sample(controller, now_s=1.0, unix_s=float(second))
    samples = trend.since(0).samples
    assert (len(samples), samples[0].unix_s) == (8, 5.0)


async def test_it_samples_by_itself_and_survives_a_bad_moment(
    caplog: pytest.LogCaptureFixture,
) -> None:
    controller, trend = a_controller(SETTINGS), Trend()
    controller.report(a_report("v0", active=2), asyncio.get_running_loop().time())
    running = asyncio.create_task(trend.run(controller))
    await asyncio.sleep(0)
    assert trend.since(0).newest == 1
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    del controller.registry
    broken = asyncio.create_task(trend.run(controller))
    await asyncio.sleep(0)
    assert not broken.done()
    assert "misses a sample" in caplog.text
    broken.cancel()
    with suppress(asyncio.CancelledError):
        await broken
