"""Documents: Kubernetes objects as plain JSON, and the few questions that are asked of them."""

import hashlib
import json
from collections.abc import Mapping
from typing import TypeAlias

from pydantic import JsonValue

Json: TypeAlias = JsonValue
Object: TypeAlias = dict[str, Json]
"""A Kubernetes object, or a part of one."""


def part(value: object, *path: str) -> Object:
    """Return the mapping at ``path``, or an empty one where anything on the way is missing."""
    found = at(value, *path)
    return found if isinstance(found, dict) else {}


def items(value: object, *path: str) -> list[Object]:
    """Return the mappings in the list at ``path``; empty where there is none."""
    found = at(value, *path)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def text(value: object, *path: str) -> str:
    """Return the string at ``path``, or "" where there is none."""
    found = at(value, *path)
    return found if isinstance(found, str) else ""


def number(value: object, *path: str) -> int | None:
    """Return the integer at ``path``, or None."""
    found = at(value, *path)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def at(value: object, *path: str) -> Json:
    """Return what lies at ``path`` of nested mappings, or None."""
    here: object = value
    for key in path:
        if not isinstance(here, Mapping) or key not in here:
            return None
        here = here[key]
    return here  # type: ignore[return-value]  # parsed JSON by contract


def digest(value: Json) -> str:
    """Return 16 hex digits that change whenever ``value`` does."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
