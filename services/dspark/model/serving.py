"""What every replica does with its model: threads, loading, and the handshake's other side."""

import hashlib
import platform
from importlib import metadata

import torch

from dspark.config.model import ModelSettings
from dspark.core.fleet import Compatibility
from dspark.model.pair import PairIdentity, load_target
from dspark.model.target import TargetRunner

PROTOCOL_VERSION = 2
"""Version of the protocol's semantics; see common.proto."""


def set_threads(model: ModelSettings) -> None:
    """Give this process's engine its CPU threads.

    Two processes with as many threads as cores each make every call many times slower.
    """
    torch.set_num_threads(model.threads)


def load_served_target(
    model: ModelSettings, *, num_pages: int, max_batch_tokens: int
) -> tuple[PairIdentity, TargetRunner]:
    """Load a target that computes as these settings lay it out; see `load_target`."""
    return load_target(
        model.target,
        model.drafter,
        num_pages=num_pages,
        page_tokens=model.page_tokens,
        rows_dtype=model.rows_dtype,
        device=model.device,
        max_batch_tokens=max_batch_tokens,
    )


def compatibility(model: ModelSettings, identity: PairIdentity) -> Compatibility:
    """What this replica insists on in every handshake."""
    return Compatibility(
        protocol_version=PROTOCOL_VERSION,
        model=model.name,
        target_digest=identity.target_digest,
        tokenizer_digest=identity.tokenizer_digest,
        vocab_size=identity.vocab_size,
        block_size=identity.block_size,
        target_layer_ids=identity.target_layer_ids,
        projection_id=identity.projection_id,
        kv_dtype="float32" if model.device == "cpu" else "bfloat16",
        page_tokens=model.page_tokens,
        rows_dtype=model.rows_dtype,
    )


def device_name(model: ModelSettings) -> str:
    """What people are told that a curve was measured on."""
    return model.device if model.paced is None else f"paced: {model.paced.name}"


def curve_version(model: ModelSettings, digest: str) -> str:
    """Digest of what a profiled curve is bound to: weights, device, threads, software."""
    processor = platform.processor() or platform.machine()
    software = (torch.__version__, metadata.version("dspark-serve"))
    paced = "" if model.paced is None else model.paced.model_dump_json()
    parts = (digest, model.device, processor, str(model.threads), *software, paced)
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]
