"""The control API of a service's controller, as far as the operator uses it.

Every call has a deadline.  Of several controllers the one that leads is looked for.
"""

import json
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from dspark.core.policy import Mode, Policy
from dspark_operator.document import Json, Object, at, items, number, part, text
from dspark_operator.fleet import Answer, read_fleet
from dspark_operator.sizing import Wished
from dspark_operator.trust import NOBODY, Trust
from dspark_operator.verification import Held, Layer, Wish

_TIMEOUT_S = 3.0
_LONGEST_ANSWER_BYTES = 1024 * 1024
_GONE = "its VerificationPolicy is gone"


class ControlError(Exception):
    """The control API does not do what was asked; the message says why.

    Attributes:
        unreachable: It did not answer at all.
    """

    unreachable = False


class Unreachable(ControlError):
    """Nobody answered."""

    unreachable = True


class LostRace(ControlError):
    """Somebody changed the policy since it was read."""


def addresses(url: str) -> Iterator[str]:
    """Yield the URL once for each address that its host has.

    Raises:
        Unreachable: It has none.
    """
    parts = urllib.parse.urlsplit(url)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unreachable(f"{url}: {error}") from None
    for address in dict.fromkeys(str(entry[4][0]) for entry in found):
        host = f"[{address}]" if ":" in address else address
        yield parts._replace(netloc=f"{host}:{parts.port}").geturl()


