"""What all parts of the spec share, and the rules that the API server checks too."""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from dspark_operator.document import Json


class Part(BaseModel):
    """Frozen, camelCase outside, strict about names."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


def rules(*rule_and_message: tuple[str, str]) -> dict[str, Any]:
    """Return a ``json_schema_extra`` with CEL rules for the API server."""
    return {
        "x-kubernetes-validations": [
            {"rule": rule, "message": message} for rule, message in rule_and_message
        ]
    }


def list_map(*keys: str) -> dict[str, Json]:
    """Return a ``json_schema_extra`` for a list whose entries have an identity."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


def refuse_repeated(where: str, names: Iterable[str]) -> None:
    """Raise ValueError for the first name that occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{where}: the name {name!r} occurs twice")
        seen.add(name)


Name = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=20)]
"""A short DNS label: it becomes part of names of child objects."""

ObjectName = Annotated[
    str, Field(pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", min_length=1, max_length=253)
]
"""Name of an object in the same namespace."""

Quantity = Annotated[
    str | int,
    Field(pattern=None),
    WithJsonSchema({"x-kubernetes-int-or-string": True}),
]
"""A Kubernetes quantity: ``500m``, ``16Gi``, ``2``."""

Image = Annotated[
    str,
    Field(pattern=r"^[^\s@]+(:[\w][\w.-]{0,127}|@sha256:[0-9a-f]{64})$", max_length=512),
]
"""An image with a tag or a digest."""

MaxText = Annotated[str, Field(max_length=512)]
