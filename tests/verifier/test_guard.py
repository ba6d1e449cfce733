import threading
import time
from collections.abc import Callable, Sequence

import pytest

from dspark.config.verifier import GuardSettings
from dspark.core.budget import DISABLED, OFF
from dspark.core.generation import Generation, GenerationStats
from dspark.core.ids import SessionId
from dspark.core.pages import PageAllocator
from dspark.core.sampling import Sampling
from dspark.telemetry.metrics import REGISTRY
from dspark.verifier.budget_cell import FixedBudget
from dspark.verifier.guard import Guard
from dspark.verifier.session import VerifierSession
from dspark.verifier.target_port import Segment
from tests.fakes import PAGE_TOKENS, FakeDrafter, FakeTarget, continuation
from tests.verifier.harness import Collected, System, running

GREEDY = Sampling()
ALWAYS = GuardSettings(share=1.0)


def ask(seed: int, count: int = 30, sampling: Sampling = GREEDY, **more: object) -> Generation:
    return Generation(
        request_id="r",
        prompt=(seed, seed + 1, seed + 2),
        max_new_tokens=count,
        sampling=sampling,
        **more,  # type: ignore[arg-type]
    )


class CredulousTarget(FakeTarget):
    """Wrong on purpose: it takes every draft for its own token."""

    def step(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        return [
            (*part.tokens[len(part.tokens) - part.choose + 1 :], *own[-1:])
            for part, own in zip(segments, super().step(segments), strict=True)
        ]


class SlowTarget(FakeTarget):
    """Waits before each plain step once it is told to."""

    def __init__(self, num_pages: int, **more: float) -> None:
        super().__init__(num_pages, **more)
        self.go = threading.Semaphore(0)
        self.slow = False

    def step(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        if self.slow:
            assert self.go.acquire(timeout=10)
        return super().step(segments)


def until(true: Callable[[], bool]) -> None:
    for _ in range(2000):
        if true():
            return
        time.sleep(0.005)
    raise AssertionError("it never happened")


def guard_of(system: System):  # type: ignore[no-untyped-def]
    assert system.engine.guard is not None
    return system.engine.guard


def counted(outcome: str) -> float:
    labels = {"pool": "v", "outcome": outcome}
    return REGISTRY.get_sample_value("dspark_guard_checks_total", labels) or 0.0


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0.8, seed=5)])
def test_right_output_is_decoded_again_and_passes(sampling: Sampling) -> None:
    with running(System(guard=ALWAYS)) as system:
        system.add_drafter("d1")
        before = counted("passed")
        sinks = [system.generate(ask(seed, sampling=sampling)) for seed in range(6)]
        assert all(sink.wait().error is None for sink in sinks)
        until(lambda: guard_of(system).checks == 6)
        assert guard_of(system).violations == 0
        assert counted("passed") - before == 6
    pages = system.engine.intake.pages
    assert pages.free_pages == pages.num_pages
    pages.check()


def test_wrong_acceptance_is_found_and_drafting_ends_for_good() -> None:
    guard = GuardSettings(share=1.0, max_violations=2)
    with running(System(target=CredulousTarget, guard=guard)) as system:
        drafter = system.add_drafter("d1")
        first = system.generate(ask(1)).wait()
        assert first.tokens != continuation([1, 2, 3], 30, GREEDY)
        until(lambda: guard_of(system).violations == 1)
        assert not guard_of(system).tripped
        system.generate(ask(5)).wait()
        until(lambda: guard_of(system).tripped)
        asked = len(drafter.batches)
        after = system.generate(ask(9)).wait()
        assert after.tokens == continuation([9, 10, 11], 30, GREEDY)
        assert after.stats is not None
        assert after.stats.drafted_steps == 0
        assert len(drafter.batches) == asked


def test_a_session_under_way_stops_drafting_when_the_guard_trips() -> None:
    with running(System(guard=ALWAYS, step_s=0.001)) as system:
        system.add_drafter("d1")
        sink = system.generate(ask(1, 400))
        assert sink.some.wait(10)
        guard_of(system).tripped = True
        stats = sink.wait().stats
        assert stats is not None
        assert stats.plain_steps > stats.drafted_steps
        assert sink.tokens == continuation([1, 2, 3], 400, GREEDY)


@pytest.mark.parametrize(("entry", "asked"), [(DISABLED, False), (OFF, True)])
def test_a_disabled_budget_makes_no_probes_where_off_makes_some(entry: int, asked: bool) -> None:
    with running(System(budget=FixedBudget(entry))) as system:
        drafter = system.add_drafter("d1")
        sink = system.generate(ask(1, 400)).wait()
        assert sink.tokens == continuation([1, 2, 3], 400, GREEDY)
        assert bool(drafter.batches) == asked


