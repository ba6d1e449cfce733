"""Plain vLLM in a process of its own: the outputs that drafting must not change.

``python -m e2e.vllm.plain FILE``: JSON with the outputs one at a time, and eight at a time.
"""

import json
import sys
from pathlib import Path

from e2e.vllm.engine import Engine, greedy
from e2e.vllm.prompts import prompts


def main() -> None:
    engine = Engine()
    given = prompts()
    outputs = {
        str(at_once): engine.generate(given, greedy(), at_once=at_once) for at_once in (1, 8)
    }
    Path(sys.argv[1]).write_text(json.dumps(outputs), encoding="utf-8")


if __name__ == "__main__":
    main()
