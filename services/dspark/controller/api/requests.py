"""Requests: their bodies, parameters and headers, each refused with what would be right."""

import ipaddress
import re
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from dspark.controller.api import refusals

MAX_BODY_BYTES = 64 * 1024

_ETAG = re.compile(r'"(\d{1,15})"')
_AUTHOR = re.compile(r"[\x20-\x7e]{1,100}")
_Model = TypeVar("_Model", bound=BaseModel)


async def read_body(request: Request, model: type[_Model]) -> _Model:
    """Return the body; raise Refusal for one that cannot be meant."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise refusals.invalid(f"content-type is {kind!r}: send application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise refusals.invalid(f"the body is larger than {MAX_BODY_BYTES} bytes")
    try:
        return model.model_validate_json(bytes(body))
    except ValidationError as error:
        raise refusals.invalid(_complaints(error, "body")) from None


def read_query(request: Request, model: type[_Model]) -> _Model:
    """Return the parameters; raise Refusal for those that cannot be meant."""
    names = [name for name, _ in request.query_params.multi_items()]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise refusals.invalid(f"query: {', '.join(sorted(twice))} is given more than once")
    try:
        return model.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise refusals.invalid(_complaints(error, "query")) from None


def _complaints(error: ValidationError, where: str) -> str:
    """Return the first few complaints, each with its place."""
    lines = [
        f"{'.'.join([where, *map(str, one['loc'])])}: "
        f"{str(one['msg']).removeprefix('Value error, ')}"
        for one in error.errors(include_url=False, include_input=False)[:5]
    ]
    return "; ".join(lines)


def expected_version(request: Request) -> int | None:
    """Return the version in ``if-match``; None: any."""
    given = request.headers.get("if-match")
    if given is None or given.strip() == "*":
        return None
    match = _ETAG.fullmatch(given.strip())
    if match is None:
        raise refusals.invalid(f'if-match is {given!r}: send an etag as it was read, like "3"')
    return int(match.group(1))


def author_of(request: Request) -> str:
    """Return who says that they ask, where no token tells it."""
    given = request.headers.get("x-dspark-author", "")
    return given if _AUTHOR.fullmatch(given) else "anonymous"


def require_own_host(request: Request) -> None:
    """Refuse what a page of another site may have made a browser send (DNS rebinding)."""
    host = request.url.hostname or ""
    try:
        own = ipaddress.ip_address(host).is_loopback
    except ValueError:
        own = host == "localhost"
    if not own:
        raise refusals.foreign_host(host)
