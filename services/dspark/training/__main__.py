"""``python -m dspark.training STAGE --settings JSON``: every stage with its settings as JSON."""

import argparse
import json
from pathlib import Path

from dspark.training.target import TargetSettings, train_target


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(prog="python -m dspark.training")
    parser.add_argument("stage", choices=["target"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--settings", type=json.loads, default={})
    args = parser.parse_args()
    train_target(TargetSettings(work=args.work, out=args.out, **args.settings))


if __name__ == "__main__":
    main()
