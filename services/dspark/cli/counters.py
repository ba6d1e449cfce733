"""Counts since a verifier started, from its Prometheus endpoint: reports only tell of now."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from dspark.cli.trust import trusted

_TIMEOUT_S = 1.0
_TOKENS = "vllm:generation_tokens_total"
_DRAFTS = "vllm:spec_decode_num_drafts_total"
_ACCEPTED = "vllm:spec_decode_num_accepted_tokens_total"
_BYTES = "dspark_draft_context_bytes_total"


def since_start(addresses: Iterable[str], certificate: str | None = None) -> dict[str, Any] | None:
    """Return sums over the endpoints that answer; None where none does.

    Args:
        addresses: ``host:port`` of each.
        certificate: File of the certificate that they show over HTTPS; None: plain HTTP.
    """
    scheme = "http" if certificate is None else "https"
    verify = trusted(f"{scheme}:", certificate)
    texts = []
    for address in addresses:
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(
                f"{scheme}://{address}/metrics",
                verify=verify,
                timeout=_TIMEOUT_S,
                trust_env=False,
            ).raise_for_status()
            texts.append(answer.text)
    return summarise(texts) if texts else None


def summarise(expositions: Sequence[str]) -> dict[str, Any]:
    """Return tokens, accepted length and bytes a session round from Prometheus texts."""
    totals = {_TOKENS: 0.0, _DRAFTS: 0.0, _ACCEPTED: 0.0}
    moved: dict[str, float] = {}
    for text in expositions:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in totals:
                    totals[sample.name] += sample.value
                elif sample.name == _BYTES:
                    kind = sample.labels["kind"]
                    moved[kind] = moved.get(kind, 0.0) + sample.value
    rounds = totals[_DRAFTS]
    return {
        "tokens": int(totals[_TOKENS]),
        "session_rounds": int(rounds),
        "accepted_length": round(1 + totals[_ACCEPTED] / rounds, 3) if rounds else None,
        "bytes_per_session_round": per_round(moved, rounds),
    }


def per_round(moved: Mapping[str, float], rounds: float) -> dict[str, float] | None:
    """Return bytes a session round by kind; None without a round."""
    if not rounds:
        return None
    return {kind: round(count / rounds, 1) for kind, count in sorted(moved.items())}
