"""The reference of chart values and spec fields, written from their schemas.

``python -m dspark_operator.crd CHART`` writes it with the CRDs; a test compares.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from dspark_operator.document import Json, Object, part

_HEAD = """# Reference

Written by `python -m dspark_operator.crd deploy/helm/dspark`; edit `values.yaml` and the classes in
`dspark_operator.spec` instead.

"""
_TABLE = "| key | type | default | meaning |\n|---|---|---|---|\n"


def reference(values: str, values_schema: str, spec: Object, policy: Object) -> str:
    """Return the reference as Markdown.

    Args:
        values: ``values.yaml``, whose comments are the meanings.
        values_schema: ``values.schema.json``.
        spec: Structural schema of a DSparkService's ``spec``.
        policy: The same of a VerificationPolicy.
    """
    chart = "".join(_chart_rows(values, json.loads(values_schema)))
    fields = "".join(_spec_rows(spec, ""))
    return (
        f"{_HEAD}## Values of the chart\n\n{_TABLE}{chart}\n"
        f"## Fields of `spec`\n\nIn a DSparkService, and in `instance.spec` of the chart. "
        "Every list entry of `pools` and `groups` is told apart by its `name`.\n\n"
        f"{_TABLE}{fields}\n"
        f"## Fields of a VerificationPolicy's `spec`\n\n{_TABLE}{''.join(_spec_rows(policy, ''))}"
    )


def write_reference(path: Path, spec: Object, policy: Object) -> None:
    """Bring the file beside the chart's values up to date."""
    chart = path.parent
    schema = (chart / "values.schema.json").read_text()
    path.write_text(reference((chart / "values.yaml").read_text(), schema, spec, policy))


def _chart_rows(values: str, schema: Object) -> Iterator[str]:
    defaults = yaml.safe_load(values)
    for path, meaning in _comments(values):
        node, default = schema, defaults
        for key in path:
            node = part(node, "properties", key)
            default = default[key]
        yield _row(".".join(path), node, default, meaning)


def _comments(values: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield every documented key with its comment: lines after ``# --`` up to the key."""
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in values.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("#"):
            comment += [stripped.removeprefix("# ")] if comment else []
        elif ":" in stripped:
            indent = len(line) - len(line.lstrip())
            path = [entry for entry in path if entry[0] < indent]
            path.append((indent, stripped.partition(":")[0]))
            if comment:
                yield tuple(key for _, key in path), " ".join(comment)
            comment = []


def _spec_rows(node: Object, path: str) -> Iterator[str]:
    required = node.get("required")
    for name, field in part(node, "properties").items():
        assert isinstance(field, dict)
        where = f"{path}.{name}" if path else name
        needed = isinstance(required, list) and name in required
        default = "**required**" if needed else field.get("default")
        inner = part(field, "items") if field.get("type") == "array" else field
        suffix = "[]" if field.get("type") == "array" else ""
        meaning = " ".join(str(field.get("description", "")).split())
        nested = bool(part(inner, "properties"))
        yield _row(where + suffix, field, None if nested and not needed else default, meaning)
        yield from _spec_rows(inner, where + suffix)


def _row(key: str, node: Object, default: Json, meaning: str) -> str:
    kind = str(node.get("type") or ("string or integer" if node else ""))
    choices = node.get("enum")
    if isinstance(choices, list):
        kind = ", ".join(f"`{choice}`" for choice in choices)
    elif kind in ("integer", "number"):
        kind += _bounds(node)
    if default == "**required**" or default is None:
        shown = str(default or "")
    else:
        shown = f"`{json.dumps(default)}`"
    told = meaning.replace("``", "`").replace("|", "\\|")
    return f"| `{key}` | {kind} | {shown} | {told} |\n"


def _bounds(node: Object) -> str:
    least, most = node.get("minimum"), node.get("maximum")
    if least is None and most is None:
        return ""
    below = "above" if node.get("exclusiveMinimum") is True else "from"
    return f" {below} {least}" + (f" to {most}" if most is not None else "")
