"""``dspark config``: every setting with its value and meaning."""

import json
from collections.abc import Iterator

from pydantic import BaseModel

from dspark.cli.options import Config, Json, Port, Set, load


def config(
    config: Config = None, port: Port = None, set_: Set = None, as_json: Json = False
) -> None:
    """Print the settings in force as commented YAML (or --json); exit 1 where they are wrong."""
    settings = load(config, set_, port)
    if as_json:
        print(settings.model_dump_json(indent=1))
        return
    for line in _commented(settings, ""):
        print(line)


def _commented(settings: BaseModel, indent: str) -> Iterator[str]:
    for name, field in type(settings).model_fields.items():
        meaning = " ".join((field.description or "").replace("``", "").split())
        value = getattr(settings, name)
        if meaning:
            yield f"{indent}# {meaning}"
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _commented(value, indent + "  ")
        else:
            plain = settings.model_dump(mode="json", include={name})[name]
            yield f"{indent}{name}: {json.dumps(plain)}"