@dataclass(slots=True, kw_only=True)
class ControlApi:
    """One service's control API.

    Attributes:
        url: Base URL; a name with several addresses is several controllers.
        token: Opens it.
        trust: Whom to believe to be it.
        resolve: Yields the URLs behind ``url``.
    """

    url: str
    token: str = field(repr=False)
    trust: Trust = NOBODY
    resolve: Callable[[str], Iterable[str]] = addresses
    _leader: str | None = None

    def fleet(self) -> Answer:
        """Return every unit as the controller sees it, or why it cannot be asked."""
        try:
            return Answer(fleet=read_fleet(self._ask("GET", "/v1/fleet")))
        except ControlError as error:
            return Answer(problem=str(error))

    def policy(self, unit: str) -> Held:
        """Return what the controller holds for a unit.

        Raises:
            ControlError: It cannot be asked, or does not know the unit yet.
        """
        return held_from(self._ask("GET", _path(unit)))

    def set(self, unit: str, wish: Wish, version: int) -> None:
        """Put a policy in force until somebody changes it.

        Raises:
            LostRace: The policy is not at ``version`` any more.
            ControlError: It is refused, or cannot be asked for.
        """
        body: Object = {"policy": _shape(wish.policy), "reason": wish.reason}
        self._ask("PUT", _path(unit), body=body, version=version)

    def clear(self, unit: str, version: int) -> None:
        """Return to the default policy.

        Raises:
            LostRace: The policy is not at ``version`` any more.
            ControlError: It is refused, or cannot be asked for.
        """
        query = urllib.parse.urlencode({"reason": _GONE})
        self._ask("DELETE", f"{_path(unit)}?{query}", version=version)

    def undo(self, unit: str, change: int, version: int) -> None:
        """Return to the policies before a change.

        Raises:
            LostRace: The policy is not at ``version`` any more.
            ControlError: It is refused, or cannot be asked for.
        """
        body: Object = {"change": change, "reason": _GONE}
        self._ask("POST", f"{_path(unit)}/rollback", body=body, version=version)

    def canaries(self, unit: str) -> int:
        """Return how many replicas follow the canary's policy.

        Raises:
            ControlError: It cannot be asked.
        """
        budget = self._ask("GET", f"{_unit(unit)}/budget")
        named = [at(kind, "canaries") for kind in items(budget, "classes")]
        return sum(len(names) for names in named if isinstance(names, list))

    def wished(self, unit: str) -> Wished:
        """Return how many replicas somebody asked for.

        Raises:
            ControlError: It cannot be asked, or does not know the unit yet.
        """
        state = self._ask("GET", f"{_unit(unit)}/replicas")
        return Wished(replicas=number(state, "asked"), author=text(state, "author"))

    def wish(self, unit: str, replicas: int, reason: str) -> None:
        """Ask for a number of replicas.

        Raises:
            ControlError: It is refused, or cannot be asked for.
        """
        body: Object = {"replicas": replicas, "reason": reason}
        self._ask("PUT", f"{_unit(unit)}/replicas", body=body)

    def release(self, unit: str, reason: str) -> None:
        """Take back what was asked.

        Raises:
            ControlError: It is refused, or cannot be asked for.
        """
        query = urllib.parse.urlencode({"reason": reason})
        self._ask("DELETE", f"{_unit(unit)}/replicas?{query}")

    def _ask(
        self, method: str, path: str, *, body: Json = None, version: int | None = None
    ) -> Object:
        if self._leader is None:
            self._leader = self._find_leader()
        return self._exchange(self._leader, method, path, body=body, version=version)

    def _find_leader(self) -> str:
        """Return the URL of the controller that leads: only it answers for the whole fleet."""
        found = list(self.resolve(self.url))
        if len(found) == 1:
            return found[0]
        problems = []
        for url in found:
            try:
                self._exchange(url, "GET", "/v1/curves")
            except ControlError as error:
                problems.append(str(error))
                continue
            return url
        raise Unreachable(f"no controller leads: {'; '.join(problems)}")

    def _exchange(
        self, url: str, method: str, path: str, *, body: Json = None, version: int | None = None
    ) -> Object:
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        if version is not None:
            headers["if-match"] = f'"{version}"'
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url + path, data=data, headers=headers, method=method)
        try:
            with self.trust.open(request, _TIMEOUT_S) as response:
                return _object(response.read(_LONGEST_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error.code, error.read(_LONGEST_ANSWER_BYTES)) from None
        except OSError as error:
            raise Unreachable(f"{url}: {error}") from None


def held_from(state: Object) -> Held:
    """Read the body of ``GET /v1/pools/{pool}/policy``.

    Raises:
        ControlError: It is none.
    """
    version = number(state, "version")
    if version is None:
        raise ControlError("the answer is not a policy")
    try:
        layers = tuple(_layer(layer) for layer in items(state, "layers"))
    except (TypeError, ValueError) as error:
        raise ControlError(f"the answer has a policy of another version: {error}") from None
    return Held(version=version, layers=layers)


def _layer(layer: Object) -> Layer:
    until = at(layer, "until_unix_s")
    return Layer(
        policy=_policy(part(layer, "policy")),
        author=text(layer, "author"),
        reason=text(layer, "reason"),
        until_unix_s=float(until) if isinstance(until, (int, float)) else None,
        change=number(layer, "change") or 0,
    )


def _policy(shape: Object) -> Policy:
    known: dict[str, Any] = {**shape, "mode": Mode(text(shape, "mode"))}
    known["priority_weights"] = tuple(
        (entry["priority"], entry["weight"]) for entry in items(shape, "priority_weights")
    )
    return Policy(**known)


def _shape(policy: Policy) -> Object:
    """Return a policy as a body; what is left as it is by default is left out."""
    shape: Object = {
        entry.name: getattr(policy, entry.name)
        for entry in fields(policy)
        if getattr(policy, entry.name) != entry.default
    }
    weights: list[Json] = [
        {"priority": priority, "weight": weight} for priority, weight in policy.priority_weights
    ]
    return {
        **shape,
        "mode": policy.mode.value,
        **({"priority_weights": weights} if weights else {}),
    }


def _unit(unit: str) -> str:
    return f"/v1/pools/{urllib.parse.quote(unit)}"


def _path(unit: str) -> str:
    return f"{_unit(unit)}/policy"


def _refusal(status: int, body: bytes) -> ControlError:
    try:
        told = text(_object(body), "error", "message")
    except ControlError:
        told = ""
    kind = LostRace if status == 412 else ControlError
    return kind(f"HTTP {status}: {told}" if told else f"HTTP {status}")


def _object(body: bytes) -> Object:
    try:
        found = json.loads(body)
    except ValueError:
        raise ControlError("the answer is no JSON") from None
    return found if isinstance(found, dict) else {}
