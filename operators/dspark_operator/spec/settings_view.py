"""A settings class seen from a manifest: camelCase keys, units spelt out, the same bounds.

``max_batch_tokens`` is written ``maxBatchTokens``, ``drain_s`` is ``drainSeconds``.  The class in
``dspark.config`` stays the only place that knows a field's meaning, bound and default.
"""

import difflib
from collections.abc import Collection, Mapping

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from dspark_operator.document import Json, Object

_UNITS = {"_s": "_seconds", "_ms": "_milliseconds", "_mb": "_megabytes"}


def manifest_key(field: str) -> str:
    """Return a settings field's name as it is written in a manifest."""
    for short, spelt in _UNITS.items():
        if field.endswith(short):
            field = field.removesuffix(short) + spelt
            break
    return to_camel(field)


def settings_from(
    given: Mapping[str, Json], settings: type[BaseModel], *, reserved: Collection[str] = ()
) -> Object:
    """Return ``given`` in the field names of ``settings``, checked against its bounds.

    Args:
        given: camelCase keys and values, as in the manifest.
        settings: The class that a process validates its configuration with.
        reserved: Fields that the operator sets itself.

    Raises:
        ValueError: "key: what is wrong", with the nearest known key for a misspelt one.
    """
    translated = _translate(given, settings, reserved, path="")
    try:
        settings.model_validate(translated)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(manifest_key(str(step)) for step in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ValueError(f"{where}: {message}" if where else message) from None
    return translated


def _translate(
    given: Mapping[str, Json], settings: type[BaseModel], reserved: Collection[str], path: str
) -> Object:
    fields = {
        manifest_key(name): name for name in settings.model_fields if name not in set(reserved)
    }
    translated: Object = {}
    for key, value in given.items():
        if key not in fields:
            near = difflib.get_close_matches(key, list(fields), n=1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(fields)}"
            raise ValueError(f"{path}{key}: unknown key; {hint}")
        name = fields[key]
        inner = settings.model_fields[name].annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            if not isinstance(value, dict):
                raise ValueError(f"{path}{key}: expected keys and values")
            translated[name] = _translate(value, inner, (), path=f"{path}{key}.")
        else:
            translated[name] = value
    return translated
