"""What a peer is asked, and what it answers: one JSON line each."""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

ANSWERS = "DSPARK_PEER_ANSWERS"
"""Environment variable with the number of the descriptor for answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Prompts to continue greedily, ``concurrency`` at once, up to ``max_tokens`` each."""

    prompts: Sequence[Sequence[int]]
    max_tokens: int
    concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Attributes:
    outputs: Tokens by prompt.
    latencies_s: From a request's start to its last token, by prompt.
    seconds: Of the whole cell.
    accepted_length: Mean tokens of a drafted step; None without drafts.
    """

    outputs: Sequence[Sequence[int]]
    latencies_s: Sequence[float]
    seconds: float
    accepted_length: float | None = None


def serve(generate: Callable[[Cell], Answer]) -> None:
    """Say that the model is loaded, then answer cells until the input ends.

    Answers go to a descriptor of their own: libraries print on the standard output.
    """
    with os.fdopen(int(os.environ[ANSWERS]), "w") as answers:
        print(json.dumps("ready"), file=answers, flush=True)
        for line in sys.stdin:
            answer = generate(Cell(**json.loads(line)))
            print(json.dumps(asdict(answer)), file=answers, flush=True)


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """Return (its result, seconds)."""
    began_s = time.perf_counter()
    result = action()
    return result, time.perf_counter() - began_s
