"""Our own engine on the same prompts: its mean accepted length.

``python -m e2e.vllm.ours FILE``, in this repository's environment: JSON with outputs and counts.
"""

import json
import sys
from pathlib import Path

from dspark.config.model import ModelSettings
from dspark.local.system import Speculation
from e2e.own_engine import own_engine
from e2e.vllm.prompts import NUM_TOKENS, prompts


def main() -> None:
    with own_engine(Speculation(), ModelSettings(), num_pages=256) as write:
        written = [write(prompt, NUM_TOKENS) for prompt in prompts()]
    answer = {
        "outputs": [each.tokens for each in written],
        "drafted": sum(each.drafted for each in written),
        "accepted": sum(each.accepted for each in written),
    }
    Path(sys.argv[1]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
