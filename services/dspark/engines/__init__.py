"""Other serving engines as verifiers: they keep their own scheduler, cache and sampler.

Each drives ``drafting`` from inside its own step, so that drafters cannot tell it from our
verifier.  Nothing here decodes: whatever fails, the engine goes on plainly.
"""
