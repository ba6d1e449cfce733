"""Toy pairs behind the real engines: many sessions, each with a seed of its own, and their law.

The law of a session's tokens over the seeds is compared with the enumerated law of the toy
target: 243 outcomes (3 tokens, length 5) or 256 (2 tokens, length 8, so that a block of 7 fits;
4 tokens, length 4).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dspark.core.budget import ALL, OFF
from dspark.core.generation import Generation
from dspark.core.sampling import Sampling, SamplingMode
from dspark.verifier.budget_cell import FixedBudget
from dspark.verifier.rounds import BudgetSource
from tests.fleet_examples import a_curve
from tests.lossless.engines import ChangingBudget, Engines, ask
from tests.lossless.evidence import Evidence, chi_square
from tests.lossless.toy_pair import FORCED, PAGE_TOKENS, ToyPair, ToyTarget, toy_pair
from tests.verifier.harness import Collected

PAIRS = {
    "3 tokens": toy_pair(3, 5, seed=1),
    "4 tokens": toy_pair(4, 4, seed=2),
    "2 tokens": toy_pair(2, 8, seed=3),
}
FEW, MANY = 1000, 2000
"""Sessions of a case in the quick subset, and of a long one."""
TOGETHER = 128
PAGES = TOGETHER * 4
TEMPERATURES = (0.5, 1.0, 1.3)

CURVE = a_curve({tokens: 100 + 0.5 * tokens for tokens in range(1, 1025)}, sessions=(1, TOGETHER))
BUDGETS: Mapping[str, Callable[[], BudgetSource]] = {
    "all": lambda: FixedBudget(ALL),
    "K = 90": lambda: FixedBudget(90),
    "causal": lambda: ChangingBudget([None]),
    "changing": lambda: ChangingBudget([ALL, 40, 0, None, OFF, 90]),
}


def system(
    target: ToyTarget, gamma: int, budget: BudgetSource | None = None, cohorts: int = 1
) -> Engines:
    return Engines(
        target,
        gamma=gamma,
        page_tokens=PAGE_TOKENS,
        num_pages=PAGES,
        budget=budget,
        curve=CURVE,
        max_sessions=TOGETHER,
        cohorts=cohorts,
    )


def sessions(
    pair: ToyPair,
    temperature: float,
    seed: int,
    count: int,
    mode: SamplingMode = SamplingMode.COUPLED,
) -> list[Generation]:
    return [
        ask(
            [0],
            pair.max_new_tokens,
            Sampling(temperature=temperature, seed=seed + index, mode=mode),
        )
        for index in range(count)
    ]


def seeds_of(*case: object) -> int:
    """Seeds of their own for every case, or all cases would be one sample."""
    code = 0
    for character in repr(case):
        code = (code * 131 + ord(character)) % 2**40
    return code << 20


def evidence_of(pair: ToyPair, temperature: float, sinks: Sequence[Collected]) -> Evidence:
    tokens = np.array([sink.tokens for sink in sinks])[:, FORCED:]
    weights = pair.vocab_size ** np.arange(pair.length)[::-1]
    counts = np.bincount(tokens @ weights, minlength=pair.vocab_size**pair.length)
    return chi_square(counts, pair.law(temperature))


def accepted(sinks: Sequence[Collected]) -> int:
    return sum(sink.stats.accepted_draft_tokens for sink in sinks if sink.stats)


def require_drafts(sinks: Sequence[Collected]) -> None:
    assert accepted(sinks) > len(sinks) / 10, "hardly a draft was used: this proves nothing"
