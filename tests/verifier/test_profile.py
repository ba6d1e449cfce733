from collections.abc import Sequence
from itertools import pairwise

import pytest

from dspark.core.curve import Curve
from dspark.verifier.profile import profile
from dspark.verifier.target_port import Segment
from tests.fakes import FakeTarget


class Timed(FakeTarget):
    """Each step takes as long as the test says, on a clock of its own."""

    def __init__(self, cost: dict[int, float], max_context_tokens: int = 4096) -> None:
        super().__init__(1, max_context_tokens=max_context_tokens)
        self.cost = cost
        self.now_s = 0.0
        self.batches: list[tuple[int, int, int]] = []
        self.pages: set[int] = set()

    def clock(self) -> float:
        return self.now_s

    def step(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        tokens = sum(len(part.tokens) for part in segments)
        self.batches.append((segments[0].start, len(segments), tokens))
        self.now_s += self.cost.get(tokens, 1.0)
        used = [page for part in segments for page in part.pages]
        assert len(used) == len(set(used)), "two sessions share a page"
        self.pages.update(used)
        return [(0,) * part.choose for part in segments]


def measure(target: Timed, **more: int) -> Curve:
    return profile(
        target,
        num_pages=more.get("num_pages", 64),
        page_tokens=16,
        max_sessions=more.get("max_sessions", 2),
        max_batch_tokens=more.get("max_batch_tokens", 8),
        version="v",
        device="d",
        clock=target.clock,
        repeats=3,
        sessions=(1, 2, 4),
        tokens_per_session=(1, 4),
        context_tokens=(32, 64),
    )


def test_each_size_that_fits_is_run_once_to_warm_up_and_then_measured() -> None:
    target = Timed({1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0})
    curve = measure(target)
    sizes = [(32, 1, 1), (32, 1, 4), (32, 2, 2), (32, 2, 8)]
    sizes += [(64, count, tokens) for _, count, tokens in sizes]
    assert target.batches == 4 * sizes
    points = [(p.context_tokens, p.sessions, p.batch_tokens, p.step_s) for p in curve.points]
    assert points == [(*size, float(size[2])) for size in sizes]
    assert (curve.version, curve.device) == ("v", "d")


def test_a_larger_batch_is_never_cheaper() -> None:
    curve = measure(Timed({1: 5.0, 4: 3.0}))
    rows: dict[tuple[int, int], list[float]] = {}
    for point in curve.points:
        rows.setdefault((point.context_tokens, point.sessions), []).append(point.step_s)
    assert all(low <= high for row in rows.values() for low, high in pairwise(row))


def test_sizes_beyond_pages_sessions_batch_or_context_are_left_out() -> None:
    assert {count for _, count, _ in runs(max_sessions=1)} == {1}
    assert max(tokens for _, _, tokens in runs(max_batch_tokens=4)) == 4
    assert {(context, count) for context, count, _ in runs(num_pages=5)} == {(32, 1), (64, 1)}
    target = Timed({}, max_context_tokens=40)
    measure(target)
    assert {context for context, _, _ in target.batches} == {32}


def runs(**more: int) -> list[tuple[int, int, int]]:
    target = Timed({})
    measure(target, **more)
    assert max(target.pages) < more.get("num_pages", 64)
    return target.batches


def test_a_target_that_did_not_run_the_batch_is_refused() -> None:
    class Lazy(Timed):
        def step(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
            return super().step(segments)[:1]

    with pytest.raises(RuntimeError, match="2 sessions of 1: the curve would be wrong"):
        measure(Lazy({}))
