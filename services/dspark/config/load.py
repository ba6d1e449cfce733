"""From a YAML file and overrides to settings, with messages that say what to change."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from dspark.config.system import SystemSettings


def load_system(path: Path | None, overrides: Sequence[str] = ()) -> SystemSettings:
    """Read settings from ``path`` (defaults where None), then apply ``key.path=value`` overrides.

    Raises:
        ValueError: One line with the file, the key, what is wrong and what would be right.
    """
    source = "the defaults" if path is None else str(path)
    data = {} if path is None else _read(path)
    for override in overrides:
        _apply(data, override)
    if overrides:
        source += " with --set"
    try:
        return SystemSettings.model_validate(data)
    except ValidationError as error:
        raise ValueError(f"{source}: {explain(error, SystemSettings)}") from None


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """Return one complaint as "key: what is wrong", with the nearest known key.

    An unknown key goes first: where it is a misspelt one, another is found missing for it.
    """
    found = error.errors()
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    where = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = _keys_at(root, first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        message = f"unknown key; {hint}"
    elif where and not isinstance(first["input"], dict):
        message = f"{message} (got {first['input']!r})"
    more = error.error_count() - 1
    rest = f" ({more} more)" if more else ""
    return f"{where}: {message}{rest}" if where else f"{message}{rest}"


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; configs/demo.yaml is one to start from") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" line {mark.line + 1}"
        problem = getattr(error, "problem", None) or "not YAML"
        raise ValueError(f"{path}:{line} {problem}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected keys and values, found {type(data).__name__}")
    return data


def _apply(data: dict[str, Any], override: str) -> None:
    key, found, text = override.partition("=")
    if not found or not key:
        raise ValueError(f"--set {override!r}: expected KEY.PATH=VALUE")
    *parents, last = key.split(".")
    for parent in parents:
        inner = data.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ValueError(f"--set {override!r}: {parent!r} holds a value, not keys")
        data = inner
    data[last] = yaml.safe_load(text)


def _keys_at(root: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    model = root
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        # Of ``X | None`` it is X that has keys.
        classes = [each for each in (annotation, *get_args(annotation)) if isinstance(each, type)]
        model = next(each for each in classes if issubclass(each, BaseModel))
    return list(model.model_fields)
