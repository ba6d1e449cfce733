"""A client of the control API: one answer, or one line that says what to do."""

import getpass
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from dspark.cli.stack.record import require_running
from dspark.cli.trust import trusted, unverified

TOKEN_VARIABLE = "DSPARK_API_TOKEN"
_TIMEOUT = httpx.Timeout(10.0)
_STREAM_TIMEOUT = httpx.Timeout(10.0, read=30.0)  # a heartbeat comes more often


class ControlApi:
    """The control API at a URL; of its certificate see ``trusted``.

    Raises:
        ValueError: From every call: the controller refuses, with its words and its hint.
        ConnectionError: From every call: it does not answer.
    """

    def __init__(self, url: str, certificate: str | None = None) -> None:
        headers = {"x-dspark-author": getpass.getuser()}
        token = os.environ.get(TOKEN_VARIABLE)
        if token:
            headers["authorization"] = f"Bearer {token}"
        self._headers = headers
        self._url = url
        self._certificate = certificate

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        """Read."""
        return self._ask("GET", path, params=params)

    def post(self, path: str, body: Mapping[str, Any], **params: Any) -> dict[str, Any]:
        """Ask for something that needs a body."""
        return self._ask("POST", path, params=params, body=body)

    def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for something to be so."""
        return self._ask("PUT", path, params={}, body=body)

    def delete(self, path: str, **params: Any) -> dict[str, Any]:
        """Take something back."""
        return self._ask("DELETE", path, params=params)

    def change(
        self,
        method: str,
        pool: str,
        *,
        path: str = "",
        body: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> dict[str, Any]:
        """Change a pool's policy as it is now: whoever is faster wins, and the other is told."""
        policy = f"/v1/pools/{pool}/policy"
        version = self.get(policy)["version"]
        headers = {"if-match": f'"{version}"'}
        return self._ask(method, policy + path, params=params, body=body, headers=headers)

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield what happens, until interrupted: {"number", "kind", "pool", "text"}."""
        try:
            with (
                self._client(_STREAM_TIMEOUT) as client,
                client.stream("GET", "/v1/events") as response,
            ):
                if response.status_code != httpx.codes.OK:
                    response.read()
                    raise ValueError(_refusal(response))
                event: dict[str, Any] = {}
                for line in response.iter_lines():
                    field, _, value = line.partition(": ")
                    if field == "id":
                        event["number"] = int(value)
                    elif field == "event":
                        event["kind"] = value
                    elif field == "data":
                        event |= json.loads(value)
                    elif not line and event:
                        yield event
                        event = {}
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any],
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        given = {key: value for key, value in params.items() if value is not None}
        try:
            with self._client(_TIMEOUT) as client:
                answer = client.request(
                    method, path, params=given, json=body, headers=dict(headers or {})
                )
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if answer.status_code != httpx.codes.OK:
            raise ValueError(_refusal(answer))
        found: dict[str, Any] = answer.json()
        return found

    def _client(self, timeout: httpx.Timeout) -> httpx.Client:
        # Straight to the address: a proxy of the environment has no business here.
        return httpx.Client(
            base_url=self._url,
            headers=self._headers,
            verify=trusted(self._url, self._certificate),
            timeout=timeout,
            trust_env=False,
            follow_redirects=True,
        )

    def _unreachable(self, error: httpx.HTTPError) -> ConnectionError:
        said = str(error) or type(error).__name__
        return ConnectionError(
            f"the control API at {self._url} does not answer: {said}{unverified(error)}"
        )


def policies_of(url: str, certificate: str | None = None) -> list[dict[str, Any]] | None:
    """Return what is in force in every verifier pool; None where that is not told to us."""
    api = ControlApi(url, certificate)
    try:
        pools = [pool["name"] for pool in api.get("/v1/fleet")["pools"]
                 if pool["role"] == "verifier"]  # fmt: skip
        return [api.get(f"/v1/pools/{name}/policy") for name in pools]
    except (ValueError, ConnectionError):
        return None


def open_api(url: str | None, state_dir: Path) -> ControlApi:
    """Return the API at ``url``, or of the stack that runs here."""
    if url:
        return ControlApi(url)
    stack = require_running(state_dir)
    return ControlApi(stack.api, stack.certificates.get("api"))


def _refusal(answer: httpx.Response) -> str:
    try:
        error = answer.json()["error"]
        return f"{error['message']}; {error['hint']}"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code}: {answer.text[:200]}"
