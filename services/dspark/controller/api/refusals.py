"""Refusals: what the control API says when it does not do what was asked, and what would help."""

from collections.abc import Mapping


class Refusal(Exception):
    """One error answer.

    Attributes:
        status: HTTP status.
        code: For programs.
        message: What is wrong, with the values.
        hint: What to do about it.
        headers: To send along.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        hint: str,
        *,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.headers = headers or {}

    def body(self) -> dict[str, object]:
        """Return the JSON body."""
        return {
            "error": {
                "status": self.status,
                "code": self.code,
                "message": self.message,
                "hint": self.hint,
            }
        }


def unauthenticated() -> Refusal:
    """Return the answer to a request without a token that is known."""
    return Refusal(
        401, "unauthenticated", "this needs a token that is known here",
        "send `authorization: Bearer TOKEN`; an admin makes one with `dspark budget token`",
        headers={"www-authenticate": "Bearer"},
    )  # fmt: skip


def forbidden(role: str, needed: str) -> Refusal:
    """Return the answer to a token of too low a role."""
    return Refusal(
        403, "forbidden", f"the role {role} may not do this",
        f"use a token of the role {needed}, or ask somebody who has one",
    )  # fmt: skip


def foreign_host(host: str) -> Refusal:
    """Return the answer to a browser that was led here under another name."""
    return Refusal(
        403, "foreign_host", f"without tokens only this machine is served, not {host!r}",
        "use http://127.0.0.1:PORT, or configure controller.api_tokens",
    )  # fmt: skip


def invalid(message: str) -> Refusal:
    """Return the answer to a request that cannot be meant."""
    return Refusal(422, "invalid", message, "see /docs for what is accepted here")


def unknown_pool(message: str) -> Refusal:
    """Return the answer to a name that no pool has."""
    return Refusal(404, "unknown_pool", message, "GET /v1/fleet lists them")


def conflict(message: str, hint: str = "GET the policy and its history, then decide") -> Refusal:
    """Return the answer to what makes no sense in the present state."""
    return Refusal(409, "conflict", message, hint)


def lost_race(message: str, version: int) -> Refusal:
    """Return the answer to a change of a policy that is not the one that was read."""
    return Refusal(
        412, "lost_race", message,
        "GET the policy again, look at what changed, and send its new etag as if-match",
        headers={"etag": f'"{version}"'},
    )  # fmt: skip


def store_lost(message: str) -> Refusal:
    """Return the answer to a change that cannot be kept now."""
    return Refusal(
        503, "store_lost", message,
        "the policies in force stay; try again when the store is back",
        headers={"retry-after": "2"},
    )  # fmt: skip


def on_standby(leader: Mapping[str, str] | None) -> Refusal:
    """Return the answer of a controller that does not lead."""
    where = "nobody leads now: try again in a moment"
    if leader is not None:
        where = f"ask the one that leads, at {leader.get('api', 'an address it does not tell')}"
    return conflict("this controller is a standby", where)
