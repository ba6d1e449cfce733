"""Our engines in one process: ``off`` (all threads to the target) or ``adaptive`` (half each)."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

from dspark.config.model import ModelSettings
from dspark.local.system import Speculation
from e2e.own_engine import own_engine
from e2e.peers.cell import Answer, Cell, serve, timed

_SESSIONS = 64
"""At once, at the most."""


def main() -> None:
    threads = int(os.environ["OMP_NUM_THREADS"])
    speculation = Speculation.parse(sys.argv[1])
    model = ModelSettings(threads=max(1, threads // 2) if speculation.enabled else threads)
    with own_engine(speculation, model, num_pages=1024, max_sessions=_SESSIONS) as write:

        def generate(cell: Cell) -> Answer:
            with ThreadPoolExecutor(cell.concurrency) as users:
                answers, seconds = timed(
                    lambda: list(
                        users.map(
                            lambda prompt: timed(lambda: write(prompt, cell.max_tokens)),
                            cell.prompts,
                        )
                    )
                )
            drafted = sum(answer.drafted for answer, _ in answers)
            accepted = sum(answer.accepted for answer, _ in answers)
            return Answer(
                outputs=[answer.tokens for answer, _ in answers],
                latencies_s=[latency_s for _, latency_s in answers],
                seconds=seconds,
                accepted_length=1 + accepted / drafted if drafted else None,
            )

        serve(generate)


if __name__ == "__main__":
    main()
