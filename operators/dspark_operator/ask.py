"""Asking a running service: its fleet, and one token.  Every question has a deadline."""

import json
import urllib.request

from dspark_operator.fleet import Answer, parse_fleet

_FLEET_TIMEOUT_S = 3.0
_TOKEN_TIMEOUT_S = 20.0
_LONGEST_ANSWER_BYTES = 16 * 1024 * 1024


def ask_fleet(base_url: str) -> Answer:
    """Ask a gateway for the fleet as its controller told it."""
    try:
        body = _exchange(f"{base_url}/dspark/fleet", None, _FLEET_TIMEOUT_S)
        return Answer(fleet=parse_fleet(body))
    except (OSError, ValueError) as error:
        return Answer(problem=f"{base_url}: {error}")


def ask_token(base_url: str, model: str) -> str:
    """Ask for one token; return "" when it came, else what came instead."""
    request = {"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
    try:
        body = _exchange(
            f"{base_url}/v1/completions", json.dumps(request).encode(), _TOKEN_TIMEOUT_S
        )
        choices = json.loads(body).get("choices")
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return "" if choices else "an answer without a choice"


def _exchange(url: str, body: bytes | None, timeout_s: float) -> str:
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        return str(response.read(_LONGEST_ANSWER_BYTES), "utf-8")
