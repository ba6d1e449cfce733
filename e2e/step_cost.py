"""CPU milliseconds of the demo pair's steps: ``OMP_NUM_THREADS=1 python -m e2e.step_cost``.

The target as it is served beside Hugging Face's own forward over the same packed products and the
same attention, and the drafter's round.  Forms take turns in one process; each figure is the median
of this thread's CPU time.  Exit code 1 when a single bit of the logits differs.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from dspark.core.draft import DraftRequest
from dspark.core.sampling import Sampling
from dspark.model.batch import RaggedBatch, Segment
from dspark.model.decoder import HuggingFaceDecoder
from dspark.model.fast_norm import replace_norms
from dspark.model.packed_linear import pack_linears
from dspark.model.paged_attention import LayerGeometry
from dspark.model.pair import load_drafter_side
from dspark.model.target import TargetRunner

TARGET, DRAFTER = "builtin:demo/target", "builtin:demo/drafter"
CONTEXT_TOKENS, PAGES_EACH = 256, 20
SIZES = ((1, 1), (1, 4), (1, 8), (8, 1), (8, 8), (32, 1))
ROUNDS = (1, 4, 8, 16, 32)
TURNS, STEPS = 8, 8


class HuggingFaceRunner(TargetRunner):
    """The same target in Hugging Face's arrangement."""

    def _arranged(self, model: nn.Module, geometry: dict[int, LayerGeometry]) -> HuggingFaceDecoder:
        with torch.inference_mode():
            pack_linears(model)
            replace_norms(model)
        return HuggingFaceDecoder(model, self.tap_layers, self.info.num_layers)


def _batch(sessions: int, tokens: int, start: int, logits_from: int) -> RaggedBatch:
    return RaggedBatch(
        segments=[
            Segment(
                token_ids=[(5 * index + session) % 4000 for index in range(tokens)],
                start=start,
                block_table=range(session * PAGES_EACH, (session + 1) * PAGES_EACH),
                logits_from=logits_from,
            )
            for session in range(sessions)
        ]
    )


def _in_turns(steps: Sequence[Callable[[], object]]) -> list[float]:
    """Median CPU milliseconds of each."""
    spent: list[list[float]] = [[] for _ in steps]
    for _ in range(TURNS):
        for step, mine in zip(steps, spent, strict=True):
            step()
            for _ in range(STEPS):
                began_s = time.thread_time()
                step()
                mine.append(time.thread_time() - began_s)
    return [1e3 * statistics.median(mine) for mine in spent]


def _round(sessions: int, sampling: Sampling) -> Callable[[], object]:
    """A drafter's round of ``sessions`` that take in four rows each."""
    _, drafter = load_drafter_side(TARGET, DRAFTER)
    rows = np.random.default_rng(0).standard_normal((CONTEXT_TOKENS, 256)).astype(np.float16)
    keys = range(sessions)

    def begin() -> None:
        for key in keys:
            drafter.open(key, sampling)
            drafter.append(key, 0, rows)

    def step() -> None:
        if (drafter.cached(0) or 0) >= CONTEXT_TOKENS + 4 * (STEPS + 1):
            begin()  # in a turn's first step, which is not timed
        requests = []
        for key in keys:
            base = drafter.append(key, drafter.cached(key) or 0, rows[:4])
            requests.append(DraftRequest(key=key, anchor=7, base_length=base, max_tokens=7))
        drafter.draft(requests)

    begin()
    return step


def main() -> int:
    """Measure and print."""
    torch.set_num_threads(1)
    lean, plain = (
        kind.load(TARGET, num_pages=32 * PAGES_EACH) for kind in (TargetRunner, HuggingFaceRunner)
    )
    table = Table("sessions x tokens", "Hugging Face's", "as served", "ratio")
    same = True
    batches = [(f"{s} x {t}", _batch(s, t, CONTEXT_TOKENS, 0)) for s, t in SIZES]
    batches.append(("a prompt's 64", _batch(1, 64, 0, 63)))
    for name, batch in batches:
        same &= torch.equal(lean.forward(batch).logits, plain.forward(batch).logits)
        theirs, ours = _in_turns([partial(plain.forward, batch), partial(lean.forward, batch)])
        table.add_row(name, f"{theirs:.2f}", f"{ours:.2f}", f"{ours / theirs:.2f}")
    Console(highlight=False).print(table)
    rounds = Table("sessions drafted", "greedy", "T = 0.8")
    for sessions in ROUNDS:
        figures = _in_turns([_round(sessions, Sampling()),
                             _round(sessions, Sampling(temperature=0.8, seed=3))])  # fmt: skip
        rounds.add_row(str(sessions), *(f"{figure:.2f}" for figure in figures))
    Console(highlight=False).print(rounds)
    print("the logits of both forms are equal, bit for bit" if same else "the logits DIFFER")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
