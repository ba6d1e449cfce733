import numpy as np
import pytest

from dspark.core.observed import MIN_LABELS, Observed, by_position

GAMMA = 4


def served(num: int, seed: int, heat: float = 1.0, cut: float = 0.3):  # type: ignore[no-untyped-def]
    """Rounds under a schedule that verifies while the stated survival is above ``cut``."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(1.0, 1.5, (num, GAMMA))
    stated = 1.0 / (1.0 + np.exp(-logits))
    hits = rng.random((num, GAMMA)) < 1.0 / (1.0 + np.exp(-logits / heat))
    survivals = stated.cumprod(axis=1)
    verified = (survivals > cut).cumprod(axis=1).sum(axis=1)
    accepted = np.minimum(hits.cumprod(axis=1).sum(axis=1), verified)
    known = np.minimum(accepted + 1, verified)
    return [
        (tuple(map(float, a)), int(k), int(n))
        for a, k, n in zip(survivals, known, accepted, strict=True)
    ]


def test_true_confidences_have_a_small_error_whatever_the_schedule_leaves_out() -> None:
    for cut in (0.0, 0.3, 0.6):
        observed = Observed(GAMMA)
        observed.add(served(20_000, 1, cut=cut))
        known = [error for error in observed.errors() if error is not None]
        assert known
        assert max(known) < 0.03


def test_control_counting_what_is_censored_as_rejected_would_be_wrong() -> None:
    observed = Observed(GAMMA)
    observed.add([(survival, GAMMA, n) for survival, _, n in served(20_000, 1)])
    assert max(error for error in observed.errors() if error is not None) > 0.2


def test_control_overconfidence_is_seen_at_every_position() -> None:
    observed = Observed(GAMMA)
    observed.add(served(20_000, 2, heat=4.0, cut=0.0))
    assert all(error is not None and error > 0.08 for error in observed.errors())


def test_a_round_that_ends_inside_its_block_says_nothing_of_what_was_not_committed() -> None:
    observed = Observed(2)
    observed.add([((1.0, 1.0), 1, 1)] * 1000)  # a stop token: the second draft was not judged
    assert observed.errors() == (0.0, None)


def test_few_labels_make_no_figure_and_old_ones_fade() -> None:
    observed = Observed(1)
    observed.add([((1.0,), 1, 0)] * (int(MIN_LABELS) - 1))
    assert observed.errors() == (None,)
    for _ in range(60):
        observed.add([((1.0,), 1, 1)] * 1000)
    (error,) = observed.errors()
    assert error == pytest.approx(0.0, abs=0.01)


def test_shorter_blocks_and_underflown_survivals_are_taken() -> None:
    observed = Observed(3)
    observed.add([])
    observed.add([((0.5,), 1, 1), ((0.5, 0.0, 0.0), 3, 2)])
    assert observed.errors() == (None, None, None)


def test_by_position_what_was_accepted_is_what_was_stated_whatever_the_schedule_leaves_out() -> (
    None
):
    for heat, close in ((1.0, True), (3.0, False)):  # the second drafter is too sure of itself
        for cut in (0.0, 0.3):
            judged, accepted, stated = by_position(served(40_000, 3, heat=heat, cut=cut))
            gaps = [abs(a - c) / j for j, a, c in zip(judged, accepted, stated, strict=True)]
            assert judged[0] >= judged[1] >= accepted[1]
            assert (max(gaps) < 0.01) is close, (heat, cut, gaps)


def test_by_position_counts_only_known_labels() -> None:
    assert by_position([]) == ((), (), ())
    judged, accepted, stated = by_position([((0.9, 0.4), 1, 0), ((0.8, 0.4), 2, 2)])
    assert (judged, accepted) == ((2, 1), (1, 1))
    assert stated == pytest.approx((1.7, 0.5))
