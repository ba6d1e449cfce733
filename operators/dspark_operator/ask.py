"""Asking a gateway: what it can route to, and one token.  Every question has a deadline."""

import json
import urllib.request

from dspark_operator.fleet import Answer, parse_routes
from dspark_operator.trust import Trust

_FLEET_TIMEOUT_S = 3.0
_TOKEN_TIMEOUT_S = 20.0
_LONGEST_ANSWER_BYTES = 16 * 1024 * 1024


def ask_routes(base_url: str, trust: Trust) -> Answer:
    """Ask a gateway what it can route to."""
    try:
        body = _exchange(f"{base_url}/dspark/fleet", None, _FLEET_TIMEOUT_S, trust)
        return Answer(fleet=parse_routes(body))
    except (OSError, ValueError) as error:
        return Answer(problem=f"{base_url}: {error}")


def ask_token(base_url: str, model: str, trust: Trust) -> str:
    """Ask for one token; return "" when it came, else what came instead."""
    request = {"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
    try:
        body = _exchange(
            f"{base_url}/v1/completions", json.dumps(request).encode(), _TOKEN_TIMEOUT_S, trust
        )
        choices = json.loads(body).get("choices")
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return "" if choices else "an answer without a choice"


def _exchange(url: str, body: bytes | None, timeout_s: float, trust: Trust) -> str:
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, data=body, headers=headers)
    with trust.open(request, timeout_s) as response:
        return str(response.read(_LONGEST_ANSWER_BYTES), "utf-8")
