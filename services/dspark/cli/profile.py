"""``dspark profile``: what a step costs here, as a table, a picture or JSON."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from dspark.bench.plot import require_plotting
from dspark.cli.options import Config, Json, Set, load
from dspark.config.system import SystemSettings
from dspark.core.curve import Curve, contexts_of

if TYPE_CHECKING:  # torch takes seconds to import: not for --help
    from dspark.drafter.engine import BlockModel
    from dspark.model.pair import PairIdentity


def profile(
    pool: Annotated[
        Literal["verifier", "drafter"], typer.Option(help="Whose step: verify, or draft.")
    ] = "verifier",
    plot: Annotated[
        Path | None, typer.Option(help="Draw the curve (.png, .svg): SPS over batch tokens.")
    ] = None,
    config: Config = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Measure what a step costs here, over sessions, batch tokens and context.

    With model.curves set, a curve kept there is shown instead of measured, and a new one is kept.

    JSON: {"version", "device", "points": [{"context_tokens", "sessions", "batch_tokens",
    "step_s"}]}: medians, monotone in batch tokens.
    """
    if plot is not None:
        require_plotting()
    system = load(config, set_, None)
    curve = _verifier_curve(system) if pool == "verifier" else _drafter_curve(system)
    if plot is not None:
        draw_curve(curve, plot, title=f"{pool} of {system.model.name} on {curve.device}")
    if as_json:
        print(json.dumps(asdict(curve), indent=1))
        return
    console = Console(highlight=False)
    for table in curve_tables(curve):
        console.print(table)
    console.print(f"curve {curve.version} on {curve.device}")


def curve_tables(curve: Curve) -> list[Table]:
    """Return a table of ms a step for each context: sessions down, batch tokens across."""
    tables = []
    for context in contexts_of(curve):
        points = [point for point in curve.points if point.context_tokens == context]
        sizes = sorted({point.batch_tokens for point in points})
        table = Table(
            "sessions", *map(str, sizes), title=f"ms a step, by batch tokens; context {context}"
        )
        for sessions in sorted({point.sessions for point in points}):
            row = {p.batch_tokens: p.step_s for p in points if p.sessions == sessions}
            cells = [f"{1e3 * row[size]:.1f}" if size in row else "" for size in sizes]
            table.add_row(str(sessions), *cells)
        tables.append(table)
    return tables


def draw_curve(curve: Curve, path: Path, *, title: str) -> None:
    """Draw steps a second over batch tokens, a line for each session count.

    Raises:
        ValueError: The format is unknown.
        OSError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    contexts = contexts_of(curve)
    picture = Figure(figsize=(5.5 * len(contexts), 4.5), layout="constrained")
    picture.suptitle(title, size=9)
    for axes, context in zip(
        picture.subplots(1, len(contexts), squeeze=False, sharey=True)[0], contexts, strict=True
    ):
        points = [point for point in curve.points if point.context_tokens == context]
        for sessions in sorted({point.sessions for point in points}):
            row = [point for point in points if point.sessions == sessions]
            axes.plot(
                [point.batch_tokens for point in row],
                [1.0 / point.step_s for point in row],
                marker="o",
                markersize=3,
                label=str(sessions),
            )
        axes.set_title(f"context {context}", size=9)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("tokens in the batch")
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(title="sessions", fontsize=7)
        axes.set_ylabel("steps a second (SPS)")
    picture.savefig(path, dpi=150)


def _verifier_curve(system: SystemSettings) -> Curve:
    """Load the target as a verifier would, and profile it."""
    from dspark.model.ragged_target import RaggedTarget
    from dspark.model.serving import load_served_target, set_threads
    from dspark.verifier.profile import load_paced, profile_served

    pool = system.pools.verifier
    if pool.engine != "native":
        raise ValueError(
            f"pools.verifier.engine is {pool.engine}, whose steps are measured as it runs: the "
            "curve of a running system is on its dashboard"
        )
    model, settings = system.model_of(pool), pool.settings
    if model.paced is not None:
        _, _, curve = load_paced(model, settings)
        return curve
    set_threads(model)
    identity, runner = load_served_target(
        model, num_pages=settings.num_pages, max_batch_tokens=settings.max_batch_tokens
    )
    with Console(stderr=True).status("profiling") as status:
        return profile_served(
            RaggedTarget(runner),
            model,
            settings,
            digest=identity.target_digest,
            clock=time.perf_counter,
            progress=lambda done, total: status.update(f"profiling: {done} of {total} steps"),
        )


def _drafter_curve(system: SystemSettings) -> Curve:
    """Load the drafter as its replica would, and profile it."""
    from dspark.drafter.profile import profile_served
    from dspark.model.pair import load_drafter_side
    from dspark.model.serving import set_threads
    from dspark.paced.load import load_paced_drafter, profiled_on_paper

    pool = system.pools.drafter
    model, settings = system.model_of(pool), pool.settings
    if model.drafter is None:
        raise ValueError("model.drafter is null: there is no drafter to profile")
    most = min(settings.max_batch_sessions, settings.max_sessions)

    def measure(
        identity: "PairIdentity", drafter: "BlockModel", clock: Callable[[], float]
    ) -> Curve:
        return profile_served(drafter, model, identity=identity, max_sessions=most, clock=clock)

    if model.paced is not None:
        paced_identity, paced = load_paced_drafter(model, max_sessions=settings.max_sessions)
        return profiled_on_paper(paced, lambda clock: measure(paced_identity, paced, clock))
    set_threads(model)
    identity, drafter = load_drafter_side(
        model.target,
        model.drafter,
        max_sessions=settings.max_sessions,
        max_context_tokens=settings.max_context_tokens,
        max_q_tokens=settings.max_q_tokens,
    )
    with Console(stderr=True).status("profiling"):
        return measure(identity, drafter, time.perf_counter)
