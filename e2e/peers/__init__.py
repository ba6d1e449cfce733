"""Other ways to generate with the same weights, beside ours, in one interleaved run.

``python -m e2e.peers``: each peer is a process in its own environment, loaded once, that answers
cells (prompts, bound, requests at once) on its standard input.  All have the same cores; a cell
runs on one peer at a time, and every repeat asks them in the opposite order of the one before.
"""
