"""``dspark train target|drafter``, ``dspark calibrate``, ``dspark eval``."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Train the demo pair.", rich_markup_mode=None)

Work = Annotated[Path, typer.Option(help="Folder of corpus, checkpoints and logs; resumes there.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override one setting; may be repeated."),
]
_WORK = Path("training")


def calibrate() -> None:
    """Calibrate."""


def evaluate() -> None:
    """Evaluate."""


@app.command("target")
def target() -> None:
    """Train the target."""


@app.command("drafter")
def drafter() -> None:
    """Train the drafter."""
