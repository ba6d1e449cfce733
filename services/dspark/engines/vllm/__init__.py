"""vLLM as the verifier: a proposer that asks a remote DSpark drafter.

Path of a step: ``hooks`` show the ``proposer`` what vLLM schedules and computes; the tapped hidden
states become context rows, which lie in ``rows`` under vLLM's own KV slots; the requests that go on
are asked for in ``steps``, which drives ``drafting`` and admits; ``laws`` puts the drafts'
distributions where vLLM's rejection sampler looks for them.  ``client`` runs the network in a
thread of its own.  ``support`` says what is refused, and why; ``sampler`` checks vLLM's.

vLLM is imported inside functions only: all but ``proposer.DSparkProposer`` runs without it.
"""

from dspark.engines.vllm.proposer import DSparkProposer

__all__ = ["DSparkProposer"]