def test_where_bits_depend_on_the_batch_a_mismatch_is_counted_and_accuses_nobody() -> None:
    before = counted("mismatch")
    with running(System(target=CredulousTarget, guard=ALWAYS, byte_stable=False)) as system:
        system.add_drafter("d1")
        system.generate(ask(1)).wait()
        until(lambda: guard_of(system).checks == 1)
        assert guard_of(system).violations == 0
    assert counted("mismatch") - before == 1


def test_a_check_gives_its_pages_to_a_request_at_once_and_goes_on_later() -> None:
    # 12 pages of 4 tokens: a check and a request do not fit together.
    with running(System(num_pages=12, guard=ALWAYS, target=SlowTarget)) as system:
        target = system.target
        assert isinstance(target, SlowTarget)
        drafter = system.add_drafter("d1", FakeDrafter())
        target.slow = True
        first = system.generate(ask(1, 30))
        while not first.done.is_set():
            target.go.release()
            time.sleep(0.002)
        pages = system.engine.intake.pages
        until(lambda: pages.free_pages < 12 - 8)  # the check holds its pages
        target.go.release(10)  # ten steps of it
        second = system.generate(ask(7, 30, Sampling(temperature=0.5, seed=2)))
        while not second.done.is_set():
            target.go.release()
            time.sleep(0.002)
        assert second.tokens == continuation([7, 8, 9], 30, Sampling(temperature=0.5, seed=2))
        target.slow = False
        target.go.release(1000)
        until(lambda: guard_of(system).checks == 2)
        assert guard_of(system).violations == 0
        assert drafter.batches


def test_more_candidates_than_the_queue_holds_are_dropped_and_counted() -> None:
    before = counted("dropped")
    guard = GuardSettings(share=1.0, max_candidates=2)
    system = System(guard=guard)
    system.add_drafter("d1")
    sinks = [system.generate(ask(seed)) for seed in range(5)]  # all arrive before the first step
    with running(system):
        assert all(sink.wait().error is None for sink in sinks)
        until(lambda: guard_of(system).checks == 2)
    assert counted("dropped") - before == 3


def test_what_was_never_drafted_or_comes_from_elsewhere_is_not_decoded_again() -> None:
    expected = continuation([1, 2, 3], 30, GREEDY)
    with running(System(guard=ALWAYS)) as system:
        plain = system.generate(ask(1, speculate=False)).wait()
        undrafted = system.generate(ask(1)).wait()  # there is no drafter
        system.add_drafter("d1")
        wrong_elsewhere = (expected[0] + 1, *expected[1:10])
        moved = system.generate(ask(1, committed=wrong_elsewhere)).wait()
        until(lambda: guard_of(system).checks == 1)
        assert guard_of(system).violations == 0
        assert plain.tokens == undrafted.tokens == expected
        assert moved.tokens != expected[10:]


def test_a_cancelled_request_is_checked_as_far_as_it_came() -> None:
    with running(System(guard=ALWAYS, step_s=0.001)) as system:
        system.add_drafter("d1")
        sink = Collected()
        session = system.engine.submit(ask(1, 800), sink)
        assert sink.some.wait(10)
        system.engine.cancel(session)
        until(lambda: guard_of(system).checks == 1)
        assert guard_of(system).violations == 0


def test_going_on_after_the_end_is_a_mismatch() -> None:
    tokens = continuation([1, 2, 3], 30, GREEDY)
    for stop, violations in ((tokens[29], 0), (tokens[12], 1)):
        pages = PageAllocator(16, PAGE_TOKENS)
        guard = Guard(FakeTarget(16), pages, ALWAYS, pool="v", chunk_tokens=8)
        session = VerifierSession(
            id=SessionId(1),
            generation=ask(1, stop_tokens=frozenset({stop})),
            sink=Collected(),
            tokens=[1, 2, 3],
            stats=GenerationStats(block_size=7),
            arrived_s=0.0,
        )
        guard.chosen(session)
        session.tokens.extend(tokens)
        session.stats.count(drafted=7, verified=7, accepted=7)
        guard.ended(session.id)
        while guard.pending:
            guard.step()
        assert guard.violations == violations
        assert pages.free_pages == 16


def test_a_share_of_requests_is_chosen_before_anything_is_known_of_them() -> None:
    drawn = iter([0.5, 0.05, 0.5])
    system = System(guard=GuardSettings(share=0.1))
    guard_of(system)._draw = lambda: next(drawn)
    system.add_drafter("d1")
    with running(system):
        for seed in range(3):
            system.generate(ask(seed)).wait()
        until(lambda: guard_of(system).checks == 1)
        assert next(drawn, None) is None


def test_stopping_in_the_middle_of_a_check_frees_its_pages() -> None:
    with running(System(guard=ALWAYS, step_s=0.001)) as system:
        system.add_drafter("d1")
        system.generate(ask(1, 500)).wait()
    assert not system.engine._thread.is_alive()
    guard_of(system).rest()
    pages = system.engine.intake.pages
    assert pages.free_pages == pages.num_pages
