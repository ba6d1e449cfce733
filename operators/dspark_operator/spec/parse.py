"""From an object of the API server to a typed service, or an error that names the field."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

from dspark_operator.document import Object, number, text
from dspark_operator.spec.policy import PolicySpec
from dspark_operator.spec.service import ServiceSpec


class SpecError(ValueError):
    """A spec that cannot be carried out; the message begins with the field's path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A DSparkService as the operator works with it.

    Attributes:
        name: metadata.name; at most 30 characters, since child names are made of it.
        namespace: metadata.namespace.
        uid: metadata.uid, for owner references.
        generation: metadata.generation that ``spec`` belongs to.
        spec: The typed spec.
    """

    name: str
    namespace: str
    uid: str
    generation: int
    spec: ServiceSpec


MAX_NAME = 30

_NAMES_A_FIELD = re.compile(r"[A-Za-z][\w.\[\]-]*: ")


def parse_service(body: Mapping[str, object]) -> Service:
    """Read a DSparkService.

    Raises:
        SpecError: "spec.path.to.field: what is wrong", for the first mistake.
    """
    name = text(body, "metadata", "name")
    if not 0 < len(name) <= MAX_NAME:
        raise SpecError(
            f"metadata.name: {name!r} has {len(name)} characters, and names of child objects "
            f"leave room for {MAX_NAME}"
        )
    try:
        spec = ServiceSpec.model_validate(body.get("spec") or {})
    except ValidationError as error:
        raise SpecError(_explain(error, ServiceSpec)) from None
    return Service(
        name=name,
        namespace=text(body, "metadata", "namespace"),
        uid=text(body, "metadata", "uid"),
        generation=number(body, "metadata", "generation") or 0,
        spec=spec,
    )


def parse_policy(body: Mapping[str, object]) -> PolicySpec:
    """Read the spec of a VerificationPolicy.

    Raises:
        SpecError: "spec.field: what is wrong", for the first mistake.
    """
    try:
        return PolicySpec.model_validate(body.get("spec") or {})
    except ValidationError as error:
        raise SpecError(_explain(error, PolicySpec)) from None


def owner_reference(service: Service) -> Object:
    """Return the reference by which children are collected with their service."""
    return {
        "apiVersion": "serving.dspark.dev/v1alpha1",
        "kind": "DSparkService",
        "name": service.name,
        "uid": service.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _explain(error: ValidationError, spec: type[BaseModel]) -> str:
    first = error.errors()[0]
    where = "spec" + "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"]
    )
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = _keys_at(spec, first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        message = "unknown key" + (f"; did you mean {near[0]}?" if near else "")
    elif first["type"] != "value_error" and not isinstance(first["input"], (dict, BaseModel)):
        message = f"{message} (got {first['input']!r})"
    more = error.error_count() - 1
    joint = "." if _NAMES_A_FIELD.match(message) else ": "
    return f"{where}{joint}{message}" + (f" ({more} more)" if more else "")


def _keys_at(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """Return the keys known at ``path``; empty where it leads out of the typed spec."""
    for step in path:
        if isinstance(step, int):
            continue
        found = [field for field in model.model_fields.values() if field.alias == step]
        inner = _model_of(found[0].annotation) if found else None
        if inner is None:
            return []
        model = inner
    return [str(field.alias) for field in model.model_fields.values()]


def _model_of(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_of(inner)
        if found is not None:
            return found
    return None
