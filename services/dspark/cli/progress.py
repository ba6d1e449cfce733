"""How a start is shown: a live line in a terminal, one line a change elsewhere."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner

from dspark.cli.stack.supervisor import Progress


@contextlib.contextmanager
def show_progress(model: str) -> Iterator[Callable[[Progress], None]]:
    """Yield a function that shows progress."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        said: list[str] = []

        def say(progress: Progress) -> None:
            text = _describe(progress)
            if not said or said[-1] != text:
                console.print(f"{progress.seconds:5.1f} s  {text}", soft_wrap=True)
                said.append(text)

        yield say
        return
    with Live(console=console, refresh_per_second=8, transient=True) as live:

        def draw(progress: Progress) -> None:
            text = f"starting {model}: {_describe(progress)}  {progress.seconds:.0f} s"
            live.update(Spinner("dots", text=text))

        yield draw


def _describe(progress: Progress) -> str:
    pools = "  ".join(
        f"{name} {ready}/{wanted}" for name, (ready, wanted) in progress.pools.items()
    )
    return f"waiting for {progress.step}  {pools}"
