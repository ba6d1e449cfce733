"""The two models of a local system: computing, or paced."""

import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import cast

from dspark.config.drafter import DrafterSettings
from dspark.config.model import ModelSettings
from dspark.config.verifier import VerifierSettings
from dspark.core.curve import Curve
from dspark.core.fleet import Compatibility
from dspark.drafter.engine import BlockModel
from dspark.drafter.profile import profile_served as profile_drafter
from dspark.local.turns import CoreDrafter, Cores, CoreTarget
from dspark.model.grammar import Grammars
from dspark.model.pair import load_pair
from dspark.model.ragged_target import RaggedTarget
from dspark.model.serving import compatibility
from dspark.model.target_folder import local_folder
from dspark.paced.load import load_paced_drafter, profiled_on_paper
from dspark.verifier.profile import load_paced, profile_served
from dspark.verifier.target_port import Target


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LocalPair:
    """What a local system's engines drive.

    Attributes:
        target: The target.
        drafter: The drafter, where one drafts.
        block_size: gamma; 0 without a drafter.
        curve: The target's, where it was asked for.
        drafter_curve: The drafter's, likewise.
        compatibility: What replicas of them would insist on.
    """

    target: Target
    drafter: BlockModel | None
    block_size: int
    curve: Curve | None
    drafter_curve: Curve | None
    compatibility: Compatibility


def load_local_pair(
    model: ModelSettings,
    settings: VerifierSettings,
    *,
    drafting: bool,
    profiling: bool,
    colocated: bool,
) -> LocalPair:
    """Load a pair, and profile it where that is asked for or costs nothing.

    Args:
        model: Which pair.
        settings: Pages and bounds.
        drafting: Whether the drafter is wanted.
        profiling: Whether the target's curve is.
        colocated: Both take turns: on one device, or on the cores of both.

    Raises:
        ValueError: One line that says what is wrong and the way out.
    """
    if model.paced is not None:
        return _paced(model, settings, drafting=drafting, colocated=colocated)
    if colocated:
        model = model.model_copy(update={"threads": 2 * model.threads})
    cores = Cores(model.threads, threading.Lock() if colocated else nullcontext())
    pair = load_pair(
        model.target,
        model.drafter if drafting else None,
        num_pages=settings.num_pages,
        page_tokens=model.page_tokens,
        rows_dtype=model.rows_dtype,
        max_batch_tokens=settings.max_batch_tokens,
        min_accepted_length=model.min_accepted_length,
    )
    grammars = Grammars.of_folder(
        local_folder(model.target, what="target"), pair.identity.vocab_size
    )
    target = cast(Target, CoreTarget(RaggedTarget(pair.target, grammars), cores))
    drafter = None
    if pair.drafter is not None:
        drafter = cast(BlockModel, CoreDrafter(pair.drafter, cores))
    digest = pair.identity.target_digest
    drafter_curve = None
    if drafter is not None and profiling:
        drafter_curve = profile_drafter(
            drafter,
            model,
            identity=pair.identity,
            max_sessions=settings.max_sessions,
            clock=time.perf_counter,
        )
    return LocalPair(
        target=target,
        drafter=drafter,
        block_size=pair.identity.block_size,
        curve=profile_served(target, model, settings, digest=digest, clock=time.perf_counter)
        if profiling
        else None,
        drafter_curve=drafter_curve,
        compatibility=compatibility(model, pair.identity),
    )


def _paced(
    model: ModelSettings, settings: VerifierSettings, *, drafting: bool, colocated: bool
) -> LocalPair:
    device = threading.Lock() if colocated else None
    identity, target, curve = load_paced(model, settings, device=device)
    both = compatibility(model, identity)
    if not drafting:
        return LocalPair(
            target=target,
            drafter=None,
            block_size=0,
            curve=curve,
            drafter_curve=None,
            compatibility=both,
        )
    _, drafter = load_paced_drafter(
        model, max_sessions=max(DrafterSettings().max_sessions, settings.max_sessions),
        device=device,
    )  # fmt: skip
    drafter_curve = profiled_on_paper(
        drafter,
        lambda clock: profile_drafter(
            drafter,
            model,
            identity=identity,
            max_sessions=settings.max_sessions,
            clock=clock,
        ),
    )
    return LocalPair(
        target=target,
        drafter=drafter,
        block_size=identity.block_size,
        curve=curve,
        drafter_curve=drafter_curve,
        compatibility=both,
    )
