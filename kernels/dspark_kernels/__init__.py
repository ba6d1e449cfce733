"""Kernels: torch references with stable signatures, and the CPU engine's own path.

Nothing here knows of sessions, settings or networks: tensors and plain numbers in, tensors
out.  Every function that a target's logits pass through is bitwise independent of what else
is in the batch; each docstring says how that is kept.
"""
