"""Calibration temperatures of the confidence head, as ``dspark calibrate`` fitted them.

``sts.json`` beside a drafter's weights: for each sampling mode ("greedy", "coupled", "rejection")
a list of gamma temperatures; c_k = sigmoid(logit_k / T_k).  Without the file nothing is changed;
without an entry of its own rejection uses the coupled one.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from dspark.core.sampling import Sampling

FILE = "sts.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Temperatures of each mode, gamma each; None where rejection has none of its own."""

    greedy: tuple[float, ...]
    coupled: tuple[float, ...]
    rejection: tuple[float, ...] | None = None

    def of(self, sampling: Sampling) -> tuple[float, ...]:
        """The temperatures for a session that is sampled like this."""
        if sampling.greedy:
            return self.greedy
        if sampling.rejects and self.rejection is not None:
            return self.rejection
        return self.coupled


def identity(gamma: int) -> Calibration:
    """The calibration that changes nothing."""
    return Calibration(greedy=(1.0,) * gamma, coupled=(1.0,) * gamma)


def read_calibration(folder: Path, gamma: int) -> Calibration:
    """Read a drafter folder's ``sts.json``; the identity where it, or a mode, is absent.

    Raises:
        ValueError: The file is damaged, or made for another gamma.
    """
    path = folder / FILE
    if not path.is_file():
        return identity(gamma)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        modes = {
            name: tuple(float(value) for value in raw[name]["temperatures"])
            for name in ("greedy", "coupled", "rejection")
            if name in raw
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no calibration file ({error}): calibrate again") from error
    for name, temperatures in modes.items():
        if len(temperatures) != gamma:
            raise ValueError(
                f"{path}: {len(temperatures)} temperatures for mode {name} but the drafter's "
                f"block_size is {gamma}: calibrate this drafter"
            )
        if not all(value > 0 and math.isfinite(value) for value in temperatures):
            raise ValueError(f"{path}: temperatures of mode {name} must be above 0")
    neutral = (1.0,) * gamma
    return Calibration(
        greedy=modes.get("greedy", neutral),
        coupled=modes.get("coupled", neutral),
        rejection=modes.get("rejection"),
    )
