"""Sampling <-> wire."""

from dspark.core.sampling import Sampling
from dspark.wire.v1 import common_pb2


def sampling_to_wire(sampling: Sampling) -> common_pb2.Sampling:
    """Convert for sending."""
    return common_pb2.Sampling(
        temperature=sampling.temperature,
        seed=sampling.seed,
        choice=sampling.choice,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
    )


def sampling_from_wire(message: common_pb2.Sampling) -> Sampling:
    """Convert and check; raise ValueError naming the bad value."""
    return Sampling(
        temperature=message.temperature,
        seed=message.seed,
        choice=message.choice,
        top_k=message.top_k,
        top_p=message.top_p or 1.0,
        min_p=message.min_p,
    )
