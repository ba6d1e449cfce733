"""OpenAI's JSON: whole answers and chunks, of completions and of chats."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dspark.core.session import FinishReason
from dspark.gateway.logprobs import Json, WrittenLogprobs, chat_logprobs, completion_logprobs
from dspark.gateway.writer import Delta


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenChoice:
    """A complete choice."""

    text: str
    token_ids: tuple[int, ...]
    finish: FinishReason
    logprobs: tuple[WrittenLogprobs, ...] = ()


class Shape(Protocol):
    """One endpoint's JSON; ``operation`` is OpenTelemetry's name of it."""

    @property
    def operation(self) -> str: ...  # noqa: D102

    def answer(self, choices: Sequence[WrittenChoice], usage: Json, metrics: Json) -> Json:
        """Return the whole answer."""
        ...

    def opening(self, index: int) -> Json | None:
        """Return the chunk before a choice's first text, or None."""
        ...

    def chunk(self, index: int, delta: Delta) -> Json:
        """Return a chunk with new text, or the end of a choice."""
        ...

    def closing(self, usage: Json, metrics: Json) -> Json:
        """Return the last chunk: usage and metrics, no choices."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What every object of one answer shares.

    Attributes:
        id: Of the answer.
        created: Unix seconds.
        model: Served name.
        token_ids: Whether choices carry their token ids.
        logprobs: Whether they carry log-probabilities.
    """

    id: str
    created: int
    model: str
    token_ids: bool
    logprobs: bool = False

    def wrap(self, kind: str, choices: list[Json], **extra: object) -> Json:
        """Return an object with this envelope."""
        head: Json = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return head | {"choices": choices} | extra

    def choice(
        self,
        index: int,
        finish: FinishReason | None,
        ids: Sequence[int],
        logprobs: Json | None,
        **content: object,
    ) -> Json:
        """Return one entry of ``choices``."""
        entry: Json = {
            "index": index,
            **content,
            "logprobs": logprobs if self.logprobs and ids else None,
            "finish_reason": None if finish is None else finish.value,
        }
        return entry | {"token_ids": list(ids)} if self.token_ids else entry


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionShape:
    """``/v1/completions``."""

    envelope: Envelope
    operation: str = "text_completion"

    def answer(self, choices: Sequence[WrittenChoice], usage: Json, metrics: Json) -> Json:
        """See Shape."""
        entries = [
            self.envelope.choice(
                index,
                choice.finish,
                choice.token_ids,
                completion_logprobs(choice.logprobs),
                text=choice.text,
            )
            for index, choice in enumerate(choices)
        ]
        return self.envelope.wrap("text_completion", entries, usage=usage, metrics=metrics)

    def opening(self, index: int) -> Json | None:
        """See Shape: a completion begins with its text."""
        return None

    def chunk(self, index: int, delta: Delta) -> Json:
        """See Shape."""
        entry = self.envelope.choice(
            index,
            delta.finish,
            delta.token_ids,
            completion_logprobs(delta.logprobs),
            text=delta.text,
        )
        return self.envelope.wrap("text_completion", [_traced(entry, delta)])

    def closing(self, usage: Json, metrics: Json) -> Json:
        """See Shape."""
        return self.envelope.wrap("text_completion", [], usage=usage, metrics=metrics)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatShape:
    """``/v1/chat/completions``."""

    envelope: Envelope
    operation: str = "chat"

    def answer(self, choices: Sequence[WrittenChoice], usage: Json, metrics: Json) -> Json:
        """See Shape."""
        entries = [
            self.envelope.choice(
                index,
                choice.finish,
                choice.token_ids,
                chat_logprobs(choice.logprobs),
                message={"role": "assistant", "content": choice.text, "refusal": None},
            )
            for index, choice in enumerate(choices)
        ]
        return self.envelope.wrap("chat.completion", entries, usage=usage, metrics=metrics)

    def opening(self, index: int) -> Json | None:
        """See Shape: a chat begins with the role."""
        entry = self.envelope.choice(
            index, None, (), None, delta={"role": "assistant", "content": ""}
        )
        return self.envelope.wrap("chat.completion.chunk", [entry])

    def chunk(self, index: int, delta: Delta) -> Json:
        """See Shape."""
        content: Json = {"content": delta.text} if delta.text else {}
        entry = self.envelope.choice(
            index, delta.finish, delta.token_ids, chat_logprobs(delta.logprobs), delta=content
        )
        return self.envelope.wrap("chat.completion.chunk", [_traced(entry, delta)])

    def closing(self, usage: Json, metrics: Json) -> Json:
        """See Shape."""
        return self.envelope.wrap("chat.completion.chunk", [], usage=usage, metrics=metrics)


def _traced(entry: Json, delta: Delta) -> Json:
    """Add the step to a choice where a trace is wanted."""
    return entry if delta.step is None else entry | {"speculation": delta.step}
