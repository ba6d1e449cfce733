"""``python -m dspark.training STAGE --settings JSON``: every stage with its settings as JSON."""

import argparse
import dataclasses
import json
from pathlib import Path

from dspark.training.drafter import DrafterSettings, train_drafter
from dspark.training.evaluation import (
    CalibrationSettings,
    EvaluationSettings,
    PromptSettings,
    calibrate,
    cut_prompts,
    evaluate,
)
from dspark.training.features import FeatureSettings, make_features
from dspark.training.model_card import CardSettings, write_cards
from dspark.training.modes import ModesSettings, measure_modes
from dspark.training.repetition import PolishSettings, polish_target
from dspark.training.selftext import SelfTextSettings, make_selftext
from dspark.training.target import TargetSettings, train_target

_STAGES = {
    "target": (TargetSettings, train_target),
    "selftext": (SelfTextSettings, make_selftext),
    "polish": (PolishSettings, polish_target),
    "features": (FeatureSettings, make_features),
    "drafter": (DrafterSettings, train_drafter),
    "prompts": (PromptSettings, cut_prompts),
    "calibrate": (CalibrationSettings, calibrate),
    "eval": (EvaluationSettings, evaluate),
    "modes": (ModesSettings, measure_modes),
    "card": (CardSettings, write_cards),
}


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(prog="python -m dspark.training", description=__doc__)
    parser.add_argument("stage", choices=sorted(_STAGES))
    parser.add_argument(
        "settings", type=json.loads, help="settings of the stage as a JSON object; paths as strings"
    )
    args = parser.parse_args()
    kind, run = _STAGES[args.stage]
    values = dict(args.settings)
    for field in dataclasses.fields(kind):
        if "Path" in str(field.type) and isinstance(values.get(field.name), str):
            values[field.name] = Path(values[field.name])
        elif isinstance(values.get(field.name), list):
            values[field.name] = tuple(values[field.name])
    run(kind(**values))  # type: ignore[operator]  # each stage takes its own settings


if __name__ == "__main__":
    main()
