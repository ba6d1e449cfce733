"""Penalties, bias and grammars with speculation: the same tokens, and in rejection the same law.

The demo pair runs through the real engines with its own tokenizer, so that drafts are accepted and
a rule's state really advances along them.  For the law, the toy pair of `test_rejection_engines`
runs with its target's logits penalized, or with tokens forbidden by what came before them.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from dspark.config.model import ModelSettings
from dspark.core.generation import Generation, GenerationStats
from dspark.core.logits import Grammar, GrammarKind, LogitRules, TokenLogprobs
from dspark.core.sampling import Sampling, SamplingMode
from dspark.local.system import Ended, LocalSystem, Speculation
from dspark.model.session_logits import SessionLogits
from dspark.model.target_folder import local_folder
from tests.lossless.conftest import Table
from tests.lossless.evidence import Evidence, chi_square
from tests.lossless.test_rejection_engines import (
    LENGTH,
    PROMPT,
    SESSIONS,
    TARGET,
    ToyDrafter,
    V,
    accepted,
    outputs,
)
from tests.verifier.harness import Collected

TOKENS = 32
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
    folder = local_folder(settings.target, what="target")
    with LocalSystem(settings, Speculation(), num_pages=64) as system:
        yield system, Tokenizer.from_file(str(folder / "tokenizer.json"))


def run(
    demo: tuple[LocalSystem, Tokenizer], rules: LogitRules, sampling: Sampling, way: str
) -> tuple[list[int], tuple[TokenLogprobs, ...], GenerationStats]:
    system, tokenizer = demo
    speculate, most = WAYS[way]
    generation = Generation(
        request_id="r",
        prompt=tuple(tokenizer.encode("x = [0, 0, 0, 0, 0, 0, 0, 0,").ids),
        max_new_tokens=TOKENS,
        sampling=sampling,
        stop_tokens=frozenset(system.eos_token_ids),
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
    system, tokenizer = demo
    sampling = Sampling(temperature=0.8, seed=5, mode=REJECTION)
    tokens, _, stats = run(demo, RULES[name], sampling, "on")
    checker = SessionLogits(
        Generation(
            request_id="r",
            prompt=(1,),
            max_new_tokens=TOKENS + 1,
            sampling=sampling,
            stop_tokens=frozenset(system.eos_token_ids),
            rules=RULES[name],
            committed=tuple(tokens),
        ),
        tokenizer.get_vocab_size(),
        system._target._grammars,
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
        "repetition",
        pytest.param("frequency", marks=pytest.mark.long),
        pytest.param("presence", marks=pytest.mark.long),
    ],
)
def test_control_rules_that_do_not_advance_along_the_draft_are_seen(
    name: str,
    demo: tuple[LocalSystem, Tokenizer],
    table: Table,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = run(demo, RULES[name], Sampling(), "off")[0]
    monkeypatch.setattr(SessionLogits, "process", stale(SessionLogits.process))
    assert run(demo, RULES[name], Sampling(), "off")[0] == plain
    assert run(demo, RULES[name], Sampling(), "on")[0] != plain
    table.exact(1, "exact: 1 stream differs")


# --- the law, judged by rejection ---------------------------------------------------------------

PENALTIES = LogitRules(repetition_penalty=1.5, frequency_penalty=1.0, presence_penalty=0.5)


Change = Callable[[NDArray[np.float64], tuple[int, ...]], None]


def law(change: Change) -> NDArray[np.float64]:
    """The joint law of all outputs, where ``change`` treats the logits after each prefix."""
    joint = np.ones((V,) * LENGTH)
    for output in itertools.product(range(V), repeat=LENGTH):
        tokens = (*PROMPT, *output)
        for index, token in enumerate(output):
            logits = TARGET[tokens[index], tokens[index + 1]].double().numpy().copy()
            change(logits, output[:index])
            weights = np.exp(logits - logits.max())
            joint[output] *= weights[token] / weights.sum()
    return joint


def penalized(logits: NDArray[np.float64], output: tuple[int, ...]) -> None:
    for token in range(V):
        if token in (*PROMPT, *output):
            logits[token] *= 1 / 1.5 if logits[token] > 0 else 1.5
        logits[token] -= 1.0 * output.count(token) + 0.5 * (token in output)


class NoDoubles:
    """A grammar small enough to enumerate: no token comes twice in a row."""

    failure = None

    def __init__(self, generation: Generation) -> None:
        self._last = generation.prompt[-1]

    def useful_drafts(self, drafts: Sequence[int], *, judged_by_rejection: bool) -> int:
        for index, (before, token) in enumerate(itertools.pairwise((self._last, *drafts))):
            if before == token:
                return index + judged_by_rejection
        return len(drafts)

    def process(self, logits: NDArray[np.float32], drafts: Sequence[int]) -> NDArray[np.float32]:
        masked = logits.copy()
        masked[range(len(logits)), (self._last, *drafts)] = -np.inf
        return masked

    def commit(self, tokens: Sequence[int]) -> tuple[TokenLogprobs, ...]:
        self._last = tokens[-1]
        return ()


class CutsTheForbiddenDraft(NoDoubles):
    """Wrong on purpose: leaves out the draft that is certain to be refused, and samples p there."""

    def useful_drafts(self, drafts: Sequence[int], *, judged_by_rejection: bool) -> int:
        return super().useful_drafts(drafts, judged_by_rejection=False)


def no_doubles(logits: NDArray[np.float64], output: tuple[int, ...]) -> None:
    logits[(*PROMPT, *output)[-1]] = -np.inf


def compared(sinks: Sequence[Collected], change: Change) -> Evidence:
    counts = np.zeros((V,) * LENGTH, dtype=np.int64)
    for sink in sinks:
        counts[tuple(sink.tokens)] += 1
    return chi_square(counts, law(change))


def test_penalties_keep_the_law_judged_by_rejection(table: Table) -> None:
    sinks = outputs(ToyDrafter(3), rules=PENALTIES)
    assert accepted(sinks) > SESSIONS / 4
    table.holds(compared(sinks, penalized))


@pytest.mark.long
def test_a_grammar_keeps_the_law_judged_by_rejection(table: Table) -> None:
    sinks = outputs(ToyDrafter(3), rules=PENALTIES, make_processor=NoDoubles)
    assert accepted(sinks) > SESSIONS / 8
    table.holds(compared(sinks, no_doubles))


def test_control_penalties_of_the_committed_tokens_alone_bend_the_law(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SessionLogits, "process", stale(SessionLogits.process))
    table.fails(compared(outputs(ToyDrafter(3), rules=PENALTIES), penalized))


@pytest.mark.long
def test_control_leaving_out_the_forbidden_draft_bends_the_law(table: Table) -> None:
    wrong = outputs(ToyDrafter(3), rules=PENALTIES, make_processor=CutsTheForbiddenDraft)
    table.fails(compared(wrong, no_doubles))
