"""Our own engine on the same prompts: its mean accepted length.

``python -m e2e.vllm.ours FILE``, in this repository's environment: JSON with outputs and counts.
"""

import json
import sys
from pathlib import Path

from dspark.config.model import ModelSettings
from dspark.core.generation import Generation
from dspark.core.sampling import Sampling
from dspark.local.system import Ended, LocalSystem, Speculation
from dspark.model.target_folder import read_sizes
from e2e.vllm.prompts import NUM_TOKENS, TARGET, prompts


def main() -> None:
    stops = frozenset(read_sizes(TARGET).eos_token_ids)
    outputs: list[list[int]] = []
    drafted = accepted = 0
    with LocalSystem(ModelSettings(), Speculation(), num_pages=256) as system:
        for prompt in prompts():
            tokens: list[int] = []
            request = Generation(
                request_id="e2e",
                prompt=tuple(prompt),
                max_new_tokens=NUM_TOKENS,
                sampling=Sampling(),
                stop_tokens=stops,
            )
            for event in system.stream(request):
                if isinstance(event, Ended):
                    drafted += event.stats.drafted_steps
                    accepted += event.stats.accepted_draft_tokens
                else:
                    tokens += event
            outputs.append(tokens)
    answer = {"outputs": outputs, "drafted": drafted, "accepted": accepted}
    Path(sys.argv[1]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
