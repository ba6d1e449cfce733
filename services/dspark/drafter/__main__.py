"""``python -m dspark.drafter --config-json '{...}'``: one drafter, without Ray, until a signal.

For engines that are given its address, such as vLLM with the DSpark proposer.
"""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from dspark.config.drafter import DrafterProcess
from dspark.config.load import explain
from dspark.drafter.replica import DrafterReplica

_HEALTH_PERIOD_S = 1.0

log = logging.getLogger("dspark.drafter")


async def serve(process: DrafterProcess) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Raises:
        ValueError: One line that says what is wrong and the way out.
        RuntimeError: The engine died.
    """
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    replica = DrafterReplica(process.model, process.endpoint, process.drafter, name="drafter")
    await replica.start()
    log.info("serving on %s", replica.address)
    while not ended.is_set():
        replica.check_health()
        try:
            await asyncio.wait_for(ended.wait(), _HEALTH_PERIOD_S)
        except TimeoutError:
            continue
    await replica.drain()
    await replica.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, serve, and return the exit status: 0 after a signal, 2 for a mistake of the caller."""
    parser = argparse.ArgumentParser(prog="python -m dspark.drafter", description=__doc__)
    parser.add_argument(
        "--config-json", default="{}", help="DrafterProcess as JSON, or a file that has it"
    )
    text: str = parser.parse_args(arguments).config_json
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        if not text.lstrip().startswith("{"):
            text = Path(text).read_text(encoding="utf-8")
        asyncio.run(serve(DrafterProcess.model_validate_json(text)))
    except ValidationError as error:
        print(f"drafter settings: {explain(error, DrafterProcess)}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"drafter: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
