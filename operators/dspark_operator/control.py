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

from dspark.core.policy import Mode, Policy
from dspark_operator.document import Json, Object, at, items, number, part, text
from dspark_operator.verification import Held, Layer, Wish

_TIMEOUT_S = 3.0
_LONGEST_ANSWER_BYTES = 1024 * 1024


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
        resolve: Yields the URLs behind ``url``.
    """

    url: str
    token: str = field(repr=False)
    resolve: Callable[[str], Iterable[str]] = addresses
    _leader: str | None = None

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
        query = urllib.parse.urlencode({"reason": "its VerificationPolicy is gone"})
        self._ask("DELETE", f"{_path(unit)}?{query}", version=version)

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
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
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
    )


def _policy(shape: Object) -> Policy:
    weights = tuple((each["priority"], each["weight"]) for each in items(shape, "priority_weights"))
    values = {**shape, "mode": Mode(shape["mode"]), "priority_weights": weights}
    return Policy(**values)  # type: ignore[arg-type]  # as _shape wrote it


def _shape(policy: Policy) -> Object:
    values: Object = {entry.name: getattr(policy, entry.name) for entry in fields(policy)}
    weights: list[Json] = [
        {"priority": priority, "weight": weight} for priority, weight in policy.priority_weights
    ]
    return {**values, "mode": policy.mode.value, "priority_weights": weights}


def _path(unit: str) -> str:
    return f"/v1/pools/{urllib.parse.quote(unit)}/policy"


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
