import numpy as np
import pytest

from dspark.core.calibration import MODES, calibrate
from dspark.training.model_card import drafter_card
from dspark.training.reliability import Panel, draw_reliability, reliability


def rounds(num: int, seed: int, heat: float = 1.0):  # type: ignore[no-untyped-def]
    """Rounds whose true confidence is sigmoid(logit / heat)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.5, 2.0, (num, 3))
    hits = rng.random((num, 3)) < 1.0 / (1.0 + np.exp(-logits / heat))
    return logits, hits.cumprod(axis=1).sum(axis=1)


def test_a_drafter_that_means_what_it_says_lies_on_the_diagonal() -> None:
    for said, seen in reliability(*rounds(20_000, 1), np.ones(3)):
        assert len(said) >= 13
        assert np.abs(said - seen).max() < 0.06


def test_control_an_overconfident_one_does_not() -> None:
    said, seen = reliability(*rounds(20_000, 1, heat=3.0), np.ones(3))[0]
    assert (seen - said)[-1] < -0.1


def test_bins_of_few_samples_are_left_out() -> None:
    logits, accepted = np.zeros((30, 1)), np.arange(30) % 2
    logits[:5] = 3.0
    ((said, seen),) = reliability(logits, accepted, np.ones(1))
    assert said == pytest.approx([0.5])
    assert seen == pytest.approx([0.52])


def test_picture_and_card_say_where_a_fit_is_not_adopted(tmp_path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("matplotlib")
    held_out = rounds(300, 3, heat=3.0)
    calibrations = {
        mode: calibrate(
            *rounds(3000, 2, heat=3.0 if mode == "greedy" else 0.3), *held_out,
            mode=mode, dataset="d",
        )
        for mode in MODES
    }  # fmt: skip
    assert calibrations["greedy"].adopted
    assert not calibrations["coupled"].adopted
    assert calibrations["coupled"].temperatures == (1.0,) * 3
    panels = [
        Panel(calibration=calibration, logits=held_out[0], accepted=held_out[1])
        for calibration in calibrations.values()
    ]
    draw_reliability(panels, tmp_path / "r.svg")
    picture = (tmp_path / "r.svg").read_text()
    assert "greedy, calibrated" in picture
    assert "coupled, fit not adopted" in picture

    domain = {"num_prompts": 1, "mean_new_tokens": 1, "tau": 2.0, "conditional_acceptance": [0.5]}
    figures = {
        mode: {**dict.fromkeys(("code", "prose", "arithmetic", "all"), domain),
               "ece": {"before": 0.1, "after": 0.1}}
        for mode in MODES
    }  # fmt: skip
    names = ("drafter_shape", "max_new", "ablation", "drafter_training", "drafter_commands")
    card = drafter_card(
        figures,
        {mode: calibration.to_json() for mode, calibration in calibrations.items()},
        dict.fromkeys(names, "x"),
    )
    assert card.count("not adopted: the fit gives") == 2
    assert "### T = 1 (rejection)" in card
