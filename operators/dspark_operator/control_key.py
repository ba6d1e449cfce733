"""Keys of control APIs: one secret of the release, and a token of its own for every service.

Tokens are derived, so that the operator needs no right to read Secrets, and a controller that is
broken into learns no other service's token.
"""

import hashlib
import hmac

from dspark_operator.spec.parse import Service

SHORTEST = 32
"""Characters that a key must have."""


def token_of(key: str, service: Service) -> str:
    """Return the operator's token for a service's control API."""
    identity = f"{service.namespace}/{service.name}/{service.uid}"
    return "dspark_" + hmac.new(key.encode(), identity.encode(), hashlib.sha256).hexdigest()


def digest_of(token: str) -> str:
    """Return what the controller keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def read_key(text: str) -> str:
    """Return the key in a file's text.

    Raises:
        ValueError: It is too short to be a secret.
    """
    key = text.strip()
    if len(key) < SHORTEST:
        raise ValueError(f"the control key has {len(key)} characters: {SHORTEST} are needed")
    return key
