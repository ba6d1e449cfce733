"""vLLM on the CPU: ``plain``, ``ngram``, or ``dspark HOST:PORT`` with our drafter."""

import sys
import time
from typing import Any

from e2e.peers.cell import Answer, Cell, serve, timed
from e2e.vllm.engine import Engine, greedy

_NGRAM = {
    "method": "ngram",
    "num_speculative_tokens": 7,
    "prompt_lookup_max": 3,
    "prompt_lookup_min": 2,
}


def main() -> None:
    arm, *rest = sys.argv[1:]
    changes: dict[str, Any] = {
        "num_gpu_blocks_override": None,
        "enforce_eager": "--eager" in rest,
        # A text that is asked for twice is computed twice, as by the others.
        "enable_prefix_caching": False,
    }
    if arm == "ngram":
        changes["speculative_config"] = _NGRAM
    engine = Engine(rest[0] if arm == "dspark" else None, **changes)

    def generate(cell: Cell) -> Answer:
        before = engine.counters()
        outputs: dict[int, list[int]] = {}
        began_s: dict[str, float] = {}
        index_of: dict[str, int] = {}
        latencies_s = [0.0] * len(cell.prompts)
        left = list(enumerate(cell.prompts))[::-1]

        def run() -> None:
            while left or index_of:
                while left and len(index_of) < cell.concurrency:
                    index, prompt = left.pop()
                    request = engine.add(prompt, greedy(cell.max_tokens))
                    index_of[request], began_s[request] = index, time.perf_counter()
                for output in engine.engine.step():
                    if output.finished:
                        index = index_of.pop(output.request_id)
                        latencies_s[index] = time.perf_counter() - began_s[output.request_id]
                        outputs[index] = list(output.outputs[0].token_ids)

        _, seconds = timed(run)
        engine.settle()
        after = engine.counters()
        drafts, accepted = (
            after.get(name, 0) - before.get(name, 0)
            for name in ("vllm:spec_decode_num_drafts", "vllm:spec_decode_num_accepted_tokens")
        )
        return Answer(
            outputs=[outputs[index] for index in range(len(cell.prompts))],
            latencies_s=latencies_s,
            seconds=seconds,
            accepted_length=1 + accepted / drafts if drafts else None,
        )

    serve(generate)


if __name__ == "__main__":
    main()
