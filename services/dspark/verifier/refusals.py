"""Generations that are not taken, whichever engine they are for."""

from dspark.config.verifier import VerifierSettings
from dspark.core.generation import Generation


class Overloaded(Exception):
    """Too many sessions are open or waiting: try again later."""


class NeverFits(ValueError):
    """The request is larger than this replica could ever hold."""


def refuse_impossible(generation: Generation, *, capacity_tokens: int, vocab_size: int) -> None:
    """Refuse what could not run here even alone.

    Args:
        generation: What is asked.
        capacity_tokens: Most tokens of one session, prompt and output.
        vocab_size: Tokens outside are refused.

    Raises:
        NeverFits: It is too long.
        ValueError: A token is outside the vocabulary.
    """
    total = generation.total_tokens
    if total > capacity_tokens:
        raise NeverFits(
            f"{len(generation.prompt)} prompt tokens and max_tokens "
            f"{generation.max_new_tokens} make {total}, more than the {capacity_tokens} "
            "that fit here"
        )
    highest = max(*generation.prompt, *generation.committed, 0)
    if highest >= vocab_size:
        raise ValueError(f"token {highest} is outside 0..{vocab_size - 1}")


def refuse_excess(num_open: int, settings: VerifierSettings) -> None:
    """Refuse one more than may be open or wait.

    Raises:
        Overloaded: So many are open already.
    """
    if num_open >= settings.max_sessions + settings.max_waiting:
        raise Overloaded(f"{num_open} sessions are open or waiting already")
