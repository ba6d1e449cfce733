"""The OpenAPI document of the control API, and a page of it that needs no network."""

import html
import json
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from dspark.controller.api.answers import ErrorShape
from dspark.controller.api.endpoints import ENDPOINTS, Endpoint

Json = dict[str, Any]

_WHY = {
    401: "No token that is known here",
    403: "The token's role may not do this",
    404: "No pool of that name",
    409: "It makes no sense in the present state, or this controller is a standby",
    412: "Somebody changed the policy since it was read",
    422: "The request cannot be meant",
    429: "Too many listeners, or requests",
    503: "The store, or the gateway, does not answer",
}


def document() -> Json:
    """Return the OpenAPI 3.1 document."""
    bodies = {e.body for e in ENDPOINTS if e.body} | {e.answer for e in ENDPOINTS if e.answer}
    models = sorted(bodies | {ErrorShape}, key=lambda model: model.__name__)
    _, schemas = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    paths: Json = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dspark control API",
            "version": "1",
            "description": (
                "Budgets that people can see, tune and trust. Roles: viewer reads, operator "
                "changes policies, admin also puts a pool in shadow. Without configured tokens "
                "everybody on the controller's machine is an admin."
            ),
        },
        "paths": paths,
        "security": [{"token": []}, {}],
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def page() -> str:
    """Return the document for people: one static page."""
    rows = []
    for endpoint in ENDPOINTS:
        operation = _operation(endpoint)
        asked = ", ".join(parameter["name"] for parameter in operation["parameters"])
        body = "" if endpoint.body is None else _schema_lines(endpoint.body)
        rows.append(
            f"<h3><code>{endpoint.method} {html.escape(endpoint.path)}</code></h3>"
            f"<p>{html.escape(endpoint.summary)}. Role: {endpoint.role.name.lower()}."
            + (f" Parameters: {html.escape(asked)}." if asked else "")
            + "</p>"
            + (f"<pre>{html.escape(body)}</pre>" if body else "")
        )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>dspark control API</title>"
        "<style>body{font:16px/1.5 system-ui;max-width:50em;margin:2em auto;padding:0 1em}"
        "pre{background:#8881;padding:.7em;overflow:auto}h3{margin:1.6em 0 0}"
        ":root{color-scheme:light dark}</style>"
        f"<h1>dspark control API</h1><p>{html.escape(document()['info']['description'])} "
        'The document for programs is <a href="/openapi.json">/openapi.json</a>. Errors have the '
        "body {error: {status, code, message, hint}}.</p>" + "".join(rows)
    )


def _operation(endpoint: Endpoint) -> Json:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in ("pool",)
        if f"{{{name}}}" in endpoint.path
    ]
    query = endpoint.query.model_json_schema()
    for name, schema in query.get("properties", {}).items():
        parameters.append(
            {
                "name": name,
                "in": "query",
                "required": name in query.get("required", ()),
                "description": schema.get("description", ""),
                "schema": _plain(schema),
            }
        )
    if endpoint.conditional:
        parameters.append(
            {
                "name": "if-match",
                "in": "header",
                "required": False,
                "description": "The etag that was read: 412 if somebody changed the policy since",
                "schema": {"type": "string", "pattern": '^("[0-9]+"|\\*)$'},
            }
        )
    content: Json = {"text/event-stream": {"schema": {"type": "string"}}}
    if endpoint.answer is not None:
        content = {"application/json": {"schema": _ref(endpoint.answer)}}
    operation: Json = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "As asked", "content": content},
            **{
                str(status): {
                    "description": _WHY[status],
                    "content": {"application/json": {"schema": _ref(ErrorShape)}},
                }
                for status in sorted({401, 403, 409, 422, *endpoint.refusals})
            },
        },
    }
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _ref(endpoint.body)}},
        }
    return operation


def _plain(schema: Json) -> Json:
    """Return a parameter's schema: one that is absent is absent, not null."""
    kept = {key: value for key, value in schema.items() if key not in {"title", "description"}}
    if "anyOf" in kept:
        (kept,) = [choice for choice in kept["anyOf"] if choice.get("type") != "null"]
    kept.pop("default", None)
    return kept


def _ref(model: type[BaseModel]) -> Json:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _schema_lines(model: type[BaseModel]) -> str:
    lines = [f"{model.__name__}: {model.__doc__}"]
    for name, field in model.model_fields.items():
        default = "" if field.is_required() else f" = {json.dumps(field.default)}"
        lines.append(f"  {name}{default}: {field.description or ''}")
    return "\n".join(lines)
