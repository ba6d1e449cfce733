"""The gateway: the OpenAI API in front, verifiers behind.

The path of a request through the package::

    http -> bodies (JSON checked) -> requests (text to token ids, limits)
         -> sessions (choose a verifier, relay, fail over) -> verifiers (gRPC)
         -> writer (detokenize, stops) -> shapes (OpenAI JSON) -> answers (one body, or SSE)

``bodies``, ``requests``, ``detokenize``, ``stops``, ``writer``, ``shapes`` and ``stats`` are pure.
gRPC is spoken in ``verifiers`` only.  A gateway owns nothing that matters: any other one could
take over any stream from the tokens that its client already has.
"""
