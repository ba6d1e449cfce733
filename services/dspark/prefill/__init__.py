"""The prefill pool: prompts in, KV pages and context rows out, chunk by chunk.

``service`` streams, ``engine`` runs the target on a thread of its own, ``replica`` is the
process around both.  It samples nothing and remembers nothing but its prefix cache.
"""
