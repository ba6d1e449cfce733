"""From a generation to vLLM's sampling parameters, or to why it cannot be had from vLLM.

What vLLM would do otherwise than asked, silently, is refused by the parameter's name.
"""

from collections.abc import Mapping
from typing import Any

from dspark.core.generation import Generation
from dspark.core.logits import GrammarKind
from dspark.core.sampling import SamplingMode
from dspark.engines.vllm.wishes import Wishes

_COOLEST = 0.01
"""vLLM raises temperatures below to this one."""


def problem_of(generation: Generation, *, speculates: bool) -> str | None:
    """Say why vLLM cannot serve a generation as asked for, and what can be had, or return None.

    Args:
        generation: What is asked for.
        speculates: Whether the engine was started with speculation, used by this request or not.
    """
    sampling, rules = generation.sampling, generation.rules
    if not sampling.greedy and sampling.mode is SamplingMode.COUPLED:
        return (
            "speculation.mode 'coupled', which a seed asks for where no mode is named, is not "
            "served by a vLLM verifier: name the mode 'rejection' (the same law, no bytes "
            "promised), leave the seed out, or ask for temperature 0"
        )
    if not sampling.greedy and sampling.temperature < _COOLEST:
        return (
            f"temperature {sampling.temperature:g} is taken for {_COOLEST:g} by vLLM: ask for 0, "
            f"or for {_COOLEST:g} and more"
        )
    if speculates and sampling.min_p > 0 and not sampling.greedy:
        return "min_p is ignored by vLLM where it speculates: leave it out, or use top_p"
    if speculates and rules.bias:
        return "logit_bias is ignored by vLLM where it speculates: leave it out"
    if generation.committed:
        # vLLM takes what was committed elsewhere for a part of the prompt.
        counted = {
            "frequency_penalty": rules.frequency_penalty,
            "presence_penalty": rules.presence_penalty,
        }
        for name, value in counted.items():
            if value:
                return f"{name} counts the output alone, and vLLM cannot go on with one of others"
        if rules.grammar is not None:
            return "a grammar is followed from the first token, and vLLM cannot go on in its midst"
    return None


def sampling_values(generation: Generation) -> Mapping[str, Any]:
    """Return the values of ``SamplingParams`` for a generation without a problem.

    The seed is not used: drafts that came or did not come would change what it yields.
    """
    sampling, rules = generation.sampling, generation.rules
    return {
        "temperature": 0.0 if sampling.greedy else sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repetition_penalty": rules.repetition_penalty,
        "frequency_penalty": rules.frequency_penalty,
        "presence_penalty": rules.presence_penalty,
        "logit_bias": dict(rules.bias) or None,
        "max_tokens": generation.max_new_tokens - len(generation.committed),
        "stop_token_ids": sorted(generation.stop_tokens),
        # The gateway says what ends a generation; a grammar is ended by vLLM's own end of text.
        "ignore_eos": rules.grammar is None,
        "logprobs": generation.top_logprobs,
        "detokenize": False,
    }


def grammar_values(generation: Generation) -> Mapping[str, str] | None:
    """Return the values of ``StructuredOutputsParams``; None without a grammar."""
    grammar = generation.rules.grammar
    if grammar is None:
        return None
    return {"json" if grammar.kind is GrammarKind.JSON_SCHEMA else "regex": grammar.text}


def wishes_for(generation: Generation, session: int) -> Wishes:
    """Return what the proposer is told of it."""
    return Wishes(
        session=session,
        speculate=generation.speculate,
        max_draft_tokens=generation.max_draft_tokens,
        priority=generation.priority,
    )
