"""Paced engines for a pair: its identity is read, its weights are not."""

from collections.abc import Callable

from dspark.config.model import ModelSettings
from dspark.config.paced import PacedSettings
from dspark.core.curve import Curve
from dspark.model.pair import PairIdentity, read_pair
from dspark.model.target_folder import TargetInfo, local_folder, read_sizes
from dspark.paced.clock import Device, PaperClock
from dspark.paced.drafter import PacedDrafter
from dspark.paced.target import PacedTarget
from dspark.paced.text import PacedText


def load_paced_target(
    model: ModelSettings, *, device: Device | None = None
) -> tuple[PairIdentity, PacedTarget]:
    """Make a paced target; raises what `read_pair` raises."""
    pace = _paced(model)
    sizes = read_sizes(local_folder(model.target, what="target"))
    target = PacedTarget(
        _text(pace, sizes),
        pace.target,
        dilation=pace.dilation,
        hidden_size=sizes.hidden_size,
        rows_dtype=model.rows_dtype,
        max_context_tokens=sizes.max_context_tokens,
        device=device,
    )
    return read_pair(model.target, model.drafter), target


def load_paced_drafter(
    model: ModelSettings, *, max_sessions: int, device: Device | None = None
) -> tuple[PairIdentity, PacedDrafter]:
    """Make a paced drafter; raises what `read_pair` raises."""
    pace = _paced(model)
    identity = read_pair(model.target, model.drafter)
    drafter = PacedDrafter(
        _text(pace, read_sizes(local_folder(model.target, what="target"))),
        pace.drafter,
        gamma=identity.block_size,
        dilation=pace.dilation,
        max_sessions=max_sessions,
        device=device,
    )
    return identity, drafter


def profiled_on_paper(
    engine: PacedTarget | PacedDrafter, measure: Callable[[Callable[[], float]], Curve]
) -> Curve:
    """Run a profile in no time: ``measure`` is given a clock that only the pace moves."""
    real, engine.clock = engine.clock, PaperClock()
    try:
        return measure(engine.clock.now)
    finally:
        engine.clock = real


def _paced(model: ModelSettings) -> PacedSettings:
    assert model.paced is not None
    return model.paced


def _text(pace: PacedSettings, sizes: TargetInfo) -> PacedText:
    return PacedText(sizes.vocab_size, avoid=sizes.eos_token_ids, acceptance=pace.acceptance)
