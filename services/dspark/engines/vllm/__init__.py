"""vLLM as the verifier: a proposer that asks a remote DSpark drafter.

Path of a step: ``hooks`` show the ``proposer`` what vLLM schedules and computes; the tapped hidden
states become context rows, which lie in ``rows`` under vLLM's own KV slots; the requests that go on
are asked for in ``steps``, which drives ``drafting`` and admits; ``laws`` puts the drafts'
distributions where vLLM's rejection sampler looks for them.  ``client`` runs the network in a
thread of its own.  ``support`` says what is refused, and why; ``sampler`` checks vLLM's.

As a verifier pool: ``replica`` starts the ``engine`` (``arguments``), which makes the proposer in
its worker; ``profile`` measures its steps; ``generations`` runs what our service submits
(``params``).  The proposer's ``teller`` says what each step was (``journal``, ``notes``) over a
``line`` that never blocks it; the replica's ``ledger`` makes of that what an answer and a load
``report`` say.  The way back is ``worker``, between two steps.

vLLM is imported inside functions only: all but ``proposer.DSparkProposer`` and
``engine.VllmEngine`` runs without it.
"""

from typing import Any

__all__ = ["DSparkProposer"]


def __getattr__(name: str) -> Any:
    """``DSparkProposer``, which vLLM's command line names here; torch comes with it."""
    if name == "DSparkProposer":
        from dspark.engines.vllm.proposer import DSparkProposer

        return DSparkProposer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
