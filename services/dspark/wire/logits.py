"""Logit rules and log-probabilities <-> wire."""

from dspark.core.logits import Grammar, GrammarKind, LogitRules, TokenLogprobs
from dspark.wire.v1 import verify_pb2


def rules_to_wire(rules: LogitRules) -> verify_pb2.LogitRules | None:
    """Convert for sending; None where they change nothing."""
    if rules.neutral:
        return None
    message = verify_pb2.LogitRules(
        bias_token_ids=[token for token, _ in rules.bias],
        bias_values=[value for _, value in rules.bias],
        repetition_penalty=rules.repetition_penalty,
        frequency_penalty=rules.frequency_penalty,
        presence_penalty=rules.presence_penalty,
    )
    if rules.grammar is not None:
        setattr(message, rules.grammar.kind.value, rules.grammar.text)
    return message


def rules_from_wire(message: verify_pb2.LogitRules) -> LogitRules:
    """Convert and check; raise ValueError naming the bad value."""
    if len(message.bias_token_ids) != len(message.bias_values):
        raise ValueError(
            f"logit_bias: {len(message.bias_token_ids)} tokens "
            f"with {len(message.bias_values)} values"
        )
    kind = message.WhichOneof("grammar")
    return LogitRules(
        bias=tuple(zip(message.bias_token_ids, message.bias_values, strict=True)),
        repetition_penalty=message.repetition_penalty or 1.0,
        frequency_penalty=message.frequency_penalty,
        presence_penalty=message.presence_penalty,
        grammar=None
        if kind is None
        else Grammar(kind=GrammarKind(kind), text=getattr(message, kind)),
    )


def logprobs_to_wire(logprobs: TokenLogprobs) -> verify_pb2.TokenLogprobs:
    """Convert for sending."""
    return verify_pb2.TokenLogprobs(
        logprob=logprobs.logprob,
        top_token_ids=[token for token, _ in logprobs.top],
        top_logprobs=[value for _, value in logprobs.top],
    )


def logprobs_from_wire(message: verify_pb2.TokenLogprobs) -> TokenLogprobs:
    """Convert."""
    return TokenLogprobs(
        logprob=message.logprob,
        top=tuple(zip(message.top_token_ids, message.top_logprobs, strict=False)),
    )
