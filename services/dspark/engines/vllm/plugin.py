"""What vLLM calls in each of its processes (entry point ``vllm.general_plugins``)."""

import logging

from dspark.engines.vllm.support import version_problem

log = logging.getLogger(__name__)


def register() -> None:
    """Say at once, before any model is loaded, where this vLLM cannot be drafted for.

    The hooks themselves are set by the proposer, so that an engine that does not name it is left
    as it is.
    """
    import vllm

    problem = version_problem(vllm.__version__)
    if problem is not None:
        log.warning("%s; engines that do not name the DSpark proposer are not affected", problem)
