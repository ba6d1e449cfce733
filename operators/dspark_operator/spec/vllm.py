"""What a service with vLLM as its verifier cannot have beside it, as CEL and in Python."""

from typing import Literal

from dspark_operator.document import Json
from dspark_operator.spec.pools import Pool

_MIXED = "all verifier pools of a service have the same runtime: streams move between them"
_PREFILL = "vLLM runs prompts itself: a service with runtime vllm has no prefill pool"
_COUPLED = "vLLM judges drafts by rejection only: set gateway.settings.speculationMode to rejection"
_COHORTS = "speculation.cohorts says nothing to vLLM, which has a scheduler of its own: remove it"
_NO_DRAFTER = "runtime vllm without model.drafter needs vllm.drafts none"
_IDLE = "a drafter pool beside vLLM needs vllm.drafts pool: nobody else asks it"

_ANY = "self.pools.exists(p, p.runtime == 'vllm')"
_POOL_DRAFTS = "(!has(p.vllm) || !has(p.vllm.drafts) || p.vllm.drafts == 'pool')"
_DRAFTS = "(!has(p.vllm) || !has(p.vllm.drafts) || p.vllm.drafts != 'none')"
_MODE = "self.gateway.settings.speculationMode"

VLLM_RULES = (
    (f"!{_ANY} || self.pools.all(p, p.role != 'verifier' || p.runtime == 'vllm')", _MIXED),
    (f"!{_ANY} || !self.pools.exists(p, p.role == 'prefill')", _PREFILL),
    (
        f"!{_ANY} || !has(self.gateway.settings) || !has({_MODE}) || {_MODE} == 'rejection'",
        _COUPLED,
    ),
    (f"!{_ANY} || !has(self.speculation.cohorts)", _COHORTS),
    (
        f"has(self.model.drafter) || !self.pools.exists(p, p.runtime == 'vllm' && {_DRAFTS})",
        _NO_DRAFTER,
    ),
    (
        f"!{_ANY} || !self.pools.exists(p, p.role == 'drafter') || "
        f"self.pools.exists(p, p.runtime == 'vllm' && {_POOL_DRAFTS})",
        _IDLE,
    ),
)
"""CEL rules of the whole spec."""


def refuse_beside_vllm(
    pools: list[Pool], *, drafter: bool, mode: Json, cohorts: Literal["auto", 1, 2] | None
) -> None:
    """Raise ValueError for the first thing that a service with vLLM cannot have.

    Args:
        pools: All pools of the service.
        drafter: The model has a drafter.
        mode: What ``gateway.settings.speculationMode`` says; None where it is absent.
        cohorts: What ``speculation.cohorts`` says.
    """
    drafts = [pool.vllm_settings.drafts for pool in pools if pool.runtime == "vllm"]
    if not drafts:
        return
    for pool in pools:
        if pool.role == "prefill":
            raise ValueError(f"pools[{pool.name}]: {_PREFILL}")
        if pool.role == "verifier" and pool.runtime == "native":
            raise ValueError(f"pools[{pool.name}].runtime: {_MIXED}")
        if pool.role == "drafter" and "pool" not in drafts:
            raise ValueError(f"pools[{pool.name}]: {_IDLE}")
    if mode not in (None, "rejection"):
        raise ValueError(_COUPLED)
    if cohorts is not None:
        raise ValueError(_COHORTS)
    if not drafter and set(drafts) != {"none"}:
        raise ValueError(f"pools: {_NO_DRAFTER}")
