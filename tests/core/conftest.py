"""Hypothesis without deadlines (shared machines) and with the same examples every time."""

from hypothesis import settings

settings.register_profile("house", deadline=None, max_examples=80, derandomize=True)
settings.load_profile("house")
