"""The bench: arms under the same load in one run, and what a user gets from each.

Path: ``arms``, ``prompts`` and ``schedule`` say what is asked, in which order; ``load`` asks it of
a ``Server`` and yields ``record``s; ``measures`` turns one cell's records into numbers,
``summary`` cells into medians with spread; ``table``, ``replicas``, ``report`` and ``plot`` show
them.  ``run`` does all of it once and reads the replicas' reports meanwhile, which ``forecast``
holds against their curves.

``load`` and ``run`` wait, ``prompts`` and ``plot`` touch files, the rest is pure.  The bench never
compares numbers of two runs, and never drops a request: one that fails ends the run.
"""
