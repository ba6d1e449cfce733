"""Request bodies: their fields, their ranges, and nothing silently ignored.

Three kinds of fields: those served; those that only describe the request and change nothing;
and those that would change the output but are not supported, which are refused unless they ask
for what happens anyway.  A field of none of these kinds is an error.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from dspark.core.logits import MAX_TOP_LOGPROBS

NEUTRAL: dict[str, tuple[object, ...]] = {
    "audio": (None,),
    "echo": (None, False),
    "function_call": (None, "none"),
    "functions": (None, []),
    "modalities": (None, ["text"]),
    "moderation": (None,),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
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
    trace: bool = False
    """Streams only: every chunk of a choice shows its step's draft and what became of it."""


class JsonSchema(Body):
    """A schema with its name."""

    name: str | None = None
    """Accepted; changes nothing."""
    description: str | None = None
    """Accepted; changes nothing."""
    schema_: dict[str, JsonValue] = Field(alias="schema")
    """The JSON schema."""
    strict: bool | None = None
    """Accepted; the schema is followed in any case."""


class ResponseFormat(Body):
    """``response_format``."""

    type: Literal["text", "json_object", "json_schema"]
    """Any text, any JSON object, or JSON that fits a schema."""
    json_schema: JsonSchema | None = None
    """The schema, with that type."""


class StructuredOutputs(Body):
    """vLLM's extension for what ``response_format`` cannot say."""

    regex: str = Field(min_length=1)
    """The whole output matches it; no look-around, no back-references."""


Penalty = Annotated[float, Field(ge=-2.0, le=2.0)]


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
    presence_penalty: Penalty | None = None
    """Taken off the logit of every token that the output has."""
    frequency_penalty: Penalty | None = None
    """Taken off once for each time that the output has the token."""
    repetition_penalty: float | None = Field(default=None, ge=0.1, le=10.0)
    """vLLM's and Hugging Face's: shrinks logits of tokens in prompt or output; 1 for none."""
    logit_bias: dict[str, Annotated[float, Field(ge=-100.0, le=100.0)]] | None = None
    """Token id (written as a string) to what is added to its logit."""
    response_format: ResponseFormat | None = None
    """What the output must be."""
    structured_outputs: StructuredOutputs | None = None
    """vLLM's: the same, by a regular expression."""
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
    priority: int | None = Field(default=None, ge=-(2**31), lt=2**31)
    """vLLM's: of requests that wait, the lowest goes first; a budget may weigh it, too."""

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
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    """Send log-probabilities, each token's own and this many alternatives."""


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
    logprobs: bool | None = None
    """Send each token's log-probability."""
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    """And this many alternatives; only with ``logprobs``."""
