"""A client of the HTTP API: streams, as the command line needs them."""

import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from dspark.cli.trust import trusted, unverified

_TIMEOUT = httpx.Timeout(10.0, read=300.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One event of a stream.

    Attributes:
        text: New text.
        token_ids: The tokens committed since the last event: those of one verify step.
        metrics: Counts of the whole generation, on the last event only.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    metrics: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Outcome:
    """What one stream brought."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    events: int = 0
    first_s: float | None = None
    last_s: float | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def add(self, chunk: Chunk) -> None:
        """Fold in one event."""
        self.text += chunk.text
        if chunk.token_ids:
            self.token_ids += chunk.token_ids
            self.events += 1
            self.last_s = time.monotonic()
            self.first_s = self.first_s or self.last_s
        if chunk.metrics is not None:
            self.metrics = chunk.metrics

    @property
    def tokens_per_s(self) -> float:
        """Tokens after the first event, by the time that they took."""
        if self.first_s is None or self.last_s is None or self.last_s <= self.first_s:
            return 0.0
        return (len(self.token_ids) - 1) / (self.last_s - self.first_s)

    @property
    def tokens_per_event(self) -> float:
        """What is known of the accepted length while the stream runs."""
        return len(self.token_ids) / self.events if self.events else 0.0

    @property
    def accepted_length(self) -> float | None:
        """Mean tokens of a step that had a draft, or None where none had."""
        counts = self.metrics.get("speculative_decoding") or {}
        if not counts.get("num_spec_steps"):
            return None
        return float(counts["mean_acceptance_length"])


def open_client(url: str, certificate: str | None = None) -> httpx.AsyncClient:
    """Return a client of the server at ``url``; of its certificate see ``trusted``."""
    # Straight to the address: a proxy of the environment has no business here.
    return httpx.AsyncClient(
        base_url=url, verify=trusted(url, certificate), timeout=_TIMEOUT, trust_env=False
    )


async def stream(
    client: httpx.AsyncClient, path: str, body: Mapping[str, Any]
) -> AsyncIterator[Chunk]:
    """Post ``body`` to ``path`` and yield what comes.

    Raises:
        ValueError: The server refused; the message is its own.
        ConnectionError: It cannot be reached, or the stream broke.
    """
    whole = {
        **body,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }
    try:
        async with client.stream("POST", path, json=whole) as response:
            if response.status_code != httpx.codes.OK:
                raise ValueError(_refusal(response.status_code, await response.aread()))
            async for line in response.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield _read(json.loads(line.removeprefix("data: ")))
    except httpx.HTTPError as error:
        said = str(error) or type(error).__name__
        raise ConnectionError(f"{client.base_url}: {said}{unverified(error)}") from error


def _read(event: Mapping[str, Any]) -> Chunk:
    if "error" in event:
        raise ConnectionError(str(event["error"].get("message", event["error"])))
    metrics = event.get("metrics")
    choices = event.get("choices") or [{}]
    choice = choices[0]
    text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
    return Chunk(text=text, token_ids=tuple(choice.get("token_ids") or ()), metrics=metrics)


def _refusal(status: int, content: bytes) -> str:
    try:
        return f"{status}: {json.loads(content)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{status}: {content[:200].decode(errors='replace')}"
