import itertools

import numpy as np
import pytest

from dspark.core.guard import Drift, favoured

V = 6


def a_law(rng: np.random.Generator, sharpness: float = 1.0) -> np.ndarray:
    weights = np.exp(sharpness * rng.standard_normal(V))
    return weights / weights.sum()


def shipped(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kept = np.flatnonzero(q)
    return kept, q[kept].astype(np.float16)


def mean_of_x(p: np.ndarray, drawn_from: np.ndarray, law: object) -> float:
    found = [favoured(p, token, law) for token in range(V)]  # type: ignore[arg-type]
    return float(sum(drawn_from[t] * (hit - chance) for t, (hit, chance) in enumerate(found)))


@pytest.mark.parametrize("seed", range(20))
def test_the_statistic_has_mean_zero_whatever_the_drafter_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, q = a_law(rng), a_law(rng, 2.0)
    q[rng.integers(V)] = 0.0
    for law in (shipped(q / q.sum()), shipped(p), None):
        assert mean_of_x(p, p, law) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_a_bias_towards_the_drafts_shifts_it_by_the_share_of_bias_times_tv(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, q = a_law(rng), a_law(rng)
    shift = mean_of_x(p, 0.9 * p + 0.1 * q, shipped(q))
    assert shift == pytest.approx(0.1 * 0.5 * np.abs(p - q).sum(), rel=0.01)
    no_other_set_shifts_more = max(
        sum((q - p)[list(chosen)])
        for n in range(V)
        for chosen in itertools.combinations(range(V), n)
    )
    assert shift == pytest.approx(0.1 * no_other_set_shifts_more, rel=0.01)


def test_evidence_has_mean_one_at_every_time() -> None:
    chances = [0.2, 0.9, 0.5, 0.05]
    mean = 0.0
    for hits in itertools.product([False, True], repeat=len(chances)):
        drift, weight = Drift(), 1.0
        for index, (hit, chance) in enumerate(zip(hits, chances, strict=True)):
            drift.observe(hit=hit, chance=chance, drafted=index % 2 == 0)
            weight *= chance if hit else 1.0 - chance
        mean += weight * 10**drift.log10
    assert mean == pytest.approx(1.0)


def ever_reaches(rng: np.random.Generator, bias: float, limit: float) -> bool:
    drift = Drift()
    for index, chance in enumerate(rng.uniform(0.05, 0.95, 600)):
        hit = rng.random() < chance + bias * min(chance, 1.0 - chance)
        drift.observe(hit=bool(hit), chance=float(chance), drafted=True)
        if index % 4 == 3 and drift.log10 >= limit:
            return True
    return False


def test_a_right_sampler_is_ever_accused_as_rarely_as_stated() -> None:
    rng = np.random.default_rng(7)
    accused = sum(ever_reaches(rng, 0.0, 1.0) for _ in range(100))
    assert accused <= 20  # at most 10 % by Ville: 10 of 100, and 3.3 standard deviations


def test_control_a_small_bias_is_found_either_way() -> None:
    rng = np.random.default_rng(8)
    for bias in (0.8, -0.8):
        assert all(ever_reaches(rng, bias, 6.0) for _ in range(5))


def test_certain_tokens_are_no_evidence_and_never_divide_by_zero() -> None:
    drift = Drift()
    for hit in (True, False):
        drift.observe(hit=hit, chance=float(hit), drafted=True)
    assert drift.log10 == pytest.approx(0.0)
    for _ in range(20_000):  # wealth far outside the range of a float
        drift.observe(hit=True, chance=0.5, drafted=True)
    assert 1000 < drift.log10 < float("inf")
