"""Parse, run one command, turn what went wrong into one line."""

import sys
from collections.abc import Sequence

import typer

# typer carries its own click and does not export the base of its usage errors.
from typer._click.exceptions import UsageError

from dspark.cli import (
    bench,
    budget,
    certificates,
    demo,
    generate,
    kubernetes,
    pair,
    profile,
    settings,
    stack_commands,
    status,
    talk,
    top,
    train,
)

app = typer.Typer(
    name="dspark",
    help="Serve a language model whose drafting is a pool of its own.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Errors are one line on stderr; --debug anywhere on the line adds the traceback.",
)
app.command("up")(stack_commands.up)
app.command("down")(stack_commands.down)
app.command("status")(status.status)
app.command("scale")(status.scale)
app.add_typer(budget.app, name="budget")
app.command("top")(top.top)
app.command("demo")(demo.demo)
app.command("chat")(talk.chat)
app.command("generate")(generate.generate)
app.command("profile")(profile.profile)
app.command("bench")(bench.bench)
app.command("config")(settings.config)
app.command("check-pair")(pair.check_pair)
app.command("certificates")(certificates.certificates)
app.add_typer(kubernetes.app, name="k8s")
app.add_typer(train.app, name="train")
app.command("calibrate")(train.calibrate)
app.command("eval")(train.evaluate)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits 1 for what went wrong, 2 for what was asked wrongly."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        code = app(words, standalone_mode=False, prog_name="dspark")
    except UsageError as error:
        _fail(f"{error.format_message()} (dspark --help)", 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except Exception as error:
        if debug:
            raise
        expected = isinstance(error, ValueError | OSError)
        text = " ".join(str(error).split()) or type(error).__name__
        _fail(text if expected else f"{type(error).__name__}: {text} (--debug says where)", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(line: str, code: int) -> None:
    print(f"dspark: {line}", file=sys.stderr)
    sys.exit(code)
