"""Profiles a verifier: what a step costs, over sessions, batch tokens and context."""

from collections.abc import Callable, Sequence

from dspark.config.model import ModelSettings
from dspark.config.verifier import VerifierSettings
from dspark.core.curve import Curve, CurvePoint, make_curve
from dspark.core.sampling import Sampling
from dspark.model.curve_cache import cached_curve
from dspark.model.pair import PairIdentity
from dspark.model.serving import curve_version, device_name
from dspark.paced.clock import Device
from dspark.paced.load import load_paced_target, profiled_on_paper
from dspark.paced.target import PacedTarget
from dspark.verifier.target_port import Segment, Target

SESSIONS = (1, 2, 4, 8, 16, 32)
TOKENS_PER_SESSION = (1, 2, 3, 4, 5, 6, 7, 8)
CONTEXT_TOKENS = (64, 512)


def profile(
    target: Target,
    *,
    num_pages: int,
    page_tokens: int,
    max_sessions: int,
    max_batch_tokens: int,
    version: str,
    device: str,
    clock: Callable[[], float],
    repeats: int = 5,
    sessions: Sequence[int] = SESSIONS,
    tokens_per_session: Sequence[int] = TOKENS_PER_SESSION,
    context_tokens: Sequence[int] = CONTEXT_TOKENS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Curve:
    """Measure the median step time of each size that fits.

    The pages hold no real context (their content does not change the cost), so this must run
    before the replica serves.

    Raises:
        RuntimeError: The target did not run the batch that it was given.
    """
    grid = [
        (context, count, per_session)
        for context in context_tokens
        for count in sessions
        for per_session in tokens_per_session
        if count <= max_sessions
        and count * per_session <= max_batch_tokens
        and context + per_session <= target.max_context_tokens
        and count * -(-(context + per_session) // page_tokens) <= num_pages
    ]
    samples = []
    # All sizes in turn, so that what disturbs the machine for a while disturbs no size's median.
    for turn in range(1 + repeats):
        for index, (context, count, per_session) in enumerate(grid):
            batch = _batch(context, count, per_session, page_tokens)
            began_s = clock()
            _run(target, batch, per_session)
            step_s = clock() - began_s
            progress(turn * len(grid) + index + 1, (1 + repeats) * len(grid))
            if turn == 0:
                continue  # the first pass of a size allocates
            samples.append(
                CurvePoint(
                    context_tokens=context,
                    sessions=count,
                    batch_tokens=count * per_session,
                    step_s=step_s,
                )
            )
    return make_curve(version, device, samples)


def profile_served(
    target: Target,
    model: ModelSettings,
    settings: VerifierSettings,
    *,
    digest: str,
    clock: Callable[[], float],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Curve:
    """Profile a target as a verifier of these settings serves it.

    Args:
        target: The target; see ``profile``.
        model: What it is and where it runs.
        settings: Its pages and bounds.
        digest: Of its weights.
        clock: Seconds.
        progress: Told (steps done, steps in all).
    """
    version = curve_version(model, digest)
    return cached_curve(
        model.curves,
        kind="verifier",
        version=version,
        sizes=f"{settings.max_sessions} sessions, {settings.max_batch_tokens} tokens, "
        f"{settings.num_pages} pages of {model.page_tokens}, median of {settings.profile_repeats}",
        measure=lambda: profile(
            target,
            num_pages=settings.num_pages,
            page_tokens=model.page_tokens,
            max_sessions=settings.max_sessions,
            max_batch_tokens=settings.max_batch_tokens,
            version=version,
            device=device_name(model),
            clock=clock,
            repeats=settings.profile_repeats,
            progress=progress,
        ),
    )


def load_paced(
    model: ModelSettings, settings: VerifierSettings, *, device: Device | None = None
) -> tuple[PairIdentity, PacedTarget, Curve]:
    """Make a paced target and profile it, which takes no time.

    Args:
        model: What it stands for, and its pace.
        settings: Its pages and bounds.
        device: Where it takes turns with a drafter; None: alone.
    """
    identity, target = load_paced_target(model, device=device)
    curve = profiled_on_paper(
        target,
        lambda clock: profile_served(
            target, model, settings, digest=identity.target_digest, clock=clock
        ),
    )
    return identity, target, curve


def _batch(context: int, count: int, per_session: int, page_tokens: int) -> list[Segment]:
    pages_each = -(-(context + per_session) // page_tokens)
    return [
        Segment(
            tokens=(0,) * per_session,  # in every vocabulary; the cost is the same
            start=context,
            pages=tuple(range(index * pages_each, (index + 1) * pages_each)),
            choose=per_session,
            sampling=Sampling(),
        )
        for index in range(count)
    ]


def _run(target: Target, batch: Sequence[Segment], per_session: int) -> None:
    chosen = target.step(batch)
    if [len(tokens) for tokens in chosen] != [per_session] * len(batch):
        raise RuntimeError(
            f"the target answered {[len(tokens) for tokens in chosen]} tokens for "
            f"{len(batch)} sessions of {per_session}: the curve would be wrong"
        )
