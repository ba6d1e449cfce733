from typing import Any

import pytest

from dspark.core.generation import Generation
from dspark.core.logits import Grammar, GrammarKind, LogitRules
from dspark.core.sampling import Sampling, SamplingMode
from dspark.engines.vllm.params import grammar_values, problem_of, sampling_values, wishes_for
from dspark.engines.vllm.wishes import Wishes

HOT = Sampling(temperature=0.8, mode=SamplingMode.REJECTION)
REGEX = Grammar(kind=GrammarKind.REGEX, text="a+")


def generation(**changes: Any) -> Generation:
    values: dict[str, Any] = {
        "request_id": "r",
        "prompt": (1, 2),
        "max_new_tokens": 9,
        "sampling": Sampling(),
        "stop_tokens": frozenset({5, 3}),
    }
    return Generation(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sampling": Sampling(temperature=0.8)}, "speculation.mode"),
        ({"sampling": Sampling(temperature=1, min_p=0.1, mode=SamplingMode.REJECTION)}, "min_p"),
        (
            {"sampling": Sampling(temperature=0.005, mode=SamplingMode.REJECTION)},
            "temperature 0.005",
        ),
        ({"rules": LogitRules(bias=((3, 1.0),))}, "logit_bias"),
        ({"committed": (7,), "rules": LogitRules(presence_penalty=0.5)}, "presence_penalty"),
        ({"committed": (7,), "rules": LogitRules(frequency_penalty=0.5)}, "frequency_penalty"),
        ({"committed": (7,), "rules": LogitRules(grammar=REGEX)}, "grammar"),
    ],
)
def test_what_vllm_would_do_otherwise_is_refused_by_name(
    changes: dict[str, Any], named: str
) -> None:
    problem = problem_of(generation(**changes), speculates=True)
    assert problem is not None
    assert named in problem


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sampling": HOT},
        {"sampling": Sampling(min_p=0.5)},  # greedy: it is the likeliest token all the same
        {"committed": (7,), "rules": LogitRules(repetition_penalty=1.2)},
        {"rules": LogitRules(presence_penalty=0.5, frequency_penalty=0.5, grammar=REGEX)},
    ],
)
def test_the_rest_is_served(changes: dict[str, Any]) -> None:
    assert problem_of(generation(**changes), speculates=True) is None


def test_an_engine_without_speculation_ignores_nothing() -> None:
    rules = LogitRules(bias=((3, 1.0),))
    sampling = Sampling(temperature=1, min_p=0.1, mode=SamplingMode.REJECTION)
    assert problem_of(generation(rules=rules, sampling=sampling), speculates=False) is None


def test_a_generation_in_vllms_words() -> None:
    rules = LogitRules(repetition_penalty=1.5, bias=((3, 1.0),))
    asked = generation(committed=(8, 9), rules=rules, top_logprobs=2, sampling=HOT)
    values = sampling_values(asked)
    assert values["max_tokens"] == 7
    assert values["temperature"] == 0.8
    assert values["stop_token_ids"] == [3, 5]
    assert values["ignore_eos"]
    assert values["repetition_penalty"] == 1.5
    assert values["logit_bias"] == {3: 1.0}
    assert values["logprobs"] == 2
    assert "seed" not in values
    assert sampling_values(generation())["temperature"] == 0.0
    assert sampling_values(generation())["logit_bias"] is None


def test_a_grammar_is_ended_by_vllm() -> None:
    asked = generation(rules=LogitRules(grammar=REGEX))
    assert grammar_values(asked) == {"regex": "a+"}
    assert not sampling_values(asked)["ignore_eos"]
    schema = Grammar(kind=GrammarKind.JSON_SCHEMA, text="{}")
    assert grammar_values(generation(rules=LogitRules(grammar=schema))) == {"json": "{}"}
    assert grammar_values(generation()) is None


def test_what_the_proposer_is_told() -> None:
    asked = generation(speculate=False, max_draft_tokens=2, priority=4)
    assert wishes_for(asked, 11) == Wishes(
        session=11, speculate=False, max_draft_tokens=2, priority=4
    )
