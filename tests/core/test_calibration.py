import json

import numpy as np
import pytest

from dspark.core.calibration import (
    GRID,
    calibrate,
    confidences,
    expected_calibration_error,
    fit_temperatures,
    identity,
    parse_calibration,
    survival_errors,
)


def rounds_of(temperatures, num_rounds, seed):
    """Rounds whose true acceptance is sigmoid(logit / T_k), in order."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(1.0, 3.0, size=(num_rounds, len(temperatures)))
    true = confidences(logits, np.array(temperatures))
    accepted = (rng.random(true.shape) < true).astype(np.int64).cumprod(axis=1).sum(axis=1)
    return logits, accepted


def test_the_grid_holds_41_temperatures_and_one_is_exactly_1():
    assert len(GRID) == 41
    assert GRID[20] == 1.0


def test_an_overconfident_drafter_is_cooled_by_about_the_true_temperature():
    logits, accepted = rounds_of([3.0, 2.0, 1.0], 20_000, seed=0)
    fitted = fit_temperatures(logits, accepted)
    assert fitted[0] == pytest.approx(3.0, rel=0.2)
    assert fitted[1] == pytest.approx(2.0, rel=0.3)


def test_calibrating_lowers_the_error_on_rounds_it_never_saw():
    made = calibrate(
        *rounds_of([2.5] * 4, 12_000, seed=1),
        *rounds_of([2.5] * 4, 6_000, seed=2),
        mode="coupled",
        dataset="synthetic",
    )
    assert made.ece_after < 0.5 * made.ece_before
    assert made.ece_after < 0.02
    assert made.num_samples == 12_000


def test_identity_is_adopted_where_the_held_out_error_does_not_fall():
    well = rounds_of([1.0] * 3, 20_000, seed=3)
    few = rounds_of([4.0] * 3, 60, seed=4)
    made = calibrate(*few, *well, mode="greedy", dataset="synthetic")
    assert made.temperatures == (1.0, 1.0, 1.0)
    assert made.ece_after == made.ece_before


def test_the_error_of_perfect_and_of_inverted_predictions_is_known():
    happened = np.array([True, False, True, False])
    assert expected_calibration_error(happened.astype(float), happened) == 0.0
    assert expected_calibration_error(1.0 - happened.astype(float), happened) == 1.0
    assert expected_calibration_error(np.full(4, 0.5), happened) == 0.0


def test_the_error_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no samples"):
        expected_calibration_error(np.zeros(0), np.zeros(0, dtype=bool))


def test_survival_errors_judge_the_product_and_not_each_position_alone():
    logits = np.zeros((4, 2))
    accepted = np.array([2, 0, 0, 0])
    errors = survival_errors(logits, accepted, np.ones(2))
    assert errors.tolist() == pytest.approx([0.25, 0.0])


def test_a_document_survives_json_and_another_gamma_is_refused():
    made = identity(7, "greedy")
    raw = json.loads(json.dumps(made.to_json()))
    assert parse_calibration(raw, 7) == made
    with pytest.raises(ValueError, match=r"gamma 7, the drafter has gamma 5"):
        parse_calibration(raw, 5)
    with pytest.raises(ValueError, match="gamma 7"):
        made.apply(np.zeros((2, 5)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperatures": None}, "temperatures None"),
        ({"mode": "sampled"}, "mode 'sampled'"),
        ({"num_samples": "many"}, "num_samples is 'many'"),
        ({"temperatures": [1.0, -1.0]}, "finite and positive"),
    ],
)
def test_a_damaged_document_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        parse_calibration({**identity(2, "greedy").to_json(), **change}, 2)


def test_applying_temperatures_keeps_the_order_of_confidences():
    made = parse_calibration({**identity(2, "coupled").to_json(), "temperatures": [0.5, 4.0]}, 2)
    low, high = made.apply(np.array([[-1.0, -1.0], [2.0, 2.0]]))
    assert (low < high).all()
    assert high[0] > 0.97
    assert high[1] < 0.63
