"""JSON to a body, and every complaint as an error that names the parameter."""

import json
from collections.abc import Mapping, Sequence
from typing import TypeVar

from pydantic import ValidationError

from dspark.gateway.bodies import Body, ChatBody, CompletionBody, GenerationBody, Message
from dspark.gateway.errors import invalid, unsupported

B = TypeVar("B", bound=Body)


def parse_completion(raw: bytes) -> CompletionBody:
    """Return the body of ``/v1/completions``; raise ApiError."""
    return _validate(CompletionBody, _object(raw))


def parse_chat(raw: bytes) -> ChatBody:
    """Return the body of ``/v1/chat/completions``; raise ApiError."""
    fields = _object(raw)
    messages = fields.get("messages")
    if isinstance(messages, list):
        fields["messages"] = [
            _without_neutral(message, Message.unsupported, prefix=f"messages[{index}].")
            if isinstance(message, dict)
            else message
            for index, message in enumerate(messages)
        ]
    return _validate(ChatBody, fields)


def _object(raw: bytes) -> dict[str, object]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise invalid(None, f"The body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise invalid(None, "The body must be a JSON object", code="invalid_json")
    return _without_neutral(value, GenerationBody.unsupported)


def _without_neutral(
    fields: Mapping[str, object], refused: Mapping[str, tuple[object, ...]], *, prefix: str = ""
) -> dict[str, object]:
    """Drop unsupported fields that ask for nothing; refuse those that ask for something."""
    kept = {}
    for name, value in fields.items():
        if name not in refused:
            kept[name] = value
        elif value not in refused[name]:
            raise unsupported(f"{prefix}{name}")
    return kept


def _validate(body: type[B], fields: Mapping[str, object]) -> B:
    try:
        return body.model_validate(fields)
    except ValidationError as error:
        # The first complaint is enough; of a union, the branch of the right type complains last.
        complaints = error.errors(include_url=False, include_context=False, include_input=False)
        first = complaints[0]
        param = parameter_name(first["loc"])
        same = [c["msg"] for c in complaints if parameter_name(c["loc"]) == param]
        if first["type"] == "extra_forbidden":
            message = f"Unrecognized request argument supplied: {param}"
            raise invalid(param, message, code="unknown_parameter") from None
        if first["type"] == "missing":
            message = f"Missing required parameter: '{param}'"
            raise invalid(param, message, code="missing_required_parameter") from None
        text = "; or ".join(dict.fromkeys(same))
        raise invalid(param, f"Invalid value for '{param}': {text}", code="invalid_value") from None


def parameter_name(location: Sequence[int | str]) -> str:
    """Return ``messages[0].content`` for the place of a complaint.

    pydantic ends a place inside a union with the name of the branch; it is left out.
    """
    name = ""
    for step in location:
        if isinstance(step, int):
            name += f"[{step}]"
        elif step in {"str", "int"} or not step.isidentifier():
            break
        else:
            name += f".{step}" if name else step
    return name
