"""Request bodies: their fields, their ranges, and nothing silently ignored.

Three kinds of fields: those served; those that only describe the request and change nothing;
and those that would change the output but are not supported, which are refused unless they ask
for what happens anyway.  A field of none of these kinds is an error.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

NEUTRAL: dict[str, tuple[object, ...]] = {
    "audio": (None,),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "moderation": (None,),
    "prediction": (None,),
    "presence_penalty": (None, 0),
    "reasoning_effort": (None,),
    "repetition_penalty": (None, 1),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "verbosity": (None,),
    "web_search_options": (None,),
}
"""Unsupported fields, each with the values that ask for nothing."""


class Body(BaseModel):
    """What all bodies share: exact JSON types, and unknown fields are errors."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True
    )


class StreamOptions(Body):
    """``stream_options``."""

    include_usage: bool | None = None
    """Send one more chunk, with the usage and the metrics."""
    continuous_usage_stats: bool | None = None
    """vLLM's: the usage so far in every chunk."""
    include_obfuscation: bool | None = None
    """Accepted, no padding is sent."""


class Speculation(Body):
    """Our extension: never changes the law of the output, and with ``coupled`` not a byte of it."""

    enabled: bool = True
    """Whether to draft at all."""
    max_draft_tokens: int | None = Field(default=None, ge=1, le=1024)
    """Draft at most this many tokens a step; null for the whole block."""
    mode: Literal["coupled", "rejection"] | None = None
    """How drafts are judged; null for coupled where there is a seed, else as deployed."""


class GenerationBody(Body):
    """Fields that both endpoints share."""

    unsupported: ClassVar[dict[str, tuple[object, ...]]] = NEUTRAL

    model: str
    """Name of the served model."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Most tokens to generate."""
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    """0 for greedy; null for 1."""
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    """Keep the likeliest tokens with at least this mass."""
    top_k: int | None = Field(default=None, ge=-1, le=2**31 - 1)
    """Keep the k likeliest tokens; 0 and -1 for no limit."""
    min_p: float | None = Field(default=None, ge=0.0, le=1.0)
    """Keep tokens with at least this share of the likeliest one's probability."""
    stop: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=1024)]], Field(max_length=4)]
        | None
    ) = None
    """Up to four strings before which the text ends."""
    seed: int | None = None
    """Equal seeds give equal output; null draws one."""
    n: int | None = Field(default=None, ge=1)
    """How many choices."""
    stream: bool | None = None
    """Send the text as it is made."""
    stream_options: StreamOptions | None = None
    """Only with ``stream``."""
    ignore_eos: bool = False
    """Go on after the end of text, up to ``max_tokens``."""
    return_token_ids: bool = False
    """vLLM's: send ``token_ids`` with every choice."""
    speculation: Speculation | None = None
    """How drafting is used."""

    user: str | None = None
    """Accepted; changes nothing."""
    safety_identifier: str | None = None
    """Accepted; changes nothing."""
    prompt_cache_key: str | None = None
    """Requests with equal keys are sent to the same verifier while it is not overloaded."""
    prompt_cache_retention: str | None = None
    """Accepted; changes nothing."""
    service_tier: str | None = None
    """Accepted; changes nothing."""
    store: bool | None = None
    """Accepted; nothing is stored."""
    metadata: dict[str, str] | None = None
    """Accepted; changes nothing."""
    parallel_tool_calls: bool | None = None
    """Accepted; there are no tool calls."""


class CompletionBody(GenerationBody):
    """Body of ``/v1/completions``."""

    prompt: str | list[int] | list[str] | list[list[int]]
    """Text, token ids, or several of either."""
    best_of: int | None = Field(default=None, ge=1)
    """Accepted when it equals ``n``."""


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    """Only text is understood."""
    text: str
    """The text."""


class Message(Body):
    """One message of a conversation."""

    unsupported: ClassVar[dict[str, tuple[object, ...]]] = {
        "annotations": (None, []),
        "audio": (None,),
        "function_call": (None,),
        "refusal": (None,),
        "tool_call_id": (None,),
        "tool_calls": (None, []),
    }

    role: Literal["system", "developer", "user", "assistant"]
    """Who speaks."""
    content: str | list[TextPart] | None = None
    """Text, or parts of text."""
    name: str | None = None
    """Accepted; templates seldom use it."""


class ChatBody(GenerationBody):
    """Body of ``/v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)
    """The conversation so far."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """The newer name of ``max_tokens``."""
