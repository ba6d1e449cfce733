"""``python -m dspark.controller --config-json '{...}'``: run the controller until a signal."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from dspark.config.controller import ControllerSettings
from dspark.config.load import explain
from dspark.controller.leadership import Deposed
from dspark.controller.process import run
from dspark.telemetry import logs


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, and return the exit status.

    0 after a signal, 2 for a mistake of the caller, 3 where another controller took the lead: start
    it again, and it is a standby.
    """
    parser = argparse.ArgumentParser(prog="dspark.controller", description=__doc__)
    parser.add_argument(
        "--config-json", default="{}", help="ControllerSettings as JSON, or a file that has them"
    )
    text: str = parser.parse_args(arguments).config_json
    try:
        logs.start("controller")
        if not text.lstrip().startswith("{"):
            text = Path(text).read_text()
        run(ControllerSettings.model_validate_json(text))
    except ValidationError as error:
        print(f"controller settings: {explain(error, ControllerSettings)}", file=sys.stderr)
        return 2
    except Deposed as error:
        print(f"controller: {error}", file=sys.stderr)
        return 3
    except (OSError, ValueError) as error:
        print(f"controller: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
