"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from dspark.cli.stack.record import default_state_dir
from dspark.config.load import load_system
from dspark.config.system import SystemSettings

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file of settings; absent: defaults.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override one setting; may be repeated."),
]
Port = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Port of the HTTP API; 0 takes a free one.")
]
StateDir = Annotated[
    Path | None, typer.Option(help="Folder of logs and state; names the stack on this machine.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load(config: Path | None, overrides: list[str] | None, port: int | None) -> SystemSettings:
    """Read settings as the options say."""
    given = list(overrides or [])
    if port is not None:
        given.append(f"gateway.port={port}")
    return load_system(config, given)


def state_folder(option: Path | None, settings: SystemSettings | None = None) -> Path:
    """Return the state folder: the option, else the setting, else the user's."""
    configured = None if settings is None else settings.state_dir
    return option or configured or default_state_dir()
