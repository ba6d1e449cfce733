"""Sampling <-> wire."""

from dspark.core.sampling import Sampling, SamplingMode
from dspark.wire.v1 import common_pb2

_MODE_TO_WIRE = {
    SamplingMode.COUPLED: common_pb2.SAMPLING_MODE_COUPLED,
    SamplingMode.REJECTION: common_pb2.SAMPLING_MODE_REJECTION,
}
_MODE_FROM_WIRE = {
    # A peer that does not name a mode knows coupled sampling only.
    common_pb2.SAMPLING_MODE_UNSPECIFIED: SamplingMode.COUPLED,
    **{wire: mode for mode, wire in _MODE_TO_WIRE.items()},
}


def sampling_to_wire(sampling: Sampling) -> common_pb2.Sampling:
    """Convert for sending."""
    return common_pb2.Sampling(
        temperature=sampling.temperature,
        seed=sampling.seed,
        choice=sampling.choice,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        mode=_MODE_TO_WIRE[sampling.mode],
    )


def sampling_from_wire(message: common_pb2.Sampling) -> Sampling:
    """Convert and check; raise ValueError naming the bad value."""
    mode = _MODE_FROM_WIRE.get(message.mode)
    if mode is None:
        raise ValueError(f"unknown sampling mode {message.mode} on the wire")
    return Sampling(
        temperature=message.temperature,
        seed=message.seed,
        choice=message.choice,
        top_k=message.top_k,
        top_p=message.top_p or 1.0,
        min_p=message.min_p,
        mode=mode,
    )
