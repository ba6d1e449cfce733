"""``python -m dspark.gateway --config-json '{"gateway": {...}, "model": {...}}'``."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from dspark.config.gateway import GatewayProcess
from dspark.gateway.served_model import load_served_model
from dspark.gateway.server import serve
from dspark.rpc.http import bind
from dspark.telemetry import logs, tracing


def read_config(text: str) -> GatewayProcess:
    """Return the settings written in ``text``: JSON, or the path of a file with JSON.

    Raises:
        ValueError: Naming the field at fault.
    """
    if not text.lstrip().startswith("{"):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"cannot read {text}: {error.strerror}") from error
    try:
        return GatewayProcess.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"configuration: not JSON: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        raise ValueError(f"configuration: {place}: {first['msg']}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until stopped; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dspark.gateway")
    parser.add_argument("--config-json", default="{}", help="settings as JSON, or a file of it")
    args = parser.parse_args(argv)
    try:
        logs.start("gateway")
        tracing.start("gateway")
        process = read_config(args.config_json)
        model = load_served_model(process.model.name, process.model.target)
        with bind(process.gateway.host, process.gateway.port, what="the gateway") as sock:
            asyncio.run(serve(process.gateway, model, sock))
    except ValueError as error:
        print(f"dspark gateway: {error}", file=sys.stderr)
        return 1
    tracing.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
