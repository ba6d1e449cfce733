"""Tokens: who asks, and what that role may do.  Only digests are kept."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from dspark.config.controller import ApiToken


class ApiRole(IntEnum):
    """What somebody may do; each may do what those before it may."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks.

    Attributes:
        name: Of the token; None where no tokens are configured.
        role: What it may do.
    """

    name: str | None
    role: ApiRole


class Tokens:
    """The configured tokens; with none of them everybody is an admin."""

    def __init__(self, tokens: Sequence[ApiToken]) -> None:
        self._tokens = tuple(tokens)

    @property
    def required(self) -> bool:
        """Whether a request needs one."""
        return bool(self._tokens)

    def caller(self, header: str | None) -> Caller | None:
        """Return who sends this ``authorization`` header, or None for nobody we know."""
        if not self._tokens:
            return Caller(name=None, role=ApiRole.ADMIN)
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        given, found = digest(token.strip()), None
        for known in self._tokens:  # all of them, so that the time tells nothing
            if hmac.compare_digest(given, known.sha256):
                found = Caller(name=known.name, role=ApiRole[known.role.upper()])
        return found


def new_token() -> str:
    """Draw a token with 256 bits: no slow hash is needed to keep its digest safe."""
    return f"dspark_{secrets.token_urlsafe(32)}"


def digest(token: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()
