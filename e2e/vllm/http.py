"""OpenAI's completions over HTTP, of token ids: what vLLM's server and our gateway both speak."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from e2e.vllm.prompts import NUM_TOKENS

_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Api:
    """One server."""

    url: str
    model: str = "dspark-demo"

    def ask(self, prompt: Sequence[int] | str, **body: Any) -> httpx.Response:
        """One greedy completion, unless ``body`` says otherwise."""
        given = prompt if isinstance(prompt, str) else list(prompt)
        asked = {"prompt": given, "temperature": 0, "max_tokens": NUM_TOKENS} | body
        return httpx.post(
            f"{self.url}/v1/completions",
            json={"model": self.model, "return_token_ids": True, **asked},
            timeout=_TIMEOUT_S,
            trust_env=False,
        )

    def complete(self, prompt: Sequence[int] | str, **body: Any) -> dict[str, Any]:
        """The same, which succeeds."""
        answer = self.ask(prompt, **body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def tokens(
        self, prompts: Sequence[Sequence[int]], *, at_once: int, **body: Any
    ) -> list[tuple[int, ...]]:
        """Tokens by prompt, so many requests at a time."""
        with ThreadPoolExecutor(at_once) as pool:
            answers = list(pool.map(lambda prompt: self.complete(prompt, **body), prompts))
        return [tuple(answer["choices"][0]["token_ids"]) for answer in answers]


def metric(address: str, name: str) -> float:
    """Sum of a metric over its labels, from a Prometheus page."""
    page = httpx.get(f"http://{address}/metrics", timeout=_TIMEOUT_S, trust_env=False).text
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in page.splitlines()
        if line.split("{")[0].split(" ")[0] == name
    )
