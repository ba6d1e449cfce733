"""Our engines in one process: ``off`` (all threads to the target) or ``adaptive`` (half each)."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

from dspark.config.model import ModelSettings
from dspark.core.generation import Generation
from dspark.core.sampling import Sampling
from dspark.local.system import Ended, LocalSystem, Speculation
from dspark.model.target_folder import read_sizes
from e2e.peers.cell import Answer, Cell, serve, timed
from e2e.vllm.prompts import TARGET

_SESSIONS = 64
"""At once, at the most."""


def main() -> None:
    threads = int(os.environ["OMP_NUM_THREADS"])
    speculation = Speculation.parse(sys.argv[1])
    model = ModelSettings(threads=max(1, threads // 2) if speculation.enabled else threads)
    stops = frozenset(read_sizes(TARGET).eos_token_ids)
    with LocalSystem(model, speculation, num_pages=1024, max_sessions=_SESSIONS) as system:

        def one(prompt: list[int], max_tokens: int) -> tuple[list[int], int, int]:
            request = Generation(
                request_id="peer",
                prompt=tuple(prompt),
                max_new_tokens=max_tokens,
                sampling=Sampling(),
                stop_tokens=stops,
                speculate=speculation.enabled,
                max_draft_tokens=speculation.max_draft_tokens,
            )
            tokens: list[int] = []
            drafted = accepted = 0
            for event in system.stream(request):
                if isinstance(event, Ended):
                    drafted = event.stats.drafted_steps
                    accepted = event.stats.accepted_draft_tokens
                else:
                    tokens += event
            return tokens, drafted, accepted

        def generate(cell: Cell) -> Answer:
            with ThreadPoolExecutor(cell.concurrency) as users:
                answers, seconds = timed(
                    lambda: list(
                        users.map(
                            lambda prompt: timed(lambda: one(list(prompt), cell.max_tokens)),
                            cell.prompts,
                        )
                    )
                )
            drafted = sum(answer[1] for answer, _ in answers)
            accepted = sum(answer[2] for answer, _ in answers)
            return Answer(
                outputs=[answer[0] for answer, _ in answers],
                latencies_s=[latency_s for _, latency_s in answers],
                seconds=seconds,
                accepted_length=1 + accepted / drafted if drafted else None,
            )

        serve(generate)


if __name__ == "__main__":
    main()
