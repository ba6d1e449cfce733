"""From pydantic's JSON Schema to the structural subset that a CRD may use."""

from pydantic import BaseModel

from dspark_operator.document import Json, Object, items, part
from dspark_operator.spec.settings_view import manifest_key

_KEPT = (
    "type", "description", "default", "enum", "format", "pattern", "required",
    "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
)  # fmt: skip


def structural(model: type[BaseModel]) -> Object:
    """Return the schema of a spec class, with everything referred to written out."""
    schema: Object = model.model_json_schema(by_alias=True)
    return _node(schema, part(schema, "$defs"))


def settings_schema(*models: type[BaseModel], reserved: tuple[str, ...] = ()) -> Object:
    """Return an object that takes the fields of any of ``models``, named as in manifests.

    Defaults are told in the descriptions only: they belong to the process, and an object must
    not freeze the ones of the version it was created with.  Where two classes bound a field
    differently, the wider bound is taken; the operator applies the right one.
    """
    properties: Object = {}
    for model in models:
        schema: Object = model.model_json_schema()
        for name, field in part(schema, "properties").items():
            assert isinstance(field, dict)
            if name in reserved:
                continue
            node = _setting(field, part(schema, "$defs"))
            known = properties.get(manifest_key(name))
            properties[manifest_key(name)] = (
                _wider(known, node) if isinstance(known, dict) else node
            )
    return {"type": "object", "properties": properties}


def _setting(field: Object, defs: Object) -> Object:
    if "$ref" in field:
        inner = part(defs, str(field["$ref"]).rsplit("/", 1)[-1])
        nested: Object = {
            manifest_key(name): _setting(entry, defs)
            for name, entry in part(inner, "properties").items()
            if isinstance(entry, dict)
        }
        return {
            "type": "object",
            "description": field.get("description") or inner.get("description", ""),
            "properties": nested,
        }
    node = _node(field, defs)
    default = node.pop("default", None)
    if "default" in field and default is not None:
        node["description"] = f"{node.get('description', '')} Default: {default}.".strip()
    return node


def _wider(one: Object, other: Object) -> Object:
    merged = {**one}
    for bound, pick in (("minimum", min), ("maximum", max)):
        values = [
            value for node in (one, other) if isinstance(value := node.get(bound), (int, float))
        ]
        merged.pop(bound, None)
        if len(values) == 2:
            merged[bound] = pick(values)
    if one.get("description") != other.get("description"):
        merged["description"] = f"{one.get('description')} / {other.get('description')}"
    return merged


def _node(node: Object, defs: Object) -> Object:
    if "$ref" in node:
        target = part(defs, str(node["$ref"]).rsplit("/", 1)[-1])
        own = {key: value for key, value in node.items() if key != "$ref"}
        return _node({**target, **own}, defs)
    alternatives = [entry for entry in items(node, "anyOf") if entry.get("type") != "null"]
    if alternatives:
        own = {key: value for key, value in node.items() if key != "anyOf"}
        return _node({**alternatives[0], **own}, defs)
    made: Object = {}
    for key, value in node.items():
        if key in _KEPT or key.startswith("x-kubernetes-"):
            made[key] = value
        elif key in ("exclusiveMinimum", "exclusiveMaximum"):
            made["minimum" if key == "exclusiveMinimum" else "maximum"] = value
            made[key] = True
        elif key == "const":
            made["enum"] = [value]
        elif key == "properties" and isinstance(value, dict):
            made[key] = {
                name: _node(field, defs) for name, field in value.items() if isinstance(field, dict)
            }
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            entry = _node(value, defs)
            if entry:
                made[key] = entry
            else:
                # Values of any kind, which a structural schema can only leave alone.
                made["x-kubernetes-preserve-unknown-fields"] = True
        elif key == "maxProperties":
            made[key] = value
    choices = made.get("enum")
    if "type" not in made and isinstance(choices, list):
        # A choice between words and numbers.
        made["x-kubernetes-int-or-string"] = True
    if "default" in made:
        default = _without_none(made["default"])
        if default is None or default == "":
            # Absence means the empty string already, which Kubernetes 1.20 reads as null here.
            del made["default"]
        else:
            made["default"] = default
    return made


def _without_none(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _without_none(entry) for key, entry in value.items() if entry is not None}
    return value
