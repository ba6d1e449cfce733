import math

import pytest

from dspark.core.generation import Generation
from dspark.core.logits import Grammar, GrammarKind, LogitRules
from dspark.core.sampling import Sampling

REGEX = Grammar(kind=GrammarKind.REGEX, text="a+")


def generation(**more: object) -> Generation:
    return Generation(
        request_id="r",
        prompt=(1,),
        max_new_tokens=4,
        sampling=Sampling(),
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("rules", "name"),
    [
        ({"bias": ((3, 101.0),)}, "logit_bias 101.0 of token 3"),
        ({"bias": ((3, math.nan),)}, "logit_bias nan"),
        ({"bias": ((-1, 1.0),)}, "token -1 is negative"),
        ({"bias": ((3, 1.0), (3, 2.0))}, "names a token twice"),
        ({"bias": tuple((token, 1.0) for token in range(1025))}, "1025 tokens; at most 1024"),
        ({"repetition_penalty": 0.0}, "repetition_penalty 0.0"),
        ({"repetition_penalty": math.inf}, "repetition_penalty inf"),
        ({"frequency_penalty": 2.1}, "frequency_penalty 2.1"),
        ({"presence_penalty": math.nan}, "presence_penalty nan"),
    ],
)
def test_bad_rules_are_refused_with_their_value(rules: dict[str, object], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        LogitRules(**rules)  # type: ignore[arg-type]


def test_a_grammar_has_a_bound() -> None:
    with pytest.raises(ValueError, match="a regex of 300000 characters"):
        Grammar(kind=GrammarKind.REGEX, text="a" * 300_000)


def test_rules_that_change_nothing_are_neutral() -> None:
    assert LogitRules().neutral
    assert not LogitRules(bias=((1, 0.5),)).neutral
    assert not LogitRules(presence_penalty=-0.5).neutral
    assert not LogitRules(grammar=REGEX).neutral


def test_only_what_touches_logits_wants_a_processor() -> None:
    assert not generation().wants_processor
    assert generation(top_logprobs=0).wants_processor
    assert generation(rules=LogitRules(frequency_penalty=1.0)).wants_processor


def test_a_generation_checks_what_belongs_together() -> None:
    with pytest.raises(ValueError, match=r"top_logprobs 21 is outside 0\.\.20"):
        generation(top_logprobs=21)
    with pytest.raises(ValueError, match="a grammar needs stop tokens"):
        generation(rules=LogitRules(grammar=REGEX))
