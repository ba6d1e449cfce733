"""Penalties, bias and grammars with speculation: the same tokens, and in rejection the same law.

The demo pair runs through the real engines with its own tokenizer, so that drafts are accepted and
a rule's state really advances along them.  For the law, a toy pair runs with its target's logits
penalized, or with tokens forbidden by what came before them.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from dspark.config.model import ModelSettings
from dspark.core.generation import Generation, GenerationStats
from dspark.core.logits import Grammar, GrammarKind, LogitRules, TokenLogprobs
from dspark.core.sampling import Sampling, SamplingMode
from dspark.gateway.served_model import load_served_model
from dspark.local.system import Ended, LocalSystem, Speculation
from dspark.model.grammar import Grammars
from dspark.model.session_logits import SessionLogits
from dspark.model.target_folder import local_folder
from tests.lossless.conftest import Table
from tests.lossless.engines import run as run_engines
from tests.lossless.evidence import Evidence, chi_square
from tests.lossless.test_rejection_engines import DrawingDrafter
from tests.lossless.toy_pair import FORCED, MakeProcessor, ToyTarget
from tests.lossless.toy_system import FEW, PAGES, PAIRS, require_drafts, sessions, system

MODEL = ModelSettings()
FOLDER = local_folder(MODEL.target, what="target")
STOPS = load_served_model(MODEL.name, MODEL.target).stop_token_ids
TOKENS = 32
PROMPTS = (
    "x = [0, 0, 0, 0, 0, 0, 0, 0,",
    "for i in range(10):\n    print(i, i, i, i)\n",
    "a = a + a + a + a",
    "the list of the list of the list",
)
REJECTION = SamplingMode.REJECTION
SCHEMA = (
    '{"type": "object", "properties": {"name": {"type": "string", "maxLength": 8},'
    ' "size": {"type": "integer"}}, "required": ["name", "size"], "additionalProperties": false}'
)
# Rewards rather than penalties where those would seldom show within one block of drafts.
RULES = {
    "bias": LogitRules(bias=((67, -100.0), (205, -2.0), (227, 2.5))),
    "repetition": LogitRules(repetition_penalty=1.1),
    "frequency": LogitRules(frequency_penalty=-1.0),
    "presence": LogitRules(presence_penalty=-1.0),
    "json": LogitRules(grammar=Grammar(kind=GrammarKind.JSON_SCHEMA, text=SCHEMA)),
    "regex": LogitRules(
        grammar=Grammar(kind=GrammarKind.REGEX, text=r"    (for|if) [a-z_ ()]+:\n.*")
    ),
    "none": LogitRules(),  # log-probabilities alone
}
WAYS = {"off": (False, 0), "on": (True, 0), "capped": (True, 2)}


@pytest.fixture(scope="module")
def demo() -> Iterator[tuple[LocalSystem, Tokenizer]]:
    settings = ModelSettings(min_accepted_length=None)
    with LocalSystem(settings, Speculation(), num_pages=64) as system:
        yield system, Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def run(
    demo: tuple[LocalSystem, Tokenizer],
    rules: LogitRules,
    sampling: Sampling,
    way: str,
    prompt: str = PROMPTS[0],
) -> tuple[list[int], tuple[TokenLogprobs, ...], GenerationStats]:
    system, tokenizer = demo
    speculate, most = WAYS[way]
    generation = Generation(
        request_id="r",
        prompt=tuple(tokenizer.encode(prompt).ids),
        max_new_tokens=TOKENS,
        sampling=sampling,
        stop_tokens=STOPS,
        speculate=speculate,
        max_draft_tokens=most,
        rules=rules,
        top_logprobs=3,
    )
    tokens: list[int] = []
    for event in system.stream(generation):
        if isinstance(event, Ended):
            return tokens, event.logprobs, event.stats
        tokens.extend(event)
    raise AssertionError("no end")


@pytest.mark.parametrize(
    "name",
    [
        name if name == "repetition" else pytest.param(name, marks=pytest.mark.long)
        for name in RULES
    ],
)
def test_rules_give_the_same_tokens_with_speculation_on_off_and_capped(
    name: str, demo: tuple[LocalSystem, Tokenizer], table: Table
) -> None:
    accepted_drafts = 0
    for sampling in (Sampling(), Sampling(temperature=0.7, seed=3, top_p=0.95)):
        plain = run(demo, RULES[name], sampling, "off")
        assert len(plain[1]) == len(plain[0])
        for way in ("on", "capped"):
            tokens, logprobs, stats = run(demo, RULES[name], sampling, way)
            assert tokens == plain[0]
            assert logprobs == plain[1]  # to the last bit
            accepted_drafts += stats.accepted_draft_tokens
        if name != "none" and sampling.greedy:  # the rules do something
            assert plain[0] != run(demo, RULES["none"], sampling, "off")[0]
    assert accepted_drafts > 0
    table.exact(4, "exact: 0 streams differ")


@pytest.mark.long
@pytest.mark.parametrize("name", ["json", "regex"])
def test_grammars_are_followed_where_drafts_are_judged_by_rejection(
    name: str, demo: tuple[LocalSystem, Tokenizer]
) -> None:
    _, tokenizer = demo
    sampling = Sampling(temperature=0.8, seed=5, mode=REJECTION)
    tokens, _, stats = run(demo, RULES[name], sampling, "on")
    checker = SessionLogits(
        Generation(
            request_id="r",
            prompt=(1,),
            max_new_tokens=TOKENS + 1,
            sampling=sampling,
            stop_tokens=STOPS,
            rules=RULES[name],
            committed=tuple(tokens),
        ),
        tokenizer.get_vocab_size(),
        Grammars.of_folder(FOLDER, tokenizer.get_vocab_size()),
    )
    assert checker.failure is None
    assert stats.drafted_steps > 0


def stale(process: Callable[..., NDArray[np.float32]]) -> Callable[..., NDArray[np.float32]]:
    """Wrong on purpose: every row is processed as if nothing had been drafted before it."""

    def processed(
        self: SessionLogits, logits: NDArray[np.float32], drafts: Sequence[int]
    ) -> NDArray[np.float32]:
        rows = [process(self, row[None], ()) for row in logits]
        return np.concatenate(rows)

    return processed


@pytest.mark.parametrize(
    "name",
    [
        # A repetition penalty seldom shows within one block; its law is controlled below.
        "frequency",
        pytest.param("presence", marks=pytest.mark.long),
    ],
)
def test_control_rules_that_do_not_advance_along_the_draft_are_seen(
    name: str,
    demo: tuple[LocalSystem, Tokenizer],
    table: Table,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = [run(demo, RULES[name], Sampling(), "off", prompt)[0] for prompt in PROMPTS]
    monkeypatch.setattr(SessionLogits, "process", stale(SessionLogits.process))
    assert run(demo, RULES[name], Sampling(), "off")[0] == plain[0]
    differ = sum(
        run(demo, RULES[name], Sampling(), "on", prompt)[0] != tokens
        for prompt, tokens in zip(PROMPTS, plain, strict=True)
    )
    assert differ
    table.exact(len(PROMPTS), f"exact: {differ} streams differ")


# --- the law, judged by rejection ---------------------------------------------------------------

PENALTIES = LogitRules(repetition_penalty=1.5, frequency_penalty=1.0, presence_penalty=0.5)


PAIR = PAIRS["3 tokens"]
V = PAIR.vocab_size

Change = Callable[[NDArray[np.float64], tuple[int, ...]], None]


def law(change: Change) -> NDArray[np.float64]:
    """The joint law of the free tokens, where ``change`` treats the logits after each prefix."""
    joint = np.ones((V,) * PAIR.length)
    for free in itertools.product(range(V), repeat=PAIR.length):
        tokens = (0,) * (1 + FORCED) + free
        for position in range(1 + FORCED, len(tokens)):
            context = (position, tokens[position - 2], tokens[position - 1])
            logits = PAIR.target[context].astype(np.float64)
            change(logits, tokens[1:position])
            weights = np.exp(logits - logits.max())
            joint[free] *= weights[tokens[position]] / weights.sum()
    return joint


def penalized(logits: NDArray[np.float64], output: tuple[int, ...]) -> None:
    for token in range(V):
        if token in (0, *output):  # the prompt's token too
            logits[token] *= 1 / 1.5 if logits[token] > 0 else 1.5
        logits[token] -= 1.0 * output.count(token) + 0.5 * (token in output)


class NoDoubles:
    """A grammar small enough to enumerate: no free token repeats the one before it."""

    failure = None

    def __init__(self, generation: Generation) -> None:
        self._last = generation.prompt[-1]
        self._count = 0

    def useful_drafts(self, drafts: Sequence[int], *, judged_by_rejection: bool) -> int:
        for index, (before, token) in enumerate(itertools.pairwise((self._last, *drafts))):
            if self._count + index >= FORCED and before == token:
                return index + judged_by_rejection
        return len(drafts)

    def process(self, logits: NDArray[np.float32], drafts: Sequence[int]) -> NDArray[np.float32]:
        masked = logits.copy()
        for row, before in enumerate((self._last, *drafts)):
            if self._count + row >= FORCED:
                masked[row, before] = -np.inf
        return masked

    def commit(self, tokens: Sequence[int]) -> tuple[TokenLogprobs, ...]:
        self._last = tokens[-1]
        self._count += len(tokens)
        return ()


class CutsTheForbiddenDraft(NoDoubles):
    """Wrong on purpose: leaves out the draft that is certain to be refused, and samples p there."""

    def useful_drafts(self, drafts: Sequence[int], *, judged_by_rejection: bool) -> int:
        return super().useful_drafts(drafts, judged_by_rejection=False)


def no_doubles(logits: NDArray[np.float64], output: tuple[int, ...]) -> None:
    logits[output[-1]] = -np.inf


def compared(change: Change, *, seed: int, make_processor: MakeProcessor | None = None) -> Evidence:
    """The law of sessions with penalties (or what ``make_processor`` makes of them)."""
    asked = [
        replace(generation, rules=PENALTIES)
        for generation in sessions(PAIR, 1.0, seed << 20, FEW, REJECTION)
    ]
    engines = system(ToyTarget(PAIR, PAGES, make_processor), 3)
    sinks = run_engines(engines, {"d": DrawingDrafter(PAIR, 3)}, asked)
    require_drafts(sinks)
    tokens = np.array([sink.tokens for sink in sinks])[:, FORCED:]
    counts = np.zeros((V,) * PAIR.length, dtype=np.int64)
    np.add.at(counts, tuple(tokens.T), 1)
    return chi_square(counts.ravel(), law(change).ravel())


def test_penalties_keep_the_law_judged_by_rejection(table: Table) -> None:
    table.holds(compared(penalized, seed=11))


@pytest.mark.long
def test_a_grammar_keeps_the_law_judged_by_rejection(table: Table) -> None:
    table.holds(compared(no_doubles, seed=12, make_processor=NoDoubles))


def test_control_penalties_of_the_committed_tokens_alone_bend_the_law(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SessionLogits, "process", stale(SessionLogits.process))
    table.fails(compared(penalized, seed=13))


@pytest.mark.long
def test_control_leaving_out_the_forbidden_draft_bends_the_law(table: Table) -> None:
    table.fails(compared(no_doubles, seed=14, make_processor=CutsTheForbiddenDraft))
