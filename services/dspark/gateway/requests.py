"""OpenAI bodies to generations: limits checked, text to token ids, choices keyed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from dspark.config.gateway import GatewaySettings
from dspark.core.generation import Generation
from dspark.core.logits import MAX_BIASED_TOKENS, Grammar, GrammarKind, LogitRules
from dspark.core.sampling import Sampling, SamplingMode
from dspark.gateway.bodies import (
    ChatBody,
    CompletionBody,
    GenerationBody,
    Message,
    Speculation,
)
from dspark.gateway.errors import context_too_long, invalid, unknown_model, unsupported
from dspark.gateway.routed import RoutedGeneration
from dspark.gateway.served_model import ServedModel

OPENAI_COMPLETION_TOKENS = 16
"""OpenAI's default ``max_tokens`` of /v1/completions."""

AFFINITY_TOKENS = 64
"""Prompts that agree in this many first tokens share cache pages worth meeting again."""

_SEED_RANGE = 2**63

_ANY_OBJECT = '{"type": "object"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One HTTP request, ready to run.

    Attributes:
        request_id: Id in the answer.
        prompts: Token ids by prompt; each has ``choices_per_prompt`` generations.
        generations: By choice index of the answer.
        stop: Stop strings.
        stream: Whether the client wants chunks.
        include_usage: Whether a stream ends with usage and metrics.
        continuous_usage: Whether every chunk carries the usage so far.
        token_ids: Whether choices carry their token ids.
        logprobs: Whether they carry log-probabilities.
    """

    request_id: str
    prompts: tuple[tuple[int, ...], ...]
    generations: tuple[RoutedGeneration, ...]
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    continuous_usage: bool
    token_ids: bool
    logprobs: bool = False

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts; each counts once, whatever n is."""
        return sum(len(prompt) for prompt in self.prompts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What the rim gives a request: its id, a seed for clients that gave none, trace headers."""

    request_id: str
    seed: int
    metadata: tuple[tuple[str, str], ...] = ()


def completion_job(
    body: CompletionBody, model: ServedModel, settings: GatewaySettings, ticket: Ticket
) -> Job:
    """Return the job of a ``/v1/completions`` body.

    Raises:
        ApiError: The body asks for something that cannot be done.
    """
    _check_model(body, model)
    prompts = _prompts(body, model)
    for ids in prompts:
        wrong = next((token for token in ids if not 0 <= token < model.vocab_size), None)
        if wrong is not None:
            raise invalid("prompt", f"token id {wrong} is outside 0..{model.vocab_size - 1}")
    if body.best_of not in (None, body.n or 1):
        raise invalid("best_of", f"best_of {body.best_of} is only supported when it equals n")
    max_tokens = body.max_tokens or OPENAI_COMPLETION_TOKENS
    return _job(body, prompts, max_tokens, "prompt", body.logprobs, model, settings, ticket)


def chat_job(body: ChatBody, model: ServedModel, settings: GatewaySettings, ticket: Ticket) -> Job:
    """Return the job of a ``/v1/chat/completions`` body.

    Raises:
        ApiError: The body asks for something that cannot be done.
    """
    _check_model(body, model)
    try:
        prompt = tuple(model.codec.encode_chat([_plain(message) for message in body.messages]))
    except ValueError as error:
        raise invalid("messages", str(error)) from error
    max_tokens = body.max_completion_tokens or body.max_tokens
    if max_tokens is None:
        room = model.max_context_tokens - len(prompt)
        max_tokens = max(1, min(settings.default_chat_tokens, room))
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid("top_logprobs", "'top_logprobs' is only allowed when 'logprobs' is true")
    logprobs = body.top_logprobs or 0 if body.logprobs else None
    return _job(body, (prompt,), max_tokens, "messages", logprobs, model, settings, ticket)


def affinity_key(prompt: Sequence[int], *, short: bool = False) -> str | None:
    """Return a digest of the prompt's first tokens; None for a short one, unless asked for."""
    if len(prompt) < AFFINITY_TOKENS and not short:
        return None
    head = ",".join(str(token) for token in prompt[:AFFINITY_TOKENS])
    return blake2b(head.encode(), digest_size=8).hexdigest()


def _job(
    body: GenerationBody,
    prompts: tuple[tuple[int, ...], ...],
    max_tokens: int,
    param: str,
    top_logprobs: int | None,
    model: ServedModel,
    settings: GatewaySettings,
    ticket: Ticket,
) -> Job:
    choices = body.n or 1
    if choices * len(prompts) > settings.max_choices:
        asked = f"{choices} choices" + (f" of {len(prompts)} prompts" if len(prompts) > 1 else "")
        raise invalid(
            "n" if choices > settings.max_choices else param,
            f"{asked} in one request; at most {settings.max_choices} are allowed",
        )
    for prompt in prompts:
        if not prompt:
            raise invalid(param, f"'{param}' is empty: at least one token is needed")
        if len(prompt) + max_tokens > model.max_context_tokens:
            raise context_too_long(
                param,
                prompt_tokens=len(prompt),
                max_new_tokens=max_tokens,
                max_context_tokens=model.max_context_tokens,
            )
    options = body.stream_options
    if options is not None and not body.stream:
        raise invalid("stream_options", "'stream_options' is only allowed when 'stream' is true")
    rules = _rules(body, model)
    speculation = body.speculation or Speculation()
    if speculation.trace and not body.stream:
        raise invalid("speculation", "'speculation.trace' is only allowed when 'stream' is true")
    generations = [
        RoutedGeneration(
            generation=Generation(
                request_id=f"{ticket.request_id}-{number * choices + choice}",
                prompt=prompt,
                max_new_tokens=max_tokens,
                sampling=_sampling(body, choice, ticket, settings),
                stop_tokens=frozenset() if body.ignore_eos else model.stop_token_ids,
                speculate=speculation.enabled,
                max_draft_tokens=speculation.max_draft_tokens or 0,
                trace=speculation.trace,
                rules=rules,
                top_logprobs=top_logprobs,
                priority=body.priority or 0,
            ),
            model=model.name,
            # Choices of one prompt share its pages, so they go to one verifier.
            affinity_key=body.prompt_cache_key or affinity_key(prompt, short=choices > 1),
            timeout_s=settings.request_timeout_s,
            metadata=ticket.metadata,
        )
        for number, prompt in enumerate(prompts)
        for choice in range(choices)
    ]
    return Job(
        request_id=ticket.request_id,
        prompts=prompts,
        generations=tuple(generations),
        stop=_stops(body),
        stream=bool(body.stream),
        include_usage=bool(options and options.include_usage),
        continuous_usage=bool(options and options.continuous_usage_stats),
        token_ids=body.return_token_ids,
        logprobs=top_logprobs is not None,
    )


def _rules(body: GenerationBody, model: ServedModel) -> LogitRules:
    grammar = _grammar(body, model)
    return LogitRules(
        bias=_bias(body, model),
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        grammar=grammar,
    )


def _bias(body: GenerationBody, model: ServedModel) -> tuple[tuple[int, float], ...]:
    bias = {}
    for text, value in (body.logit_bias or {}).items():
        token = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
        if not 0 <= token < model.vocab_size:
            raise invalid(
                "logit_bias", f"'{text[:32]}' is not a token id within 0..{model.vocab_size - 1}"
            )
        bias[token] = value
    if len(bias) > MAX_BIASED_TOKENS:
        raise invalid("logit_bias", f"{len(bias)} tokens; at most {MAX_BIASED_TOKENS} are allowed")
    return tuple(sorted(bias.items()))


def _grammar(body: GenerationBody, model: ServedModel) -> Grammar | None:
    """What the output must follow, checked as the verifier will read it."""
    form = body.response_format
    schema = None if form is None else form.json_schema
    if form is not None and (schema is not None) != (form.type == "json_schema"):
        raise invalid(
            "response_format.json_schema",
            "a schema belongs to the type 'json_schema', and only there",
        )
    constrained = form is not None and form.type != "text"
    if not constrained and body.structured_outputs is None:
        return None
    param = "response_format" if constrained else "structured_outputs"
    if constrained and body.structured_outputs is not None:
        raise invalid("structured_outputs", "only one of 'response_format' and this is allowed")
    if body.ignore_eos:
        raise invalid("ignore_eos", f"'{param}' needs the end of text: it ends the output")
    if not model.stop_token_ids:
        raise unsupported(param, "needs a model with an end-of-text token")
    kind, text = GrammarKind.JSON_SCHEMA, _ANY_OBJECT
    if schema is not None:
        text = json.dumps(schema.schema_)
    elif body.structured_outputs is not None:
        kind, text = GrammarKind.REGEX, body.structured_outputs.regex
    try:
        grammar = Grammar(kind=kind, text=text)
        model.grammars.matcher(grammar, model.stop_token_ids)
    except ValueError as error:
        raise invalid(
            param, f"'{param}' cannot be followed: {error}", code="invalid_value"
        ) from None
    return grammar


def _sampling(
    body: GenerationBody, choice: int, ticket: Ticket, settings: GatewaySettings
) -> Sampling:
    mode = (body.speculation or Speculation()).mode
    if mode is None:
        # A seed asks for the same bytes again, which only coupled sampling promises.
        mode = settings.speculation_mode if body.seed is None else "coupled"
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        # Any integer is a seed, a negative one too.
        seed=ticket.seed if body.seed is None else body.seed % _SEED_RANGE,
        choice=choice,
        top_k=max(0, body.top_k or 0),
        top_p=1.0 if body.top_p is None else body.top_p,
        min_p=body.min_p or 0.0,
        mode=SamplingMode(mode),
    )


def _check_model(body: GenerationBody, model: ServedModel) -> None:
    if body.model != model.name:
        raise unknown_model(body.model, model.name)


def _stops(body: GenerationBody) -> tuple[str, ...]:
    if body.stop is None:
        return ()
    return (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)


def _prompts(body: CompletionBody, model: ServedModel) -> tuple[tuple[int, ...], ...]:
    prompt = body.prompt
    if isinstance(prompt, str):
        return (tuple(model.codec.encode(prompt)),)
    if not prompt:
        raise invalid("prompt", "'prompt' is an empty list")
    single = [item for item in prompt if isinstance(item, int)]
    if single:
        return (tuple(single),)
    return tuple(
        tuple(model.codec.encode(item)) if isinstance(item, str) else tuple(item)
        for item in prompt
        if not isinstance(item, int)
    )


def _plain(message: Message) -> dict[str, str]:
    """A message as chat templates know it: one text, and no newer role names."""
    content = message.content or ""
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    return {"role": "system" if message.role == "developer" else message.role, "content": text}
