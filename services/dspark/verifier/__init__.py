"""The verifier pool: the target model, and every session from admission to its last token.

Path of a request: ``service`` (gRPC) -> ``engine`` admits it when its pages fit -> its prompt is
pulled from a prefill replica (``prefill_link``) or run here -> rounds: drafts from ``drafting``,
prefix lengths from ``core.admission`` under the ``budget_cell``, one ragged forward of the
``target_port``, acceptance by ``core.verdict``, commit, emit.  Every token is chosen here, the
first one too.  Nothing here awaits a drafter, a controller or a client.
"""
