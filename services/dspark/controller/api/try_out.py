"""Trying out: one short request of a person, sent on to the gateway with a trace of its drafts.

The dashboard lies on the controller and the gateway elsewhere.  Sending it on from here needs no
other origin to be opened to browsers, and asks for the same token as everything else.
"""

import json
import ssl
from collections.abc import AsyncGenerator

import httpx

from dspark.config.controller import ControllerSettings
from dspark.controller.api import refusals
from dspark.controller.api.asks import TryOut
from dspark.controller.api.refusals import Refusal
from dspark.rpc.https import known_to_the_system, only_this

MAX_AT_ONCE = 2
_TIMEOUT = httpx.Timeout(30.0, connect=3.0)  # 30 s without a token
_MAX_ERROR_BYTES = 16 * 1024


class Trials:
    """The way to the gateway.

    Args:
        settings: Those of the controller: where the gateway is, and what certificate it has.
    """

    def __init__(self, settings: ControllerSettings) -> None:
        self._settings = settings
        self._url = settings.gateway_url
        self._running = 0

    async def run(self, asked: TryOut, model: str | None) -> AsyncGenerator[bytes, None]:
        """Send a request on; yield nothing once it is taken, then the gateway's events.

        A reader who leaves ends the request there, too.

        Raises:
            Refusal: There is no gateway, it does not answer, or it refuses.
        """
        if self._url is None:
            raise refusals.conflict(
                "this controller knows no gateway", "set controller.gateway_url to its base URL"
            )
        if model is None:
            raise refusals.conflict("no replica is registered yet", "wait until one is ready")
        if self._running >= MAX_AT_ONCE:
            raise Refusal(
                429, "too_many_requests", f"{MAX_AT_ONCE} requests are being tried out already",
                "wait for one to end", headers={"retry-after": "2"},
            )  # fmt: skip
        self._running += 1
        taken = False
        try:
            async with (
                httpx.AsyncClient(
                    base_url=self._url, verify=self._trusted(), timeout=_TIMEOUT, trust_env=False
                ) as client,
                client.stream("POST", "/v1/completions", json=_body(asked, model)) as answer,
            ):
                if answer.status_code != 200:
                    raise await _refused(answer)
                taken = True
                yield b""
                async for chunk in answer.aiter_bytes():
                    yield chunk
        except httpx.HTTPError as error:
            if not taken:
                raise _lost(error) from None
            yield f"\n\ndata: {json.dumps(_lost(error).body())}\n\n".encode()
        finally:
            self._running -= 1

    def _trusted(self) -> ssl.SSLContext | bool:
        """Return whom to believe to be the gateway; files are read each time, so newest."""
        settings = self._settings
        if self._url is None or not self._url.startswith("https:"):
            return True  # nothing to verify
        try:
            if settings.gateway_certificate is not None:
                return only_this(settings.gateway_certificate)
            authority = None if settings.tls is None else settings.tls.authority
            return known_to_the_system(authority=authority)
        except ValueError as error:
            raise Refusal(
                503, "gateway_certificate", str(error), "mend the file, or name another one"
            ) from None


def _body(asked: TryOut, model: str) -> dict[str, object]:
    return {
        "model": model,
        "prompt": asked.prompt,
        "max_tokens": asked.max_tokens,
        "temperature": asked.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
        "speculation": {"trace": True},
    }


async def _refused(answer: httpx.Response) -> Refusal:
    body = b""
    async for chunk in answer.aiter_bytes():
        body = (body + chunk)[:_MAX_ERROR_BYTES]
    try:
        message = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"status {answer.status_code}"
    if answer.status_code == 429:
        return Refusal(429, "overloaded", f"the gateway says: {message}", "try again in a moment")
    if 400 <= answer.status_code < 500:
        return refusals.invalid(f"the gateway says: {message}")
    return Refusal(503, "gateway", f"the gateway says: {message}", "see its log, or /v1/fleet")


def _lost(error: httpx.HTTPError) -> Refusal:
    said = str(error) or type(error).__name__
    return Refusal(
        503, "gateway_lost", f"the gateway does not answer: {said}", "see whether it runs"
    )
