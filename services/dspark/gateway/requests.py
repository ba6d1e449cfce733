"""OpenAI bodies to generations: limits checked, text to token ids, choices keyed."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from dspark.config.gateway import GatewaySettings
from dspark.core.generation import Generation
from dspark.core.sampling import Sampling, SamplingMode
from dspark.gateway.bodies import ChatBody, CompletionBody, GenerationBody, Message, Speculation
from dspark.gateway.errors import context_too_long, invalid, unknown_model
from dspark.gateway.routed import RoutedGeneration
from dspark.gateway.served_model import ServedModel

OPENAI_COMPLETION_TOKENS = 16
"""OpenAI's default ``max_tokens`` of /v1/completions."""

AFFINITY_TOKENS = 64
"""Prompts that agree in this many first tokens share cache pages worth meeting again."""

_SEED_RANGE = 2**63


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
    """

    request_id: str
    prompts: tuple[tuple[int, ...], ...]
    generations: tuple[RoutedGeneration, ...]
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    continuous_usage: bool
    token_ids: bool

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
    return _job(body, prompts, max_tokens, "prompt", model, settings, ticket)


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
    return _job(body, (prompt,), max_tokens, "messages", model, settings, ticket)


def affinity_key(prompt: Sequence[int]) -> str | None:
    """Return a digest of the prompt's first tokens, or None for a prompt too short to share."""
    if len(prompt) < AFFINITY_TOKENS:
        return None
    head = ",".join(str(token) for token in prompt[:AFFINITY_TOKENS])
    return blake2b(head.encode(), digest_size=8).hexdigest()


def _job(
    body: GenerationBody,
    prompts: tuple[tuple[int, ...], ...],
    max_tokens: int,
    param: str,
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
    speculation = body.speculation or Speculation()
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
            ),
            model=model.name,
            affinity_key=body.prompt_cache_key or affinity_key(prompt),
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
    )


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
