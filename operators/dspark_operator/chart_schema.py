"""The chart's schema knows every field of the custom resource, so that Helm refuses a wrong one.

``values.schema.json`` is written by hand but for ``instance.spec``, which this module fills in.
"""

import json
from pathlib import Path

from dspark_operator.document import Json, Object, part

_BOUNDS = {"minimum": "exclusiveMinimum", "maximum": "exclusiveMaximum"}


def with_spec(values_schema: str, spec: Object) -> str:
    """Return a values schema whose ``instance.spec`` is the structural schema ``spec``."""
    schema: Object = json.loads(values_schema)
    closed = _closed(spec)
    assert isinstance(closed, dict)
    # Empty as long as no instance is wanted; what it then needs is said beside it.
    closed.pop("required", None)
    part(schema, "properties", "instance", "properties")["spec"] = closed
    return json.dumps(schema, indent=2) + "\n"


def write_schema(path: Path, spec: Object) -> None:
    """Bring the file up to date."""
    path.write_text(with_spec(path.read_text(), spec))


def _closed(node: Json) -> Json:
    """Return draft-07 of a structural schema, in which unknown keys are errors."""
    if isinstance(node, list):
        return [_closed(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    if node.get("x-kubernetes-int-or-string"):
        return {"enum": node["enum"]} if "enum" in node else {"type": ["integer", "string"]}
    made: Object = {}
    for key, value in node.items():
        if key.startswith("x-kubernetes-") or key == "default":
            continue
        if key == "properties" and isinstance(value, dict):
            made[key] = {name: _closed(field) for name, field in value.items()}
        elif key in ("items", "additionalProperties"):
            made[key] = _closed(value)
        else:
            made[key] = value
    for bound, exclusive in _BOUNDS.items():
        if made.get(exclusive) is True:
            made[exclusive] = made.pop(bound)
    if "properties" in made and "additionalProperties" not in made:
        made["additionalProperties"] = False
    return made
