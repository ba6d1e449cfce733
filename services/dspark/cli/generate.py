"""``dspark generate`` and ``dspark profile``: the engines in this process, no stack needed."""

import typer


def generate() -> None:
    """Generate."""
    raise typer.Exit(1)


def profile() -> None:
    """Profile."""
    raise typer.Exit(1)
